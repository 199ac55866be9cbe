"""When records are sent: beside the work, after an outage, and on demand."""

from __future__ import annotations

import logging
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread
from typing import Any

from pipeline.config import Experiment
from pipeline.core.errors import PipelineError, RequestError
from pipeline.core.waiting import kind, until
from pipeline.provenance.folders import RUNS
from pipeline.tracking.spool import Spool, spool_of, spools
from pipeline.tracking.store import check_address, check_reachable, mask, reported, tracking_uri
from pipeline.tracking.updates import Receiver, Update, record, run_address

RETRY = 60.0
"""Seconds between two attempts while the store is out of reach."""
STALL = 75.0
"""Seconds that the end of the work waits for a store that takes nothing and does not fail either."""
DELIVERY = kind("delivery", "MLflow to take the last records of an experiment", grace=3.0)
SLOWEST = 1e6
"""Bytes per second of an upload that is worth waiting for."""
COMMAND = "python -m stages.deliver"
TALKATIVE = (
    "mlflow.system_metrics.system_metrics_monitor",
    "mlflow.utils.autologging_utils.metrics_queue",
    "urllib3.connectionpool",
)
"""Loggers that would speak of an outage at every attempt."""


class Delivery:
    """Sends the records of one experiment from a thread of its own: the work never waits for the store.

    The first failure is spoken of, and the success that ends an outage; attempts in between are silent, and `RETRY`
    seconds apart.

    Args:
        sampled: Whether the use of CPU, memory, disk, network and GPUs is logged every ten seconds.
    """

    def __init__(self, experiment: Experiment, commit: str, sampled: bool) -> None:
        for name in TALKATIVE:
            logging.getLogger(name).setLevel(logging.CRITICAL)
        self._experiment, self._commit, self._sampled = experiment, commit, sampled
        self._title, self._address = experiment.identifier, run_address(experiment)
        self._spool = spool_of(experiment)
        self._monitor: Any = None
        self._uri = tracking_uri()
        self._receiver: Receiver | None = None
        self._failing = False
        self._left = len(self._spool)
        """Records of an earlier process, or of an outage, which are worth a word when they are delivered."""
        self._wake, self._closing = Event(), Event()
        self._moved = time.monotonic()
        self._defect: BaseException | None = None
        self._thread = Thread(target=self._work, name="tracking", daemon=True)

    def post(self, update: Update, folder: Path = Path()) -> None:
        """Put a record into the spool, and have it sent soon; `folder` has its files.

        Raises:
            OSError, PipelineError: as `Spool.append`.
        """
        self._spool.append(record(self._experiment, update, self._commit), [folder / name for name in update.files])
        if self._thread.ident is None:
            self._thread.start()
        self._wake.set()

    def finish(self, update: Update) -> None:
        """Post the last record, attempt a last time, and say what is left.

        Raises:
            Interrupted: a signal came, and the store did not take the last records within seconds.
        """
        try:
            self.post(update)
        finally:
            self._closing.set()
            self._wake.set()
            try:
                self._wait()
            finally:
                if len(self._spool):
                    _say(f"{self._title}: {_waiting(self._spool)}")

    def _wait(self) -> None:
        """Wait for the thread, unless the store takes nothing and does not fail either."""
        self._moved = time.monotonic()
        patience = STALL + self._spool.bytes_of_files() / SLOWEST
        until(
            DELIVERY,
            f"MLflow at {mask(self._uri)} to take {_records(len(self._spool))} (at most {patience:.0f} s for each)",
            lambda: self._is_over(patience),
            poll=0,
        )
        if self._defect is not None:
            raise self._defect

    def _is_over(self, patience: float) -> bool:
        self._thread.join(0.1)
        return not self._thread.is_alive() or time.monotonic() - self._moved >= patience

    def _work(self) -> None:
        try:
            while True:
                self._wake.clear()
                closing = self._closing.is_set()
                if closing:
                    self._stop_sampling()
                self._attempt()
                if closing:
                    return
                if self._failing:
                    self._closing.wait(RETRY)
                else:
                    self._wake.wait()
        except BaseException as defect:
            self._defect = defect

    def _attempt(self) -> None:
        try:
            if self._receiver is None:
                self._receiver = Receiver(self._uri)
            else:
                check_reachable(self._uri)  # within seconds, where MLflow is more patient
            count = self._spool.deliver(self._receiver, self._note_progress)
            self._start_sampling(self._receiver)
        except (PipelineError, OSError) as error:
            self._receiver = None
            self._note_failure(error)
        else:
            self._note_success(count)

    def _note_progress(self) -> None:
        self._moved = time.monotonic()

    def _start_sampling(self, receiver: Receiver) -> None:
        """Let MLflow's own monitor run, unless it does. What an outage drops of it is lost."""
        run_id = receiver.run_id(self._address)
        if not self._sampled or self._monitor is not None or run_id is None or self._closing.is_set():
            return
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        kind: Any = SystemMetricsMonitor
        with reported(self._uri):
            self._monitor = kind(run_id, resume_logging=True, tracking_uri=self._uri)
        self._monitor.start()

    def _stop_sampling(self) -> None:
        """End the monitor, which sends what it has gathered."""
        monitor, self._monitor = self._monitor, None
        if monitor is not None:
            monitor.finish()

    def _note_failure(self, error: Exception) -> None:
        if self._failing:
            return
        self._failing = True
        self._left = max(1, len(self._spool))
        _say(
            f"warning: {self._title}: {mask(str(error))} The work goes on; what it logs waits in {self._spool.folder} "
            "until the store takes it."
        )
        self._stop_sampling()

    def _note_success(self, count: int) -> None:
        self._failing = False
        if self._left:
            self._left = 0
            _say(f"{self._title}: MLflow has everything again: {_records(count)} delivered")


