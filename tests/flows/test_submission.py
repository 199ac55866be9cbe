"""What the grid decides about runs that end, against a server that is a table of runs."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from uuid import UUID, uuid4

import pytest

from pipeline.config import Experiment
from pipeline.core.errors import PipelineError
from pipeline.evaluation.journal import Journal
from pipeline.provenance.folders import journal_folder
from pipeline.studies.cells import cells
from tests.conftest import MakeParams

os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")

from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.exceptions import ObjectNotFound
from prefect.states import Cancelled, Completed, Crashed, Failed, Pending, Running, Scheduled

from pipeline.flows import submission
from pipeline.flows.experiment import life_file
from pipeline.flows.submission import Submission


@dataclass
class Server:
    """Runs, as the client shows them; `script` says what becomes of each run that is created."""

    script: list[Any]
    """The state of each run in turn, and what it finishes: (state, number of experiments)."""
    done: set[str] = field(default_factory=set)
    runs: dict[UUID, FlowRun] = field(default_factory=dict)
    keys: list[str] = field(default_factory=list)
    created: list[list[str]] = field(default_factory=list)
    """Identifiers of every run's experiments."""
    busiest: int = 0
    """Most runs that were under way at a time."""
    at_first_look: Callable[[], None] | None = None
    """What happens before a run is read for the first time."""

    def create_flow_run_from_deployment(
        self,
        deployment: UUID,
        parameters: dict[str, Any],
        tags: list[str],
        name: str,
        idempotency_key: str,
        parent_task_run_id: None = None,
    ) -> FlowRun:
        assert idempotency_key not in self.keys
        self.keys.append(idempotency_key)
        state, finishes = self.script[len(self.created)]
        self.busiest = max(self.busiest, 1 + sum(not run.state.is_final() for run in self.runs.values() if run.state))
        members = [Experiment.model_validate(content) for content in parameters["experiments"]]
        self.created.append([one.identifier for one in members])
        self.done |= {one.evaluation_fingerprint for one in members[:finishes]}
        run = FlowRun(id=uuid4(), flow_id=uuid4(), name=name, parameters=parameters, tags=tags, state=state)
        self.runs[run.id] = run
        return run

    def read_flow_run(self, run_id: UUID) -> FlowRun:
        if self.at_first_look is not None:
            happen, self.at_first_look = self.at_first_look, None
            happen()
        if run_id not in self.runs:
            raise ObjectNotFound(Exception("gone"))
        shown = self.runs[run_id].model_copy()
        if shown.state is not None and shown.state.is_scheduled():
            self.runs[run_id].state = Completed()  # by the next look
        return shown

    def read_flow_runs(self, flow_run_filter: Any) -> list[FlowRun]:
        states = flow_run_filter.state and flow_run_filter.state.type.any_
        wanted = flow_run_filter.tags.any_ or flow_run_filter.tags.all_
        need = any if flow_run_filter.tags.any_ else all
        return [
            run
            for run in self.runs.values()
            if need(tag in run.tags for tag in wanted) and (states is None or (run.state and run.state.type in states))
        ]

    def set_flow_run_state(self, run_id: UUID, state: State[Any], force: bool) -> None:
        self.runs[run_id].state = state

    def read_workers_for_work_pool(self, pool: str) -> list[Any]:
        return []

    def read_artifacts(self, artifact_filter: Any) -> list[Any]:
        return []

    def read_logs(self, log_filter: Any, limit: int, sort: Any) -> list[Any]:
        return [SimpleNamespace(message="the last line"), SimpleNamespace(message="the line before")]


@pytest.fixture
def experiments(make_params: MakeParams) -> list[Experiment]:
    return list({cell.experiment.fingerprint: cell.experiment for cell in cells(make_params())}.values())[:4]


