"""What the report says about one experiment, from the files of its MLflow run."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import pandas as pd
import yaml
from markupsafe import Markup

from pipeline.config import Experiment
from pipeline.core.errors import PipelineError
from pipeline.data.split import Split
from pipeline.evaluation.attacks.pgd import PGDAttack
from pipeline.provenance.code import UNKNOWN
from pipeline.reporting.examples import NATURAL, Pictures, View, choose, shown_attacks
from pipeline.reporting.page.charts import LineChart, line_chart
from pipeline.reporting.page.text import describe, heat, html, picture
from pipeline.tracking import read_artifacts

CLASSES_SHOWN = 100
"""How many classes are shown: of data sets with more, those with the lowest accuracy."""


@dataclass(frozen=True)
class Accuracy:
    """One metric."""

    name: str
    label: Markup
    value: float
    low: float
    high: float
    images: int


@dataclass(frozen=True)
class Costs:
    """What an experiment cost."""

    device: str
    epochs: int
    training_seconds: float
    images_per_second: float
    """Median over the epochs."""
    evaluation_seconds: float


@dataclass(frozen=True)
class ClassRow:
    """The accuracies of one class, by attack."""

    name: str
    values: list[float | None]


@dataclass(frozen=True)
class ExampleView:
    """One image under one attack."""

    attack: str
    picture: str
    map: str
    predicted: str
    correct: bool
    differs: bool
    """The class that the evaluation saw is another one."""


@dataclass(frozen=True)
class Example:
    """One test image."""

    image: int
    label: str
    views: list[ExampleView]

    @property
    def differs(self) -> bool:
        """Whether the evaluation saw another class under any attack."""
        return any(view.differs for view in self.views)


@dataclass
class ExperimentPage:
    """One experiment."""

    experiment: Experiment
    label: str
    command: str
    """What measures it, or measures it again."""
    address: str = ""
    """The address of its MLflow run; "" where there is none."""
    problem: str = ""
    """Why the page has no more than its settings."""
    accuracies: list[Accuracy] = field(default_factory=list)
    costs: Costs | None = None
    facts: dict[str, str] = field(default_factory=dict)
    charts: list[LineChart] = field(default_factory=list)
    class_attacks: list[str] = field(default_factory=list)
    classes: list[ClassRow] = field(default_factory=list)
    classes_left_out: int = 0
    signs: list[dict[str, str]] = field(default_factory=list)
    examples: list[Example] = field(default_factory=list)
    examples_problem: str = ""

    @property
    def anchor(self) -> str:
        """Where it is on the page."""
        return f"experiment-{self.experiment.identifier}"

    @property
    def attacks(self) -> dict[str, PGDAttack]:
        """The attacks whose images are shown."""
        return shown_attacks(self.experiment.evaluation)

    @property
    def settings(self) -> str:
        """The method as `params.yaml` has it."""
        return _yaml(self.experiment.method.model_dump(mode="json", exclude_none=True))

    @property
    def shared_settings(self) -> str:
        """All else that decides about its numbers."""
        content = self.experiment.model_dump(mode="json", exclude={"method", "suite", "name"})
        return _yaml(content)


def _yaml(content: Any) -> str:
    text: str = yaml.safe_dump(content, sort_keys=False, default_flow_style=None, width=100, allow_unicode=True)
    return text


@dataclass(frozen=True)
class RunFiles:
    """The files of runs, by run; those that are missing or damaged are left out."""

    histories: dict[str, list[dict[str, float]]]
    summaries: dict[str, dict[str, Any]]
    metrics: dict[str, dict[str, Any]]
    trust: dict[str, dict[str, Any]]
    classes: dict[str, pd.DataFrame]

    @classmethod
    def read(cls, run_ids: Collection[str]) -> RunFiles:
        """All files of all runs: one kind after the other, several runs at a time.

        Raises:
            PipelineError: the store is out of reach.
        """
        histories, summaries, metrics, trust = (
            read_artifacts(run_ids, f"{name}.json", _if_whole(lambda path: json.loads(path.read_text())))
            for name in ("history", "summary", "metrics", "trust")
        )
        classes = read_artifacts(run_ids, "classes.csv", _if_whole(pd.read_csv))
        return cls(histories, summaries, metrics, trust, classes)

    def __contains__(self, run_id: str) -> bool:
        """Whether all of a run's files are there."""
        return all(run_id in files for files in vars(self).values())


