"""Which code has made what a run holds, and what people have vouched for."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from pipeline.config import Experiment
from pipeline.provenance.code import UNKNOWN, Stage, digest_of
from pipeline.provenance.vouchers import covers
from pipeline.tracking.store import find_run, is_absent, open_store, reported, tracking_uri

CODE_TAGS: dict[Stage, str] = {
    "train": "training_code",
    "evaluate": "evaluation_code",
    "ood": "ood_code",
    "stability": "stability_code",
}
"""The tags of a run that tell the digest of the code which made its numbers."""
THIS_CODE, OTHER_CODE, UNKNOWN_CODE = "this code", "other code", "unknown code"


def made_by(experiment: Experiment, tags: Mapping[str, str], *stages: Stage) -> str:
    """Whether this code has made what a run holds.

    Args:
        experiment: That the run is of.
        tags: Of the run.
        stages: What is asked about; all of them must be of this code.
    """
    recorded = [tags.get(CODE_TAGS[stage], UNKNOWN) for stage in stages]
    wanted = [digest_of(stage, experiment) for stage in stages]
    statements = json.loads(tags.get("vouched", "[]"))
    same = [
        one == digest or covers(statements, stage, digest, one)
        for stage, one, digest in zip(stages, recorded, wanted, strict=True)
    ]
    if all(same):
        return THIS_CODE
    return UNKNOWN_CODE if UNKNOWN in recorded else OTHER_CODE


def tags_of_latest(experiment: Experiment, training_code: str | None) -> tuple[str, Mapping[str, str]] | None:
    """Id and tags of the latest run with the experiment's fingerprint; None where there is none.

    Args:
        experiment: Whose run.
        training_code: Digest of the code that trained it; None: whichever it was.

    Raises:
        RequestError, PipelineError: as `finished_runs`, except that there need not be a sqlite file.
    """
    uri = tracking_uri()
    if is_absent(uri):
        return None
    with reported(uri):
        client, experiment_id = open_store(uri, experiment.suite, create=False)
        tags = {"fingerprint": experiment.fingerprint}
        tags |= {} if training_code is None else {"training_code": training_code}
        found = None if experiment_id is None else find_run(client, experiment_id, tags)
    return None if found is None else (found.info.run_id, found.data.tags)


def log_vouchers(run_id: str, statements: Sequence[Mapping[str, str]]) -> None:
    """Keep on a run that changes of the code move none of its numbers: tag `vouched`.

    Args:
        run_id: Of the run.
        statements: As `pipeline.provenance.vouchers.Voucher` has them.

    Raises:
        RequestError, PipelineError: as `finished_runs`.
    """
    uri = tracking_uri()
    with reported(uri):
        from mlflow import MlflowClient

        client = MlflowClient(tracking_uri=uri)
        known = client.get_run(run_id).data.tags
        client.set_tag(run_id, "vouched", json.dumps([*json.loads(known.get("vouched", "[]")), *statements]))
        if "training_code" not in known:  # it was made before digests were kept: from here on it is found by this one
            client.set_tag(run_id, "training_code", UNKNOWN)
