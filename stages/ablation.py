"""Run the ablation grid: what MLflow has finished is skipped, everything else is trained and evaluated.

Starts a Prefect server and workers on this machine and stops them again; Ctrl-C, SIGTERM and a terminal that is closed
save first, and the same command continues. With PREFECT_API_URL set, that server and its workers are used instead.
`python -m stages.plan` only says what would run.
"""

from __future__ import annotations

import os
import signal
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages import cli
from stages.plan import GRID, chosen, plan

if TYPE_CHECKING:
    from pipeline.config import Experiment

HOME = Path(".prefect")


@contextmanager
def unwound_by_signals() -> Iterator[None]:
    """Raise KeyboardInterrupt on Ctrl-C, SIGTERM and a terminal that is closed, so that all that was started ends.

    SIGINT too where the shell ignores it, in the background: workers would inherit that, and they stop by it.
    """
    # make passes on what its whole group has got already: only a person who insists cuts the end short.
    with cli.stop_at_once(once=(signal.SIGHUP, signal.SIGTERM), ends_waits=False):
        yield


@unwound_by_signals()
@cli.command(
    *GRID,
    cli.option("--limit", type=cli.positive, help="runs submitted at once (default: as many as workers take)"),
)
def main(given: Namespace) -> None:
    _, experiments = chosen(given)
    on_workers("the grid", given.workers, lambda: _is_left(given, experiments), lambda: _run(given))


def on_workers(what: str, workers: int, is_left: Callable[[], bool], run: Callable[[], Any]) -> None:
    """Run a flow in this process: on the server that PREFECT_API_URL names, or on one that ends with it.

    Args:
        what: The flow, for messages.
        workers: Of a server of its own.
        is_left: Finds out, before a server is started, whether there is anything to do.
        run: Runs the flow, and returns the state in which it ends.

    Raises:
        RequestError: another process works in this folder, or the server that is named does not answer.
        PipelineError: the flow has failed; or as `is_left`.
    """
    from pipeline.core.files import exclusive
    from pipeline.grid.local import end_leftovers

    if os.environ.get("PREFECT_API_URL"):
        if is_left():
            _to_its_end(what, run)
        return
    with exclusive(HOME / "lock", "the grid in this folder"):
        end_leftovers(HOME)
        if is_left():
            _locally(what, workers, run)


def check_named_server() -> None:
    """Find out that the server which PREFECT_API_URL names answers, where there is one.

    Raises:
        RequestError: it does not, or it lacks the deployments.
    """
    if os.environ.get("PREFECT_API_URL"):
        from pipeline.flows.server import check_server

        check_server()


def _locally(what: str, workers: int, run: Callable[[], Any]) -> None:
    from pipeline.core.machine import threads_each
    from pipeline.grid.local import local_engine

    print(f"starting a Prefect server and {workers} workers; their logs: {HOME / 'logs'}", flush=True)
    with local_engine(HOME, workers, threads_each(workers)) as engine:
        environment = engine.of_every_process(os.environ)
        os.environ.clear()
        os.environ.update(environment)
        print(f"{engine.url.removesuffix('/api')} shows them while they run", flush=True)
        _to_its_end(what, run)


def _to_its_end(what: str, run: Callable[[], Any]) -> None:
    """Run the flow against the server that the environment names."""
    from pipeline.core.errors import PipelineError
    from pipeline.flows.server import STOPPED, install_automations, send_what_is_left

    install_automations()
    try:
        state = run()
    finally:
        send_what_is_left()
    if state.name == STOPPED:
        raise KeyboardInterrupt
    if not state.is_completed():
        raise PipelineError(f"{what} ended {state.name}: {state.message}")


def _is_left(given: Namespace, experiments: list[Experiment]) -> bool:
    """Say what is not done, and what it will cost."""
    from pipeline.grid.settings import unfinished

    if not unfinished(experiments):
        print("every experiment of the grid is done")
        return False
    check_named_server()
    plan(given, each=False)
    return True


def _run(given: Namespace) -> Any:
    from pipeline.flows.ablation import ablation_grid

    return ablation_grid(
        studies=given.studies,
        seeds=given.seeds,
        suite=given.suite,
        limit=given.limit,
        params=str(given.params),
        return_state=True,
    )


if __name__ == "__main__":
    raise SystemExit(main())
