"""`params.yaml` from its text to a checked `Params`: one message lists every mistake with its path in the file."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from textwrap import shorten
from typing import Any, ClassVar, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

from pipeline.config.data import facts_of
from pipeline.config.extending import extend_methods
from pipeline.config.params import Params
from pipeline.core.errors import RequestError, did_you_mean
from pipeline.core.files import require_file
from pipeline.core.values import AttackBudget, Norm, Normalization, mapping

LARGEST = 2**20
"""Characters of a file, and values in it; the largest suite in conf/ has some 40,000 characters."""
MISTAKES_SHOWN = 50
Section = TypeVar("Section", bound=BaseModel)


def load_params(path: str | Path) -> Params:
    """Read and check `params.yaml`.

    Raises:
        RequestError: the file is missing, too large or not YAML, or it has mistakes, which the message lists; or nobody
            has looked at its images.
    """
    params = parse_params(read_yaml(path, "'make suite SUITE=digits' writes it."), str(path))
    _ = params.data.facts  # without it fingerprints would not tell one's own images from others
    return params


def read_yaml(path: str | Path, way_out: str) -> Any:
    """The content of a file of settings, not checked yet; `way_out` is a sentence that says where the file comes
    from.

    Raises:
        RequestError: the file is missing, too large or not YAML.
    """
    try:
        with open(require_file(Path(path)), encoding="utf-8") as stream:
            text = stream.read(LARGEST + 1)
        if len(text) > LARGEST:
            raise RequestError(f"{path}: is larger than {LARGEST:,} characters, expected settings")
        raw = yaml.load(text, _UniqueKeys)
    except OSError as error:
        raise RequestError(f"{path}: cannot be read ({error.strerror}). {way_out}") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise RequestError(f"{path}: is not YAML: {place}{error.problem}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: not UTF-8, or no such date
        raise RequestError(f"{path}: is not YAML: {' '.join(str(error).split())}") from None
    except (LookupError, AttributeError) as error:  # PyYAML's own, of '!!bool x', '!!int ""', '!!timestamp x'
        raise RequestError(f"{path}: a tag such as !!int has a value that it does not fit ({error!r})") from None
    if _weight(raw, {}) > LARGEST:
        raise RequestError(f"{path}: its aliases (*name) stand for more than {LARGEST:,} values; write them out")
    return raw


class _UniqueKeys(yaml.SafeLoader):
    """YAML in which a key that is given twice is a mistake, where PyYAML lets the last one win.

    Nor does it know sets and the like: pydantic would take them for lists, in any order.
    """

    yaml_constructors: ClassVar[dict[str | None, Any]] = {
        tag: constructor
        for tag, constructor in yaml.SafeLoader.yaml_constructors.items()
        if tag not in [f"tag:yaml.org,2002:{kind}" for kind in ("binary", "omap", "pairs", "set")]
    }

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise yaml.MarkedYAMLError(problem=f"key '{key.value}' is given twice", problem_mark=key.start_mark)
                seen.add(key.value)
        return node


def _weight(value: Any, known: dict[int, float]) -> float:
    """How many values there are with every alias written out: a message that shows them would fill the memory.

    Args:
        value: What was read.
        known: The weights of mappings and lists by their id. One that is still open weighs infinitely much, so that
            one that holds itself does.
    """
    if not isinstance(value, dict | list):
        return 1
    if id(value) not in known:
        known[id(value)] = math.inf
        parts = value.values() if isinstance(value, dict) else value
        known[id(value)] = 1 + sum(_weight(part, known) for part in parts)
    return known[id(value)]


def parse_params(raw: Any, origin: str = "params.yaml") -> Params:
    """Check the content of `params.yaml`; see `load_params`."""
    if not isinstance(raw, dict):
        raise RequestError(f"{origin}: expected a mapping of sections, got {_shown(raw)}")
    whole, mistakes = extend_methods(raw)
    params = validate(Params, whole, origin, cross_references(raw), mistakes)
    misfits = [f"figures.{name}: {text}" for name, figure in params.figures.items() for text in figure.misfits(params)]
    if misfits:
        raise _refusal(origin, misfits)
    return params


def validate(
    section: type[Section], raw: dict[str, Any], origin: str, context: dict[str, Any], mistakes: Sequence[str] = ()
) -> Section:
    """Check `raw` as the content of a whole file.

    Args:
        origin: The file's name, which the message begins with.
        context: What its sections need to know of each other.
        mistakes: What is known to be wrong already, a line each.

    Raises:
        RequestError: it has mistakes; the message lists them.
    """
    lines = [*mistakes]
    try:
        checked = section.model_validate(raw, context=context)
    except ValidationError as error:
        lines += [describe(problem, raw) for problem in error.errors()]
    else:
        if not lines:
            return checked
    raise _refusal(origin, lines)


def _refusal(origin: str, lines: list[str]) -> RequestError:
    count = "1 mistake" if len(lines) == 1 else f"{len(lines)} mistakes"
    if len(lines) > MISTAKES_SHOWN:
        lines = [*lines[:MISTAKES_SHOWN], f"and {len(lines) - MISTAKES_SHOWN} more"]
    return RequestError(f"{origin}: {count}, nothing was started\n" + "\n".join(f"  {line}" for line in lines))


def cross_references(raw: dict[str, Any]) -> dict[str, Any]:
    """What sections need to know of each other, taken from the raw file so that one mistake does not hide another.

    What is itself a mistake is None, or a stand-in: it is reported once, at its own place.
    """
    training = mapping(raw, "training")
    epochs = training.get("epochs")
    budgets = raw["threat_model"] if isinstance(raw.get("threat_model"), dict) else dict.fromkeys(get_args(Norm))
    attacks = mapping(mapping(raw, "evaluation"), "attacks")
    return {
        "epochs": epochs if type(epochs) is int and epochs > 0 else None,
        "images": facts_of(mapping(raw, "data")),
        "model": _model(mapping(raw, "model")),
        "threat_model": {norm: _budget(budget) for norm, budget in budgets.items()},
        "methods": [str(name) for name in mapping(raw, "methods")],
        "selection_split": mapping(training, "selection").get("split"),
        "stored_sizes": _stored_sizes(mapping(mapping(raw, "data"), "streaming")),
        "attacks": [str(name) for name, attack in attacks.items() if attack is not None],
        "studies": [str(name) for name in mapping(mapping(raw, "ablation"), "studies")],
    }


def _stored_sizes(streaming: dict[str, Any]) -> list[Any]:
    """The prepared sizes of streamed images; none where images are not streamed."""
    others = streaming.get("other_stored_sizes")
    return [streaming["stored_size"], *(others or [])] if "stored_size" in streaming else []


def _model(raw: dict[str, Any]) -> dict[str, Any]:
    """Architecture and normalisation of the learners that name none of their own."""
    architecture, given = raw.get("architecture"), raw.get("normalization")
    try:
        normalization = None if given is None else Normalization.model_validate(given)
    except ValidationError:
        return {}
    return {"architecture": architecture if isinstance(architecture, str) else None, "normalization": normalization}


def _budget(raw: Any) -> AttackBudget:
    try:
        return AttackBudget.model_validate(raw)
    except ValidationError:
        return AttackBudget(epsilon=0, step_size=1, steps=0)


EXPECTED = {
    "missing": "is missing",
    "model_type": "expected a mapping",
    "model_attributes_type": "expected a mapping",
    "dict_type": "expected a mapping",
    "too_short": "expected more entries",
    "list_type": "expected a list",
    "tuple_type": "expected a list",
    "string_pattern_mismatch": "a name consists of a-z, 0-9 and _, and begins with a letter (a folder: reports/name)",
}
"""pydantic's messages that speak of Python, in terms of the file."""