def _if_whole(read: Callable[[Path], Any]) -> Callable[[Path], Any]:
    """None instead of a failure, so that a damaged file is one that is missing."""

    def attempt(path: Path) -> Any:
        try:
            return read(path)
        except ValueError:
            return None

    return attempt


def experiment_page(
    experiment: Experiment, run: pd.Series | None, files: RunFiles, pictures: Pictures, count: int
) -> ExperimentPage:
    """The page of one experiment.

    Args:
        experiment: Which one.
        run: Its row in `finished_runs`; None where it has none.
        files: Of all runs.
        pictures: The test images.
        count: How many of them are shown; 0 for none.
    """
    command = f"dvc repro evaluate@{experiment.identifier}"
    page = ExperimentPage(experiment, experiment.method.label, command)
    if run is None:
        page.problem = f"Not measured yet: `{command}`."
        return page
    page.address = run["page"]
    if run["run_id"] not in files:
        stages = f"train@{experiment.identifier} evaluate@{experiment.identifier}"
        page.problem = f"MLflow lacks files of this run, or they are damaged: `dvc repro --force {stages}`."
        return page
    _fill(page, run["run_id"], files)
    page.facts["Code"] = f"{files.summaries[run['run_id']].get('training_code', UNKNOWN)}, {run['made_by']}"
    _add_examples(page, run["run_id"], pictures, count)
    return page


def _fill(page: ExperimentPage, run_id: str, files: RunFiles) -> None:
    experiment, summary = page.experiment, files.summaries[run_id]
    history, metrics = files.histories[run_id], files.metrics[run_id]
    page.accuracies = list(_accuracies(experiment, metrics))
    page.costs = Costs(
        device=str(summary["device"]),
        epochs=int(summary["epochs"]),
        training_seconds=float(summary["seconds"]),
        images_per_second=median(record["images_per_second"] for record in history),
        evaluation_seconds=float(metrics["seconds"]),
    )
    page.facts = {
        "Network": experiment.architecture,
        "Protocol": experiment.protocol.replace("_", " "),
        "Seed": str(experiment.seed),
        "Selected epoch": f"{summary['selected_epoch']} of {summary['epochs']}",
        "Device": str(summary["device"]),
        "Versions": f"Python {summary['python']}, torch {summary['torch']}",
        "Commit": str(summary["git_commit"])[:12],
        "Fingerprint": experiment.fingerprint,
    }
    page.charts = list(_charts(history, int(summary["selected_epoch"])))
    page.class_attacks = list(dict.fromkeys([NATURAL, *page.attacks, *experiment.evaluation.union]))
    page.classes, page.classes_left_out = _classes(experiment, files.classes[run_id], page.class_attacks)
    page.signs = files.trust[run_id]["signs"]


def _accuracies(experiment: Experiment, metrics: dict[str, Any]) -> Iterator[Accuracy]:
    attacks = experiment.evaluation.attacks
    members = ", ".join(f"`{name}`" for name in experiment.evaluation.union)
    words = {NATURAL: "as they are", "union": f"mean of {members}", "worst_case_union": f"right under all of {members}"}
    for name in [NATURAL, *attacks, "union", "worst_case_union"]:
        label = describe(attacks[name]) if name in attacks else words[name]
        low, high = metrics["intervals"][name]
        yield Accuracy(name, html(label), metrics["metrics"][name], low, high, metrics["counts"][name])


