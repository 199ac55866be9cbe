"""What is said of a model that leaves the project: its card, and its metadata in RobustBench's form."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pipeline.config import Experiment
from pipeline.evaluation.attacks.autoattack import STANDARD_MEMBERS, AutoAttack
from pipeline.reporting.layout import radius
from pipeline.reporting.markdown import markdown_table
from pipeline.tracking import StoredRun, made_by

GENERALIST = {
    "link": "https://arxiv.org/abs/2510.13361",
    "name": "Generalist++: A Meta-learning Framework for Mitigating Trade-off in Adversarial Training",
    "authors": "Yisen Wang, Yichuan Mo, Hongjun Wang, Junyi Li, Zhouchen Lin",
    "venue": "arXiv, Oct 2025",
}


def robustbench_info(
    experiment: Experiment, run: StoredRun, evaluation: Mapping[str, Any], norm: str
) -> dict[str, Any] | None:
    """The fields of RobustBench's `model_info/<dataset>/<threat model>/<model>.json`.

    Numbers are texts in percent, as there. `reported` is our own number. For methods other than Generalist link, name,
    authors and venue are those of a reproduction: the method's name alone.

    Returns:
        None where the standard AutoAttack was not run in this norm.
    """
    attacks = experiment.evaluation.attacks
    found = [
        name
        for name, attack in attacks.items()
        if isinstance(attack, AutoAttack) and attack.norm == norm and attack.members == STANDARD_MEMBERS
    ]
    if not found:
        return None
    metrics, counts = evaluation["metrics"], evaluation["counts"]
    robust = f"{100 * metrics[found[0]]:.2f}"
    paper = {"link": "", "name": experiment.method.label, "authors": "", "venue": "Unpublished"}
    images, everything = counts[found[0]], experiment.data.facts.test_images
    reduced = f" AutoAttack on {images:,} of {everything:,} test images." if images < (everything or 0) else ""
    return {
        **(GENERALIST if experiment.name.startswith("generalist") else paper),
        "additional_data": any(
            getattr(item.objective, "extra_images", None) for item in experiment.method.learners.values()
        ),
        "number_forward_passes": 1,
        "dataset": experiment.data.name,
        "architecture": experiment.architecture,
        "eps": radius(attacks[found[0]].epsilon),
        "clean_acc": f"{100 * metrics['natural']:.2f}",
        "reported": robust,
        "autoattack_acc": robust,
        "footnote": f"Reproduced, seed {experiment.seed}, protocol {experiment.protocol}.{reduced}",
        "unreliable": run.tags.get("gradient_masking") == "suspected",
    }


def model_card(
    experiment: Experiment, run: StoredRun, summary: Mapping[str, Any], evaluation: Mapping[str, Any]
) -> str:
    """Markdown: method, data, budgets, accuracies with intervals, protocol, digests, how to load it, licence; `summary`
    is as training left it, `evaluation` as the evaluation did."""
    parts = [*_head(experiment), *_numbers(experiment, run, evaluation), *_training(experiment, summary)]
    return "\n".join([*parts, *_files(experiment, run), *_loading(experiment), *_licence()]) + "\n"


def _head(experiment: Experiment) -> list[str]:
    return [
        "---",
        "license: mit",
        "library_name: pytorch",
        "tags: [adversarial-training, robustness, image-classification]",
        f"datasets: [{experiment.data.name}]",
        "---",
        "",
        f"# {experiment.method.label}, {experiment.architecture} on {experiment.data.name}",
        "",
        f"Experiment `{experiment.identifier}` of suite `{experiment.suite}`, protocol `{experiment.protocol}`. Inputs "
        "are images in [0, 1] of shape (batch, channels, height, width); outputs are logits.",
        "",
    ]


def _numbers(experiment: Experiment, run: StoredRun, evaluation: Mapping[str, Any]) -> Iterator[str]:
    rows = []
    for name, value in evaluation["metrics"].items():
        low, high = (100 * end for end in evaluation["intervals"][name])
        cells = [f"{100 * value:.2f}", f"{low:.2f} to {high:.2f}", evaluation["counts"][name]]
        rows.append([name, _attack(experiment, name), *cells])
    header = ["metric", "attack", "accuracy, %", "95% interval", "images"]
    yield from ["## Accuracy", "", markdown_table(header, rows, left=2)]
    yield from ["", f"Signs of gradient masking: {run.tags.get('gradient_masking', 'not measured')}."]
    if experiment.training.selection.split == "test":
        yield "The test images chose the checkpoint: the numbers are optimistic."
    yield ""


def _attack(experiment: Experiment, metric: str) -> str:
    attack = experiment.evaluation.attacks.get(metric)
    if attack is not None:
        said = [attack.name, attack.norm, f"epsilon {radius(attack.epsilon)}", attack.effort()]
        return ", ".join(filter(None, said))
    members = ", ".join(experiment.evaluation.union)
    return {"natural": "none", "union": f"mean of {members}", "worst_case_union": f"all of {members}"}[metric]


def _training(experiment: Experiment, summary: Mapping[str, Any]) -> list[str]:
    rows = [["data", f"{experiment.data.name}, SHA-256 `{summary['data_digest']}`"]]
    for norm, budget in experiment.threat_model.items():
        text = f"epsilon {radius(budget.epsilon)}, step {radius(budget.step_size)}, {budget.steps} steps"
        rows.append([f"threat model, {norm}", text])
    for name, learner in experiment.method.learners.items():
        optimizer = learner.optimizer
        text = f"{learner.objective.name}, {optimizer.name}, rate {optimizer.learning_rate:g}"
        if (start := learner.initial_weights) is not None:
            text += f", from {start.file.name}, SHA-256 `{start.sha256}`"
        rows.append([f"learner `{name}`", text])
    mixture = experiment.method.mixture
    rows += [
        ["mixture", mixture.rule if mixture else "none"],
        ["epochs", f"{summary['epochs']}, chosen: {summary['selected_epoch']}"],
        ["seed", str(experiment.seed)],
        ["versions", f"Python {summary['python']}, torch {summary['torch']}"],
    ]
    return ["## Training", "", markdown_table(["", ""], rows), ""]


def _files(experiment: Experiment, run: StoredRun) -> list[str]:
    dirty = ", with uncommitted changes" if run.tags.get("git.dirty") == "true" else ""
    code = [run.tags.get(f"{step}_code", "unknown") for step in ("training", "evaluation")]
    made = made_by(experiment, run.tags, "train", "evaluate")
    rows = [
        ["`model.safetensors`", f"SHA-256 `{run.tags['weights_sha256']}`"],
        ["fingerprint", f"`{experiment.fingerprint}`"],
        ["MLflow run", f"`{run.run_id}`"],
        ["commit", f"`{run.tags.get('git.commit', 'unknown')}`{dirty}"],
        ["code", f"trained by `{code[0]}`, evaluated by `{code[1]}`: {made}"],
    ]
    return ["## Where it comes from", "", markdown_table(["", ""], rows), ""]


def _loading(experiment: Experiment) -> list[str]:
    name = f"models:/{experiment.suite}-{experiment.name}@seed-{experiment.seed}"
    return [
        "## Load it",
        "",
        "```python",
        "from pipeline.api import load_model",
        "",
        'model = load_model(".")  # the folder of this page: images in [0, 1] -> logits',
        "```",
        "",
        "or, without this project, from the MLflow store that it is registered in:",
        "",
        "```python",
        "import mlflow",
        "",
        f'model = mlflow.pytorch.load_model("{name}")',
        f'logits = mlflow.pyfunc.load_model("{name}").predict(images)  # numpy, float32',
        "```",
        "",
    ]


def _licence() -> list[str]:
    return [
        "## Licence",
        "",
        "MIT for the weights, as for the code. The terms of the data set hold for its images.",
        "",
        f'Method: {GENERALIST["authors"]}, "{GENERALIST["name"]}", {GENERALIST["link"]}, and what it is compared with.',
    ]
