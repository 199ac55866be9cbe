"""What all stages share: arguments, signals, and failures as one clear message with the right exit code."""

from __future__ import annotations

import argparse
import errno
import math
import signal
import sys
import time
from collections import namedtuple
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from pipeline.core.errors import Interrupted, PipelineError, RequestError
from pipeline.core.launch import launch
from pipeline.core.progress import discard_output
from pipeline.core.signals import asked_to_stop, note, noted, stopping

if TYPE_CHECKING:
    from pipeline.config import Params

LOOK_AGAIN = 0.02
"""Seconds between two looks whether an import or a transaction has ended."""
PATIENCE = 4.0
"""Seconds that these may take to end: a transaction that waits for another process may take longer than a stop should.
"""
EXIT_CODES = "exit codes: 0 done, 1 something failed, 2 the request was wrong, 75 stopped on demand after saving"

Option = Callable[[argparse.ArgumentParser], object]
"""Adds an argument to a command."""


def option(*names: str, **settings: Any) -> Option:
    """An argument, given as `ArgumentParser.add_argument` takes it."""
    return lambda parser: parser.add_argument(*names, **settings)


def command(*options: Option) -> Callable[[Callable[[argparse.Namespace], None]], Callable[..., int]]:
    """Make a stage's function its command, which takes the command line's words (default: those of this process).

    The docstring of its module is the command's help, its failures become messages and exit codes; see `run`.
    """

    def made(stage: Callable[[argparse.Namespace], None]) -> Callable[..., int]:
        def main(arguments: list[str] | None = None) -> int:
            parser = argparse.ArgumentParser(
                description=sys.modules[stage.__module__].__doc__,
                epilog=EXIT_CODES,
                formatter_class=argparse.RawDescriptionHelpFormatter,
            )
            for add in options:
                add(parser)
            given = parser.parse_args(arguments)
            return run(lambda: stage(given), ends_process=arguments is None)

        return main

    return made


def _insist_on_the_end() -> None:
    """Let a stopped process end with its exit code: ignore further signals, which would leave a traceback."""
    for number in stopping():
        signal.signal(number, signal.SIG_IGN)
    # Started as 'python -m', CPython ends by SIGINT, whatever it is told, once an interrupt has left an exec(), which
    # making a dataclass is. It forgets that with the next eval() of a text, which making this is.
    namedtuple("Forgotten", ())


def params_of(given: argparse.Namespace) -> Params:
    """The file of `--params`, checked. The import is here because it is slow and --help does not need it."""
    from pipeline.config import load_params

    return load_params(given.params)


def check_known(what: str, names: Sequence[str], valid: Iterable[str]) -> None:
    """Refuse unknown names.

    Raises:
        RequestError: suggests the closest valid ones.
    """
    from pipeline.core.values import unknown

    if problems := unknown(what, list(names), list(valid)):
        raise RequestError("; ".join(problems))


def deliver_what_waits() -> None:
    """Deliver the records that outages have left before MLflow is read, and say what could not be delivered."""
    from pipeline.tracking import deliver_left

    if text := deliver_left().describe():
        print(text, flush=True)


def tell_written(paths: Iterable[Path]) -> list[Path]:
    """Print the path of each file as soon as it is written; returns all of them."""
    found = []
    for path in paths:
        print(f"wrote {path}", flush=True)
        found.append(path)
    return found


UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}


def duration(text: str) -> float:
    """Parse a time such as 90s, 9m or 1.5h into seconds."""
    amount, unit = text[:-1], text[-1:]
    try:
        seconds = float(amount) * UNITS[unit]
    except (ValueError, KeyError):
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise argparse.ArgumentTypeError(f"expected a time like 90s, 9m or 1.5h, got '{text}'")
    return seconds


def in_time(given: argparse.Namespace) -> Callable[[], str | None]:
    """A check that gives a reason to stop once the time of `--stop-after`, counted from now, is over."""
    if given.stop_after is None:
        return lambda: None
    deadline = time.monotonic() + given.stop_after
    reason = f"the {given.stop_after:g} seconds of --stop-after are over"
    return lambda: reason if time.monotonic() >= deadline else None


