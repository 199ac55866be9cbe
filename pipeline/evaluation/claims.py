"""What others say of a model, in the form of RobustBench's model_info, held against what is measured here."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import AliasChoices, BaseModel, Field, ValidationError

from pipeline.config import EvaluationSettings
from pipeline.core.errors import RequestError
from pipeline.core.values import Budget
from pipeline.evaluation.attacks.autoattack import AutoAttack
from pipeline.evaluation.statistics import wilson

Percent = Annotated[float, Field(ge=0, le=100)]


class Claims(BaseModel):
    """A leaderboard's entry; what else it says is left aside."""

    dataset: str
    architecture: str = "not named"
    eps: Budget | None = None
    clean_acc: Percent
    autoattack_acc: Percent | None = Field(default=None, validation_alias=AliasChoices("autoattack_acc", "external"))
    """Or, where AutoAttack was not run, what another attack has found."""


@dataclass(frozen=True)
class Held:
    """One claimed accuracy beside the measured one, both in [0, 1]."""

    what: str
    claimed: float
    measured: float
    low: float
    high: float
    """The ends of the measured one's 95% interval."""
    images: int
    agrees: bool
    """Whether the claim lies in the interval."""

    def __str__(self) -> str:
        relation = "in" if self.agrees else "outside"
        return (
            f"{self.what}: claimed {self.claimed:.2%}, {relation} the 95% interval of what was measured, "
            f"{self.measured:.2%} ({self.low:.2%} to {self.high:.2%}, {self.images:,} images)"
        )


def read_claims(path: Path, dataset: str) -> Claims:
    """Read a file of claims about a model of a data set.

    Raises:
        RequestError: there is no such file, it is no such entry, or it is about another data set.
    """
    try:
        claims = Claims.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise RequestError(f"{path}: cannot be read ({error.strerror}); expected a RobustBench model_info") from None
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the whole"
        raise RequestError(f"{path}: is no RobustBench model_info: {place}: {first['msg']}") from None
    except (ValueError, RecursionError) as error:
        raise RequestError(f"{path}: is not JSON ({' '.join(str(error).split())[:200]})") from None
    if claims.dataset.lower().replace("-", "") != dataset:
        raise RequestError(f"{path}: is about '{claims.dataset}', params.yaml has the data set '{dataset}'")
    return claims


def hold(
    claims: Claims, settings: EvaluationSettings, metrics: Mapping[str, float], counts: Mapping[str, int]
) -> Iterator[Held | str]:
    """Every claimed accuracy beside the measured one, or, in words, why there is none.

    Args:
        claims: What is said.
        settings: Which attacks were run.
        metrics: Accuracies in [0, 1] by metric.
        counts: Numbers of images by metric.
    """
    yield _held("natural", claims.clean_acc, "natural", metrics, counts)
    if claims.autoattack_acc is None or claims.eps is None:
        return
    standard = {name: one for name, one in settings.attacks.items() if isinstance(one, AutoAttack)}
    found = [name for name, one in standard.items() if math.isclose(one.epsilon, claims.eps, rel_tol=1e-6)]
    if not found:
        radii = ", ".join(f"{name} has {one.epsilon:.5g}" for name, one in standard.items()) or "it was not run"
        yield f"AutoAttack at {claims.eps:.5g}: claimed {claims.autoattack_acc / 100:.2%}, not measured ({radii})"
    for name in found:
        differences = "; ".join(standard[name].differences())
        what = f"{name}, not the standard ensemble ({differences})" if differences else name
        yield _held(what, claims.autoattack_acc, name, metrics, counts)


def _held(what: str, percent: float, metric: str, metrics: Mapping[str, float], counts: Mapping[str, int]) -> Held:
    measured, claimed = metrics[metric], percent / 100
    low, high = wilson(measured, counts[metric])
    return Held(what, claimed, measured, low, high, counts[metric], low <= claimed <= high)
