"""Runs of the deployment `experiment` that are submitted, watched, and submitted again where they died."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Sequence
from itertools import chain
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient
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
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.client.schemas.responses import DeploymentResponse
from prefect.client.schemas.sorting import LogSort
from prefect.exceptions import ObjectNotFound
from prefect.states import Cancelled, Crashed

from pipeline.config import Experiment
from pipeline.core.board import Board
from pipeline.core.errors import PipelineError, RequestError
from pipeline.core.progress import LINE_INTERVAL
from pipeline.core.waiting import kind, until
from pipeline.flows.experiment import LINES, artifact_key, is_dead, life_file
from pipeline.flows.progress import hear_of, parent_of_a_run
from pipeline.flows.server import online
from pipeline.grid.plan import passes_left, passes_of_evaluation
from pipeline.grid.settings import unfinished
from pipeline.provenance.code import digest_of

POLL = 2.0
"""Seconds between two looks at the runs."""
LOOK_FOR_WORKERS = 60.0
"""Seconds between two looks at who is there to take runs."""
PATIENCE = 300.0
"""Seconds. A run that a worker took and that has not begun after so long never will: the worker died."""
RUNS = kind("runs", "workers that work on the runs of a grid")
WITHDRAWN = "the grid that asked for it was stopped"
"""What a cancelled run says that no person has cancelled: another grid that waits for it asks for it anew."""
PARENT_CANCELLED = "The parent flow run was cancelled."
"""What Prefect says of the runs of a grid that a person has cancelled: for another one that waits it is the same."""
UNDER_WAY = [StateType.SCHEDULED, StateType.PENDING, StateType.RUNNING, StateType.PAUSED, StateType.CANCELLING]


class Submission:
    """Runs of the deployment `experiment`, until every experiment is done or set aside.

    Args:
        client: Of the server.
        deployment: To run.
        attempts: An experiment that fails so many times is set aside.
        limit: Runs at once; None for no limit.
        ended: Told every experiment whose run has ended.
    """

    def __init__(
        self,
        client: SyncPrefectClient,
        deployment: DeploymentResponse,
        attempts: int,
        limit: int | None,
        ended: Callable[[Experiment], None] = lambda experiment: None,
    ) -> None:
        self.set_aside: dict[str, str] = {}
        """Last log lines by fingerprint."""
        self._client = client
        self._deployment = deployment
        self._attempts = attempts
        self._limit = limit
        self._ended = ended
        self._waiting: list[list[Experiment]] = []
        self._active: dict[UUID, list[Experiment]] = {}
        self._failures: dict[str, int] = {}
        self._progress: dict[str, tuple[int, int, int]] = {}
        """Epochs, pieces of the evaluation and shared epochs that were finished at the last crash, by fingerprint."""
        self._suspects: set[UUID] = set()
        self._pending: dict[UUID, float] = {}
        """When each was first seen waiting for its worker, by a clock that nobody sets: the server's may differ."""
        self._total = 0
        self._spoken = -math.inf
        self._said: set[str] = set()
        self._looked_for_workers = -math.inf

    def run(self, groups: Sequence[list[Experiment]]) -> None:
        """Submit groups of experiments, and wait."""
        self._waiting = list(groups)
        self._total = sum(map(len, groups))
        work = {
            one.identifier: {"train": passes_left(one, 0), "evaluate": passes_of_evaluation(one)}
            for one in chain.from_iterable(groups)
        }
        workers = len(online(self._client, self._deployment))
        self._board = Board(work, 0, work, "experiments", max(1, min(workers, self._limit or workers)))
        try:
            until(RUNS, self._whom, self._is_over, poll=POLL)
        finally:
            self._withdraw()

    def _is_over(self) -> bool:
        """Take back what has ended, submit what waits, and say whether nothing is left."""
        if self._active:
            self._collect()
        if not self._waiting and not self._active:
            return True
        self._submit()
        self._say_where_we_are()
        return False

    def _whom(self) -> str:
        return f"workers to end {len(self._active)} {'run' if len(self._active) == 1 else 'runs'}"

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
        name = f"{group[0].identifier} and {len(group) - 1} more" if len(group) > 1 else group[0].identifier
        return self._client.create_flow_run_from_deployment(
            self._deployment.id,
            parameters={"experiments": [one.model_dump(mode="json") for one in group]},
            tags=tags,
            name=name,
            idempotency_key=digest,
            parent_task_run_id=parent_of_a_run(self._client, f"{name}-{digest[:8]}"),
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
            for one in group:
                self._board.end(one.identifier)
                self._ended(one)
            life_file(run_id).unlink(missing_ok=True)  # a process that was killed could not

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
        if run.state.is_running() and is_dead(run.id):
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
        elif run.state.is_cancelled() and run.state.message in (WITHDRAWN, PARENT_CANCELLED):
            self._waiting.append(left)
        elif run.state.is_cancelled():
            self._give_up(left, "cancelled by a person")
        elif not run.state.is_crashed():
            for one in left:
                self._count(one, run)
        elif self._moved(left):
            print(f"{run.name}: crashed in {left[0].identifier}; what it left is submitted again")
            self._waiting.append(left)
        else:
            self._count(left[0], run)
            self._waiting += [left[1:]] if left[1:] else []

    def _moved(self, left: Sequence[Experiment]) -> bool:
        """Whether something was finished since the last crash: then it was killed, and does not itself fail.

        That is an epoch of the first one that is left, or where the grid sees them, on the same file system, a piece of
        its evaluation or an epoch of the warm-up that all of them share.
        """
        from pipeline.evaluation.journal import Journal
        from pipeline.experiments.warm_up import epochs_of_warm_ups
        from pipeline.provenance.folders import journal_folder
        from pipeline.tracking import last_epoch

        one, shared = left[0], epochs_of_warm_ups(left)
        before = self._progress.get(one.fingerprint, (0, 0, 0))
        now = self._progress[one.fingerprint] = last_epoch(one), len(Journal(journal_folder(one))), shared
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
                flow_run_id=ArtifactFilterFlowRunId(any_=[run.id]), key=ArtifactFilterKey(any_=[artifact_key(one)])
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
        text, now = f"{done} of {self._total} done, {active} submitted, {waiting} waiting{aside}", time.monotonic()
        if text not in self._said or now - self._spoken >= LINE_INTERVAL:
            self._said.add(text)
            self._spoken = now
            hear_of(self._client, self._active, self._board)
            print(f"{text}; {self._board.summary()}")
        if now - self._looked_for_workers >= LOOK_FOR_WORKERS:
            self._looked_for_workers = now
            self._say_who_is_missing()

    def _say_who_is_missing(self) -> None:
        pool = self._deployment.work_pool_name
        if not online(self._client, self._deployment):
            print(f"no worker is online in the pool '{pool}'; this starts one: prefect worker start --pool {pool}")


def _is_completed(run: FlowRun | None) -> bool:
    """Whether a run brought all of its experiments to their end, though MLflow may not know of it yet."""
    return run is not None and run.state is not None and run.state.is_completed()


def _tag(one: Experiment) -> str:
    code = "-".join(digest_of(stage, one) for stage in ("train", "evaluate"))
    return f"evaluation:{one.evaluation_fingerprint}-{code}"


def _tags_in_order(run: FlowRun) -> list[str]:
    """The tags of its experiments, in the order in which it works on them."""
    return [_tag(Experiment.model_validate(content)) for content in run.parameters["experiments"]]