def whole(least: int, most: int = 10**9 - 1) -> Callable[[str], int]:
    """An argument that is a whole number from `least` to `most`."""
    wanted = f"from {least} on" if most == 10**9 - 1 else f"from {least} to {most}"

    def read(text: str) -> int:
        if not text.isdecimal() or len(text) > 9 or not least <= int(text) <= most:
            raise argparse.ArgumentTypeError(f"expected a whole number {wanted}, got '{text[:50]}'")
        return int(text)

    return read


positive = whole(1)


PARAMS = option("--params", type=Path, default=Path("params.yaml"), help="default: %(default)s")
METHOD = option("method", help="a key of 'methods' in params.yaml")
SEED = option("--seed", type=int, help="one of 'seeds' in params.yaml (default: the only one)")
STOP_AFTER = option(
    "--stop-after",
    type=duration,
    metavar="TIME",
    help="save and stop with exit code 75 after so long (90s, 9m, 1.5h); the same command continues",
)
WORKERS = option("--workers", type=positive, default=2, help="runs at once (default: %(default)s)")
YES = option("--yes", action="store_true", help="start although the budget is exceeded")
STOPS = (Interrupted, KeyboardInterrupt, BrokenPipeError)
"""Besides a signal of which a library has made an error of its own."""
REQUESTED = (errno.EISDIR, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP)
"""What is wrong with a path that was given, not with the disk."""
LONGEST_LINE = 1000
"""Characters of a message's line: a name that is not valid may be as long as a file."""


def run(stage: Callable[[], None], ends_process: bool = False) -> int:
    """Run a stage; what a person can act on becomes one message on stderr and an exit code.

    Args:
        stage: What is run.
        ends_process: This process ends with the stage: once it is to stop, further signals change nothing.
    """
    try:
        with _stoppable():
            try:
                stage()
                sys.stdout.flush()
            except BaseException as error:
                if ends_process and (asked_to_stop() or isinstance(error, STOPS)):
                    _insist_on_the_end()
                raise
    except PipelineError as error:
        if _is_said_by_another(error):
            return error.exit_code
        return _fail("\n".join([str(error), *getattr(error, "__notes__", [])]), error.exit_code)
    except KeyboardInterrupt:
        return _fail("the same command continues from what is saved", Interrupted.exit_code)
    except BrokenPipeError:
        discard_output()
        return _fail("nobody reads what is printed any more; the same command continues", Interrupted.exit_code)
    except OSError as error:
        return _fail(_describe(error), RequestError.exit_code if error.errno in REQUESTED else 1)
    except Exception as error:
        if not _is_out_of_memory(error):
            raise
        return _fail(_describe_shortage(error), 1)
    return 0


def _stoppable() -> AbstractContextManager[object]:
    """SIGTERM, too, ends a stage that has no answer of its own with one message and the exit code for it."""
    unanswered = (signal.SIG_DFL, signal.default_int_handler)
    return stop_at_once() if signal.getsignal(signal.SIGTERM) in unanswered else nullcontext()


def _is_out_of_memory(error: Exception) -> bool:
    """Torch says so in words, C++ by the name of its exception, and the loader of libraries in its own way."""
    words = ("out of memory", "can't allocate memory", "bad_alloc", "can't start new thread", "failed to map segment")
    return isinstance(error, MemoryError) or any(word in str(error) for word in words)


def _describe_shortage(error: Exception) -> str:
    said = str(error).strip().partition("\n")[0] or "a small request was refused"
    return (
        f"out of memory ({said}). What was finished is kept; free some memory and run the same command again. "
        "A smaller batch is another experiment, which begins anew."
    )


def _is_said_by_another(error: PipelineError) -> bool:
    """Whether the first process of this machine has met the same and speaks of it."""
    return error.is_of_all_ranks and launch().local_rank != 0


