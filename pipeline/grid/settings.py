"""Which grid is meant, and what of it is left to do."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from pipeline.config import Experiment, Params, load_params, parse_params
from pipeline.tracking import evaluated


def read_params(suite: str | None, path: Path) -> Params:
    """The file, or a suite composed from conf/ as `stages.compose` does.

    Raises:
        RequestError: there is no such file or suite, or it has mistakes.
    """
    if suite is None:
        return load_params(path)
    import yaml

    from pipeline.config.composing import compose

    return parse_params(yaml.safe_load(compose([f"suite={suite}"], Path("conf"))), f"suite {suite}")


def unfinished(experiments: Iterable[Experiment]) -> list[Experiment]:
    """The experiments that MLflow does not have the numbers of.

    Raises:
        RequestError, PipelineError: as `pipeline.tracking.track`.
    """
    given = list(experiments)
    done = evaluated(given)
    return [one for one in given if one.evaluation_fingerprint not in done]
