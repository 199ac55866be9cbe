"""Learners in lanes: the faster way is found, told and kept, and training gives the same bits in either."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pipeline.core.devices import Backend
from pipeline.data.images import ImageSplit
from pipeline.training.lanes import ROUNDS, WARMUP, Lanes
from tests.conftest import MakeParams
from tests.running import Trained, assert_same, run_experiment

CPU = torch.device("cpu")


class Clock:
    """Time that passes only inside lanes, by so many seconds for each way."""

    def __init__(self, beside: float, apart: float) -> None:
        self._seconds = {True: beside, False: apart}
        self._now = 0.0

    def __call__(self) -> float:
        return self._now

    def train(self, lanes: Lanes, learners: int) -> bool:
        """One minibatch; returns whether learners were side by side."""
        before = torch.cpu.current_stream()
        streams = set()
        with lanes.of(learners) as lane_of_each:
            for lane in lane_of_each:
                with lane:
                    streams.add(torch.cpu.current_stream())
            beside = before not in streams
            assert len(streams) == (learners if beside else 1)
            self._now += self._seconds[beside]
        return beside


@pytest.mark.parametrize(("beside", "apart", "way"), [(1.0, 1.2, "side by side"), (1.2, 1.0, "one after another")])
def test_the_faster_way_is_kept(monkeypatch: pytest.MonkeyPatch, beside: float, apart: float, way: str) -> None:
    told: list[str] = []
    clock, lanes = Clock(beside, apart), Lanes(CPU, told.append)
    monkeypatch.setattr("pipeline.training.lanes.time.perf_counter", clock)
    tried = [clock.train(lanes, 3) for _ in range(2 * (WARMUP + ROUNDS))]
    assert tried == [True, False] * (WARMUP + ROUNDS)
    assert told == [f"learners train {way}: a minibatch takes {beside:.3g} s side by side, {apart:.3g} s otherwise"]
    assert {clock.train(lanes, 3) for _ in range(4)} == {beside < apart}
    assert len(told) == 1


def test_the_first_minibatches_of_each_way_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """They compile, and find their memory; counted, they would make 5 s the median of side by side."""
    told: list[str] = []
    lanes, most = Lanes(CPU, told.append), ROUNDS // 2 + 1
    for seconds, times in ((90.0, WARMUP), (1.0, most), (5.0, ROUNDS - most)):
        clock = Clock(seconds, 2.0)
        monkeypatch.setattr("pipeline.training.lanes.time.perf_counter", clock)
        for _ in range(2 * times):
            clock.train(lanes, 3)
    assert told == ["learners train side by side: a minibatch takes 1 s side by side, 2 s otherwise"]


@pytest.mark.parametrize(("wanted", "learners"), [(False, 3), (True, 1)])
def test_nothing_is_tried_where_nobody_asked_or_one_learner_trains(wanted: bool, learners: int) -> None:
    told: list[str] = []
    lanes, clock = Lanes(CPU, told.append, wanted), Clock(1.0, 2.0)
    assert not any(clock.train(lanes, learners) for _ in range(3 * (WARMUP + ROUNDS)))
    assert told == []


def test_training_tells_what_was_found_and_gives_the_same_bits(
    make_params: MakeParams, tiny_split: ImageSplit, cpu: Backend, tmp_path: Path
) -> None:
    """24 minibatches, of which 20 are needed to decide."""

    def trained(wanted: bool) -> Trained:
        params = make_params(lambda raw: raw["training"].update(batch_size=8, overlap_learners=wanted))
        return run_experiment(params.experiment("generalist_t", 1), tiny_split, cpu, tmp_path / str(wanted))

    found, expected = trained(True), trained(False)
    assert_same(found.mixture, expected.mixture)
    for learner in ("linf", "natural", "l2"):
        assert_same(found.learner(learner), expected.learner(learner))
    (told,) = [text for text in found.observer.messages if text.startswith("learners train ")]
    assert told not in expected.observer.messages
