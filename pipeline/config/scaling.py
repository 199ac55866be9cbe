"""A suite's settings for another number of epochs: whatever counts epochs keeps its share of the run.

Works on a composed configuration before references (`${...}`) are followed, so that what refers to a value follows it,
and what was asked for by name is left as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

Path = tuple[str, ...]
DIGITS = 3
"""Decimals of a breakpoint in epochs: the rate changes after an epoch or a step, a thousandth of one is neither."""
SIGNIFICANT = 6
"""Digits of a decay."""
SHOWN = 12
"""Changes that are listed one by one."""
LONG = 7
"""Entries of a list that are all shown."""


@dataclass(frozen=True)
class Change:
    """What a value was in the suite and what it is now."""

    path: Path
    before: Any
    after: Any

    def __str__(self) -> str:
        return f"{'.'.join(self.path)}: {_shown(self.before)} -> {_shown(self.after)}"


@dataclass
class Scaling:
    """Changes a configuration, as plain values, from the suite's epochs to others.

    Args:
        given: Paths of what was asked for by name, which stays, as does everything below it.
    """

    before: int
    after: int
    given: frozenset[Path] = frozenset()
    changes: dict[Path, Change] = field(default_factory=dict)

    def apply(self, raw: dict[str, Any]) -> None:
        """Change `raw` in place; `changes` tells what."""
        training, share = ("training",), Fraction(self.after, self.before)
        self._set(raw, (*training, "validation_interval"), _whole(share))
        self._set(raw, (*training, "theory", "interval"), _whole(share))
        self._phases(raw, (*training, "phases"), share)
        for name in _keys(raw, ("methods",)):
            self._method(raw, ("methods", name))
        for name in _keys(raw, ("ablation", "studies")):
            self._study(raw, ("ablation", "studies", name))
        for key in ("communication_interval", "warmup_epochs"):
            for end in ("low", "high"):
                self._set(raw, ("search", "space", key, end), _whole(share))
        self._leave_restarts(raw)
        description = raw.get("description")
        says = not isinstance(description, str) or "${training.epochs}" in description
        if not says and not self._is_given(("description",)):
            raw["description"] = f"{description}; scaled from {self.before} to {self.after} epochs"

    def finish(self, resolved: dict[str, Any]) -> None:
        """Round epochs that must be whole and follow a scaled value; in `resolved` all references are resolved."""
        for name in _keys(resolved, ("methods",)):
            place = ("methods", name, "mixture")
            mixture = _at(resolved, place)
            if not isinstance(mixture, dict):
                continue
            if isinstance(mixture.get("path_starts_after"), float):
                mixture["path_starts_after"] = max(1, round(mixture["path_starts_after"]))
            interval = mixture.get("communication_interval")
            if isinstance(interval, str) and _combines_after_epochs(mixture):
                mixture["communication_interval"] = max(1, round(Fraction(interval) * self.after))

    def _leave_restarts(self, raw: dict[str, Any]) -> None:
        """Lower the greatest c of the search to where every c of it has a multiple from the latest t' on.

        Rounding may have raised it above that, and then the search would be refused.
        """
        place = ("search", "space", "communication_interval")
        ends, latest = _at(raw, place), _at(raw, ("search", "space", "warmup_epochs", "high"))
        values = [latest, *(ends.get(end) for end in ("low", "high"))] if isinstance(ends, dict) else []
        if not values or not all(type(value) is int for value in values):
            return
        impossible = [c for c in range(values[1], values[2] + 1) if self.after // c * c < latest]
        if impossible and impossible[0] > values[1]:
            self._set(raw, (*place, "high"), lambda _: impossible[0] - 1)

    def _method(self, raw: dict[str, Any], place: Path) -> None:
        """A method, or the part of one that a study has instead."""
        method = _at(raw, place)
        if not isinstance(method, dict):
            return
        before, after = self.before, self.after
        own = method.get("epochs")
        if isinstance(own, int):
            # A phase is an epoch at least.
            least = max(1, len(method.get("phases") or []))
            self._set(raw, (*place, "epochs"), lambda value: max(least, _rounded(value * Fraction(after, before))))
            before, after = own, method["epochs"]
            if before == after:
                return
        share = Fraction(after, before)
        self._phases(raw, (*place, "phases"), share)
        for name in _keys(method, ("learners",)):
            learner = (*place, "learners", name)
            self._set(raw, (*learner, "schedule", "epochs"), _breakpoints(share))
            self._set(raw, (*learner, "weight_averaging", "decay"), _decay(share))
        mixture = (*place, "mixture")
        self._set(raw, (*mixture, "breakpoints"), _breakpoints(share))
        self._set(raw, (*mixture, "decay"), _decay(share))
        self._set(raw, (*mixture, "path_starts_after"), _whole(share))
        for key in ("warmup_epochs", "communication_interval"):
            self._set(raw, (*mixture, key), _duration(before, after))

    def _study(self, raw: dict[str, Any], place: Path) -> None:
        study = _at(raw, place)
        if not isinstance(study, dict):
            return
        if study.get("varies") == "communication_interval":
            one = _duration(self.before, self.after)
            self._set(raw, (*place, "values"), lambda values: [one(value) for value in values])
        elif study.get("varies") == "settings":
            for setting in _keys(study, ("values",)):
                self._method(raw, (*place, "values", setting))

    def _phases(self, raw: dict[str, Any], place: Path, share: Fraction) -> None:
        """First epochs: what comes before a phase keeps its share, and each has an epoch at least."""
        if self._is_given(place):
            return
        earlier = 0
        phases = _at(raw, place)
        for number, phase in enumerate(phases if isinstance(phases, list) else []):
            if not isinstance(phase, dict) or not isinstance(phase.get("first_epoch"), int):
                return
            first = max(earlier + 1, _rounded((phase["first_epoch"] - 1) * share) + 1)
            self._change((*place, str(number), "first_epoch"), phase, "first_epoch", first)
            earlier = first

    def _set(self, raw: dict[str, Any], path: Path, scaled: Callable[[Any], Any]) -> None:
        """Replace the value at a path by what `scaled` makes of it, unless there is none or it was asked for."""
        section = _at(raw, path[:-1])
        if not isinstance(section, dict) or self._is_given(path):
            return
        value = section.get(path[-1])
        if isinstance(value, bool) or not isinstance(value, int | float | list):  # absent, or refers to another value
            return
        self._change(path, section, path[-1], scaled(value))

    def _change(self, path: Path, section: dict[str, Any], key: str, after: Any) -> None:
        if section[key] == after:
            return
        earlier = self.changes.pop(path, None)
        self.changes[path] = Change(path, earlier.before if earlier else section[key], after)
        section[key] = after

    def _is_given(self, path: Path) -> bool:
        return any(path[: len(one)] == one for one in self.given)

    def describe(self) -> Iterator[str]:
        """What was scaled, in lines."""
        yield f"scaled in proportion from {self.before} epochs to {self.after}; what refers to these values follows:"
        lines = list(map(str, self.changes.values()))
        yield from (f"  {line}" for line in lines[:SHOWN])
        if len(lines) > SHOWN:
            yield f"  and {len(lines) - SHOWN} more"


def leaves(path: Path, value: Any) -> Iterator[Path]:
    """The paths that an override sets: a mapping is merged into what is there, so that each of its keys counts."""
    if not isinstance(value, dict) or not value:
        yield path
        return
    for key, part in value.items():
        yield from leaves((*path, str(key)), part)


def _at(raw: Any, path: Iterable[str]) -> Any:
    for key in path:
        if not isinstance(raw, dict):
            return None
        raw = raw.get(key)
    return raw


def _keys(raw: Any, path: Iterable[str]) -> list[str]:
    """The keys of a section; none where there is something else, a reference for example."""
    section = _at(raw, path)
    return list(section) if isinstance(section, dict) else []


def _combines_after_epochs(mixture: dict[str, Any]) -> bool:
    """Whether a moving average is of a kind that does not act within epochs."""
    return mixture.get("ratios") == "tuned" or mixture.get("result") in ("uniform_soup", "greedy_soup")


def _rounded(value: Fraction) -> int:
    """To the nearest whole number, upwards from the middle (Python's own goes to even ones)."""
    return int(value + Fraction(1, 2))


def _whole(share: Fraction) -> Callable[[Any], Any]:
    return lambda value: max(1, _rounded(value * share)) if isinstance(value, int) else value


def _duration(before: int, after: int) -> Callable[[Any], Any]:
    """Whole epochs where it is a number of them, else the share of the run that it was: 5 of 120 epochs is 5/120."""

    def scaled(value: Any) -> Any:
        if not isinstance(value, int):
            return value
        exact = Fraction(value * after, before)
        if exact.denominator == 1:
            return int(exact)
        return f"{value}/{before}" if value <= before else _rounded(exact)

    return scaled


def _breakpoints(share: Fraction) -> Callable[[Any], Any]:

    def one(epoch: Any) -> Any:
        if isinstance(epoch, bool) or not isinstance(epoch, int | float):
            return epoch
        scaled = round(float(Fraction(epoch) * share), DIGITS)
        return int(scaled) if scaled.is_integer() else scaled

    return lambda epochs: [one(epoch) for epoch in epochs]


def _decay(share: Fraction) -> Callable[[Any], Any]:
    """Forgets over the same share of the steps: after the whole run, as much of the first weights is left."""
    return lambda decay: float(f"{decay ** float(1 / share):.{SIGNIFICANT}g}")


def _shown(value: Any) -> str:
    if not isinstance(value, list):
        return str(value)
    parts = list(map(_shown, value))
    return f"[{', '.join(parts if len(parts) <= LONG else [*parts[:2], '...', parts[-1]])}]"