TAGS = {"name", "rule", "varies", "kind"}
"""Keys that say which kind of section it is."""


def describe(problem: Any, raw: dict[str, Any]) -> str:
    """One line for one pydantic error in `raw`: path, what is wrong, and the valid choices."""
    kind = problem["type"]
    path = ".".join(_path(problem["loc"], raw)) or "(top level)"
    if kind == "union_tag_invalid":
        valid = problem["ctx"]["expected_tags"].replace("'", "").split(", ")
        tag, key = problem["ctx"]["tag"], problem["ctx"]["discriminator"].strip("'")
        return f"{path}.{key}: unknown '{tag}': {did_you_mean(tag, valid)}"
    if kind == "union_tag_not_found":
        return f"{path}: needs a {problem['ctx']['discriminator']}"
    message = EXPECTED.get(kind) or str(problem["msg"]).removeprefix("Value error, ")
    silent = kind in ("missing", "value_error")
    return f"{path}: {message[0].lower()}{message[1:]}" + ("" if silent else f" (got {_shown(problem['input'])})")


def _path(location: tuple[Any, ...], raw: Any) -> Iterator[str]:
    """The keys in the file that lead to a mistake, without what pydantic adds: '[key]', the kind of a value."""
    for part in location:
        if isinstance(raw, list) and isinstance(part, int):
            yield str(part)
            raw = raw[part]
        elif isinstance(raw, dict) and part != "[key]" and (part in raw or part not in [raw.get(tag) for tag in TAGS]):
            yield str(part)
            raw = raw.get(part)


def _shown(value: Any) -> str:
    if isinstance(value, dict | list):
        return "a mapping" if isinstance(value, dict) else f"a list of {len(value)}"
    return shorten(json.dumps(value, default=str, ensure_ascii=False), 60)
