"""The evidence of a suite on disk: small enough to be committed, whole enough that every number follows from it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from pipeline.core.files import atomic_write, read_frame, write_json, write_text
from pipeline.provenance.code import UNKNOWN
from pipeline.reporting.intervals import Verdicts

FILE = "reproduction.json"


@dataclass(frozen=True)
class Setting:
    """One setting of one study of the grid."""

    study: str
    method: str
    """A key of `methods`: what was varied."""
    text: str
    """The setting as a reader sees it."""
    name: str
    """The name of its experiments; the method's own where it changes nothing."""


@dataclass(frozen=True)
class Run:
    """One experiment with one seed: what was measured, and where it comes from."""

    name: str
    seed: int
    run_id: str
    fingerprint: str
    evaluation_fingerprint: str
    commit: str
    device: str
    """What it was trained on: 'cpu' or 'cuda:0'."""
    torch: str
    seconds: float
    """Seconds of all training steps."""
    metrics: Mapping[str, float]
    """Accuracies in [0, 1]."""
    images: Mapping[str, int]
    """Test images by metric."""
    masking: str
    """Whether there are signs of gradient masking: 'suspected' or 'no sign'."""
    training_code: str = UNKNOWN
    """Digest of the code that trained it."""
    evaluation_code: str = UNKNOWN

    @property
    def identifier(self) -> str:
        """As the experiment's."""
        return f"{self.name}-{self.seed}"


@dataclass(frozen=True)
class Suite:
    """What was run."""

    suite: str
    protocol: str
    dataset: str
    architecture: str
    description: str
    seeds: list[int]
    methods: Mapping[str, str]
    """Labels by key, in the order of the file."""
    attacks: Mapping[str, Mapping[str, Any]]
    """Settings by metric."""


@dataclass(frozen=True)
class Record:
    """All that is known of a suite."""

    suite: Suite
    settings: list[Setting]
    runs: list[Run]
    verdicts: Verdicts
    curves: Mapping[str, pd.DataFrame]
    """By the run's identifier: a row per epoch, the columns that training records."""
    experiments: Mapping[str, Mapping[str, Any]]
    """By the run's identifier: all settings, resolved."""

    def of(self, name: str) -> list[Run]:
        """The runs of an experiment, by seed."""
        return sorted((run for run in self.runs if run.name == name), key=lambda run: run.seed)

    @property
    def names(self) -> list[str]:
        """All experiments, whether or not they have runs: the methods, then the settings of the grid."""
        return list(dict.fromkeys([*self.suite.methods, *(one.name for one in self.settings)]))

    def label(self, name: str) -> str:
        """What a reader calls an experiment."""
        if name in self.suite.methods:
            return self.suite.methods[name]
        setting = next(one for one in self.settings if one.name == name)
        return f"{self.suite.methods[setting.method]}, {setting.study.replace('_', ' ')}: {setting.text}"

    def name(self, study: str, method: str, text: str) -> str:
        """The experiments of a setting; "" where the grid has no such setting."""
        found = (one.name for one in self.settings if (one.study, one.method, one.text) == (study, method, text))
        return next(found, "")


def write_record(record: Record, folder: Path) -> list[Path]:
    """Write the evidence to `folder`; equal records give equal bytes.

    Returns:
        The files: `reproduction.json`, and for every run `verdicts/<run>.parquet`, `curves/<run>.csv` and
        `experiments/<run>.yaml`; such files of other runs are removed.
    """
    written = [folder / FILE]
    content = {
        "suite": asdict(record.suite),
        "settings": [asdict(one) for one in record.settings],
        "runs": [asdict(one) for one in record.runs],
    }
    for run in record.runs:
        name = run.identifier
        paths = {kind: folder / kind / f"{name}.{end}" for kind, end in KINDS.items()}
        with atomic_write(paths["verdicts"]) as stream:
            record.verdicts[run.name][run.seed].to_parquet(stream, compression="zstd")
        write_text(paths["curves"], record.curves[name].to_csv(index=False, lineterminator="\n"))
        write_text(paths["experiments"], yaml.safe_dump(dict(record.experiments[name]), sort_keys=False))
        written += paths.values()
    write_json(folder / FILE, content)
    for kind, end in KINDS.items():
        for path in set((folder / kind).glob(f"*.{end}")) - set(written):
            path.unlink()
    return written


KINDS = {"verdicts": "parquet", "curves": "csv", "experiments": "yaml"}


def read_record(folder: Path) -> Record:
    """What `write_record` wrote."""
    content = json.loads((folder / FILE).read_text(encoding="utf-8"))
    runs = [Run(**one) for one in content["runs"]]
    verdicts: Verdicts = {}
    for run in runs:
        frame = read_frame(folder / f"verdicts/{run.identifier}.parquet")
        verdicts.setdefault(run.name, {})[run.seed] = frame
    return Record(
        Suite(**content["suite"]),
        [Setting(**one) for one in content["settings"]],
        runs,
        verdicts,
        {run.identifier: pd.read_csv(folder / f"curves/{run.identifier}.csv") for run in runs},
        {run.identifier: yaml.safe_load((folder / f"experiments/{run.identifier}.yaml").read_text()) for run in runs},
    )


def read_records(reports: Path) -> dict[Path, Record]:
    """Every suite's evidence below the folder `reports`, by its folder, in order of their names."""
    return {path.parent: read_record(path.parent) for path in sorted(reports.glob(f"*/*/{FILE}"))}
