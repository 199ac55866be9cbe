"""Methods that differ from another one in a few settings: `extends` in `methods`."""

from __future__ import annotations

from typing import Any

from pipeline.core.errors import did_you_mean
from pipeline.core.values import mapping

EXTENDS = "extends"


def merged(section: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """The section with what `changes` names.

    A mapping changes the keys that it names and keeps the others; an objective, and a section that gets another `name`
    or `rule`, is replaced.
    """
    return section | {key: _changed(key, section.get(key), value) for key, value in changes.items()}


def _changed(key: str, before: Any, value: Any) -> Any:
    # An objective may hold its attack in full by now, which would outdo the norm of another one.
    if key == "objective" or not isinstance(before, dict) or not isinstance(value, dict):
        return value
    is_of_other_kind = any(tag in value and value[tag] != before.get(tag) for tag in ("name", "rule"))
    return value if is_of_other_kind else merged(before, value)


def extend_methods(raw: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The content of params.yaml with every method written out, and a line for every `extends` that is not possible.

    A method has all settings of the one that it extends, except the label, and its own. One that cannot be extended is
    left out, so that the mistakes which follow from that are not reported as well.
    """
    methods, problems = mapping(raw, "methods"), []
    if not any(isinstance(method, dict) and EXTENDS in method for method in methods.values()):
        return raw, []
    written: dict[str, Any] = {}
    for name in methods:
        try:
            written[name] = _written_out(methods, name, ())
        except ValueError as error:
            problems.append(f"methods.{name}.{EXTENDS}: {error}")
    return {**raw, "methods": written}, problems


def _written_out(methods: dict[str, Any], name: str, extending: tuple[str, ...]) -> Any:
    """A method with all that it extends. Raises ValueError where that is not possible."""
    method, chain = methods[name], (*extending, name)
    if not isinstance(method, dict) or EXTENDS not in method:
        return method
    base = method[EXTENDS]
    if base in chain:
        raise ValueError(f"goes in a circle: {' -> '.join([*chain, base])}")
    if not isinstance(base, str) or base not in methods:
        raise ValueError(f"unknown method '{base}': {did_you_mean(str(base), [key for key in methods if key != name])}")
    whole = _written_out(methods, base, chain)
    if not isinstance(whole, dict):
        raise ValueError(f"'{base}' is no mapping of settings")
    inherited = {key: value for key, value in whole.items() if key != "label"}
    return merged(inherited, {key: value for key, value in method.items() if key != EXTENDS})
