"""Prefect: the ablation grid as flows. This is the only module that imports prefect.

`ablation-grid` submits every experiment that MLflow does not have as a run of the deployment `experiment`, so that any
worker on any machine takes it. It waits, submits again what a dying worker left, and says in the end what came of it.
"""

from __future__ import annotations

import hashlib
import logging
import math
import signal
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import yaml
from prefect import flow
from prefect.artifacts import create_markdown_artifact
from prefect.automations import Automation
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    ArtifactFilterKey,
    FlowRunFilter,
    FlowRunFilterDeploymentId,
    FlowRunFilterState,
    FlowRunFilterStateType,
    FlowRunFilterTags,
    LogFilter,
    LogFilterFlowRunId,
)
from prefect.client.schemas.objects import FlowRun, State, StateType, Worker, WorkerStatus
from prefect.client.schemas.responses import DeploymentResponse
from prefect.client.schemas.sorting import LogSort
from prefect.events.worker import EventsWorker
from prefect.exceptions import ObjectNotFound, TerminationSignal
from prefect.logging.handlers import APILogWorker
from prefect.runtime import flow_run
from prefect.settings import get_current_settings
from prefect.states import Cancelled, Completed, Crashed, Failed

from pipeline.config import Experiment, Search, cells, load_params
from pipeline.errors import Interrupted, PipelineError, RequestError
from pipeline.files import Busy, exclusive
from pipeline.grid.plan import Cost, costs
from pipeline.grid.search import run_search
from pipeline.grid.settings import read_params, unfinished
from pipeline.grid.slots import gpu_slot
from pipeline.grid.summary import write_summary
from pipeline.tracking import deliver_left

DEPLOYMENT = "experiment/experiment"
POLL = 2.0
"""Seconds between two looks at the runs."""
LOOK_FOR_WORKERS = 60.0
"""Seconds between two looks at who is there to take runs."""
PATIENCE = 300.0
"""Seconds. A run that a worker took and that has not begun after so long never will: the worker died."""
SHORT = 30.0
"""Expected seconds below which a run would spend more on its start than is won by spreading experiments."""
STARTS = 3
"""A grid that crashes so many times has failed."""
BISECTIONS = 20
"""Of the cost of all experiments, to find the least bound of a worker's share: to a millionth."""
LARGEST = 32
"""Experiments in a run: the server refuses parameters of more than half a megabyte, and one has some 5 kB."""
SENDING = 10.0
"""Seconds for what is left of logs."""
LINES = 20
"""Of a run's log, kept for a cell that failed."""
WITHDRAWN = "the grid that asked for it was stopped"
"""What a cancelled run says that no person has cancelled: another grid that waits for it asks for it anew."""
UNDER_WAY = [StateType.SCHEDULED, StateType.PENDING, StateType.RUNNING, StateType.PAUSED, StateType.CANCELLING]


# --- One run on a worker: a few experiments


@flow(name="experiment", log_prints=True)
def experiment(experiments: list[dict[str, Any]]) -> State[Any]:
    """Train and evaluate experiments one after the other, each from where it stands; a failure spares the others.

    Args:
        experiments: As `Experiment.model_dump(mode="json")` gives them.
    """
    from stages.cli import stop_on_signal

    failed = []
    with _sign_of_life(), stop_on_signal(second_at_once=False) as should_stop, gpu_slot(print, should_stop):
        for number, content in enumerate(experiments, start=1):
            one = Experiment.model_validate(content)
            print(f"{number}/{len(experiments)}: {one.identifier}, {one.fingerprint}")
            if not _complete(one, should_stop):
                failed.append(one.identifier)
    return Failed(message=f"failed: {', '.join(failed)}") if failed else Completed()


def _complete(one: Experiment, should_stop: Callable[[], str | None]) -> bool:
    """Bring one experiment to its end; what stops it is logged and kept as an artifact."""
    from pipeline.runs import complete_experiment

    with _last_lines() as lines:
        try:
            complete_experiment(one, should_stop)
        except Interrupted as stopped:
            print(stopped)
            raise TerminationSignal(signal.SIGTERM) from stopped
        except PipelineError as error:
            print(f"error: {error}")
        except Exception:
            print(traceback.format_exc())
        else:
            return True
    create_markdown_artifact(f"```\n{''.join(lines)}```", key=_artifact_key(one), description=one.identifier)
    return False


def _artifact_key(one: Experiment) -> str:
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


def _life_file(run: UUID | str) -> Path:
    return Path("runs/flows") / f"{run}.lock"


