"""One run on a worker: a few experiments, one after the other."""

from __future__ import annotations

import logging
import signal
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

from prefect import flow
from prefect.artifacts import create_markdown_artifact
from prefect.client.schemas.objects import State
from prefect.exceptions import TerminationSignal
from prefect.runtime import flow_run
from prefect.states import Completed, Failed

from pipeline.config import Experiment
from pipeline.core.errors import Interrupted, PipelineError
from pipeline.core.files import Busy, exclusive
from pipeline.flows.progress import kept_on_page
from pipeline.grid.slots import gpu_slot
from pipeline.studies.warm_ups import WarmUp

LINES = 20
"""Lines of a run's log that are kept for a cell that failed."""


@flow(name="experiment", log_prints=True)
def experiment(experiments: list[dict[str, Any]]) -> State[Any]:
    """Train and evaluate experiments one after the other, each from where it stands; a failure spares the others.

    What several of them have in common is trained once before.

    Args:
        experiments: As `Experiment.model_dump(mode="json")` gives them.
    """
    from pipeline.core.signals import stop_on_signal

    failed, ours = [], [Experiment.model_validate(content) for content in experiments]
    stopping = stop_on_signal(second_at_once=False)
    with _sign_of_life(), kept_on_page(), stopping as should_stop, gpu_slot(print, should_stop):
        _share_warm_ups(ours, should_stop)
        for number, one in enumerate(ours, start=1):
            print(f"{number}/{len(ours)}: {one.identifier}, {one.fingerprint}")
            if not _complete(one, should_stop):
                failed.append(one.identifier)
    return Failed(message=f"failed: {', '.join(failed)}") if failed else Completed()


def _share_warm_ups(ours: list[Experiment], should_stop: Callable[[], str | None]) -> None:
    """Train once what the experiments of this run have in common; where that fails, each is trained by itself."""
    from pipeline.experiments.prepare import ensure_prepared
    from pipeline.experiments.warm_up import open_warm_ups, share_warm_up

    for warm_up in open_warm_ups(ours):

        def share(one: WarmUp = warm_up) -> None:
            ensure_prepared(one.experiments[0], should_stop)
            share_warm_up(one, should_stop)

        if not _attempt(share):
            print("The experiments of this warm-up are trained each by itself.")


def _complete(one: Experiment, should_stop: Callable[[], str | None]) -> bool:
    """Bring one experiment to its end; what stops it is logged and kept as an artifact."""
    from pipeline.experiments.complete import complete_experiment

    with _last_lines() as lines:
        if _attempt(lambda: complete_experiment(one, should_stop)):
            return True
    create_markdown_artifact(f"```\n{''.join(lines)}```", key=artifact_key(one), description=one.identifier)
    return False


def _attempt(work: Callable[[], None]) -> bool:
    """Do a piece of work, and say whether it came to its end: a failure is logged, a stop ends this run."""
    try:
        work()
    except Interrupted as stopped:
        print(stopped)
        raise TerminationSignal(signal.SIGTERM) from stopped
    except PipelineError as error:
        print(f"error: {error}")
    except Exception:
        print(traceback.format_exc())
    else:
        return True
    return False


def artifact_key(one: Experiment) -> str:
    """The key under which the last lines of a failure are logged."""
    return f"failure-{one.fingerprint}"


@contextmanager
def _last_lines() -> Iterator[deque[str]]:
    """The last lines that this run logs meanwhile."""
    lines: deque[str] = deque(maxlen=LINES)

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.extend(f"{line}\n" for line in record.getMessage().splitlines())

    handler, logger = Keep(), logging.getLogger("prefect.flow_runs")
    logger.addHandler(handler)
    try:
        yield lines
    finally:
        logger.removeHandler(handler)


def life_file(run: UUID | str) -> Path:
    """What a run locks as long as its process lives."""
    return Path("runs/flows") / f"{run}.lock"


@contextmanager
def _sign_of_life() -> Iterator[None]:
    """Hold a lock that the system releases when this process dies, so that others need not wait for a heartbeat."""
    path = life_file(flow_run.get_id() or "")
    with exclusive(path, "this run"):
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def is_dead(run: UUID) -> bool:
    """Whether a run that began on this file system holds its lock no longer."""
    path = life_file(run)
    if not path.exists():
        return False
    try:
        with exclusive(path, "a run"):
            return True
    except Busy:
        return False
