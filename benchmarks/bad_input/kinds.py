"""All kinds of wrong requests, how many of each are drawn, and running them."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from zlib import crc32

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from benchmarks.bad_input import commands, data, files, models
from benchmarks.bad_input.cases import PROBLEMS, Case, Outcome
from benchmarks.bad_input.running import run_here


@dataclass(frozen=True)
class Kind:
    """A row of the table."""

    name: str
    about: str
    """What is wrong: 'params.yaml', 'command line', 'data' or 'weights'."""
    weight: int
    """Its part of all cases."""
    cases: st.SearchStrategy[Case]
    until: str | None
    """Where a request that is accepted is stopped; a key of `running.WORK`."""


STOPS = {"prepared images": "train", "models from elsewhere": "attack", "weights of our own runs": "evaluate"}
WEIGHTS = {
    "no file, folders, links, pipes, devices": 3,
    "deep nesting, very long texts and lists": 5,
    "pieces of conf/, cycles": 2,
    "folders of pictures": 2,
    "CIFAR-10-C and -P": 2,
    "CIFAR archives and files": 3,
    "prepared images": 3,
    "weights of our own runs": 4,
    "models from elsewhere": 6,
    "options and arguments that there are not": 5,
}
"""Where it is not 10: kinds with few different cases, and slow ones."""
SOURCES: tuple[tuple[str, str | None, dict[str, Callable[[str], st.SearchStrategy[Case]]]], ...] = (
    ("params.yaml", "params", files.KINDS),
    ("command line", None, commands.KINDS),
    ("data", None, data.KINDS),
    ("weights", None, models.KINDS),
)
KINDS = tuple(
    Kind(name, about, WEIGHTS.get(name, 10), make(name), STOPS.get(name, until))
    for about, until, kinds in SOURCES
    for name, make in kinds.items()
)


def numbers(total: int) -> dict[str, int]:
    """How many cases of each kind make up `total`: in proportion to their weights, at least one of each."""
    whole = sum(kind.weight for kind in KINDS)
    counts = {kind.name: max(1, total * kind.weight // whole) for kind in KINDS}
    counts[KINDS[0].name] += max(0, total - sum(counts.values()))
    return counts


def outcomes(kind: Kind, count: int, start: int) -> Iterator[Outcome]:
    """Run `count` cases of a kind; the same seed gives the same cases, of which some may be equal."""
    for case in drawn(kind.cases, count, crc32(f"{start} {kind.name}".encode())):
        yield run_here(case, kind.until)


def drawn(cases: st.SearchStrategy[Case], count: int, start: int) -> list[Case]:
    """`count` examples of a strategy. Where it has fewer, they come again in another order."""
    found: list[Case] = []

    @seed(start)
    @settings(
        max_examples=count,
        phases=[Phase.generate],
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(cases)
    def collect(case: Case) -> None:
        found.append(case)

    collect()
    generator = random.Random(start)
    while len(found) < count:
        found.append(generator.choice(found))
    return found[:count]


def summary(outcomes: list[Outcome]) -> dict[str, Any]:
    """The numbers of one row."""
    problems = [outcome.problem for outcome in outcomes]
    return {
        "cases": len(outcomes),
        "different": len({(outcome.case.stage, outcome.case.what) for outcome in outcomes}),
        "refused": sum(
            outcome.code == 2 and problem is None for outcome, problem in zip(outcomes, problems, strict=True)
        ),
        "valid": sum(outcome.valid for outcome in outcomes),
        **{name: problems.count(name) for name in PROBLEMS},
        "slowest_cpu_seconds": round(max((outcome.cpu_seconds for outcome in outcomes), default=0.0), 2),
        "slowest_wall_seconds": round(max((outcome.wall_seconds for outcome in outcomes), default=0.0), 2),
    }