@contextmanager
def _sign_of_life() -> Iterator[None]:
    """Hold a lock that the system releases when this process dies, so that others need not wait for a heartbeat."""
    path = _life_file(flow_run.get_id() or "")
    with exclusive(path, "this run"):
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


# --- The grid


@flow(name="ablation-grid", log_prints=True)
def ablation_grid(
    studies: list[str] | None = None,
    seeds: list[int] | None = None,
    suite: str | None = None,
    limit: int | None = None,
    group_seconds: float = 120.0,
    dry_run: bool = False,
    params: str = "params.yaml",
) -> State[Any]:
    """Run the experiments of the grid that MLflow does not have, and summarise.

    Args:
        studies: Keys of `ablation.studies` (null: all).
        seeds: Of every cell (null: those of the file).
        suite: Compose this suite from conf/ instead of reading `params`.
        limit: Runs of `experiment` at once (null: as many as workers take).
        group_seconds: Experiments that are expected to be short share a run, one for each worker if none takes more
            than so many seconds; 0 keeps each apart.
        dry_run: Only say what would be submitted.
        params: The file.
    """
    _refuse_a_fourth_start()
    if limit is not None and limit < 1:
        raise RequestError(
            f"limit: expected a whole number from 1 on, or null for as many as workers take; got {limit}"
        )
    settings = read_params(suite, Path(params))
    grid = cells(settings, studies, seeds)
    wanted = {cell.experiment.fingerprint: cell.experiment for cell in grid}
    missing = unfinished(wanted.values())
    print(
        f"{len(grid)} cells, {len(wanted)} experiments: {len(wanted) - len(missing)} are done, {len(missing)} are not"
    )
    with get_client(sync_client=True) as client:
        deployment = find_deployment(client)
        groups = _grouped(missing, group_seconds, limit or len(_online(client, deployment)))
        if dry_run:
            for number, members in enumerate(groups, start=1):
                print(f"run {number}: {', '.join(one.identifier for one in members)}")
            return Completed(message=f"dry run: {len(groups)} runs of {len(missing)} experiments")
        submission = Submission(client, deployment, settings.ablation.attempts, limit)
        submission.run(groups)
    if left := deliver_left().describe():
        print(left)
    text = write_summary(settings, grid, submission.set_aside)
    print(text)
    create_markdown_artifact(text, key="ablation-grid", description=f"suite {settings.suite}")
    if submission.set_aside:
        return Failed(
            message=f"{len(submission.set_aside)} of {len(wanted)} experiments are set aside; see the summary"
        )
    return Completed(message=f"{len(wanted)} experiments are done")


def _refuse_a_fourth_start() -> None:
    """An automation starts a crashed grid again; one that always crashes must come to an end."""
    if flow_run.get_run_count() > STARTS:
        raise PipelineError(f"this grid has crashed {STARTS} times; see the logs of its earlier starts")


def _grouped(experiments: Sequence[Experiment], seconds: float, workers: int) -> list[list[Experiment]]:
    """What share a run, as `group`; with 0 seconds each stays alone, and nothing is probed."""
    return group(experiments, expected_seconds(experiments) if seconds else {}, seconds, max(workers, 1))


def expected_seconds(experiments: Sequence[Experiment]) -> dict[str, Cost]:
    """What each will cost on this machine, by fingerprint."""
    from pipeline.runs import ensure_prepared

    for one in experiments[:1]:
        ensure_prepared(one)
    return costs(experiments)


def group(
    experiments: Sequence[Experiment], expected: dict[str, Cost], seconds: float, workers: int
) -> list[list[Experiment]]:
    """Neighbours together, up to `seconds`: one group for each worker where that is enough, for each costs a start.

    Args:
        experiments: What is to be done.
        expected: Cost by fingerprint; an experiment without one stays alone.
        seconds: A group may be expected to take.
        workers: That share the groups.
    """
    costs_of = [expected[one.fingerprint].seconds if one.fingerprint in expected else math.inf for one in experiments]
    low, high = 0.0, sum(cost for cost in costs_of if cost < math.inf)
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        if len(_packed(experiments, costs_of, middle)) > workers:
            low = middle
        else:
            high = middle
    return _packed(experiments, costs_of, min(seconds, max(high, SHORT)))


