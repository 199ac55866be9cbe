"""Train, evaluate and attack from Python, in a script or a notebook.

Everything is what the commands do: the same settings, folders and numbers, below the working directory.

```python
from pipeline.api import attack, compose, evaluate, load_images, load_model, predict, train

experiment = compose("suite=digits", "training.epochs=5").experiment("at", seed=1)  # or load_params("params.yaml")
folder = train(experiment)  # results/digits/at-1/train; stopped and called again, it continues
print(evaluate(experiment))  # {"natural": ..., "pgd20_linf": ..., "aa_linf": ..., ...}
images, labels = load_images(experiment)
classes = predict(load_model(folder), images)
```

A network from elsewhere needs nothing of this project. It maps images in [0, 1] to logits; standardisation is a layer
of its own:

```python
import torch

network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10)).eval()
adversarial = attack(network, images, labels, norm="linf", epsilon=8 / 255, steps=20)
accuracy = (predict(network, adversarial) == labels).float().mean()
```

Two settings, compared image by image (in a notebook `comparison` shows tables, curves and images):

```python
from pipeline.api import compare

other = compose("suite=digits", "training.epochs=5").experiment("nt", seed=1)
train(other), evaluate(other)
comparison = compare(experiment, other)
print(comparison.accuracies)
```

Errors that you can mend are `pipeline.core.errors.RequestError`, and their message says how.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor, nn

from pipeline.attacks.pgd import PGD
from pipeline.config import Experiment, Params, load_params
from pipeline.config.composing import compose_suite
from pipeline.config.reading import validate
from pipeline.core.devices import choose_backend
from pipeline.core.errors import RequestError
from pipeline.core.progress import EvaluationDisplay, announce
from pipeline.core.signals import stop_on_signal
from pipeline.core.values import Norm
from pipeline.data.images import to_unit_interval
from pipeline.data.split import open_split
from pipeline.evaluation.evaluate import Evaluation
from pipeline.evaluation.foreign_weights import check_model
from pipeline.evaluation.journal import Journal
from pipeline.evaluation.verdicts import accuracies
from pipeline.experiments.compare import Comparison, compare
from pipeline.experiments.evaluate import evaluate_experiment
from pipeline.experiments.own_data import fit
from pipeline.experiments.prepare import ensure_prepared
from pipeline.experiments.results import read_model
from pipeline.experiments.train import train_experiment
from pipeline.models.stages import in_eval_mode
from pipeline.provenance.folders import prepared_folder
from pipeline.tracking import track, untracked

__all__ = [
    "Comparison",
    "attack",
    "compare",
    "compose",
    "evaluate",
    "load_images",
    "load_model",
    "load_params",
    "predict",
    "train",
]
CONF = Path(__file__).resolve().parents[1] / "conf"
OVERSHOOT = 2.5
"""All steps together, in radii: what Madry et al. (2018) take."""


def compose(*overrides: str) -> Params:
    """Compose the settings of a suite in code, as `make suite SUITE=... SET=...` composes `params.yaml`.

    Args:
        overrides: Such as 'suite=cifar10', 'architecture=wrn32_10', 'training.epochs=30'; or 'suite=own',
            'data.root=/path/to/images', which are looked at.

    Returns:
        Settings, of which `.experiment("at", seed=1)` is one experiment.

    Raises:
        RequestError: an override names something that there is not, the settings have mistakes, or there are no images.
    """
    return compose_suite(overrides, CONF, fit).params


def train(experiment: Experiment, tracked: bool = False) -> Path:
    """Train an experiment, or continue it; what is trained already is left as it is. Its data is prepared first.

    Ctrl-C (in a notebook: interrupt) saves and ends with `Interrupted`; the same call continues.

    Args:
        experiment: What to train.
        tracked: Log to MLflow, as the commands do.

    Returns:
        The folder of the weights.

    Raises:
        RequestError: the data cannot be had, or another process trains this experiment.
        Interrupted: stopped on demand, after saving.
        PipelineError: a loss is not finite, or every checkpoint is damaged.
    """
    ensure_prepared(experiment)
    with stop_on_signal() as should_stop:
        return train_experiment(experiment, should_stop, tracker=track if tracked else untracked)


def evaluate(experiment: Experiment, model: nn.Module | None = None, tracked: bool = False) -> dict[str, float]:
    """Measure accuracies under the attacks of an experiment, on its test images.

    Args:
        experiment: Has attacks and images.
        model: Any network in eval mode, from images in [0, 1] to logits. None stands for the trained weights of the
            experiment: their verdicts are kept below `results/`, and an evaluation that is stopped goes on there.
        tracked: Log to MLflow, as the commands do; of the experiment's own weights alone.

    Returns:
        Accuracies in [0, 1] by attack, `natural` for images as they are.

    Raises:
        RequestError: the experiment is not trained, or the model is not fit to be attacked; the message says why.
    """
    if model is None:
        announce(experiment.identifier, experiment.evaluation.passes(experiment.data.facts.test_images or 1))
        return evaluate_experiment(experiment, tracker=track if tracked else untracked)
    ensure_prepared(experiment)
    backend = choose_backend(experiment.training.device, "float32", experiment.training.threads)
    placed = backend.place(model)
    test = open_split(prepared_folder(experiment.data.name), experiment.data, experiment.stored_sizes).test
    images = test.to(backend.device)
    check_model(placed, images, len(experiment.data.facts.classes))
    work = experiment.evaluation.passes(len(images))
    with TemporaryDirectory() as folder, EvaluationDisplay(type(model).__name__, work) as display:
        verdicts = Evaluation(placed, images, experiment.evaluation, Journal(Path(folder)), display).run()
    return accuracies(verdicts, experiment.evaluation.union)[0]


def load_images(experiment: Experiment, count: int | None = None) -> tuple[Tensor, Tensor]:
    """Read the test images of an experiment, which are prepared first where that is not done.

    Args:
        experiment: Whose images.
        count: The first so many (None: all).

    Returns:
        (n, channels, height, width), float32 in [0, 1], and (n,), int64.
    """
    ensure_prepared(experiment)
    test = open_split(prepared_folder(experiment.data.name), experiment.data, experiment.stored_sizes).test
    return test.batch(torch.arange(len(test))[:count])


def load_model(folder: Path | str) -> nn.Module:
    """Load a trained or exported network, in eval mode, on the CPU.

    Args:
        folder: What `train` returned, `results/<suite>/<experiment>`, or a folder that `stages.export` wrote.

    Returns:
        Maps images in [0, 1], (n, channels, height, width), to logits, (n, classes).

    Raises:
        RequestError: it is no such folder, or its files are damaged.
    """
    model: nn.Module = read_model(Path(folder))
    return model


@torch.no_grad()
def predict(model: nn.Module, images: Tensor, batch_size: int = 256) -> Tensor:
    """Predict classes, in eval mode, whatever mode the model is in; every module is left in its own.

    Args:
        model: Any network from images in [0, 1] to logits.
        images: (n, channels, height, width), float in [0, 1] or uint8.
        batch_size: Images at once.

    Returns:
        (n,), int64, on the device of `images`.

    Raises:
        RequestError: these are no such images.
    """
    inputs = _inputs(images, model)
    weights = next(model.parameters(), inputs)
    with in_eval_mode(model):
        parts = [model(part.to(weights.device)).argmax(1) for part in torch.split(inputs, batch_size)]
    return torch.cat(parts).to(images.device)


def attack(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    norm: Norm = "linf",
    epsilon: float = 8 / 255,
    steps: int = 10,
    step_size: float | None = None,
    seed: int = 0,
) -> Tensor:
    """Craft adversarial examples with PGD (Madry et al., 2018) for any network, which is left as it is.

    Args:
        model: From images in [0, 1] to logits; on the device of `images`. It is attacked in eval mode.
        images: One batch, (n, channels, height, width), float in [0, 1] or uint8.
        labels: (n,), int64: the classes to lead away from.
        norm: 'linf', 'l2' or 'l1'.
        epsilon: The radius, in the scale of [0, 1].
        steps: How many.
        step_size: Of each (None: 2.5 epsilon / steps).
        seed: Of the random start: equal seeds give equal images.

    Returns:
        Images in [0, 1], within `epsilon` of those given.

    Raises:
        RequestError: these are no such images, or a setting is out of its range.
    """
    inputs, labels = _inputs(images, model), torch.as_tensor(labels).long()
    if labels.shape != (len(inputs),):
        raise RequestError(f"labels: expected one for each of {len(inputs)} images, got shape {tuple(labels.shape)}")
    step = OVERSHOOT * epsilon / max(steps, 1) if step_size is None else step_size
    given = {"norm": norm, "epsilon": epsilon, "steps": steps, "step_size": step}
    pgd = validate(PGD, given, "attack", {})
    return pgd.perturb(model, inputs, labels, torch.Generator(inputs.device).manual_seed(seed))


def _inputs(images: Tensor, model: nn.Module) -> Tensor:
    """Images as a network takes them, in the precision of its weights."""
    precision = next((weights.dtype for weights in model.parameters() if weights.is_floating_point()), torch.float32)
    if not isinstance(images, Tensor):
        raise RequestError(f"expected images as a tensor, got {type(images).__name__}; torch.from_numpy makes one")
    if images.dtype == torch.uint8 and images.dim() == 4:
        return to_unit_interval(images).to(precision)
    if images.dim() != 4 or not images.is_floating_point():
        raise RequestError(
            "expected images of shape (n, channels, height, width), float in [0, 1] or uint8; got "
            f"{images.dtype} of shape {tuple(images.shape)}"
        )
    if len(images) and not (float(images.min()) >= 0 and float(images.max()) <= 1):
        raise RequestError(
            f"expected images in [0, 1], got values from {float(images.min()):g} to {float(images.max()):g}: let the "
            "network standardise its inputs itself"
        )
    return images.to(precision)
