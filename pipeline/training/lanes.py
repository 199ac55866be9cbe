"""Learners' steps side by side on one device, where its first steps show that this is faster."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch

WARMUP, ROUNDS = 3, 7
"""Minibatches in each way before the two are timed, which compile and allocate, and minibatches that are timed."""


class Lanes:
    """A stream of the device for every learner, so that one whose kernels leave room shares it with the others.

    Learners of one minibatch share nothing but the minibatch, and in a stream kernels keep their order: a step gives
    the same bits in either way. So the first minibatches are trained on in both ways in turn, and the faster one is
    kept. On a CPU, where nothing is queued, both are the same.

    Args:
        device: Where the learners are.
        tell: Is told what was found.
        wanted: Whether to try; otherwise learners train one after another.
    """

    def __init__(self, device: torch.device, tell: Callable[[str], None], wanted: bool = True) -> None:
        self._module = torch.get_device_module(device)
        self._tell = tell
        self._streams: list[torch.Stream] = []
        self._seconds: dict[bool, list[float]] = {True: [], False: []}
        """Seconds of minibatches that were trained on side by side, and one learner after another."""
        self._beside: bool | None = None if wanted else False
        """What was decided, if it was."""

    @contextmanager
    def of(self, learners: int) -> Iterator[Sequence[AbstractContextManager[None]]]:
        """One lane for every learner of a minibatch, to make its step in; afterwards all steps are on their way."""
        if learners < 2 or self._beside is False:
            yield [nullcontext()] * learners
        elif self._beside:
            with self.side_by_side(learners) as lanes:
                yield lanes
        else:
            beside = len(self._seconds[True]) == len(self._seconds[False])
            self._module.synchronize()
            started = time.perf_counter()
            with self.side_by_side(learners) if beside else nullcontext([nullcontext()] * learners) as lanes:
                yield lanes
            self._module.synchronize()
            self._seconds[beside].append(time.perf_counter() - started)
            if len(self._seconds[False]) == WARMUP + ROUNDS:
                self._decide()

    @contextmanager
    def side_by_side(self, learners: int) -> Iterator[Sequence[AbstractContextManager[None]]]:
        """Streams that begin when all that was queued is done, and that all that is queued later waits for."""
        while len(self._streams) < learners:
            self._streams.append(self._module.Stream())
        current, streams = self._module.current_stream(), self._streams[:learners]
        for stream in streams:
            stream.wait_stream(current)
        try:
            yield [self._module.stream(stream) for stream in streams]
        finally:
            for stream in streams:
                current.wait_stream(stream)

    def _decide(self) -> None:
        beside, apart = (statistics.median(self._seconds[way][WARMUP:]) for way in (True, False))
        self._beside = beside < apart
        # Each way has kept memory of its own for the next step.
        torch.cuda.empty_cache()
        way = "side by side" if self._beside else "one after another"
        self._tell(f"learners train {way}: a minibatch takes {beside:.3g} s side by side, {apart:.3g} s otherwise")
