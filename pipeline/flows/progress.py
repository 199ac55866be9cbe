"""How far the runs on workers are: each keeps it as an artifact of its page on Prefect, where the grid reads it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from threading import Event, Thread
from uuid import UUID

from prefect import Task
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import ArtifactCreate, ArtifactUpdate
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId, ArtifactFilterType
from prefect.runtime import flow_run
from prefect.states import Pending

from pipeline.core.board import Board
from pipeline.core.progress import report_to
from pipeline.core.screen import Standing, heard

INTERVAL = 5.0
"""Seconds between two words to the server."""
PROGRESS = "progress"


@contextmanager
def kept_on_page() -> Iterator[None]:
    """Keep on the page of this run how far its experiment is, as a bar with the time left.

    A thread tells the server: one that is slow or out of reach holds up no training.
    """
    run, ended, newest = flow_run.get_id(), Event(), list[Standing]()

    def hear(standing: Standing) -> None:
        newest[:] = [standing]

    def tell() -> None:
        artifact: UUID | None = None
        is_last = False
        while not is_last:
            is_last = ended.wait(INTERVAL)
            with suppress(Exception), get_client(sync_client=True) as client:
                for standing in newest:
                    artifact = _keep(client, UUID(run), artifact, standing)

    teller = Thread(target=tell, daemon=True, name="progress")
    teller.start()
    report_to(hear)
    try:
        yield
    finally:
        report_to(None)
        ended.set()
        teller.join(INTERVAL)


def _keep(client: SyncPrefectClient, run: UUID, artifact: UUID | None, standing: Standing) -> UUID:
    text = "\n\n".join([f"{standing.title}: {standing.what}, {standing.time}", *standing.details])
    data, metadata = 100 * standing.share, {"standing": standing.as_line()}
    if artifact is not None:
        client.update_artifact(artifact, ArtifactUpdate(data=data, description=text, metadata_=metadata))
        return artifact
    made = ArtifactCreate(type=PROGRESS, data=data, description=text, metadata_=metadata, flow_run_id=run)
    return client.create_artifact(made).id


def hear_of(client: SyncPrefectClient, runs: Iterable[UUID], board: Board) -> None:
    """Let a board know how far these runs are."""
    chosen = ArtifactFilter(
        flow_run_id=ArtifactFilterFlowRunId(any_=list(runs)), type=ArtifactFilterType(any_=[PROGRESS])
    )
    kept = client.read_artifacts(artifact_filter=chosen)
    board.hear_all(heard(artifact.metadata_["standing"]) for artifact in kept if artifact.metadata_)


def parent_of_a_run(client: SyncPrefectClient, name: str) -> UUID | None:
    """A task of this flow's run that stands for a run that it submits: Prefect shows that one below it.

    None outside of a flow.
    """
    own = flow_run.get_id()
    if own is None:
        return None
    stands_for: Task[[], None] = Task(fn=lambda: None, name=name)
    return client.create_task_run(stands_for, UUID(own), dynamic_key=name, name=name, state=Pending()).id
