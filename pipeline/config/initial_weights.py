"""Weights that a learner starts from: a setting of `params.yaml` that is known by the file's digest."""

from __future__ import annotations

import math
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from pipeline.core.errors import RequestError
from pipeline.core.files import file_digest
from pipeline.core.values import Normalization, StrictModel, is_none

if TYPE_CHECKING:
    from torch import nn

    from pipeline.core.datasets import DataFacts


class InitialWeights(StrictModel):
    """A file of weights. In `params.yaml` its path is enough."""

    source: Literal["weights_file"]
    """Filled in; without it, what reads such files would be code of every experiment (`pipeline.provenance`)."""
    file: Path
    """As `stages.evaluate_weights` takes it. Not part of an experiment's identity, which its digest is."""
    key: str | None = Field(default=None, exclude_if=is_none)
    """The place of the state dict in a file that holds several, such as `ema`."""
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    """The file's digest; left out, that of the file that is there."""

    def require(self) -> None:
        """Refuse a file that is missing or another one.

        Raises:
            RequestError: says which.
        """
        if not self.file.is_file():
            raise RequestError(f"initial weights {self.file}: no such file, expected one with sha256 {self.sha256}")
        found = _digest_of(self.file, *_state(self.file))
        if found != self.sha256:
            raise RequestError(f"initial weights {self.file}: sha256 is {found}, expected {self.sha256}")

    def load_into(self, model: nn.Module, images: DataFacts) -> None:
        """Put the weights into a network for such images.

        Raises:
            RequestError: the file is missing, another one, or not of this network.
        """
        from pipeline.models.matching import load_into
        from pipeline.models.weight_files import read_weights

        self.require()
        load_into(model, read_weights(self.file, self.key), images)

    def check(self, architecture: str, images: DataFacts, normalization: Normalization | None) -> None:
        """Refuse a file that is there and is not of this network, a learner's for such images.

        Raises:
            RequestError: says what does not fit.
        """
        if self.file.is_file():
            self.require()
            _check(self.file, _state(self.file), self.key, architecture, images, _constants(normalization))


def _with_digest(given: Any) -> Any:
    """A path as a mapping, and the digest where it is not given. Raises ValueError where there is no such file."""
    if not isinstance(given, str | dict):
        return given
    content = {"source": "weights_file", **({"file": given} if isinstance(given, str) else given)}
    if "sha256" in content or not isinstance(content.get("file"), str):
        return content
    path = Path(content["file"])
    if not path.is_file():
        raise ValueError(f"no such file: {path}")
    return {**content, "sha256": _digest_of(path, *_state(path))}


AnyInitialWeights = Annotated[InitialWeights, BeforeValidator(_with_digest)]


def _state(path: Path) -> tuple[int, int]:
    state = path.stat()
    return state.st_mtime_ns, state.st_size


@lru_cache(maxsize=64)
def _digest_of(path: Path, written: int, size: int) -> str:
    return file_digest(path)


Constants = tuple[tuple[float, ...], tuple[float, ...]]


def _constants(normalization: Normalization | None) -> Constants | None:
    return None if normalization is None else (tuple(normalization.mean), tuple(normalization.std))


@lru_cache(maxsize=64)
def _check(
    path: Path, state: tuple[int, int], key: str | None, architecture: str, images: DataFacts, own: Constants | None
) -> None:
    from pipeline.models import ARCHITECTURES
    from pipeline.models.matching import check_fit, normalization_of
    from pipeline.models.weight_files import read_weights

    weights = read_weights(path, key)
    check_fit(architecture, weights, images)
    theirs = _constants(normalization_of(weights, images.channels))
    if theirs is None or ARCHITECTURES[architecture].standardises:
        return
    pairs = [] if own is None else zip(own[0] + own[1], theirs[0] + theirs[1], strict=True)
    if own is None or not all(math.isclose(one, other, abs_tol=1e-4) for one, other in pairs):
        raise RequestError(
            f"{path}: was trained behind a normalisation layer, so model.normalization must be "
            f"{{mean: {list(theirs[0])}, std: {list(theirs[1])}}}"
        )
