"""What the report says about one experiment, from the files of its MLflow run, by the names that the template uses."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from statistics import median
from typing import Any

import pandas as pd
import yaml

from pipeline.config import Experiment
from pipeline.core.errors import PipelineError
from pipeline.core.files import read_frame
from pipeline.provenance.code import UNKNOWN
from pipeline.reporting.examples import NATURAL, Pictures, choose, shown_attacks
from pipeline.reporting.page.charts import line_chart
from pipeline.reporting.page.text import describe, heat, html, picture
from pipeline.reporting.results import if_whole
from pipeline.reporting.style import learner_looks, looks
from pipeline.tracking import read_artifacts

CLASSES_SHOWN = 100
"""How many classes are shown: of data sets with more, those with the lowest accuracy."""
Files = dict[str, Any]
"""The content of a run's files, by their names without endings."""
ACCURACY = "accuracy (%)"
CURVES = [
    ("Training loss", "loss/", "loss"),
    ("Training accuracy", "train_accuracy/", ACCURACY),
    ("Mixing ratios", "mixing_ratio/", "ratio"),
    ("Learning rates", "learning_rate/", "learning rate"),
    ("Regret per round (Theorem 1)", "theory/regret/", "regret"),
    ("Slack of Theorem 1's bound", "theory/bound_slack/", "slack"),
    ("R_T per round, mean over tasks (Definition 1)", "theory/trade_off_regret", "regret"),
    ("Geometric term (Theorem 2)", "theorem_2/", "squared distance"),
    ("Cosine between task gradients", "theory/cosine/", "cosine"),
    ("Cosine between minibatches' gradients", "theory/minibatch_cosine/", "cosine"),
    ("Loss barrier to the global learner", "theory/barrier/", "loss"),
]
"""Title, what the columns of the history begin with, and unit, after the accuracies on the held-out or test images."""


def read_files(run_ids: Collection[str]) -> dict[str, Files]:
    """The files of runs, by run: one kind after the other, several runs at a time. A run is left out where one of its
    files is missing or damaged.

    Raises:
        PipelineError: the store is out of reach.
    """
    found = {
        name: read_artifacts(run_ids, f"{name}.json", if_whole(lambda path: json.loads(path.read_text())))
        for name in ("history", "summary", "metrics", "trust")
    }
    found["classes"] = read_artifacts(run_ids, "classes.csv", if_whole(pd.read_csv))
    whole = (run_id for run_id in run_ids if all(run_id in files for files in found.values()))
    return {run_id: {name: files[run_id] for name, files in found.items()} for run_id in whole}


def experiment_page(
    experiment: Experiment, run: pd.Series | None, files: Mapping[str, Files], pictures: Pictures, count: int
) -> dict[str, Any]:
    """What the template asks of one experiment, and if the files of its run are there, what was measured.

    Args:
        experiment: The experiment.
        run: Its row in `finished_runs`; None where it has none.
        files: As `read_files` gives them.
        pictures: The test images.
        count: How many of them are shown; 0 for none.
    """
    name = experiment.identifier
    page: dict[str, Any] = {
        "experiment": experiment,
        "label": experiment.method.label,
        "anchor": f"experiment-{name}",
        "command": f"dvc repro evaluate@{name}",
        "address": "" if run is None else run["page"],
        "problem": "",
        "accuracies": [],
        "attacks": shown_attacks(experiment.evaluation),
        "settings": _yaml(experiment.method.model_dump(mode="json", exclude_none=True)),
        "shared_settings": _yaml(experiment.model_dump(mode="json", exclude={"method", "suite", "name"})),
    }
    if run is None:
        return page | {"problem": f"Not measured yet: `{page['command']}`."}
    if run["run_id"] not in files:
        command = f"dvc repro --force train@{name} evaluate@{name}"
        return page | {"problem": f"MLflow lacks files of this run, or they are damaged: `{command}`."}
    found = files[run["run_id"]]
    page |= _numbers(experiment, found) | _classes(experiment, found["classes"])
    page["facts"] |= {"Code": f"{found['summary'].get('training_code', UNKNOWN)}, {run['made_by']}"}
    try:
        return page | {"examples": _examples(experiment, run["run_id"], pictures, count)}
    except PipelineError as error:
        return page | {"examples": [], "examples_problem": str(error)}


def _yaml(content: Any) -> str:
    text: str = yaml.safe_dump(content, sort_keys=False, default_flow_style=None, width=100, allow_unicode=True)
    return text


def _numbers(experiment: Experiment, files: Files) -> dict[str, Any]:
    summary, metrics = files["summary"], files["metrics"]
    return {
        "accuracies": list(_accuracies(experiment, metrics)),
        "costs": {
            "device": summary["device"],
            "epochs": summary["epochs"],
            "training_seconds": summary["seconds"],
            "images_per_second": median(record["images_per_second"] for record in files["history"]),
            "evaluation_seconds": metrics["seconds"],
        },
        "facts": {
            "Network": experiment.architecture,
            "Protocol": experiment.protocol.replace("_", " "),
            "Seed": str(experiment.seed),
            "Selected epoch": f"{summary['selected_epoch']} of {summary['epochs']}",
            "Device": summary["device"],
            "Versions": f"Python {summary['python']}, torch {summary['torch']}",
            "Commit": summary["git_commit"][:12],
            "Fingerprint": experiment.fingerprint,
        },
        "charts": list(_charts(experiment, files["history"], summary["selected_epoch"])),
        "signs": files["trust"]["signs"],
    }


