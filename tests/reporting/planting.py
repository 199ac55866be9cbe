"""Runs in a real MLflow store whose numbers tests choose: from files, as the report logs them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.config import Experiment
from pipeline.evaluation.verdicts import verdict_frame
from pipeline.provenance.code import code_of, digest_of
from pipeline.tracking import ensure_logged


def plant(
    folder: Path,
    experiment: Experiment,
    metrics: Mapping[str, float],
    history: Sequence[Mapping[str, float]] = (),
    classes: Mapping[str, Sequence[float]] | None = None,
    verdicts: pd.DataFrame | None = None,
) -> None:
    """Log one finished run.

    Args:
        folder: An empty place for its files.
        experiment: Whose run it is.
        metrics: Accuracies in [0, 1] by the name of the metric.
        history: A record per epoch; `epoch` is there. The last epoch is the selected one.
        classes: The accuracies of the classes, by attack.
        verdicts: As `evaluate` writes them; None: two images that are always right.
    """
    names = {"natural": 0.5, **metrics}
    rows = [
        {"attack": attack, "label": label, "images": 10, "accuracy": accuracy, "low": 0.0, "high": 1.0}
        for attack, accuracies in (classes or {}).items()
        for label, accuracy in enumerate(accuracies)
    ]
    contents: dict[str, Any] = {
        "train/summary.json": {
            "fingerprint": experiment.fingerprint,
            "data_digest": "0" * 64,
            "weights_sha256": experiment.fingerprint,
            "selected_epoch": len(history),
            "seconds": 1.0,
            "device": "cpu",
            "torch": "2.0",
            "git_commit": "c0ffee",
            "training_code": digest_of("train", experiment),
        },
        "train/history.json": list(history),
        "evaluate/metrics.json": {
            "evaluation_fingerprint": experiment.evaluation_fingerprint,
            "evaluation_code": digest_of("evaluate", experiment),
            "metrics": names,
            "counts": dict.fromkeys(names, 360),
            "intervals": {name: [value, value] for name, value in names.items()},
        },
        "train/code.json": code_of("train", experiment).as_json(),
        "evaluate/evaluation_code.json": code_of("evaluate", experiment).as_json(),
        "evaluate/trust.json": {"suspicious": False, "signs": []},
    }
    for name in ("train", "evaluate"):
        (folder / name).mkdir(parents=True)
    for path, content in contents.items():
        (folder / path).write_text(json.dumps(content))
    (folder / "train/model.safetensors").write_bytes(b"weights")
    if verdicts is None:
        attacks = ("natural", *experiment.evaluation.attacks)
        verdicts = pd.concat([verdict_frame(attack, [0, 1], [0, 1]) for attack in attacks])
    verdicts.to_parquet(folder / "evaluate/verdicts.parquet", index=False)
    frame = pd.DataFrame(rows, columns=["attack", "label", "images", "accuracy", "low", "high"])
    frame.to_csv(folder / "evaluate/classes.csv", index=False)
    assert ensure_logged(experiment, folder)
