"""The model registry."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.core.errors import PipelineError
from pipeline.tracking import register_model, tracking_uri
from tests.tracking.results import artifacts, only_run, train_and_evaluate, write_results


def test_a_model_that_loads_as_another_one_is_not_registered(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import mlflow.pytorch
    import torch
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    train_and_evaluate(write_results(store / "results"))
    before, run, client = mlflow.get_tracking_uri(), only_run().info.run_id, MlflowClient(tracking_uri())
    model, example = torch.nn.Flatten(), torch.rand(2, 1, 2, 2).numpy()
    other = torch.nn.Sequential(model, torch.nn.Linear(4, 4))
    try:
        with (
            monkeypatch.context() as patch,
            pytest.raises(PipelineError, match=r"differs .* was taken off the registry"),
        ):
            patch.setattr(mlflow.pytorch, "load_model", lambda uri: other)
            register_model(run, model, example, "small-nt", "seed-0", {}, "# A card")
        assert client.search_model_versions("name = 'small-nt'") == []
        with pytest.raises(MlflowException, match="alias"):
            client.get_model_version_by_alias("small-nt", "seed-0")
        registered = register_model(run, model, example, "small-nt", "seed-0", {}, "# A card" + 6000 * "!")
        found = client.get_model_version_by_alias("small-nt", "seed-0")
        assert str(found.version) == registered.version and found.description == ("# A card" + 6000 * "!")[:5000]
        assert client.get_registered_model("small-nt").description == found.description
        assert "README.md" in artifacts(only_run())
    finally:
        mlflow.set_tracking_uri(before)