def _accuracies(experiment: Experiment, metrics: dict[str, Any]) -> Iterator[dict[str, Any]]:
    attacks = experiment.evaluation.attacks
    members = ", ".join(f"`{name}`" for name in experiment.evaluation.union)
    words = {NATURAL: "as they are", **{name: describe(attack) for name, attack in attacks.items()}}
    words |= {"union": f"mean of {members}", "worst_case_union": f"right under all of {members}"}
    for name, label in words.items():
        low, high = metrics["intervals"][name]
        value, images = metrics["metrics"][name], metrics["counts"][name]
        yield {"name": name, "label": html(label), "value": value, "low": low, "high": high, "images": images}


def _charts(experiment: Experiment, history: list[dict[str, float]], selected: int) -> Iterator[dict[str, Any]]:
    """Accuracies, losses, mixing ratios, learning rates and what is measured of the theory, as far as there are any."""
    split = "test" if any(key.startswith("test/") for record in history for key in record) else "held_out"
    learners = learner_looks(experiment.method.learners)
    on_images, of_global = f"{split.replace('_', '-').capitalize()} accuracy", f"{split}/global/"
    accuracies = [(on_images, of_global, ACCURACY), (f"{on_images} of its learners", f"{split}/", ACCURACY)]
    for title, prefix, unit in [*accuracies, *CURVES]:
        keys = dict.fromkeys(key for record in history for key in record if key.startswith(prefix))
        if prefix == f"{split}/":
            keys = {key: None for key in keys if not key.startswith(of_global)}
        factor = 100.0 if unit == ACCURACY else 1.0
        series = {
            (key.removeprefix(prefix) or title).replace("/", ", "): [
                (record["epoch"], factor * record[key]) for record in history if key in record
            ]
            for key in keys
        }
        if series:
            chosen = learners if learners.keys() >= series.keys() else looks(series)
            yield line_chart(title, series, unit, chosen, selected if prefix.startswith(split) else None)


def _classes(experiment: Experiment, classes: pd.DataFrame) -> dict[str, Any]:
    """The accuracies of each class by attack, and how many classes were left out."""
    shown = [NATURAL, *shown_attacks(experiment.evaluation), *experiment.evaluation.union]
    attacks = list(dict.fromkeys(shown))
    table = classes.pivot_table(index="label", columns="attack", values="accuracy").reindex(columns=attacks)
    left_out = max(len(table) - CLASSES_SHOWN, 0)
    if left_out:
        table = table.sort_values(attacks[-1], kind="stable").head(CLASSES_SHOWN)
    names = experiment.data.facts.classes
    rows = [
        {"name": names[int(str(label))], "accuracies": [None if pd.isna(value) else float(value) for value in values]}
        for label, values in zip(table.index, table.to_numpy(), strict=True)
    ]
    return {"class_attacks": attacks, "classes": rows, "classes_left_out": left_out}


def _examples(experiment: Experiment, run_id: str, pictures: Pictures, count: int) -> list[dict[str, Any]]:
    """Test images, each as it is and under every attack that can be repeated.

    Raises:
        PipelineError: they cannot be shown; the message is for the page.
    """
    if count == 0:
        raise PipelineError("Left out on request: without `--examples 0`, `python -m stages.report` has them.")
    attacks, labels = shown_attacks(experiment.evaluation), pictures.split(experiment).test.labels
    verdicts = read_artifacts([run_id], "verdicts.parquet", if_whole(read_frame)).get(run_id)
    if verdicts is None:
        raise PipelineError(
            f"MLflow lacks the verdicts, or they are damaged: 'dvc repro --force evaluate@{experiment.identifier}'."
        )
    chosen = choose(verdicts, attacks, count)
    found = pictures.seen(experiment, run_id, chosen, [NATURAL, *attacks])
    names, seen = experiment.data.facts.classes, verdicts.set_index(["attack", "image"])["predicted"]
    examples = []
    for place, image in enumerate(chosen):
        label, views = int(labels[image]), []
        for attack, view in found.items():
            predicted = int(view.predicted[place])
            shown: dict[str, Any] = {
                "attack": attack,
                "picture": picture(view.pixels[place]),
                "map": heat(view.maps[place]),
            }
            shown |= {"predicted": names[predicted], "correct": predicted == label}
            views.append({**shown, "differs": predicted != int(seen[attack, image])})
        differs = any(view["differs"] for view in views)
        examples.append({"image": image, "label": names[label], "views": views, "differs": differs})
    return examples
