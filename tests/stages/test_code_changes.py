"""Through the stages, on a copy of the package that is edited: a changed number is never served from what was there."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pipeline.core.files import file_digest
from tests.conftest import REPOSITORY, content_of
from tests.stages.conftest import Finished, MakeWorkplace, Workplace

ROBUST, MIXED = "trades_6", "generalist_d_nt_linf"
TRADES = "pipeline/objectives/trades.py"


def shrink(content: dict[str, Any]) -> None:
    """Two methods of two epochs, and few attacked images."""
    whole = content_of("competitors=all")
    content["methods"] = {ROBUST: whole["methods"][ROBUST], MIXED: content["methods"][MIXED]}
    content["training"]["epochs"] = 2
    for entry in content["methods"].values():
        for learner in entry["learners"].values():
            learner["schedule"] = {"epochs": [0, 2], "values": [1, 0.1]}
    mixture = content["methods"][MIXED]["mixture"]
    ratios = {name: [values[0], values[-1]] for name, values in mixture["mixing_ratios"].items()}
    mixture.update(breakpoints=[0, 2], mixing_ratios=ratios, warmup_epochs=1, communication_interval=1)
    table = content["tables"]["table1"] | {"rows": [ROBUST, MIXED]}
    table["columns"] = [{"metric": "pgd20_linf", "label": "PGD-20"}, {"metric": "natural", "label": "Natural"}]
    content["tables"] = {"table1": table}
    content["figures"], content["ablation"] = {}, {"studies": {}}
    pgd = content["evaluation"]["attacks"]["pgd20_linf"] | {"images": 8}
    content["evaluation"] |= {"attacks": {"pgd20_linf": pgd, "pgd_l2": pgd | {"norm": "l2"}}}
    content["evaluation"]["union"] = ["pgd20_linf", "pgd_l2"]


@dataclass(frozen=True)
class Project:
    """A copy of the package where stages run, and whose source may be edited for a while."""

    place: Workplace

    @property
    def folder(self) -> Path:
        return self.place.folder

    def run(self, stage: str, *arguments: str) -> Finished:
        finished = self.place.run(stage, *arguments, PYTHONPATH=str(self.folder))
        finished.expect(0)
        return finished

    def train(self, method: str = ROBUST) -> str:
        """What training says."""
        return self.run("train", method, "--seed", "1").out

    def weights(self) -> str:
        return file_digest(self.folder / f"results/digits/{ROBUST}-1/train/model.safetensors")

    def trained(self) -> dict[str, Any]:
        text = (self.folder / f"results/digits/{ROBUST}-1/train/summary.json").read_text()
        return json.loads(text)  # type: ignore[no-any-return]

    @contextmanager
    def edited(self, file: str, old: str, new: str) -> Iterator[None]:
        """Source with a text replaced."""
        path = self.folder / file
        before = path.read_text()
        assert before.count(old) == 1, f"{file} has {before.count(old)} times: {old}"
        path.write_text(before.replace(old, new))
        try:
            yield
        finally:
            path.write_text(before)


@pytest.fixture(scope="module")
def project(make_workplace: MakeWorkplace) -> Project:
    """Both methods trained and evaluated by the code as it is."""
    made = Project(make_workplace(shrink))
    for name in ("pipeline", "stages"):
        shutil.copytree(REPOSITORY / name, made.folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for method in (ROBUST, MIXED):
        made.train(method)
        made.run("evaluate", method, "--seed", "1")
    return made


CHANGE = (TRADES, "return Losses(loss, adv", "return Losses(10 * loss, adv")
"""A line of every other module: tests/provenance/test_code.py."""
CHANGED = f"{TRADES} (Trades.__call__)"


def test_a_changed_line_trains_anew_and_says_which(project: Project) -> None:
    before, code = project.weights(), project.trained()["training_code"]
    with project.edited(*CHANGE):
        said = project.train()
    assert f"{ROBUST}-1: trained anew, since code has changed: {CHANGED}" in said, said
    assert project.trained()["training_code"] != code
    assert project.weights() != before
    again = project.train()
    assert "anew" not in again and "epoch 1/2" not in again, "what the first code made is still there"
    assert project.weights() == before and project.trained()["training_code"] == code


def test_a_changed_comment_and_what_only_other_methods_reach_train_nothing(project: Project) -> None:
    before = project.weights()
    remark = ('    """KL(p(x) || p(x\')), ', '    # A remark.\n    """The divergence KL(p(x) || p(x\')), ')
    of_another = ("pipeline/objectives/score.py", "class ", "FACTOR = 2\n\n\nclass ")
    with project.edited(TRADES, *remark), project.edited(*of_another):
        said = project.train()
    assert "anew" not in said and "epoch 1/2" not in said and project.weights() == before


def test_weights_of_other_code_are_not_evaluated(project: Project) -> None:
    with project.edited(*CHANGE):
        refused = project.place.run("evaluate", ROBUST, "--seed", "1", PYTHONPATH=str(project.folder))
    refused.expect(2, "were trained by other code", CHANGED, "python -m stages.train trades_6 --seed 1")


def test_a_changed_evaluation_measures_anew(project: Project) -> None:
    metrics = project.folder / f"results/digits/{ROBUST}-1/evaluate/metrics.json"
    before = json.loads(metrics.read_text())
    with project.edited("pipeline/evaluation/verdicts.py", "float(value)", "1 - float(value)"):
        said = project.run("evaluate", ROBUST, "--seed", "1").out
        changed = json.loads(metrics.read_text())
    assert f"{ROBUST}-1: evaluated anew, since code has changed: pipeline/evaluation/verdicts.py (accuracies)" in said
    assert changed["metrics"] != before["metrics"] and changed["evaluation_code"] != before["evaluation_code"]
    project.run("evaluate", ROBUST, "--seed", "1")
    assert json.loads(metrics.read_text())["metrics"] == before["metrics"]


def table(project: Project) -> str:
    project.run("tables")
    return (project.folder / "reports/digits/small_cnn/tables/table1.md").read_text()


def test_tables_and_explain_say_that_other_code_made_a_number(project: Project) -> None:
    assert "other code" not in table(project)
    with project.edited(*CHANGE):
        text = table(project)
        told = project.run("explain", f"table1:{ROBUST}:pgd20_linf").out
    row = next(line for line in text.splitlines() if line.startswith("| TRADES"))
    assert any(letter.isdigit() for letter in row), "the number of the other code is shown"
    assert "Made by other code, not by this checkout's: `dvc repro` measures it anew" in text
    assert "other code" in told and CHANGED in told
    told = project.run("explain", f"table1:{ROBUST}:pgd20_linf").out
    assert told.count("this code") == 2 and project.trained()["training_code"] in told


def test_somebody_may_vouch_for_a_change(project: Project) -> None:
    file, reason = TRADES, ("--reason", "an option has a name")
    code, before = project.trained()["training_code"], project.weights()
    with project.edited(file, ".sum(1)", ".sum(dim=1)"):
        assert (
            f"{ROBUST}-1, train: made by {code}"
            in project.place.run(
                "vouch", ROBUST, "--reason", "an option has a name", PYTHONPATH=str(project.folder)
            ).out
        )
        said = project.run("vouch", ROBUST, "--reason", "an option has a name", "--yes").out
        assert f"vouched for {ROBUST}-1" in said
        assert "anew" not in project.train() and project.weights() == before
        assert project.trained()["training_code"] == code
        assert "other code" not in table(project)
        told = project.run("explain", f"table1:{ROBUST}:natural").out
        assert "an option has a name" in told and "vouched for" in told
        assert "nothing to vouch for" in project.run("vouch", ROBUST, *reason, "--yes").out
    with project.edited(file, ".sum(1)", ".mean(1)"):
        assert "trained anew" in project.train(), "another change is not vouched for"
    project.train()


def test_runs_from_before_digests_are_shown_as_such_and_kept(project: Project) -> None:
    """The layout and the tags of the version before: no digest anywhere."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{project.folder}/mlflow.db")
    (experiment,) = [one for one in client.search_experiments() if one.name.startswith("generalist/")]
    runs = client.search_runs([experiment.experiment_id], "tags.method = 'generalist_d_nt_linf'")
    for run in runs:
        for tag in {"training_code", "evaluation_code"} & run.data.tags.keys():
            client.delete_tag(run.info.run_id, tag)
    (fingerprint,) = {run.data.tags["fingerprint"] for run in runs}
    folder = project.folder / "runs" / fingerprint
    kept = next(path for path in folder.iterdir() if (path / "checkpoints").exists())
    for path in kept.iterdir():
        path.rename(folder / path.name)
    (folder / "code.json").unlink()
    for path in folder.iterdir():
        if path.is_dir() and (path / "code.json").exists():
            shutil.rmtree(path)
    shutil.rmtree(kept, ignore_errors=True)
    shutil.rmtree(project.folder / f"results/digits/{MIXED}-1")  # what lies there is logged anew
    assert "Made by unknown code, not by this checkout's" in table(project)
    said = project.train(MIXED)
    assert f"{MIXED}-1: trained anew, runs/{fingerprint}/checkpoints does not say which code made it" in said
    assert list((folder / "checkpoints").glob("*.pt")), "they are kept"
    assert len(client.search_runs([experiment.experiment_id], "tags.method = 'generalist_d_nt_linf'")) == len(runs) + 1