def _packed(experiments: Sequence[Experiment], costs_of: Sequence[float], bound: float) -> list[list[Experiment]]:
    """Neighbours together, as long as their costs add up to no more than `bound`."""
    groups: list[list[Experiment]] = []
    total = math.inf
    for one, cost in zip(experiments, costs_of, strict=True):
        if total + cost > bound or len(groups[-1]) == LARGEST:
            groups.append([])
            total = 0.0
        groups[-1].append(one)
        total += cost
    return groups


def check_server() -> None:
    """Find out that a server answers and has the deployments.

    Raises:
        RequestError: it is not so; the message says which commands help.
    """
    way_out = "start one with 'prefect server start', and set PREFECT_API_URL=http://127.0.0.1:4200/api"
    url = get_current_settings().api.url
    if url is None:
        raise RequestError(f"no Prefect server is named: {way_out}; or let 'make ablation' do it all")
    with get_client(sync_client=True) as client:
        problem = client.api_healthcheck()
        if problem is not None:
            raise RequestError(f"the Prefect server at {url} does not answer ({problem}): {way_out}")
        find_deployment(client)


def find_deployment(client: SyncPrefectClient) -> DeploymentResponse:
    """The deployment `experiment`, with a pool that it runs in.

    Raises:
        RequestError: there is none; the message says which commands make it.
    """
    way_out = "'prefect work-pool create --type process experiments', then 'prefect --no-prompt deploy --all'"
    try:
        deployment = client.read_deployment_by_name(DEPLOYMENT)
    except ObjectNotFound:
        raise RequestError(f"the server has no deployment '{DEPLOYMENT}': {way_out}") from None
    if deployment.work_pool_name is None:
        raise RequestError(f"the deployment '{DEPLOYMENT}' has no work pool: {way_out}")
    return deployment


# --- The search


@flow(name="search", log_prints=True)
def search(trials: int | None = None, group_seconds: float = 120.0, params: str = "params.yaml") -> State[Any]:
    """Try settings of a mixture, the experiments of every trial as those of a grid; see `pipeline.grid.search`.

    Args:
        trials: In all, those of earlier calls among them (null: that of the file).
        group_seconds: As that of `ablation_grid`.
        params: The file.
    """
    wanted = Search.of(load_params(Path(params)))
    with get_client(sync_client=True) as client:
        deployment = find_deployment(client)

        def complete(experiments: list[Experiment]) -> dict[str, str]:
            submission = Submission(client, deployment, wanted.params.ablation.attempts, limit=None)
            submission.run(_grouped(unfinished(experiments), group_seconds, len(_online(client, deployment))))
            return submission.set_aside

        try:
            text = run_search(wanted, trials or wanted.settings.trials, complete)
        except PipelineError as error:
            return Failed(message=str(error))
    create_markdown_artifact(text, key="search", description=f"suite {wanted.params.suite}")
    return Completed(message="every trial is done")


# --- Submission


