"""The ablation grid."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import flow
from prefect.artifacts import create_markdown_artifact
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Completed, Failed

from pipeline.config import Experiment, Params
from pipeline.core.errors import PipelineError, RequestError
from pipeline.flows.server import find_deployment, online, unless_stopped
from pipeline.flows.submission import Submission
from pipeline.grid.groups import grouped
from pipeline.grid.settings import read_params, unfinished
from pipeline.grid.summary import settings_by_experiment, write_summary
from pipeline.studies.cells import cells
from pipeline.tracking import deliver_left, mark_cells

STARTS = 3
"""A grid that crashes so many times has failed."""


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
        group_seconds: Experiments that share a warm-up share a run, in a part for each worker; others that are expected
            to be short do, too, one for each worker if none takes more than so many seconds; 0 keeps each apart.
        dry_run: Only say what would be submitted.
        params: The file.
    """
    _refuse_a_fourth_start()
    if limit is not None and limit < 1:
        raise RequestError(
            f"limit: expected a whole number from 1 on, or null for as many as workers take; got {limit}"
        )
    return unless_stopped(lambda: _run(read_params(suite, Path(params)), studies, seeds, limit, group_seconds, dry_run))


def _run(
    settings: Params,
    studies: list[str] | None,
    seeds: list[int] | None,
    limit: int | None,
    group_seconds: float,
    dry_run: bool,
) -> State[Any]:
    grid = cells(settings, studies, seeds)
    wanted = {cell.experiment.fingerprint: cell.experiment for cell in grid}
    missing = unfinished(wanted.values())
    print(
        f"{len(grid)} cells, {len(wanted)} experiments: {len(wanted) - len(missing)} are done, {len(missing)} are not"
    )
    with get_client(sync_client=True) as client:
        deployment = find_deployment(client)
        groups = grouped(missing, group_seconds, limit or len(online(client, deployment)))
        if dry_run:
            for number, members in enumerate(groups, start=1):
                print(f"run {number}: {', '.join(one.identifier for one in members)}")
            return Completed(message=f"dry run: {len(groups)} runs of {len(missing)} experiments")
        studies_of = {one.fingerprint: of_studies for one, of_studies in settings_by_experiment(grid)}

        def mark(experiment: Experiment) -> None:
            mark_cells(experiment, studies_of[experiment.fingerprint])

        left_to_do = {one.fingerprint for one in missing}
        for fingerprint, one in wanted.items():
            if fingerprint not in left_to_do:
                mark(one)
        submission = Submission(client, deployment, settings.ablation.attempts, limit, mark)
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
