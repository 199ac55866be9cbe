"""What a person sees while several pieces of work go on side by side."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Self

from pipeline.core.progress import LINE_INTERVAL
from pipeline.core.screen import Screen, Standing, has_screen, lines


class Board:
    """Pieces of work that go on side by side, and what all of them take together.

    Args:
        work: By the name of a piece and of its stages, in their order, what each takes beside the others.
        others: Pieces that are done already.
        counted: The pieces that `what` are; the others prepare them.
        what: 'experiments'.
        jobs: Pieces at a time.
        given: By piece what others do of 1 of its first stage.
    """

    def __init__(
        self,
        work: Mapping[str, Mapping[str, float]],
        others: int,
        counted: Iterable[str],
        what: str,
        jobs: int,
        given: Mapping[str, float] | None = None,
    ) -> None:
        self._work, self._others, self._counted, self._what, self._jobs = work, others, set(counted), what, jobs
        self._given = {(piece, next(iter(work[piece]))): share for piece, share in (given or {}).items()}
        self._standings: dict[str, Standing] = {}
        """By the name of each piece that goes on."""
        self._seen: dict[tuple[str, str], tuple[float, float, float]] = {}
        """By piece and stage: the share that was done when it began, the share now, seconds between."""
        self._ended: set[str] = set()
        self._done = others
        self._began, self._spoken = time.time(), time.monotonic()
        self._screen: Screen | None = None

    def __enter__(self) -> Self:
        if has_screen():
            # No thread of its own: processes are forked meanwhile.
            self._screen = Screen(self._lines, has_thread=False)
        return self

    def __exit__(self, *error: object) -> None:
        if self._screen is not None:
            self._screen.stop()

    @property
    def has_bars(self) -> bool:
        """Whether it shows on a screen how far each piece is."""
        return self._screen is not None

    def say(self, text: str) -> None:
        """Print a line that a piece has said."""
        if self._screen is not None:
            self._screen.print(text)
        else:
            print(text, flush=True)

    def hear(self, piece: str, standing: Standing) -> None:
        """Take in how far a piece is."""
        found, share, _ = self._seen.get((piece, standing.stage), (0.0, -1.0, 0.0))
        if (found, share) != (standing.found, standing.share):  # heard again, it has done nothing meanwhile
            took = time.time() - standing.began
            self._seen[piece, standing.stage] = standing.found, standing.share, took
        self._standings[piece] = standing
        self._ended.discard(piece)  # of the grid: what a worker left undone is begun again

    def hear_all(self, standings: Iterable[Standing]) -> None:
        """Take in how far all are that go on."""
        self._standings.clear()
        for standing in standings:
            self.hear(standing.title, standing)
        self._jobs = max(self._jobs, len(self._standings))  # workers may come later

    def end(self, piece: str) -> None:
        """Take in that a piece has ended."""
        self._standings.pop(piece, None)
        self._ended.add(piece)

    def count(self, piece: str) -> None:
        """Take in that a piece has ended and is done."""
        self.end(piece)
        if piece in self._counted:
            self._done += 1
            if self._screen is None:
                self._speak()

    def refresh(self) -> None:
        """Show how far all are, without a screen from time to time."""
        if self._screen is not None:
            with suppress(OSError):  # the terminal is gone, which a signal will say
                self._screen.refresh()
        elif time.monotonic() - self._spoken > LINE_INTERVAL:
            self._speak()

    def _speak(self) -> None:
        self._spoken = time.monotonic()
        print(f"{self._done} of {self._total} {self._what} done, {self.summary()}", flush=True)

    def summary(self) -> str:
        """When all of them end, and how far each is that goes on."""
        now = (f"; {one.title}: {one.what}, {one.time}" for one in self._standings.values())
        return "".join([self._whole().time, *now])

    def _lines(self, width: int) -> list[str]:
        return lines([*self._standings.values(), self._whole()], width)

    @property
    def _total(self) -> int:
        return self._others + len(self._counted)

    def _whole(self) -> Standing:
        """How far all of them are together."""
        rates = self._rates()
        left = {piece: self._left(piece, rates) for piece in self._work if piece not in self._ended}
        whole = sum(
            (1 - self._given.get((piece, stage), 0)) * self._takes(piece, stage, rates)
            for piece, stages in self._work.items()
            for stage in stages
        )
        done, ends = 0.0, None
        if whole:
            done = 1 - sum(left.values()) / whole
            ends = time.time() + max(sum(left.values()) / self._jobs, *left.values(), 0.0)
        share = (self._others + len(self._counted) * done) / max(self._total, 1)
        return Standing(f"all {self._what}", f"{self._done}/{self._total} done", share, self._began, ends)

    def _takes(self, piece: str, stage: str, rates: Mapping[str, float]) -> float:
        """Seconds of a stage; one that nothing was seen of is taken to do its work as fast as the slowest other."""
        return self._work[piece][stage] * (rates.get(stage) or max(rates.values(), default=0.0))

    def _rates(self) -> dict[str, float]:
        """Seconds that a stage's work takes, of those stages that something was seen of."""
        seconds, did = dict[str, float](), dict[str, float]()
        for (piece, stage), (first, now, took) in self._seen.items():
            amount = self._work.get(piece, {}).get(stage, 0) * (now - first)
            if amount > 0:
                seconds[stage], did[stage] = seconds.get(stage, 0) + took, did.get(stage, 0) + amount
        return {stage: seconds[stage] / did[stage] for stage in did}

    def _left(self, piece: str, rates: Mapping[str, float]) -> float:
        """Seconds that a piece still takes."""
        left = 0.0
        for stage in reversed(list(self._work[piece])):
            share = self._seen[piece, stage][1] if (piece, stage) in self._seen else self._given.get((piece, stage), 0)
            left += (1 - share) * self._takes(piece, stage, rates)
            if (piece, stage) in self._seen:
                break  # those before it are over
        return left