class Submission:
    """Runs of the deployment `experiment`, until every experiment is done or set aside.

    Args:
        client: Of the server.
        deployment: To run.
        attempts: An experiment that fails so many times is set aside.
        limit: Runs at once; None for no limit.
    """

    def __init__(
        self, client: SyncPrefectClient, deployment: DeploymentResponse, attempts: int, limit: int | None
    ) -> None:
        self.set_aside: dict[str, str] = {}
        """Last log lines by fingerprint."""
        self._client = client
        self._deployment = deployment
        self._attempts = attempts
        self._limit = limit
        self._waiting: list[list[Experiment]] = []
        self._active: dict[UUID, list[Experiment]] = {}
        self._failures: dict[str, int] = {}
        self._progress: dict[str, tuple[int, int]] = {}
        """Epochs and pieces of the evaluation that were finished at the last crash, by fingerprint."""
        self._suspects: set[UUID] = set()
        self._pending: dict[UUID, float] = {}
        """When each was first seen waiting for its worker, by a clock that nobody sets: the server's may differ."""
        self._total = 0
        self._last_said = ""
        self._said: set[str] = set()
        self._looked_for_workers = -math.inf

    def run(self, groups: Sequence[list[Experiment]]) -> None:
        """Submit groups of experiments, and wait."""
        self._waiting = list(groups)
        self._total = sum(map(len, groups))
        try:
            while self._waiting or self._active:
                self._submit()
                self._say_where_we_are()
                time.sleep(POLL)
                self._collect()
        finally:
            self._withdraw()

    # --- Out

    def _submit(self) -> None:
        while self._waiting and (self._limit is None or len(self._active) < self._limit):
            ours = {_tag(one): one for one in self._waiting.pop(0)}
            for run in self._runs(FlowRunFilterTags(any_=list(ours)), UNDER_WAY):
                adopted = [ours.pop(tag) for tag in _tags_in_order(run) if tag in ours]
                self._active[run.id] = [*self._active.get(run.id, []), *adopted]
            if ours:
                run = self._create(list(ours.values()))
                self._active[run.id] = list(ours.values())

    def _create(self, group: list[Experiment]) -> FlowRun:
        """Submit one run; two grids that do so at the same moment get the same one."""
        tags = sorted(_tag(one) for one in group)
        earlier = len(self._runs(FlowRunFilterTags(all_=tags)))
        digest = hashlib.sha256(" ".join([*tags, str(earlier)]).encode()).hexdigest()
        more = f" and {len(group) - 1} more" if len(group) > 1 else ""
        return self._client.create_flow_run_from_deployment(
            self._deployment.id,
            parameters={"experiments": [one.model_dump(mode="json") for one in group]},
            tags=tags,
            name=f"{group[0].identifier}{more}",
            idempotency_key=digest,
        )

    def _runs(self, tags: FlowRunFilterTags, states: list[StateType] | None = None) -> list[FlowRun]:
        chosen = None if states is None else FlowRunFilterState(type=FlowRunFilterStateType(any_=states))
        condition = FlowRunFilter(
            deployment_id=FlowRunFilterDeploymentId(any_=[self._deployment.id]),
            tags=tags,
            state=chosen,
        )
        return self._client.read_flow_runs(flow_run_filter=condition)

    def _withdraw(self) -> None:
        """Where the grid ends early, nobody should begin what it has asked for."""
        for run_id in self._active:
            run = self._read(run_id)
            if run is not None and run.state is not None and run.state.is_scheduled():
                self._client.set_flow_run_state(run_id, Cancelled(message=WITHDRAWN), force=True)

    # --- Back

    def _collect(self) -> None:
        for run_id, group in list(self._active.items()):
            run = self._read(run_id)
            if run is not None and run.state is not None and not run.state.is_final():
                self._bury(run)
                continue
            try:
                self._take_back(run, [] if _is_completed(run) else unfinished(group))
            except RequestError:
                raise
            except PipelineError as error:  # what is left is not known before MLflow answers
                self._say_once(f"{error} What {run_id} left undone is submitted again when it answers")
                continue
            del self._active[run_id]
            _life_file(run_id).unlink(missing_ok=True)  # a process that was killed could not

    def _read(self, run_id: UUID) -> FlowRun | None:
        try:
            return self._client.read_flow_run(run_id)
        except ObjectNotFound:
            return None

    def _bury(self, run: FlowRun) -> None:
        """Mark a run whose process is dead as crashed, which Prefect does not see when its worker died too."""
        assert run.state is not None
        if not run.state.is_pending():
            self._pending.pop(run.id, None)
        elif time.monotonic() - self._pending.setdefault(run.id, time.monotonic()) > PATIENCE:
            self._crash(run, f"not begun {PATIENCE:.0f} s after a worker took it: the worker died")
        if run.state.is_running() and _is_dead(run.id):
            # Twice in a row: a process that is about to begin or to end may be seen without its lock.
            if run.id in self._suspects:
                self._crash(run, "its process died")
            self._suspects.add(run.id)
        else:
            self._suspects.discard(run.id)

    def _crash(self, run: FlowRun, message: str) -> None:
        print(f"{run.name}: {message}")
        self._client.set_flow_run_state(run.id, Crashed(message=message), force=True)

    def _take_back(self, run: FlowRun | None, left: list[Experiment]) -> None:
        """Decide on what a run that has ended left undone."""
        if not left:
            return
        if run is None or run.state is None:
            self._waiting.append(left)  # somebody has deleted it
        elif run.state.is_cancelled() and run.state.message == WITHDRAWN:
            self._waiting.append(left)
        elif run.state.is_cancelled():
            self._give_up(left, "cancelled by a person")
        elif not run.state.is_crashed():
            for one in left:
                self._count(one, run)
        elif self._moved(left[0]):
            print(f"{run.name}: crashed in {left[0].identifier}; what it left is submitted again")
            self._waiting.append(left)
        else:
            self._count(left[0], run)
            self._waiting += [left[1:]] if left[1:] else []

    def _moved(self, one: Experiment) -> bool:
        """Whether something was finished since the last crash: then it was killed, and does not itself fail.

        That is an epoch, or a piece of the evaluation where the grid sees the journal, on the same file system.
        """
        from pipeline.evaluation.journal import Journal
        from pipeline.runs import journal_folder
        from pipeline.tracking import last_epoch

        before = self._progress.get(one.fingerprint, (0, 0))
        now = self._progress[one.fingerprint] = last_epoch(one), len(Journal(journal_folder(one)))
        return now > before

    def _count(self, one: Experiment, run: FlowRun) -> None:
        """Count a failure; submit the experiment again, alone, or set it aside."""
        failures = self._failures[one.fingerprint] = self._failures.get(one.fingerprint, 0) + 1
        name = run.state.name if run.state is not None else "unknown"
        if failures >= self._attempts:
            print(f"{one.identifier}: its run ended {name}; after {failures} failures it is set aside")
            self._give_up([one], self._tail(one, run))
            return
        print(
            f"{one.identifier}: its run ended {name}; it is submitted again ({failures} of {self._attempts} failures)"
        )
        self._waiting.append([one])

    def _give_up(self, experiments: list[Experiment], reason: str) -> None:
        from pipeline.tracking import mark_failed

        for one in experiments:
            self.set_aside[one.fingerprint] = reason
            mark_failed(one, reason)

    def _tail(self, one: Experiment, run: FlowRun) -> str:
        """The last log lines: of the experiment where it could leave them, else of its run."""
        kept = self._client.read_artifacts(
            artifact_filter=ArtifactFilter(
                flow_run_id=ArtifactFilterFlowRunId(any_=[run.id]), key=ArtifactFilterKey(any_=[_artifact_key(one)])
            )
        )
        if kept:
            return str(kept[0].data).removeprefix("```\n").removesuffix("```")
        logs = self._client.read_logs(
            LogFilter(flow_run_id=LogFilterFlowRunId(any_=[run.id])), limit=LINES, sort=LogSort.TIMESTAMP_DESC
        )
        message = run.state.message if run.state is not None else None
        return "\n".join([*(log.message for log in reversed(logs)), message or ""])

    # --- Saying

    def _say_once(self, text: str) -> None:
        if text not in self._said:
            self._said.add(text)
            print(text)

    def _say_where_we_are(self) -> None:
        waiting, active = sum(map(len, self._waiting)), sum(map(len, self._active.values()))
        done = self._total - waiting - active - len(self.set_aside)
        aside = f", {len(self.set_aside)} set aside" if self.set_aside else ""
        text = f"{done} of {self._total} done, {active} submitted, {waiting} waiting{aside}"
        if text != self._last_said:
            self._last_said = text
            print(text)
        now = time.monotonic()
        if now - self._looked_for_workers >= LOOK_FOR_WORKERS:
            self._looked_for_workers = now
            self._say_who_is_missing()

    def _say_who_is_missing(self) -> None:
        pool = self._deployment.work_pool_name
        if not _online(self._client, self._deployment):
            print(f"no worker is online in the pool '{pool}'; this starts one: prefect worker start --pool {pool}")


