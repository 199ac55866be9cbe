"""When records are sent: beside the work, after an outage, and on demand."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread
from typing import Any

from pipeline.config import Experiment
from pipeline.core.errors import PipelineError, RequestError
from pipeline.provenance.code import digest_of
from pipeline.provenance.folders import RUNS
from pipeline.tracking.calls import Receiver
from pipeline.tracking.spool import Spool, spools
from pipeline.tracking.store import check_address, check_reachable, mask, reported, tracking_uri

RETRY = 60.0
"""Seconds between two attempts while the store is out of reach."""
STALL = 75.0
"""Seconds that the end of the work waits for a store that takes nothing and does not fail either."""
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
        experiment: Whose records they are.
        spool: Of the experiment.
        sampled: Whether the use of CPU, memory, disk, network and GPUs is logged every ten seconds.
    """

    def __init__(self, experiment: Experiment, spool: Spool, sampled: bool) -> None:
        for name in TALKATIVE:
            logging.getLogger(name).setLevel(logging.CRITICAL)
        self._title = experiment.identifier
        self._address = {"fingerprint": experiment.fingerprint, "training_code": digest_of("train", experiment)}
        self._spool = spool
        self._sampler = Sampler() if sampled else None
        self._uri = tracking_uri()
        self._receiver: Receiver | None = None
        self._failing = False
        self._left = len(spool)
        """Records of an earlier process, or of an outage, which are worth a word when they are delivered."""
        self._wake, self._closing = Event(), Event()
        self._moved = time.monotonic()
        self._defect: BaseException | None = None
        self._thread = Thread(target=self._work, name="tracking", daemon=True)

    def post(self, content: Any, files: Iterable[Path] = ()) -> None:
        """Put a record into the spool, and have it sent soon.

        Raises:
            OSError, PipelineError: as `Spool.append`.
        """
        self._spool.append(content, files)
        if self._thread.ident is None:
            self._thread.start()
        self._wake.set()

    def finish(self, content: Any) -> None:
        """Post the last record, attempt a last time, and say what is left.

        Raises:
            OSError, PipelineError: as `Spool.append`.
        """
        try:
            self.post(content)
        finally:
            self._closing.set()
            self._wake.set()
            self._wait()
        if len(self._spool):
            _say(f"{self._title}: {_waiting(self._spool)}")

    def _wait(self) -> None:
        """Wait for the thread, unless the store takes nothing and does not fail either."""
        self._moved = time.monotonic()
        patience = STALL + self._spool.bytes_of_files() / SLOWEST
        while self._thread.is_alive() and time.monotonic() - self._moved < patience:
            self._thread.join(0.1)
        if self._defect is not None:
            raise self._defect

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
            self._sample()
        except (PipelineError, OSError) as error:
            self._receiver = None
            self._note_failure(error)
        else:
            self._note_success(count)

    def _note_progress(self) -> None:
        self._moved = time.monotonic()

    def _sample(self) -> None:
        run_id = None if self._receiver is None else self._receiver.run_id(self._address)
        if self._sampler is not None and run_id is not None and not self._closing.is_set():
            self._sampler.start(self._uri, run_id)

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

    def _stop_sampling(self) -> None:
        if self._sampler is not None:
            self._sampler.stop()

    def _note_success(self, count: int) -> None:
        self._failing = False
        if self._left:
            self._left = 0
            _say(f"{self._title}: MLflow has everything again: {_records(count)} delivered")


def send(spool: Spool, content: Any, title: str, files: Iterable[Path] = ()) -> None:
    """Put a record into a spool and deliver all of it; a store that does not take it is spoken of.

    Args:
        spool: Of an experiment.
        content: As `Spool.append`.
        title: Names the experiment.
        files: As `Spool.append`.

    Raises:
        RequestError: the tracking URI is not one of a database or a server.
        OSError: as `Spool.append`.
    """
    check_address(tracking_uri())
    spool.append(content, files)
    try:
        spool.deliver(Receiver(tracking_uri()))
    except (PipelineError, OSError) as error:
        _say(f"warning: {title}: {mask(str(error))} {_waiting(spool)}")


class Sampler:
    """MLflow's own monitor of CPU, memory, disk, network and GPUs, every ten seconds. What an outage drops is lost."""

    def __init__(self) -> None:
        self._monitor: Any = None

    def start(self, uri: str, run_id: str) -> None:
        """Begin, unless it has begun.

        Raises:
            PipelineError: the store fails.
        """
        if self._monitor is not None:
            return
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        with reported(uri):
            kind: Any = SystemMetricsMonitor
            self._monitor = kind(run_id, resume_logging=True, tracking_uri=uri)
        self._monitor.start()

    def stop(self) -> None:
        """End, and send what was gathered."""
        monitor, self._monitor = self._monitor, None
        if monitor is not None:
            monitor.finish()


@dataclass(frozen=True)
class Left:
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


def count_left(folder: Path = RUNS) -> int:
    """How many records of any experiment in this folder wait to be delivered."""
    return sum(map(len, spools(folder)))


def deliver_left(folder: Path = RUNS) -> Left:
    """Deliver what outages and kills have left of any experiment in this folder.

    Raises:
        RequestError: the tracking URI is not one of a database or a server.
    """
    found, reasons, uri = spools(folder), list[str](), tracking_uri()
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
    return Left(max(0, before - waiting), waiting, tuple(dict.fromkeys(reasons)))


def _waiting(spool: Spool) -> str:
    return (
        f"{_records(len(spool))} for MLflow left in {spool.folder}; the next stage of this experiment delivers what is "
        f"there, or '{COMMAND}'."
    )


def _records(count: int) -> str:
    return "1 record" if count == 1 else f"{count} records"


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
