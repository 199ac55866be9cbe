"""Which code has made what a run holds, and what people have vouched for."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from pipeline.config import Experiment
from pipeline.provenance.code import UNKNOWN, Stage, digest_of
from pipeline.provenance.vouchers import covers
from pipeline.tracking.store import existing_store, find_runs, tagged

CODE_TAGS: dict[Stage, str] = {
    "train": "training_code",
    "evaluate": "evaluation_code",
    "ood": "ood_code",
    "stability": "stability_code",
}
"""The tags of a run that tell the digest of the code which made its numbers."""
THIS_CODE, OTHER_CODE, UNKNOWN_CODE = "this code", "other code", "unknown code"


def made_by(experiment: Experiment, tags: Mapping[str, str], *stages: Stage) -> str:
    """Whether this code has made what a run with these tags holds of an experiment: all of the stages that are asked
    about."""
    recorded = {stage: tags.get(CODE_TAGS[stage], UNKNOWN) for stage in stages}
    statements = json.loads(tags.get("vouched", "[]"))
    wanted = {stage: digest_of(stage, experiment) for stage in stages}
    if all(
        found == wanted[stage] or covers(statements, stage, wanted[stage], found) for stage, found in recorded.items()
    ):
        return THIS_CODE
    return UNKNOWN_CODE if UNKNOWN in recorded.values() else OTHER_CODE


def tags_of_latest(experiment: Experiment, training_code: str | None) -> tuple[str, Mapping[str, str]] | None:
    """Id and tags of the latest run with the experiment's fingerprint, and by this training code where it is given;
    None where there is none.

    Raises:
        RequestError, PipelineError: as `finished_runs`, except that there need not be a sqlite file.
    """
    tags = {"fingerprint": experiment.fingerprint}
    tags |= {} if training_code is None else {"training_code": training_code}
    found = next(find_runs(experiment.suite, tagged(tags)), None)
    return None if found is None else (found.info.run_id, found.data.tags)


def log_vouchers(run_id: str, statements: Sequence[Mapping[str, str]]) -> None:
    """Keep on a run, as its tag `vouched`, that changes of the code move none of its numbers; see `Voucher`.

    Raises:
        RequestError, PipelineError: as `finished_runs`.
    """
    with existing_store() as client:
        known = client.get_run(run_id).data.tags
        client.set_tag(run_id, "vouched", json.dumps([*json.loads(known.get("vouched", "[]")), *statements]))
        if "training_code" not in known:  # it was made before digests were kept: from here on it is found by this one
            client.set_tag(run_id, "training_code", UNKNOWN)
