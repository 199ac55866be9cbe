"""What is compared takes turns, and results go where they should."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from benchmarks.evaluation import probe
from benchmarks.frame import (
    CPU,
    RESULTS,
    file_for,
    in_turn,
    kind,
    publish,
    rates,
    ratios,
    read_arguments,
    spread,
    timer,
)

QUICK = {"rounds": 1, "names": ("b",)}


def step(rounds: int = 5, names: Sequence[str] = ("a",)) -> None:
    """Stands for a benchmark."""


def test_rounds_alternate() -> None:
    order: list[str] = []

    def timed(name: str) -> float:
        order.append(name)
        return float(len(order))

    found = in_turn({"a": lambda: timed("a"), "b": lambda: timed("b")}, rounds=3)
    assert order == ["a", "b", "b", "a", "a", "b"]
    assert found == {"a": [1.0, 4.0, 5.0], "b": [2.0, 3.0, 6.0]}


def test_a_timer_times() -> None:
    assert 0 < timer(lambda: sum(range(1000)), CPU)() < 10


def test_summaries() -> None:
    assert spread([3.0, 1.0, 2.0]) == {"median": 2.0, "least": 1.0, "most": 3.0}
    assert rates(10, [5.0, 2.0, 1.0]) == {"median": 5.0, "least": 2.0, "most": 10.0}
    assert ratios([2.0, 9.0, 4.0], [1.0, 3.0, 4.0])["median"] == 2.0


def test_quick_settings_and_given_ones() -> None:
    assert read_arguments(step, QUICK, [])[0] == {"rounds": 5, "names": ("a",)}
    assert read_arguments(step, QUICK, ["--rounds", "7"])[0]["rounds"] == 7
    assert read_arguments(step, QUICK, ["--quick", "--names", "x", "y"])[0] == {"rounds": 1, "names": ["x", "y"]}


def test_quick_numbers_never_replace_measured_ones() -> None:
    assert read_arguments(step, QUICK, [])[1] == RESULTS / "step.json"
    assert read_arguments(step, QUICK, ["--quick"])[1] is None
    assert read_arguments(step, QUICK, ["--quick", "--output", "here.json"])[1] == Path("here.json")


def test_devices_have_files_of_their_own() -> None:
    path = Path("results/step.json")
    assert file_for(path, "cpu") == path
    assert file_for(path, "cuda") == Path("results/step.cuda.json")


@pytest.mark.parametrize(("amx", "expected"), [(True, "cpu"), (False, "cpu_without_amx")])
def test_a_cpu_with_amx_is_another_kind_of_device(monkeypatch: pytest.MonkeyPatch, amx: bool, expected: str) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": amx, "avx2": True})
    assert kind(CPU) == expected
    assert kind(torch.device("cuda")) == "cuda"


def test_what_is_published(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    publish(tmp_path / "x.json", {"ratio": 2.0})
    found = json.loads((tmp_path / "x.json").read_text())
    assert found == json.loads(capsys.readouterr().out)
    assert found["ratio"] == 2.0
    assert {"machine", "git_commit", "python", "torch"} <= found.keys()
    assert found["machine"]["threads"] == torch.get_num_threads()
    publish(None, {"ratio": 3.0})
    publish(tmp_path / "y.json", {}, CPU)
    assert {path.name for path in tmp_path.iterdir()} == {"x.json", file_for(Path("y.json"), kind(CPU)).name}


@pytest.mark.parametrize(
    ("rate", "most", "expected", "reason"),
    [
        (lambda size: min(size, 64), 1024, 64, "twice as many are no faster"),
        (lambda size: size, 128, 128, "larger ones were not tried"),
    ],
)
def test_a_probe_stops_where_larger_batches_gain_nothing(rate: object, most: int, expected: int, reason: str) -> None:
    assert callable(rate)
    found, why, measured = probe(lambda size: {count: [count / rate(count)] for count in (size, 2 * size)}, 16, most)
    assert (found, why) == (expected, reason)
    assert all(one["images_per_second"]["median"] == pytest.approx(rate(size)) for size, one in measured.items())
