"""Do several pieces of work at a time, each in a process of its own that begins with everything imported."""

from __future__ import annotations

import gc
import os
import selectors
import signal
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

from pipeline.core.board import Board
from pipeline.core.errors import Interrupted
from pipeline.core.progress import discard_output, report_to
from pipeline.core.screen import MARK, Standing, heard
from pipeline.core.signals import asked_to_stop, note, noted, stopping

FAILED = 1
"""The exit code of work that raised."""
LOOK = 0.5
"""Seconds between two looks at the time, where nobody says anything."""


def side_by_side(
    work: Callable[[str], int],
    names: Iterable[str],
    jobs: int,
    board: Board,
    after: Mapping[str, str] | None = None,
) -> dict[str, int]:
    """Call `work` once for every name, in forked processes: what is imported before need not be imported again.

    One that fails takes no other along. SIGTERM, Ctrl-C and the loss of the terminal reach those that run, which save
    and stop; no other begins. The same happens when nobody reads the output any more.

    Args:
        work: Gives an exit code. Must not be called where this process has threads that compute, or has used a GPU.
        names: What to do, in this order.
        jobs: Processes at a time.
        board: Shows how far they are.
        after: By name another one that must have ended before it begins, however it ended.

    Returns:
        The exit code by name, of those that were begun; one that a signal has killed has 128 and its number.
    """
    left, running, codes = list(names), dict[int, _Piece](), dict[str, int]()
    with selectors.DefaultSelector() as outputs, _passing_on(running) as stopped, board:
        while running or (left and not stopped):
            while len(running) < jobs and not stopped:
                pending = {*left, *(piece.name for piece in running.values())}
                ready = next((name for name in left if (after or {}).get(name) not in pending), None)
                if ready is None:
                    break
                left.remove(ready)
                signal.pthread_sigmask(signal.SIG_BLOCK, stopping())  # none is missed by a process that just begins
                piece = _Piece(work, ready, board)
                running[piece.pid] = piece
                signal.pthread_sigmask(signal.SIG_UNBLOCK, stopping())
                outputs.register(piece.output, selectors.EVENT_READ, piece)
            try:
                for key, _ in outputs.select(LOOK):
                    piece = key.data
                    if not piece.relay():
                        outputs.unregister(piece.output)
                        del running[piece.pid]
                        codes[piece.name] = piece.exit_code()
                        (board.end if codes[piece.name] else board.count)(piece.name)
                board.refresh()
            except BrokenPipeError:  # as of `make repro | head`: whoever looked on has gone
                discard_output()
                os.kill(os.getpid(), signal.SIGTERM)
    return codes


class _Piece:
    """One piece of work in a process of its own."""

    def __init__(self, work: Callable[[str], int], name: str, board: Board) -> None:
        self.name, self._board = name, board
        self._said = b""
        self.output, writing = os.pipe()
        """What it says; its end is the end of the process."""
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        self.pid = os.fork()
        if self.pid == 0:
            _live(work, name, self.output, writing, board.has_bars)
        os.close(writing)

    def relay(self) -> bool:
        """Print whole lines of what it has said, so that those of several do not mix; False once it has ended."""
        said = os.read(self.output, 65536)
        *lines, self._said = (self._said + said).split(b"\n")
        if not said and self._said:
            lines, self._said = [self._said], b""
        for line in lines:
            self._take_in(line.decode(errors="replace"))
        return bool(said)

    def _take_in(self, line: str) -> None:
        text, mark, standing = line.partition(MARK)
        if mark:
            try:
                self._board.hear(self.name, heard(standing))
            except ValueError:  # something else was said within the line
                text += standing
        if text or not mark:
            self._board.say(text)

    def exit_code(self) -> int:
        """The exit code of the process, which has ended."""
        os.close(self.output)
        code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return code if code >= 0 else 128 - code


def _tell(standing: Standing) -> None:
    """Say how far this process is in one piece: unbuffered, `print` writes the end of a line by itself."""
    sys.stdout.write(f"{standing.as_line()}\n")
    sys.stdout.flush()


def _live(work: Callable[[str], int], name: str, reading: int, output: int, has_bars: bool) -> NoReturn:
    """What a forked process does: nothing that its parent was about to do."""
    code = FAILED
    try:
        os.close(reading)
        os.dup2(output, 1)
        os.dup2(output, 2)
        report_to(_tell, has_bars)
        numbers = stopping()
        for number in numbers:
            signal.signal(number, signal.default_int_handler)  # until the work has an answer of its own
        signal.pthread_sigmask(signal.SIG_UNBLOCK, numbers)
        gc.freeze()  # what is imported stays: it is not looked through, and its pages not copied, to collect garbage
        code = work(name)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else FAILED
    except KeyboardInterrupt:
        code = Interrupted.exit_code
    except BaseException:
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(code)


@contextmanager
def _passing_on(running: dict[int, _Piece]) -> Iterator[list[int]]:
    """Pass SIGTERM on to the processes that run; Ctrl-C and its own loss the terminal sends to all of them.

    The given list has the signals that were received.
    """
    received: list[int] = []

    def receive(number: int, frame: FrameType | None) -> None:
        received.append(number)
        note(number)
        if number == signal.SIGTERM:
            for pid in list(running):
                os.kill(pid, number)

    with noted(receive):
        if asked_to_stop():  # before, and whoever was to answer has not yet
            raise KeyboardInterrupt
        yield received
