"""c and t' as shares of all epochs: '5/120' is the same part of a short run as of a long one."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise
from math import ceil
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config import Experiment, MovingAverageSettings
from pipeline.core.devices import Backend
from pipeline.core.errors import Interrupted, RequestError
from pipeline.data.images import ImageSplit
from pipeline.training.loop import train
from pipeline.training.mixture import GlobalLearner
from tests.conftest import MakeParams
from tests.running import Recorder, RunExperiment, assert_same
from tests.training.test_mixture import D_NT_LINF, PAPER, mixture

STEPS = 3
"""Of an epoch of the tiny suite, which has four."""


def settings(epochs: int, **changes: Any) -> MovingAverageSettings:
    content = {**PAPER, "breakpoints": [0, epochs], "mixing_ratios": {"linf": [1, 0], "natural": [0, 1]}, **changes}
    return MovingAverageSettings.model_validate(content, context={"epochs": epochs})


def restarts(one: MovingAverageSettings, epochs: int, steps: int) -> list[int]:
    """The steps, from 1, after which the learners restart."""
    edges = [Fraction(number, steps) for number in range(epochs * steps + 1)]
    return [number for number, (a, b) in enumerate(pairwise(edges), start=1) if one.redistributes_between(a, b, epochs)]


@given(epochs=st.integers(1, 60), steps=st.integers(1, 9), data=st.data())
def test_restarts_are_the_first_steps_at_or_past_the_multiples(epochs: int, steps: int, data: st.DataObject) -> None:
    interval = data.draw(st.integers(1, 120))
    warmup = data.draw(st.integers(1, 120))
    one = settings(epochs, communication_interval=f"{interval}/120", warmup_epochs=f"{warmup}/120")
    multiples = (Fraction(interval * count, 120) for count in range(1, 120 // interval + 1))
    expected = {ceil(multiple * epochs * steps) for multiple in multiples if multiple >= Fraction(warmup, 120)}
    assert restarts(one, epochs, steps) == sorted(expected)


def test_shares_of_the_papers_run_are_the_papers_epochs_and_the_same_experiment() -> None:
    one = settings(120, communication_interval="5/120", warmup_epochs="75/120")
    assert one == settings(120, communication_interval=5, warmup_epochs=75)
    assert restarts(one, 120, 2) == [2 * epoch for epoch in range(75, 121, 5)]
    assert settings(15, communication_interval="5/120", warmup_epochs="75/120").communication_interval == "5/120"


def test_a_share_of_whole_epochs_gives_the_same_bits(make_params: MakeParams, run_method: RunExperiment) -> None:
    params = [make_params(mixture(D_NT_LINF, communication_interval=value)) for value in (2, "2/4", "60/120")]
    assert len({one.experiment(D_NT_LINF, 1).fingerprint for one in params}) == 1
    first, second = (run_method(one, D_NT_LINF) for one in params[:2])
    assert_same(first.mixture, second.mixture)


def record_restarts(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int, int]]:
    """Epoch, step and steps of every restart, as they come."""
    happened: list[tuple[int, int, int]] = []
    moment = (0, 0, 0)
    after_step, redistribute = GlobalLearner.after_step, GlobalLearner.redistribute

    def step(self: GlobalLearner, epoch: int, number: int = 1, steps: int = 1) -> None:
        nonlocal moment
        moment = (epoch, number, steps)
        after_step(self, epoch, number, steps)

    def restart(self: GlobalLearner) -> None:
        happened.append(moment)
        redistribute(self)

    monkeypatch.setattr(GlobalLearner, "after_step", step)
    monkeypatch.setattr(GlobalLearner, "redistribute", restart)
    return happened


@pytest.mark.parametrize(
    ("interval", "expected"),
    [
        # Half an epoch: 2, 2.5, 3, 3.5, 4 epochs are after the steps 6, 7.5, 9, 10.5, 12 of 12.
        ("1/8", [(2, 3, 3), (3, 2, 3), (3, 3, 3), (4, 2, 3), (4, 3, 3)]),
        # An epoch and a third is four steps.
        ("1/3", [(3, 2, 3), (4, 3, 3)]),
        # Every step, and more often than that.
        ("1/12", [(2, 3, 3), *((epoch, step, 3) for epoch in (3, 4) for step in (1, 2, 3))]),
        ("1/100", [(2, 3, 3), *((epoch, step, 3) for epoch in (3, 4) for step in (1, 2, 3))]),
    ],
)
def test_within_epochs_learners_restart_at_the_right_steps(
    make_params: MakeParams,
    run_method: RunExperiment,
    monkeypatch: pytest.MonkeyPatch,
    interval: str,
    expected: list[tuple[int, int, int]],
) -> None:
    happened = record_restarts(monkeypatch)
    trained = run_method(make_params(mixture(D_NT_LINF, communication_interval=interval)), D_NT_LINF)
    assert happened == expected
    epochs = {epoch for epoch, _, _ in expected}
    assert [record["redistributed"] for record in trained.observer.records] == [
        float(epoch in epochs) for epoch in range(1, 5)
    ]


def test_every_step_from_a_checkpoint_gives_the_same_bits(
    make_params: MakeParams, run_method: RunExperiment, tiny_split: ImageSplit, cpu: Backend, tmp_path: Any
) -> None:
    """Stopped after every step, the one before an epoch's end and the last of it included."""
    experiment = make_params(mixture(D_NT_LINF, communication_interval="1/8")).experiment(D_NT_LINF, 1)
    whole = run_method(make_params(mixture(D_NT_LINF, communication_interval="1/8")), D_NT_LINF)
    stops = 0
    while stops <= 4 * STEPS:
        try:
            train(experiment, tiny_split, cpu, tmp_path, Recorder(), should_stop=lambda: "stop")
        except Interrupted:
            stops += 1
        else:
            break
    assert stops == 4 * STEPS
    newest = max((tmp_path / "checkpoints").glob("*.pt"))
    assert_same(torch.load(newest, weights_only=True)["mixture"]["model"], whole.mixture)


@pytest.mark.parametrize("value", ["5/0", "0/120", "6/5", "5 / x", "half", "-1/120", "5/120/2", "1.5"])
def test_what_is_no_share_is_refused(make_params: MakeParams, value: str) -> None:
    with pytest.raises(
        RequestError, match=r"mixture\.communication_interval: expected whole epochs, or a share of all"
    ):
        make_params(mixture(D_NT_LINF, communication_interval=value))


@pytest.mark.parametrize("changes", [{"ratios": "tuned"}, {"result": "greedy_soup"}, {"result": "uniform_soup"}])
def test_what_combines_learners_after_epochs_wants_whole_ones(make_params: MakeParams, changes: dict[str, str]) -> None:
    with pytest.raises(
        RequestError, match="combines learners after epochs, and communication_interval 1/8 is no whole"
    ):
        make_params(mixture(D_NT_LINF, communication_interval="1/8", **changes))


def test_a_warmup_that_ends_within_an_epoch(make_params: MakeParams) -> None:
    def experiment(warmup: Any) -> Experiment:
        return make_params(mixture(D_NT_LINF, warmup_epochs=warmup, communication_interval=1)).experiment(D_NT_LINF, 1)

    late = experiment("5/8").method.mixture
    assert isinstance(late, MovingAverageSettings)
    assert [epoch for epoch in range(1, 5) if late.redistributes_in(epoch, 4)] == [3, 4]
    assert experiment("1/2").fingerprint == experiment(2).fingerprint
