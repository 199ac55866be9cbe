"""Run the ablation grid: what MLflow has finished is skipped, everything else is trained and evaluated.

Starts a Prefect server and workers on this machine and stops them again; Ctrl-C saves first, and the same command
continues. With PREFECT_API_URL set, that server and its workers are used instead. `--dry-run` only says what would run.
"""

from __future__ import annotations

import os
import signal
import sys
from argparse import Namespace
from pathlib import Path

from stages import cli
from stages.plan import chosen, grid_parser, plan

HOME = Path(".prefect")


def main(arguments: list[str] | None = None) -> int:
    """The command."""
    parser = grid_parser(__doc__)
    parser.add_argument("--limit", type=cli.positive, help="runs submitted at once (default: as many as workers take)")
    parser.add_argument("--dry-run", action="store_true", help="only say what would run, and what it would cost")
    given = parser.parse_args(arguments)

    def stage() -> None:
        from pipeline.files import exclusive
        from pipeline.grid.settings import unfinished

        if not unfinished(chosen(given)[1]):
            print("every experiment of the grid is done")
            return
        elsewhere = bool(os.environ.get("PREFECT_API_URL"))
        if elsewhere and not given.dry_run:
            _check_server()
        plan(given, each=given.dry_run)
        if given.dry_run:
            return
        if elsewhere:
            _run(given)
            return
        with exclusive(HOME / "lock", "the grid in this folder"):
            _run_locally(given)

    return cli.run(stage)


def _run_locally(given: Namespace) -> None:
    from pipeline.grid.local import local_engine

    # Started in the background it may be ignored, and the workers would inherit that: they stop by it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    threads = max(1, (os.cpu_count() or 1) // given.workers)
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
