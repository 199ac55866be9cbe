"""The search."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import flow
from prefect.artifacts import create_markdown_artifact
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed

from pipeline.config import Experiment, load_params
from pipeline.core.errors import PipelineError
from pipeline.flows.server import find_deployment, online, unless_stopped
from pipeline.flows.submission import Submission
from pipeline.grid.groups import grouped
from pipeline.grid.search import run_search
from pipeline.grid.settings import unfinished
from pipeline.studies.trials import Search


@flow(name="search", log_prints=True)
def search(trials: int | None = None, group_seconds: float = 120.0, params: str = "params.yaml") -> State[Any]:
    """Try settings of a mixture, the experiments of every trial as those of a grid; see `pipeline.grid.search`.

    Args:
        trials: In all, those of earlier calls among them (null: that of the file).
        group_seconds: As that of `ablation_grid`.
        params: The file.
    """
    wanted = Search.of(load_params(Path(params)))
    return unless_stopped(lambda: _search(wanted, trials or wanted.settings.trials, group_seconds))


def _search(wanted: Search, trials: int, group_seconds: float) -> State[Any]:
    with get_client(sync_client=True) as client:
        deployment = find_deployment(client)

        def complete(experiments: list[Experiment]) -> dict[str, str]:
            submission = Submission(client, deployment, wanted.params.ablation.attempts, limit=None)
            submission.run(grouped(unfinished(experiments), group_seconds, len(online(client, deployment))))
            return submission.set_aside

        try:
            text = run_search(wanted, trials, complete)
        except PipelineError as error:
            return Failed(message=str(error))
    create_markdown_artifact(text, key="search", description=f"suite {wanted.params.suite}")
    return Completed(message="every trial is done")