def send(experiment: Experiment, update: Update, folder: Path = Path()) -> None:
    """Tell the run of an experiment, if there is one; where the store does not take it, that is said, and it waits.

    Raises:
        RequestError: the tracking URI is not one of a database or a server.
        OSError: as `Spool.append`.
    """
    check_address(tracking_uri())
    spool = spool_of(experiment)
    spool.append(record(experiment, update), [folder / name for name in update.files])
    try:
        spool.deliver(Receiver(tracking_uri()))
    except (PipelineError, OSError) as error:
        _say(f"warning: {experiment.identifier}: {mask(str(error))} {_waiting(spool)}")


@dataclass(frozen=True)
class DeliveryReport:
    """What came of delivering what outages left."""

    delivered: int
    """So many records."""
    waiting: int
    """So many records are still there."""
    reasons: tuple[str, ...]
    """Why."""

    def describe(self) -> str:
        """A line on what was delivered, and one on what was not; "" where there was nothing."""
        lines = [f"delivered {_records(self.delivered)} to MLflow that had waited"] if self.delivered else []
        if self.waiting:
            lines.append(
                f"{_records(self.waiting)} could not be delivered to MLflow, nothing of them is lost: "
                f"{' '.join(self.reasons)}"
            )
        return "\n".join(lines)


def count_left() -> int:
    """How many records of any experiment wait to be delivered."""
    return sum(map(len, spools(RUNS)))


def deliver_left() -> DeliveryReport:
    """Deliver what outages and kills have left of any experiment.

    Raises:
        RequestError: the tracking URI is not one of a database or a server.
    """
    found, reasons, uri = spools(RUNS), list[str](), tracking_uri()
    before = sum(map(len, found))
    for spool in found:
        try:
            receiver = Receiver(uri)
        except RequestError:
            raise
        except PipelineError as error:
            reasons.append(str(error))
            break
        try:
            spool.deliver(receiver)
        except (PipelineError, OSError) as error:
            reasons.append(mask(str(error)))
    waiting = sum(map(len, found))
    return DeliveryReport(max(0, before - waiting), waiting, tuple(dict.fromkeys(reasons)))


def _waiting(spool: Spool) -> str:
    return (
        f"{_records(len(spool))} for MLflow left in {spool.folder}; the next stage of this experiment delivers what is "
        f"there, or '{COMMAND}'."
    )


def _records(count: int) -> str:
    return "1 record" if count == 1 else f"{count} records"


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