@pytest.fixture
def submit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, experiments: list[Experiment]) -> Any:
    """`submit(script, groups)` runs the grid to its end; returns the server and what is set aside."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(submission, "POLL", 0.0)
    looks: dict[str, int] = {}

    def run(
        script: list[Any],
        groups: Sequence[list[Experiment]],
        limit: int | None = None,
        progress: str | None = None,
        before: Callable[[Server], None] = lambda server: None,
        outage: int = 0,
    ) -> tuple[Server, dict[str, str]]:
        server = Server(script)
        before(server)

        def last_epoch(one: Experiment) -> int:
            count = looks[one.fingerprint] = looks.get(one.fingerprint, 0) + 1
            if progress == "evaluation":
                Journal(journal_folder(one)).write("pgd20_linf", "whole", count, [])
            return count if progress == "training" else 0

        asked = 0

        def unfinished(given: Sequence[Experiment]) -> list[Experiment]:
            nonlocal asked
            asked += 1
            if asked <= outage:
                raise PipelineError("MLflow is out of reach.")
            return [one for one in given if one.evaluation_fingerprint not in server.done]

        monkeypatch.setattr(submission, "unfinished", unfinished)
        monkeypatch.setattr("pipeline.tracking.last_epoch", last_epoch)
        monkeypatch.setattr("pipeline.tracking.mark_failed", lambda one, reason: None)
        deployment = cast(Any, SimpleNamespace(id=uuid4(), work_pool_name="experiments"))
        submitted = Submission(cast(Any, server), deployment, attempts=3, limit=limit)
        submitted.run(groups)
        return server, submitted.set_aside

    return run


def test_what_is_done_is_not_submitted_again(submit: Any, experiments: list[Experiment]) -> None:
    server, aside = submit([(Completed(), 2), (Completed(), 2)], [experiments[:2], experiments[2:]])
    assert [len(members) for members in server.created] == [2, 2] and not aside


def test_a_crash_isolates_the_experiment_under_way(submit: Any, experiments: list[Experiment]) -> None:
    server, aside = submit([(Crashed(), 1), (Completed(), 1), (Completed(), 2)], [experiments])
    names = [one.identifier for one in experiments]
    assert server.created == [names, [names[1]], names[2:]] and not aside


def test_three_failures_set_aside_with_the_last_lines_and_spare_the_others(
    submit: Any, experiments: list[Experiment]
) -> None:
    server, aside = submit([(Failed(message="failed: it"), 1), *[(Failed(), 0)] * 2], [experiments[:2]])
    assert len(server.created) == 3
    assert aside == {experiments[1].fingerprint: "the line before\nthe last line\n"}
    crashes, aside = submit([*[(Crashed(message="killed"), 0)] * 3], [experiments[:1]])
    assert len(crashes.created) == 3
    assert aside == {experiments[0].fingerprint: "the line before\nthe last line\nkilled"}


def test_an_outage_of_mlflow_delays_what_a_crash_left_and_stops_nothing(
    submit: Any, experiments: list[Experiment], capsys: pytest.CaptureFixture[str]
) -> None:
    names = [one.identifier for one in experiments[:2]]
    server, aside = submit([(Crashed(), 1), (Completed(), 1)], [experiments[:2]], outage=3)
    assert server.created == [names, names[1:]] and not aside
    assert capsys.readouterr().out.count("left undone is submitted again when it answers") == 1
    server, aside = submit([(Completed(), 2)], [experiments[:2]], outage=1000)
    assert server.created == [names] and not aside, "a run that is completed says so itself"


@pytest.mark.parametrize("progress", ["training", "evaluation"])
def test_a_kill_after_something_was_finished_is_no_failure(
    submit: Any, experiments: list[Experiment], progress: str
) -> None:
    server, aside = submit([*[(Crashed(), 0)] * 9, (Completed(), 1)], [experiments[:1]], progress=progress)
    assert len(server.created) == 10 and not aside


def test_what_a_person_cancels_is_set_aside(submit: Any, experiments: list[Experiment]) -> None:
    server, aside = submit([(Cancelled(), 1)], [experiments[:2]])
    assert len(server.created) == 1 and aside == {experiments[1].fingerprint: "cancelled by a person"}


@pytest.mark.parametrize(("limit", "busiest"), [(1, 1), (2, 2), (None, 4)])
def test_no_more_runs_than_the_limit_are_submitted(
    submit: Any, experiments: list[Experiment], limit: int | None, busiest: int
) -> None:
    server, aside = submit([(Scheduled(), 1)] * 4, [[one] for one in experiments], limit=limit)
    assert (len(server.created), server.busiest) == (4, busiest) and not aside


def test_runs_that_are_under_way_are_waited_for(submit: Any, experiments: list[Experiment]) -> None:
    """Another grid has submitted three experiments; this one asks for two of them and for one more."""
    first, second, third, fourth = experiments

    def of_another_grid(server: Server) -> None:
        server.create_flow_run_from_deployment(
            uuid4(),
            {"experiments": [one.model_dump(mode="json") for one in (third, first, second)]},
            [submission._tag(one) for one in (first, second, third)],
            "of another grid",
            "key",
        )

    server, aside = submit([(Scheduled(), 3), (Completed(), 1)], [[second, fourth], [third]], before=of_another_grid)
    assert server.created[1:] == [[fourth.identifier]] and not aside


def test_what_nobody_has_begun_is_withdrawn_when_the_grid_stops(
    submit: Any, experiments: list[Experiment], monkeypatch: pytest.MonkeyPatch
) -> None:
    servers: list[Server] = []

    def stop(self: Submission) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Submission, "_collect", stop)
    with pytest.raises(KeyboardInterrupt):
        submit([(Scheduled(), 0), (Running(), 0)], [[one] for one in experiments[:2]], before=servers.append)
    assert [run.state and run.state.type for run in servers[0].runs.values()] == [
        StateType.CANCELLED,
        StateType.RUNNING,
    ]


def test_what_another_grid_withdraws_is_asked_for_anew(submit: Any, experiments: list[Experiment]) -> None:
    """Another grid has submitted the experiment; as soon as this one waits for it, too, that one is stopped."""

    def of_a_grid_that_stops(server: Server) -> None:
        deployment = cast(Any, SimpleNamespace(id=uuid4(), work_pool_name="experiments"))
        other = Submission(cast(Any, server), deployment, attempts=3, limit=None)
        other._waiting = [experiments[:1]]
        other._submit()
        server.at_first_look = other._withdraw

    server, aside = submit([(Scheduled(), 0), (Completed(), 1)], [experiments[:1]], before=of_a_grid_that_stops)
    assert len(server.created) == 2 and not aside
    assert [run.state and run.state.type for run in server.runs.values()] == [StateType.CANCELLED, StateType.COMPLETED]


def test_a_run_that_never_begins_is_buried(
    submit: Any, experiments: list[Experiment], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submission, "PATIENCE", 0.0)
    server, aside = submit([(Pending(), 0), (Completed(), 1)], [experiments[:1]])
    assert len(server.created) == 2 and not aside
    assert [run.state and run.state.type for run in server.runs.values()] == [StateType.CRASHED, StateType.COMPLETED]


def test_a_server_whose_clock_is_behind_buries_nothing(submit: Any, experiments: list[Experiment]) -> None:

    def begins_late(server: Server) -> None:
        def look_again() -> None:
            (run,) = server.runs.values()
            run.state = Completed()

        server.at_first_look = lambda: setattr(server, "at_first_look", look_again)

    pending: State[Any] = Pending().model_copy(update={"timestamp": datetime.now(UTC) - timedelta(hours=1)})
    server, aside = submit([(pending, 1)], [experiments[:1]], before=begins_late)
    assert len(server.created) == 1 and not aside


def test_a_run_whose_lock_is_free_is_buried_with_its_lock(submit: Any, experiments: list[Experiment]) -> None:
    def of_a_process_that_dies(server: Server) -> None:
        def leave_lock() -> None:
            (run,) = server.runs
            life_file(run).parent.mkdir(parents=True)
            life_file(run).touch()

        server.at_first_look = leave_lock

    server, aside = submit([(Running(), 0), (Completed(), 1)], [experiments[:1]], before=of_a_process_that_dies)
    assert len(server.created) == 2 and not aside
    assert not list(Path("runs/flows").iterdir())
