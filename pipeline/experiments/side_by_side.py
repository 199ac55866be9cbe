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

from pipeline.core.errors import Interrupted
from pipeline.core.progress import discard_output
from pipeline.core.signals import note, noted, stopping

FAILED = 1
"""The exit code of work that raised."""


def side_by_side(
    work: Callable[[str], int], names: Iterable[str], jobs: int, after: Mapping[str, str] | None = None
) -> dict[str, int]:
    """Call `work` once for every name, in forked processes: what is imported before need not be imported again.

    One that fails takes no other along. SIGTERM, Ctrl-C and the loss of the terminal reach those that run, which save
    and stop; no other begins.
    The same happens when nobody reads the output any more.

    Args:
        work: Gives an exit code. Must not be called where this process has threads that compute, or has used a GPU.
        names: What to do, in this order.
        jobs: Processes at a time. One alone has the terminal; lines of several are printed as they are finished.
        after: By name another one that must have ended before it begins, however it ended.

    Returns:
        The exit code by name, of those that were begun; one that a signal has killed has 128 and its number.
    """
    left, running, codes = list(names), dict[int, _Piece](), dict[str, int]()
    with selectors.DefaultSelector() as outputs, _passing_on(running) as stopped:
        while running or (left and not stopped):
            while len(running) < jobs and not stopped:
                pending = {*left, *(piece.name for piece in running.values())}
                ready = next((name for name in left if (after or {}).get(name) not in pending), None)
                if ready is None:
                    break
                left.remove(ready)
                signal.pthread_sigmask(signal.SIG_BLOCK, stopping())  # none is missed by a process that just begins
                piece = _Piece(work, ready, has_terminal=jobs == 1)
                running[piece.pid] = piece
                signal.pthread_sigmask(signal.SIG_UNBLOCK, stopping())
                outputs.register(piece.output, selectors.EVENT_READ, piece)
            for key, _ in outputs.select():
                piece = key.data
                if not piece.relay():
                    outputs.unregister(piece.output)
                    del running[piece.pid]
                    codes[piece.name] = piece.exit_code()
    return codes


class _Piece:
    """One piece of work in a process of its own."""

    def __init__(self, work: Callable[[str], int], name: str, has_terminal: bool) -> None:
        self.name = name
        self._said = b""
        self.output, writing = os.pipe()
        """What it says; its end is the end of the process."""
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        self.pid = os.fork()
        if self.pid == 0:
            _live(work, name, self.output, None if has_terminal else writing)
        os.close(writing)

    def relay(self) -> bool:
        """Print whole lines of what it has said, so that those of several do not mix; False once it has ended."""
        said = os.read(self.output, 65536)
        lines, line_end, rest = (self._said + said).rpartition(b"\n")
        self._said = rest
        try:
            sys.stdout.buffer.write(lines + line_end if said else rest)
            sys.stdout.flush()
        except BrokenPipeError:  # as of `make repro | head`: whoever looked on has gone
            discard_output()
            os.kill(os.getpid(), signal.SIGTERM)
        return bool(said)

    def exit_code(self) -> int:
        """The exit code of the process, which has ended."""
        os.close(self.output)
        code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return code if code >= 0 else 128 - code


def _live(work: Callable[[str], int], name: str, reading: int, output: int | None) -> NoReturn:
    """What a forked process does: nothing that its parent was about to do."""
    code = FAILED
    try:
        os.close(reading)
        if output is not None:
            os.dup2(output, 1)
            os.dup2(output, 2)
        numbers = stopping()
        for number in numbers:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
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
        yield received
