"""How benchmarks time: what is compared takes turns in one process, so that a noisy machine slows all of it."""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch

from benchmarks.publishing import RESULTS

Timer = Callable[[], float]
"""Does its work once; returns the seconds that it took."""
Name = TypeVar("Name")


@dataclass(frozen=True)
class Option:
    """A number, a text, or a list of either that the command line may give."""

    full: Any
    """What it is unless something is given."""
    quick: Any
    """What it is with --quick."""
    help: str


def read_arguments(
    doc: str | None, name: str, options: Mapping[str, Option], arguments: list[str] | None
) -> argparse.Namespace:
    """The arguments of a benchmark: its own options, `--quick` and `--output`.

    Args:
        doc: The benchmark's docstring.
        name: Of the benchmark, and of its file in `benchmarks/results/`.
        options: By name.
        arguments: None: those of the process.

    Returns:
        A value for every option; `quick`; `output`, the file to write or None.
    """
    parser = argparse.ArgumentParser(
        prog=f"benchmarks.{name}", description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for key, option in options.items():
        sample, several = (option.full[0], "+") if isinstance(option.full, list) else (option.full, None)
        text = f"{option.help} (default: {_shown(option.full)}; with --quick: {_shown(option.quick)})"
        parser.add_argument(f"--{key.replace('_', '-')}", type=type(sample), nargs=several, help=text)
    parser.add_argument("--quick", action="store_true", help="seconds: shows that it works, its numbers mean nothing")
    parser.add_argument(
        "--output", type=Path, help=f"default: benchmarks/results/{name}.json, with --quick the screen alone"
    )
    given = parser.parse_args(arguments)
    for key, option in options.items():
        if getattr(given, key) is None:
            setattr(given, key, option.quick if given.quick else option.full)
    if given.output is None and not given.quick:
        given.output = RESULTS / f"{name}.json"
    return given


def _shown(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def timer(work: Callable[[], Any], device: torch.device) -> Timer:
    """Measures the wall time of `work`, with the device idle before and after."""

    def measure() -> float:
        synchronize(device)
        started = time.perf_counter()
        work()
        synchronize(device)
        return time.perf_counter() - started

    return measure


def synchronize(device: torch.device) -> None:
    """Wait until the device has nothing to do; on a CPU it never has."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def in_turn(timers: Mapping[Name, Timer], rounds: int) -> dict[Name, list[float]]:
    """Seconds by name: every round asks each timer once, and every other round in the opposite order."""
    found: dict[Name, list[float]] = {name: [] for name in timers}
    for number in range(rounds):
        for name in list(timers) if number % 2 == 0 else reversed(list(timers)):
            found[name].append(timers[name]())
    return found


def spread(values: Iterable[float]) -> dict[str, float]:
    """Median, least and most."""
    values = list(values)
    return {"median": statistics.median(values), "least": min(values), "most": max(values)}


def rates(amount: float, seconds: Iterable[float]) -> dict[str, float]:
    """Median, least and most of `amount` per second."""
    return spread(amount / value for value in seconds)


def ratios(numerators: Iterable[float], denominators: Iterable[float]) -> dict[str, float]:
    """Median, least and most of the ratios of the same rounds."""
    return spread(upper / lower for upper, lower in zip(numerators, denominators, strict=True))
