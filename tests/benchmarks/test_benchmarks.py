"""Every benchmark runs with its quick settings, and publishes what the pages show."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import pytest
import torch

from benchmarks.__main__ import MODULES, main
from benchmarks.blocks import BLOCKS, Results
from benchmarks.frame import RESULTS
from benchmarks.performance import block
from benchmarks.trainings import SIZES, shortened
from tests.conftest import REPOSITORY

KEYS = {
    "step": {"plain_images_per_second", "our_images_per_second", "ratio_median", "mixture_share_of_step"},
    "methods": {"architectures"},
    "savings": {"habits", "augmentation"},
    "mixture": {"generalist_t", "mixture"},
    "peak": {"shares", "gigaflops_per_image"},
    "profile": {"networks"},
    "compilation": {"threads"},
    "scaling": {"batch_size", "attack_steps", "learners", "processes", "learner_parallel"},
    "evaluation": {"suites"},
    "autoattack": {"ratio_median", "robust_images"},
    "theory": {"share_of_training", "moments"},
    "theorems": {"pairs", "methods"},
    "memory": {"data_megabytes", "peak_mebibytes"},
    "ood_memory": {"peak_mebibytes"},
    "imagefolder": {"milliseconds_per_image", "resident_mebibytes_after_each_round"},
    "equality": {"suites"},
    "warm_ups": {"learner_epochs", "ratio", "processor_ratio"},
}
BY_BENCHMARK = {
    "headline": "step",
    "architectures": "methods",
    "imagenet": "methods",
    "generalist_t": "mixture",
    "growth": "scaling",
    "operators": "profile",
    **dict.fromkeys(("theorem_2", "learners_epsilons", "minibatch_gradients"), "theorems"),
}
"""Blocks with another name than the benchmark that they show."""


Measure = Callable[[str], dict[str, Any]]


@pytest.fixture(scope="module")
def measure(tmp_path_factory: pytest.TempPathFactory) -> Measure:
    """`measure("step")` gives what that benchmark publishes; it runs once."""

    @cache
    def run(name: str) -> dict[str, Any]:
        folder = tmp_path_factory.mktemp(name)
        main([name, "--quick", "--output", str(folder / f"{name}.json")])
        (written,) = folder.iterdir()
        content: dict[str, Any] = json.loads(written.read_text())
        return content

    return run


@pytest.fixture(autouse=True)
def one_thread_afterwards() -> Iterator[None]:
    """Benchmarks use as many threads as the machine has."""
    yield
    torch.set_num_threads(1)


@pytest.mark.parametrize("name", KEYS)
def test_it_runs_and_publishes(name: str, measure: Measure) -> None:
    assert KEYS[name] | {"machine", "git_commit"} <= measure(name).keys()


def test_make_bench_runs_them_all() -> None:
    assert {name for names in MODULES.values() for name in names} == {*KEYS, "grid"}
    line = next(line for line in (REPOSITORY / "Makefile").read_text().splitlines() if line.startswith("BENCH ?= "))
    assert line.removeprefix("BENCH ?= ").split() == list(KEYS)


@pytest.mark.parametrize("name", BLOCKS)
def test_a_page_can_show_it(name: str, measure: Measure) -> None:
    results = as_if_measured_in_full(measure)
    shown = block(name, {"cpu": results, "cuda": {}})
    benchmark = BY_BENCHMARK.get(name, name)
    assert "not measured" not in shown.lower()
    assert f"`{benchmark}.json`" in shown or shown.startswith("![")


def as_if_measured_in_full(measure: Measure) -> Results:
    """Quick results, the tiny network under the names of networks that pages ask for; the grid's committed ones."""
    results = {name: dict(measure(name)) for name in KEYS}
    results["grid"] = json.loads((RESULTS / "grid.json").read_text())
    tiny = results["methods"]["architectures"]["tiny"]
    results["methods"]["architectures"] = {"resnet18": tiny, "resnet50": tiny}
    results["peak"]["gigaflops_per_image"] = {"resnet50": results["peak"]["gigaflops_per_image"]["tiny"]}
    results["mixture"]["mixture"] = {"resnet50": results["mixture"]["mixture"]["small_cnn"]}
    return results


@pytest.mark.parametrize("suite", SIZES)
def test_equality_finds_its_method_in_every_suite(suite: str) -> None:
    experiment = shortened(suite, seed=2, sizes=SIZES[suite])
    found = experiment.architecture, experiment.seed, experiment.training.epochs
    assert found == ("small_cnn", 2, SIZES[suite].epochs)