def _fail(message: str, code: int) -> int:
    text = "\n".join(map(_readable, message.split("\n")))
    with suppress(OSError):  # the terminal may be gone
        print(f"{_who()}{'stopped' if code == Interrupted.exit_code else 'error'}: {text}", file=sys.stderr, flush=True)
    return code


def _who() -> str:
    try:
        rank = launch().rank
    except RequestError:  # which is what is being said
        return ""
    return f"process {rank}: " if rank else ""


def _readable(line: str) -> str:
    """A line without control characters, shortened where it is too long."""
    cut = line if len(line) <= LONGEST_LINE else f"{line[:LONGEST_LINE]} ..."
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in cut)


def _describe(error: OSError) -> str:
    place = f" ({error.filename})" if error.filename else ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"the disk is full{place}. What was finished is kept; free some space and run the same command again."
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"no permission to write{place}. Nothing was changed; check the owner and mode of the folder."
    if error.errno in REQUESTED:
        return f"{error.strerror}{place}. Give another path, or remove what is in its way."
    return f"{error.strerror or error}{place}"


class _Interrupts:
    """What a signal that asks to stop does within `stop_at_once`."""

    def __init__(self, once: Collection[int], ends_waits: bool) -> None:
        self.number, self._began, self._once, self._ends_waits = 0, math.inf, once, ends_waits
        self._hook = sys.unraisablehook

    def interrupt(self, number: int, frame: FrameType | None) -> None:
        """Raise KeyboardInterrupt, but not within an import, nor the first time within a transaction."""
        if number != signal.SIGALRM:
            if self.number and number in self._once:
                return
            if self._ends_waits:
                note(number)
            self._count()
        is_within = _in_import(frame) or (self.number == 1 and _in_transaction(frame))
        if is_within and time.monotonic() - self._began < PATIENCE:
            signal.setitimer(signal.ITIMER_REAL, LOOK_AGAIN)
        else:
            raise KeyboardInterrupt

    def raise_again(self, found: sys.UnraisableHookArgs) -> None:
        """Let an interrupt that Python swallows, as in a destructor, come again soon."""
        if not isinstance(found.exc_value, KeyboardInterrupt):
            self._hook(found)
            return
        if not self.number:
            self._count()
        signal.setitimer(signal.ITIMER_REAL, LOOK_AGAIN)

    def _count(self) -> None:
        self.number += 1
        self._began = min(self._began, time.monotonic())

    def check(self) -> None:
        """Raise KeyboardInterrupt if there was any."""
        if self.number:
            raise KeyboardInterrupt


@contextmanager
def stop_at_once(once: Collection[int] = (signal.SIGHUP,), ends_waits: bool = True) -> Iterator[Callable[[], None]]:
    """Raise KeyboardInterrupt on SIGTERM, Ctrl-C and the loss of the terminal; the given check raises it again where a
    library swallowed it.

    Each one waits for the end of an import: the C++ of a library such as torch aborts where Python raises within it.
    The first one waits for the end of a transaction, too: one that is left in the middle keeps MLflow's database
    locked, for this very process, which has to close its run.

    Args:
        once: Signals that change nothing after another one: both a shell and the system send that of a terminal.
        ends_waits: Whatever is waited for afterwards ends at once; else the block may wait for what it has started.
    """
    interrupts = _Interrupts(once, ends_waits)
    alarm = signal.signal(signal.SIGALRM, interrupts.interrupt)
    hook, sys.unraisablehook = sys.unraisablehook, interrupts.raise_again
    try:
        with noted(interrupts.interrupt):
            yield interrupts.check
    except Exception:
        interrupts.check()  # a library has made an error of its own of it
        raise
    finally:
        if interrupts.number:
            signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, alarm)
        sys.unraisablehook = hook


def _in_import(frame: FrameType | None) -> bool:
    return any(one.f_code.co_filename == "<frozen importlib._bootstrap>" for one in _callers(frame))


def _in_transaction(frame: FrameType | None) -> bool:
    return any(one.f_globals.get("__name__", "").startswith("sqlalchemy.") for one in _callers(frame))


def _callers(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back
