"""Bring one experiment to its end from wherever it stands, as a worker of the grid does."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from pipeline.config import Experiment
from pipeline.core.errors import Interrupted, PipelineError, RequestError
from pipeline.core.files import Busy
from pipeline.core.progress import announce
from pipeline.core.waiting import kind, until
from pipeline.experiments.evaluate import evaluate_experiment
from pipeline.experiments.prepare import ensure_prepared
from pipeline.experiments.train import train_experiment
from pipeline.tracking import awaits_delivery, deliver_left, evaluated

WAIT = 5.0
"""Seconds between two looks at what another process works on."""
REMIND = 60.0
"""Seconds between two words about it."""
OTHER = kind("experiment", "another process that works on the same experiment")


def complete_experiment(experiment: Experiment, should_stop: Callable[[], str | None]) -> None:
    """Bring an experiment to its end from wherever it stands: prepare its data, train, evaluate.

    What MLflow has evaluated, or will have once records are delivered, is left as it is; what another process works on
    is waited for. Where MLflow is out of reach, the experiment is worked on from where it stands on this machine.

    Raises:
        Interrupted: `should_stop` gave a reason; what was done is saved.
    """

    def check() -> None:
        reason = should_stop()
        if reason is not None:
            raise Interrupted(f"{reason}: what was finished is saved; the same command continues")

    announce(experiment.identifier, experiment.evaluation.passes(experiment.data.facts.test_images or 1))
    ensure_prepared(experiment, should_stop)
    if text := deliver_left().describe():
        print(text, flush=True)
    spoken = -math.inf
    while not _is_done(experiment):
        try:
            train_experiment(experiment, should_stop)
            evaluate_experiment(experiment, check=check)
            return
        except Busy as busy:
            if time.monotonic() - spoken > REMIND:
                print(f"{busy}: waiting", flush=True)
                spoken = time.monotonic()
            _pause(f"the process that works on {experiment.identifier}", check)


def _pause(whom: str, check: Callable[[], None]) -> None:
    again = time.monotonic() + WAIT
    until(OTHER, whom, lambda: time.monotonic() > again, check=check)


def _is_done(experiment: Experiment) -> bool:
    """Whether MLflow has the numbers of an experiment, or they are on their way to it."""
    try:
        return awaits_delivery(experiment) or bool(evaluated([experiment]))
    except RequestError:
        raise
    except PipelineError as error:
        print(f"{error} Whether {experiment.identifier} is done elsewhere is not known: it is worked on", flush=True)
        return False