def _charts(history: list[dict[str, float]], selected: int) -> Iterator[LineChart]:
    """Accuracies, losses, mixing ratios, learning rates and what is measured of the theory, as far as there are any."""
    split = "test" if any(key.startswith("test/") for record in history for key in record) else "held_out"
    shown = split.replace("_", "-").capitalize()
    for title, prefix, unit, factor, most in [
        (f"{shown} accuracy", f"{split}/global/", "accuracy (%)", 100.0, 100.0),
        (f"{shown} accuracy of its learners", f"{split}/", "accuracy (%)", 100.0, 100.0),
        ("Training loss", "loss/", "loss", 1.0, None),
        ("Training accuracy", "train_accuracy/", "accuracy (%)", 100.0, 100.0),
        ("Mixing ratios", "mixing_ratio/", "ratio", 1.0, None),
        ("Learning rates", "learning_rate/", "learning rate", 1.0, None),
        ("Regret per round (Theorem 1)", "theory/regret/", "regret", 1.0, None),
        ("Slack of Theorem 1's bound", "theory/bound_slack/", "slack", 1.0, None),
        ("R_T per round, mean over tasks (Definition 1)", "theory/trade_off_regret", "regret", 1.0, None),
        ("Geometric term (Theorem 2)", "theorem_2/", "squared distance", 1.0, None),
        ("Cosine between task gradients", "theory/cosine/", "cosine", 1.0, None),
        ("Cosine between minibatches' gradients", "theory/minibatch_cosine/", "cosine", 1.0, None),
        ("Loss barrier to the global learner", "theory/barrier/", "loss", 1.0, None),
    ]:
        keys = dict.fromkeys(key for record in history for key in record if key.startswith(prefix))
        if prefix == f"{split}/":
            keys = {key: None for key in keys if not key.startswith(f"{split}/global/")}
        series = {
            (key.removeprefix(prefix) or title).replace("/", ", "): [
                (record["epoch"], factor * record[key]) for record in history if key in record
            ]
            for key in keys
        }
        if series:
            yield line_chart(title, series, unit, selected if prefix.startswith(split) else None, most)


def _classes(experiment: Experiment, classes: pd.DataFrame, attacks: list[str]) -> tuple[list[ClassRow], int]:
    """The rows, and how many were left out."""
    table = classes.pivot_table(index="label", columns="attack", values="accuracy")
    table = table.reindex(columns=attacks)
    left_out = max(len(table) - CLASSES_SHOWN, 0)
    if left_out:
        table = table.sort_values(attacks[-1], kind="stable").head(CLASSES_SHOWN)
    names = experiment.data.class_names
    rows = [
        ClassRow(names[int(str(label))], [None if pd.isna(value) else float(value) for value in values])
        for label, values in zip(table.index, table.to_numpy(), strict=True)
    ]
    return rows, left_out


def _add_examples(page: ExperimentPage, run_id: str, pictures: Pictures, count: int) -> None:
    if count == 0:
        page.examples_problem = "Left out on request: without `--examples 0`, `python -m stages.report` has them."
        return
    try:
        split = pictures.split(page.experiment)
        verdicts = read_artifacts([run_id], "verdicts.parquet", _if_whole(pd.read_parquet)).get(run_id)
        if verdicts is None:
            raise PipelineError(
                f"MLflow lacks the verdicts, or they are damaged: 'dvc repro --force {page.command[10:]}'."
            )
        chosen = choose(verdicts, page.attacks, count)
        found = pictures.seen(page.experiment, run_id, chosen, [NATURAL, *page.attacks])
    except PipelineError as error:
        page.examples_problem = str(error)
        return
    page.examples = list(_examples(page.experiment, verdicts, split, chosen, found))


def _examples(
    experiment: Experiment, verdicts: pd.DataFrame, split: Split, chosen: list[int], found: dict[str, View]
) -> Iterator[Example]:
    names = experiment.data.class_names
    seen = verdicts.set_index(["attack", "image"])["predicted"]
    for place, image in enumerate(chosen):
        label = int(split.test.labels[image])
        shown = []
        for attack, view in found.items():
            predicted = int(view.predicted[place])
            shown.append(
                ExampleView(
                    attack=attack,
                    picture=picture(view.pixels[place]),
                    map=heat(view.maps[place]),
                    predicted=names[predicted],
                    correct=predicted == label,
                    differs=predicted != int(seen[attack, image]),
                )
            )
        yield Example(image, names[label], shown)
