"""What is in the store as a whole, for whoever wants to know whether it is well."""

from __future__ import annotations

from pipeline.tracking.store import PREFIX, existing_store, is_absent, mask, search, tracking_uri


def describe_store() -> str:
    """Where runs are kept and how many of this project's are in there, found by reading them.

    Raises:
        RequestError: the tracking URI is not one of a database or a server.
        PipelineError: the store is out of reach, damaged, or has the schema of another version of MLflow.
    """
    uri = tracking_uri()
    if is_absent(uri):
        return f"{mask(uri)} does not exist yet: the first run makes it"
    with existing_store() as client:
        suites = [item for item in client.search_experiments() if item.name.startswith(PREFIX)]
        runs = sum(1 for item in suites for _ in search(client, item.experiment_id, ""))
    return f"{mask(uri)}: {runs} runs of {len(suites)} suites"


def deleted_suites() -> dict[str, str]:
    """The suites whose MLflow experiment was deleted, of which nothing is shown or logged: id by name.

    Raises:
        RequestError, PipelineError: as `describe_store`.
    """
    if is_absent(tracking_uri()):
        return {}
    from mlflow.entities import ViewType

    with existing_store() as client:
        found = client.search_experiments(ViewType.DELETED_ONLY)
    return {item.name.removeprefix(PREFIX): item.experiment_id for item in found if item.name.startswith(PREFIX)}