def _is_completed(run: FlowRun | None) -> bool:
    """Whether a run brought all of its experiments to their end, though MLflow may not know of it yet."""
    return run is not None and run.state is not None and run.state.is_completed()


def _online(client: SyncPrefectClient, deployment: DeploymentResponse) -> list[Worker]:
    """The workers that take runs of a deployment."""
    workers = client.read_workers_for_work_pool(deployment.work_pool_name or "")
    return [worker for worker in workers if worker.status == WorkerStatus.ONLINE]


def _tag(one: Experiment) -> str:
    return f"evaluation:{one.evaluation_fingerprint}"


def _tags_in_order(run: FlowRun) -> list[str]:
    """Of its experiments, in the order in which it works on them."""
    return [_tag(Experiment.model_validate(content)) for content in run.parameters["experiments"]]


def _is_dead(run: UUID) -> bool:
    """Whether a run that began on this file system holds its lock no longer."""
    path = _life_file(run)
    if not path.exists():
        return False
    try:
        with exclusive(path, "a run"):
            return True
    except Busy:
        return False


# --- The server


def install_automations(path: Path = Path("automations.yaml")) -> None:
    """Install the automations of a file on the server, those that it does not have yet."""
    for content in yaml.safe_load(path.read_text())["automations"]:
        with get_client(sync_client=True) as client:
            known = client.read_automations_by_name(content["name"])
        if not known:
            Automation(**content).create()


def send_what_is_left() -> None:
    """Send logs and events that wait for their batch, before the server goes."""
    APILogWorker.drain_all(timeout=SENDING)
    EventsWorker.drain_all(timeout=SENDING)
