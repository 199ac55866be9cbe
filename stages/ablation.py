"""Run the ablation grid: what MLflow has finished is skipped, everything else is trained and evaluated.

Starts a Prefect server and workers on this machine and stops them again; Ctrl-C, SIGTERM and a terminal that is closed
save first, and the same command continues. With PREFECT_API_URL set, that server and its workers are used instead.
`--dry-run` only says what would run.
"""

from __future__ import annotations

import os
import signal
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from stages import cli
from stages.plan import chosen, grid_parser, plan

if TYPE_CHECKING:
    from pipeline.config import Experiment

HOME = Path(".prefect")


def main(arguments: list[str] | None = None) -> int:
    """The command."""
    parser = grid_parser(__doc__)
    parser.add_argument("--limit", type=cli.positive, help="runs submitted at once (default: as many as workers take)")
    parser.add_argument("--dry-run", action="store_true", help="only say what would run, and what it would cost")
    given = parser.parse_args(arguments)

    def stage() -> None:
        from pipeline.files import exclusive
        from pipeline.grid.local import end_leftovers

        _, experiments = chosen(given)
        if given.dry_run or os.environ.get("PREFECT_API_URL"):
            _finish(given, experiments, _run)
            return
        with exclusive(HOME / "lock", "the grid in this folder"):
            end_leftovers(HOME)
            _finish(given, experiments, _run_locally)

    with _unwound_by_signals():
        return cli.run(stage)


@contextmanager
def _unwound_by_signals() -> Iterator[None]:
    """Raise KeyboardInterrupt on Ctrl-C, SIGTERM and a terminal that is closed, so that all that was started ends."""
    received: list[int] = []

    def interrupt(number: int, frame: FrameType | None) -> None:
        # make passes on what its whole group has got already: only a person who insists cuts the end short.
        if not received or number == signal.SIGINT:
            received.append(number)
            raise KeyboardInterrupt

    # SIGINT too where the shell ignores it, in the background: workers would inherit that, and they stop by it.
    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # as under nohup
        numbers.append(signal.SIGHUP)
    previous = {number: signal.signal(number, interrupt) for number in numbers}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _finish(given: Namespace, experiments: list[Experiment], run: Callable[[Namespace], None]) -> None:
    """Plan what is not done, and run it."""
    from pipeline.grid.settings import unfinished

    if not unfinished(experiments):
        print("every experiment of the grid is done")
        return
    if run is _run and not given.dry_run:
        _check_server()
    plan(given, each=given.dry_run)
    if not given.dry_run:
        run(given)


def _run_locally(given: Namespace) -> None:
    from pipeline.grid.local import local_engine
    from pipeline.machine import threads_each

    threads = threads_each(given.workers)
    print(f"starting a Prefect server and {given.workers} workers; their logs: {HOME / 'logs'}", flush=True)
    with local_engine(HOME, given.workers, threads) as engine:
        os.environ.update(engine.environment)
        print(f"{engine.url.removesuffix('/api')} shows them while they run", flush=True)
        _run(given)


def _check_server() -> None:
    from pipeline.flows import check_server

    check_server()


def _run(given: Namespace) -> None:
    """Run the flow in this process, against the server that the environment names."""
    from pipeline.errors import PipelineError
    from pipeline.flows import ablation_grid, install_automations, send_what_is_left

    install_automations()
    try:
        state = ablation_grid(
            studies=given.studies,
            seeds=given.seeds,
            suite=given.suite,
            limit=given.limit,
            params=str(given.params),
            return_state=True,
        )
    finally:
        send_what_is_left()
    if not state.is_completed():
        raise PipelineError(f"the grid ended {state.name}: {state.message}")


if __name__ == "__main__":
    sys.exit(main())
