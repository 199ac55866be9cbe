"""What the code of an experiment's results differs in from this checkout's, and recording that it moves no number."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from pipeline.config import Experiment
from pipeline.core.errors import PipelineError
from pipeline.core.files import Damaged, read_record
from pipeline.provenance.code import UNKNOWN, Code, Stage, changes, code_of, digest_of
from pipeline.provenance.folders import training_folder, working_folder
from pipeline.provenance.keeping import CODE_FILE, EVALUATION_CODE_FILE, newest, read_code
from pipeline.provenance.vouchers import covers, vouch
from pipeline.tracking import CODE_TAGS, download, log_vouchers, tags_of_latest

ARTIFACTS: dict[Stage, str] = {"train": CODE_FILE, "evaluate": EVALUATION_CODE_FILE}
MADE: dict[Stage, str] = {
    "train": "fingerprint",
    "evaluate": "evaluation_fingerprint",
    "ood": "ood_fingerprint",
    "stability": "stability_fingerprint",
}
"""The tag that a run has once a stage has left its numbers there."""


@dataclass(frozen=True)
class Difference:
    """What other code has made of an experiment."""

    experiment: Experiment
    run_id: str | None
    """Its MLflow run; None where only checkpoints are there."""
    stages: Mapping[Stage, str]
    """By stage, the digest of the code that made what is there."""
    text: str
    """What has changed since, in lines."""


def differences(experiment: Experiment) -> Difference:
    """Compare the code of an experiment's results with this checkout's: of those that lie in `results/`, or else of the
    latest that MLflow has.

    Raises:
        RequestError, PipelineError: the store is out of reach, or lacks a file of the run.
    """
    found, stages, lines = tags_of_latest(experiment, _in_results(experiment)), dict[Stage, str](), list[str]()
    run_id, tags = found or (None, {})
    for stage, tag in CODE_TAGS.items():
        if stage == "train" and found is None:
            made, code = _of_checkpoints(experiment)
        elif MADE[stage] in tags:
            made, code = tags.get(tag, UNKNOWN), None
        else:
            continue
        now = digest_of(stage, experiment)
        if made in (None, now) or covers(json.loads(tags.get("vouched", "[]")), stage, now, made):
            continue
        assert made is not None
        if code is None and run_id is not None and made != UNKNOWN and stage in ARTIFACTS:
            code = _kept(run_id, ARTIFACTS[stage])
        stages[stage] = made
        lines.append(f"{experiment.identifier}, {stage}: made by {made}, now {now}")
        lines += [f"  {line}" for line in changes(code, code_of(stage, experiment))]
    return Difference(experiment, run_id, stages, "\n".join(lines))


def record(found: Difference, reason: str) -> None:
    """Let what `found` tells of count as this code's; on this machine, and for all who read the run.

    Raises:
        RequestError, PipelineError: the store is out of reach.
    """
    made = [
        vouch(found.experiment, stage, code_of(stage, found.experiment).digest, digest, reason)
        for stage, digest in found.stages.items()
    ]
    if found.run_id is not None:
        log_vouchers(found.run_id, [asdict(one) for one in made])


def _in_results(experiment: Experiment) -> str | None:
    """The code of the training whose weights lie in `results/`, if they are the experiment's and say so."""
    try:
        summary = read_record(training_folder(experiment) / "summary.json")
    except (FileNotFoundError, Damaged):
        return None
    return summary.get("training_code") if summary["fingerprint"] == experiment.fingerprint else None


def _of_checkpoints(experiment: Experiment) -> tuple[str | None, Code | None]:
    """The code of the newest training on this machine, without an MLflow run."""
    folder = working_folder(experiment)
    if files := newest(folder, "*"):
        return files[0].parent.name, read_code(files[0])
    return (UNKNOWN if (folder / "checkpoints").exists() else None), None


def _kept(run_id: str, name: str) -> Code | None:
    with TemporaryDirectory() as folder:
        try:
            download(run_id, [name], Path(folder))
        except PipelineError:
            return None  # an interrupted training has not logged it yet
        return read_code(Path(folder, name))
