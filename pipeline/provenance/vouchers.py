"""Statements that a change of the code moves no number of an experiment, and who made them.

For people with weeks of a GPU at stake: results of the former code go on counting, and interrupted ones are continued.
A statement stands beside the checkpoints, and on the experiment's MLflow run as the tag `vouched`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.core.files import read_record, write_record
from pipeline.provenance.commit import user_name
from pipeline.provenance.folders import working_folder

if TYPE_CHECKING:
    from pipeline.config import Experiment
    from pipeline.provenance.code import Stage


@dataclass(frozen=True)
class Voucher:
    """One statement: for this stage of an experiment, `code` gives the same numbers as `same_as`."""

    stage: str
    code: str
    """Digest of the newer code."""
    same_as: str
    """Digest of the code that made the results."""
    who: str
    when: str
    """UTC, ISO 8601."""
    reason: str


def vouchers(experiment: Experiment) -> list[Voucher]:
    """The statements on an experiment, the oldest first.

    Raises:
        RequestError: their file is damaged.
    """
    try:
        return [Voucher(**one) for one in read_record(_path(experiment))["vouchers"]]
    except FileNotFoundError:
        return []


def vouch(experiment: Experiment, stage: Stage, code: str, same_as: str, reason: str) -> Voucher:
    """Record that `code` gives the same results as the code `same_as`.

    Raises:
        RequestError: the file of earlier statements is damaged.
    """
    made = Voucher(stage, code, same_as, user_name(), datetime.now(UTC).isoformat(timespec="seconds"), reason)
    write_record(_path(experiment), {"vouchers": [asdict(one) for one in [*vouchers(experiment), made]]})
    return made


def original(stage: str, experiment: Experiment, digest: str) -> str:
    """The digest of the first code that gave the numbers of the code `digest`: itself, where nobody has vouched."""
    return _first(digest, ((one.code, one.same_as) for one in vouchers(experiment) if one.stage == stage))


def covers(statements: Iterable[dict[str, Any]], stage: str, digest: str, made_by: str) -> bool:
    """Whether statements as a run's tag has them say that results of `made_by` are those of the code `digest`."""
    return _first(digest, ((one["code"], one["same_as"]) for one in statements if one["stage"] == stage)) == made_by


def _first(digest: str, same: Iterable[tuple[str, str]]) -> str:
    known = dict(same)
    seen: set[str] = set()
    while digest in known and digest not in seen:
        seen.add(digest)
        digest = known[digest]
    return digest


def _path(experiment: Experiment) -> Path:
    return working_folder(experiment) / "vouched.json"
