"""What benchmarks share: their command, how they time, and what they leave.

What is compared takes turns in one process, so that a noisy machine slows all of it.
"""

from __future__ import annotations

import argparse
import inspect
import json
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch

from pipeline.core.files import write_json
from pipeline.core.machine import usable_cores
from pipeline.provenance.commit import git_commit, versions

RESULTS = Path(__file__).resolve().parent / "results"
INSTRUCTION_SETS = ("amx_bf16", "avx2", "avx512_bf16", "avx512_f")
CPU = torch.device("cpu")

Name = TypeVar("Name")
Timer = Callable[[], float]
"""Does its work once; returns the seconds that it took."""


def benchmark(
    on_device: bool = True, **quick: Any
) -> Callable[[Callable[..., Mapping[str, Any]]], Callable[[list[str] | None], None]]:
    """Make a command of a function that measures something: it publishes what the function was given and returns.

    The function's parameters are the command's options, each with a default of its own, a number, a text, or a tuple of
    either; its docstring is the command's help.

    Args:
        on_device: Whether the numbers tell of a device's arithmetic; each kind of device has a file of its own.
        quick: What parameters are with `--quick`, which shows in seconds that it works.
    """

    def command(measure: Callable[..., Mapping[str, Any]]) -> Callable[[list[str] | None], None]:
        def main(arguments: list[str] | None = None) -> None:
            options, output = read_arguments(measure, quick, arguments)
            numbers = options | dict(measure(**options))
            device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
            publish(output, numbers, device if on_device else None)

        return main

    return command


def read_arguments(
    measure: Callable[..., Any], quick: Mapping[str, Any], arguments: list[str] | None
) -> tuple[dict[str, Any], Path | None]:
    """A value for every parameter of `measure`, and the file to write or None."""
    name, full = measure.__name__, {key: each.default for key, each in inspect.signature(measure).parameters.items()}
    parser = argparse.ArgumentParser(
        f"benchmarks {name}", description=inspect.getdoc(measure), formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for key, value in full.items():
        sample, several = (value[0], "+") if isinstance(value, tuple) else (value, None)
        text = f"default: {value}; with --quick: {quick.get(key, value)}"
        parser.add_argument(f"--{key.replace('_', '-')}", type=type(sample), nargs=several, help=text)
    parser.add_argument("--quick", action="store_true", help="seconds: shows that it works, its numbers mean nothing")
    parser.add_argument("--output", type=Path, help=f"default: benchmarks/results/{name}.json, with --quick nowhere")
    given = vars(parser.parse_args(arguments))
    is_quick, output = given.pop("quick"), given.pop("output")
    defaults = full | dict(quick) if is_quick else full
    options = {key: defaults[key] if value is None else value for key, value in given.items()}
    return options, output if output or is_quick else RESULTS / f"{name}.json"


def timer(work: Callable[[], Any], device: torch.device) -> Timer:
    """Measures the wall time of `work`, with the device idle before and after."""

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    def measure() -> float:
        wait()
        started = time.perf_counter()
        work()
        wait()
        return time.perf_counter() - started

    return measure


def in_turn(timers: Mapping[Name, Timer], rounds: int) -> dict[Name, list[float]]:
    """Seconds by name: every round asks each timer once, and every other round in the opposite order."""
    found: dict[Name, list[float]] = {name: [] for name in timers}
    for number in range(rounds):
        for name in list(timers) if number % 2 == 0 else reversed(list(timers)):
            found[name].append(timers[name]())
    return found


def timed(
    works: Mapping[Name, Callable[[], Any]], device: torch.device, rounds: int, warm_up: bool = True
) -> dict[Name, list[float]]:
    """Seconds by name of what takes turns, each once before that counts nothing unless `warm_up` is False."""
    timers = {name: timer(work, device) for name, work in works.items()}
    if warm_up:
        in_turn(timers, 1)
    return in_turn(timers, rounds)


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


def publish(path: Path | None, numbers: Mapping[str, Any], device: torch.device | None = None) -> None:
    """Print `numbers` as JSON, with the commit, the machine and the versions, and write them.

    Args:
        path: Where to; None: nowhere. Every kind of device has a file of its own beside it.
        numbers: What was measured.
        device: Whose arithmetic they tell of (None: nobody's).
    """
    result = {**numbers, "machine": _machine(device or CPU), "git_commit": git_commit(), **versions()}
    if path is not None:
        write_json(path if device is None else file_for(path, kind(device)), result)
    print(json.dumps(result, indent=2))


def kind(device: torch.device) -> str:
    """`cuda`, `cpu`, or `cpu_without_amx`: bfloat16 gains much less there, so that numbers of one hold for it alone."""
    if device.type != "cpu" or torch.cpu.get_capabilities().get("amx_bf16"):
        return device.type
    return "cpu_without_amx"


def file_for(path: Path, kind: str) -> Path:
    """`step.json` of a CPU, `step.cuda.json` of a GPU: neither overwrites the other."""
    return path if kind == "cpu" else path.with_suffix(f".{kind}{path.suffix}")


def _machine(device: torch.device) -> dict[str, Any]:
    """What the numbers were measured on; a processor by its kind and what it has for fast arithmetic."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    else:
        capabilities = torch.cpu.get_capabilities()
        found = [each for each in INSTRUCTION_SETS if capabilities.get(each)]
        name = ", ".join([f"{platform.machine()} CPU", *found])
    return {"device": name, "cores": usable_cores(), "threads": torch.get_num_threads()}
