"""A person's overrides of conf/, checked before Hydra sees them: its own messages speak of its own files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pipeline.core.errors import RequestError, did_you_mean

GROUPS = ("suite", "architecture", "protocol", "ablation", "competitors", "recipes", "attacks", "ood")
"""Folders of conf/, from each of which one file is chosen."""
OPEN = (("model",), ("methods",), ("tables",), ("figures",), ("evaluation", "attacks"), ("ablation", "studies"))
"""Sections whose keys a person names, or that have more keys than conf/ gives them."""
FORM = "expected key=value, for example suite=digits or training.epochs=20"


def parse_overrides(overrides: Sequence[str], conf: Path) -> list[Any]:
    """Hydra's own form of overrides.

    Raises:
        RequestError: one cannot be read, or chooses a file of conf/ that there is not; the message lists all of them.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    choices = {group: sorted(path.stem for path in (conf / group).glob("*.yaml")) for group in GROUPS}
    parsed, problems = [], []
    for text in overrides:
        try:
            one = OverridesParser.create().parse_override(text)
            is_one_value = not one.is_sweep_override()
        except (HydraException, ValueError, RecursionError) as error:
            problems.append(_unreadable(text, choices, str(error)))
            continue
        if not is_one_value:
            problems.append(f"'{text}' gives several values, expected one")
        elif one.key_or_group in choices:
            problems += _of_group(text, one, choices[one.key_or_group])
        else:
            problems += _of_value(text, one)
        parsed.append(one)
    raise_any(overrides, problems)
    return parsed


def unknown_keys(parsed: Sequence[Any], content: dict[str, Any]) -> list[str]:
    """What is wrong with overrides of values, given what they are applied to; `content` may have references."""
    problems = []
    for one in parsed:
        path = tuple(one.key_or_group.split("."))
        if path[0] in GROUPS and len(path) == 1:
            continue
        found = _missing(path, content)
        if one.is_add() and not one.is_force_add() and found is None:
            problems.append(f"'{one.key_or_group}' is there already; write {one.key_or_group}=..., without +")
        elif not one.is_add() and found is not None:
            problems.append(found)
    return problems


def raise_any(overrides: Sequence[str], problems: Sequence[str]) -> None:
    """RequestError with all problems, if there are any."""
    if problems:
        raise RequestError("\n  ".join([f"cannot compose {' '.join(overrides)}:", *problems]))


def _unreadable(text: str, choices: dict[str, list[str]], said: str) -> str:
    if "=" not in text:
        for group, names in choices.items():
            if text in names:
                return f"'{text}' is no override; write {group}={text}"
        return f"'{text}' is no override; {FORM}"
    if "=~" in text:
        return f"'{text}': no shell has put your home in place of ~ here; write the path out"
    return f"'{text}' cannot be read ({' '.join(said.split())}); {FORM}, seeds=[1,2] or \"description='two words'\""


def _of_group(text: str, one: Any, names: list[str]) -> Iterator[str]:
    group, value = one.key_or_group, one.value()
    if one.is_add() or one.is_delete() or one.package is not None:
        yield f"'{text}': one file of {group} is always chosen; write {group}=NAME. Valid: {', '.join(names)}"
    elif value not in names:
        own = f"; a network of your own is model.architecture={value}" if ":" in str(value) else ""
        yield f"unknown {group} '{value}': {did_you_mean(str(value), names)}{own}"


def _of_value(text: str, one: Any) -> Iterator[str]:
    if not one.key_or_group:
        yield f"'{text}' names no key; {FORM}"
    elif one.key_or_group.partition(".")[0] == "hydra":
        yield f"'{text}' is a setting of Hydra itself, which has no effect here"
    elif one.key_or_group == "training" and isinstance(one.value(), dict) and "epochs" in one.value():
        yield f"'{text}': write training.epochs=... by itself, so that the schedule is scaled with it"


def _missing(path: tuple[str, ...], content: Any) -> str | None:
    """Why there is nothing at `path`; None where there is, or where a reference hides what there is."""
    section = content
    for depth, key in enumerate(path):
        if isinstance(section, str) and "${" in section:
            return None
        if not isinstance(section, dict):
            return f"unknown key '{'.'.join(path)}': {'.'.join(path[:depth])} is a value, not a section"
        if key not in section:
            adds = f"; +{'.'.join(path)}=... adds one" if path[:depth] in OPEN and depth == len(path) - 1 else ""
            valid = list(dict.fromkeys([*(GROUPS if depth == 0 else ()), *map(str, section)]))
            return f"unknown key '{'.'.join(path)}': {did_you_mean(key, valid)}{adds}"
        section = section[key]
    return None
