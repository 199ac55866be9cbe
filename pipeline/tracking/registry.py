"""MLflow's model registry."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from pipeline.core.errors import PipelineError
from pipeline.tracking.store import check_reachable, reported, tracking_uri

if TYPE_CHECKING:
    import numpy as np
    from mlflow import MlflowClient
    from torch import nn
LONGEST_CARD = 5000
"""Characters of a description that MLflow keeps in every database; the run's README.md has the whole."""


@dataclass(frozen=True)
class RegisteredModel:
    """A version in MLflow's model registry."""

    name: str
    version: str
    alias: str
    """Names the version that was registered last with it: 'models:/<name>@<alias>'."""

    @property
    def uri(self) -> str:
        """What `mlflow.pytorch.load_model` and `mlflow.pyfunc.load_model` take."""
        return f"models:/{self.name}/{self.version}"


def register_model(
    run_id: str, model: nn.Module, example: np.ndarray, name: str, alias: str, tags: Mapping[str, str], card: str
) -> RegisteredModel:
    """Save a network with its run and register it, once: equal `tags` of the same run give the version that is there.

    The network is saved as a traced graph (pt2), not as a pickle: loading it runs no code and needs no project. Loaded
    with either flavour it gives logits for float32 images, which is checked on the example.

    Args:
        model: In eval mode, on the CPU.
        example: Two or more images, float32 in [0, 1], of shape (batch, channels, height, width).
        alias: Moves to this version.

    Raises:
        PipelineError: the loaded network gives other logits; the version is then gone.
    """
    uri = tracking_uri()
    check_reachable(uri)
    import mlflow
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    with reported(uri):
        mlflow.set_tracking_uri(uri)
        client = MlflowClient(tracking_uri=uri, registry_uri=uri)
        try:
            client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        versions = client.search_model_versions(f"name = '{name}'")
        same = [item for item in versions if item.run_id == run_id and tags.items() <= item.tags.items()]
        if not same:
            _save_model(client, run_id, model, example)
            source = f"{client.get_run(run_id).info.artifact_uri}/model"
            same = [client.create_model_version(name, source, run_id, tags=dict(tags))]
        registered = RegisteredModel(name, str(same[0].version), alias)
        try:
            _check_loaded(registered, model, example)
        except PipelineError:
            client.delete_model_version(name, registered.version)
            raise
        client.set_registered_model_alias(name, alias, registered.version)
        client.log_text(run_id, card, "README.md")
        client.update_model_version(name, registered.version, card[:LONGEST_CARD])
        client.update_registered_model(name, card[:LONGEST_CARD])
    return registered


def _save_model(client: MlflowClient, run_id: str, model: nn.Module, example: np.ndarray) -> None:
    import numpy as np
    from mlflow.models import ModelSignature
    from mlflow.pytorch import save_model
    from mlflow.types import Schema, TensorSpec

    classes = _logits(model, example).shape[1]
    signature = ModelSignature(
        Schema([TensorSpec(np.dtype("float32"), (-1, *example.shape[1:]))]),
        Schema([TensorSpec(np.dtype("float32"), (-1, classes))]),
    )
    pinned = [f"{package}=={version(package).partition('+')[0]}" for package in ("mlflow", "numpy", "torch")]
    with TemporaryDirectory() as folder:
        place = f"{folder}/model"
        save_model(
            model,
            place,
            signature=signature,
            input_example=example,
            pip_requirements=pinned,
            serialization_format="pt2",
        )
        client.log_artifacts(run_id, place, "model")


def _check_loaded(registered: RegisteredModel, model: nn.Module, example: np.ndarray) -> None:
    import mlflow.pyfunc
    import mlflow.pytorch
    import numpy as np

    expected = _logits(model, example)
    loaded = {
        "mlflow.pytorch": _logits(mlflow.pytorch.load_model(registered.uri), example),
        "mlflow.pyfunc": mlflow.pyfunc.load_model(registered.uri).predict(example),
    }
    for flavour, logits in loaded.items():
        if not np.allclose(logits, expected, rtol=1e-4, atol=1e-5):
            raise PipelineError(
                f"{registered.uri} loaded with {flavour} differs from the weights by up to "
                f"{np.abs(logits - expected).max():.3g} in its logits: it was taken off the registry; export it again"
            )


def _logits(model: nn.Module, images: np.ndarray) -> np.ndarray:
    import torch

    with torch.no_grad():
        logits: np.ndarray = model(torch.from_numpy(images)).numpy()
    return logits
