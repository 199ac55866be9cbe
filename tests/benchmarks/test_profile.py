"""Parts of a step add up, and each operator is held against what limits it."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from benchmarks import profile
from benchmarks.frame import CPU
from benchmarks.profile import REST, Clock, Traffic


def test_a_part_within_another_counts_for_itself_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    moments = iter([0.0, 1.0, 3.0, 7.0, 15.0, 31.0])
    monkeypatch.setattr(profile, "time", SimpleNamespace(perf_counter=lambda: next(moments)))
    clock = Clock(CPU)
    inner = clock.around("inner", lambda: None)
    clock.around("outer", inner)()
    clock.enter(REST)
    assert clock.seconds == {REST: 1.0 + 16.0, "outer": 2.0 + 8.0, "inner": 4.0}


@pytest.mark.parametrize(("limits", "bound", "by_memory"), [((1.0, 1e9), 128.0, 0.0), ((1e9, 1.0), 224.0, 224.0)])
def test_an_operator_is_bound_by_its_operations_or_its_bytes(
    limits: tuple[float, float], bound: float, by_memory: float
) -> None:
    left, right = torch.ones(8, 4), torch.ones(4, 2)
    with Traffic(Clock(CPU), limits) as traffic:
        left @ right
    found = traffic.found[REST]
    assert (found["operations"], found["bytes"]) == (2 * 8 * 4 * 2, 4 * (8 * 4 + 4 * 2 + 8 * 2))
    assert (found["bound_seconds"], found["memory_bound_seconds"]) == pytest.approx((bound, by_memory))
