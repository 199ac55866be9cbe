"""Wrong formulas: one line of a module each, changed while a test runs."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import CodeType, FunctionType, ModuleType

from tests.conftest import REPOSITORY


@dataclass(frozen=True)
class Plant:
    """A wrong formula, and a training that it must change."""

    module: str
    """Below `pipeline`."""
    old: str
    """Occurs once in the module's source."""
    new: str
    case: str
    """Of the golden numbers."""

    def __str__(self) -> str:
        return " ".join([f"{self.module}:", *self.new.split()])


def _codes(code: CodeType) -> Iterator[CodeType]:
    """The code of every function and class body that `code` defines."""
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield constant
            yield from _codes(constant)


def _functions(module: ModuleType) -> Iterator[FunctionType]:
    """The functions and methods that a module defines, without their decorators."""
    classes = [value for value in vars(module).values() if inspect.isclass(value)]
    for owner in [module, *(kind for kind in classes if kind.__module__ == module.__name__)]:
        for value in vars(owner).values():
            plain = value.fget if isinstance(value, property) else getattr(value, "__func__", value)
            function = inspect.unwrap(plain) if callable(plain) else plain
            if isinstance(function, FunctionType) and function.__module__ == module.__name__:
                yield function


@contextmanager
def planted(plant: Plant) -> Iterator[None]:
    """Let the functions of a module compute what its changed source says; also where others imported them by name.

    Raises:
        ValueError: the old text does not occur exactly once, or changes no function.
    """
    module = import_module(f"pipeline.{plant.module}")
    path = Path(inspect.getfile(module))
    shown, source = path.relative_to(REPOSITORY), path.read_text()
    if source.count(plant.old) != 1:
        raise ValueError(
            f"'{plant.old}' occurs {source.count(plant.old)} times in {shown}, expected once: renew PLANTS"
        )
    before, after = (
        {code.co_qualname: code for code in _codes(compile(text, str(path), "exec", dont_inherit=True))}
        for text in (source, source.replace(plant.old, plant.new))
    )
    changed = {name: after[name] for name in before if before[name] != after[name]}
    originals = {function: function.__code__ for function in _functions(module) if function.__qualname__ in changed}
    if not originals:
        raise ValueError(f"'{plant.new}' in {shown} changes no function")
    try:
        for function in originals:
            function.__code__ = changed[function.__qualname__]
        yield
    finally:
        for function, code in originals.items():
            function.__code__ = code


CE = "moment.cross_entropy(logits, labels)"
SCALED = "1.05 * moment.cross_entropy(logits, labels)"
GENERALIST = "digits/generalist_d_nt_linf"
AUTHORS = "reference_code/generalist_d_nt_linf"

OBJECTIVES = [
    Plant("objectives.adversarial", CE, SCALED, "digits/at"),
    Plant(
        "objectives.agr", "cosine * clean + (1 - cosine) * adversarial", "cosine * clean + adversarial", "digits/agr"
    ),
    Plant("objectives.agr", "(longest / gradient.norm()", "(1.1 * longest / gradient.norm()", "digits/agr"),
    Plant(
        "objectives.average",
        "labels.repeat(len(perturbed)))",
        'labels.repeat(len(perturbed)), reduction="sum") / len(labels)',
        "digits/at_linf_l2",
    ),
    Plant("objectives.base", "label_smoothing=self.label_smoothing)", "label_smoothing=0.02)", "digits/at"),
    Plant("objectives.base", "self.epoch > share * self.epochs", "self.epoch >= share * self.epochs", "digits/fat"),
    Plant(
        "objectives.corruptions",
        "0.25 * strength * draw(torch.randn",
        "0.275 * strength * draw(torch.randn",
        "beyond/generalist_5",
    ),
    Plant("objectives.corruptions", "count_include_pad=False", "count_include_pad=True", "beyond/generalist_5"),
    Plant("objectives.eat", "model(climb.best)", "model(climb.current)", "digits/eat"),
    Plant(
        "objectives.eat",
        "[1 - counts[norm][0] / counts[norm][1]",
        "[counts[norm][0] / counts[norm][1]",
        "digits/eat_source",
    ),
    Plant("objectives.fast", "max(self.step_factor * self", "max(1.1 * self.step_factor * self", "digits/fast_at"),
    Plant("objectives.fast", "step_size * gradient.sign()", "1.1 * step_size * gradient.sign()", "variants/fast_at"),
    Plant("objectives.fat", "patience = sum(", "patience = 1 + sum(", "digits/fat"),
    Plant("objectives.half_half", "+ self.beta * adversarial", "+ 1.1 * self.beta * adversarial", "digits/at_nt_linf"),
    Plant("objectives.iat", "0.5 * clean + 0.5 * adversarial", "0.45 * clean + 0.55 * adversarial", "digits/iat"),
    Plant("objectives.iat", "loss + (1 - ratio) *", "loss + ratio *", "digits/iat"),
    Plant("objectives.mart", "(divergence * weight)", "(divergence * weight.detach())", "digits/mart"),
    Plant(
        "objectives.mart",
        "(logits.softmax(1) + 1e-12).log(), clean,",
        "(clean + 1e-12).log(), logits.softmax(1),",
        "digits/mart",
    ),
    Plant("objectives.maximum", "climb.best_loss > highest", "climb.best_loss < highest", "digits/at_max"),
    Plant("objectives.msd", "attack.step_size * direction", "1.1 * attack.step_size * direction", "digits/msd"),
    Plant("objectives.msd", "step_size / coordinates", "2 * step_size / coordinates", "digits/msd_source"),
    Plant("objectives.msd", "FEWEST, MOST + 1", "FEWEST, MOST // 2", "digits/msd_source"),
    Plant(
        "objectives.msd", "torch.where(per_sample(reached > highest), current, best)", "current", "digits/msd_source"
    ),
    Plant("objectives.natural", CE, SCALED, "digits/nt"),
    Plant(
        "objectives.part",
        "self.low_factor * self.attack.epsilon",
        "self.low_factor**2 * self.attack.epsilon",
        "digits/part",
    ),
    Plant("objectives.part", "(model, images).square()", "(model, images)", "digits/part"),
    Plant(
        "objectives.ramp",
        "divergence(source_logits, target_logits)",
        "divergence(target_logits, source_logits)",
        "digits/ramp",
    ),
    Plant("objectives.rmc", "self.weight_decay / 2 *", "self.weight_decay *", "digits/rmc"),
    Plant("objectives.rst", "(1 - self.beta) * weighted_mean", "1.1 * (1 - self.beta) * weighted_mean", "digits/rst"),
    Plant(
        "objectives.score",
        "squared_distance(logits.softmax(1), clean)",
        "squared_distance(logits.softmax(1), clean.detach())",
        "digits/score",
    ),
    Plant(
        "objectives.score",
        "squared_distance(logits.softmax(1), target) - bound",
        "squared_distance(logits.softmax(1), target) - 1.1 * bound",
        "variants/score_pgd",
    ),
    Plant(
        "objectives.trades",
        "self.beta * divergence(clean, adversarial)",
        "self.beta * divergence(adversarial, clean)",
        "digits/trades_6",
    ),
    Plant(
        "objectives.trades",
        "lambda logits, _: divergence(clean, logits)",
        "lambda logits, _: divergence(logits, clean)",
        "digits/trades_1",
    ),
]
OTHERS = [
    Plant("attacks.pgd", "step = self.step_size", "step = 1.1 * self.step_size", "digits/at"),
    Plant("attacks.pgd", "generator) - 1) * self.epsilon", "generator) - 1) * 0.9 * self.epsilon", "digits/at"),
    Plant("attacks.pgd", "noise = self.epsilon * lengths", "noise = self.epsilon * lengths.sqrt()", "digits/at_l2"),
    Plant("attacks.pgd", "model.eval()", "model.train()", "digits/rmc"),
    Plant("models.folding", "    copy.refresh()", "    copy", "digits/at"),
    Plant("models.folding", "norm.running_mean,", "0 * norm.running_mean,", "digits/at"),
    Plant(
        "attacks.geometry",
        '(epsilon / norms("l2", perturbation)',
        '(1.1 * epsilon / norms("l2", perturbation)',
        "digits/at_l2",
    ),
    Plant("attacks.geometry", "magnitudes >= threshold", "magnitudes > threshold", "beyond/generalist_5"),
    Plant("attacks.friendly", "noise = self.noise", "noise = 1.1 * self.noise", "digits/fat"),
    Plant("attacks.friendly", "self.step_size * steepest", "1.1 * self.step_size * steepest", "digits/fat"),
    Plant("attacks.apgd", "self._sizes / 2", "self._sizes / 1.8", "digits/at_max"),
    Plant("attacks.apgd", "1.0 if first else 0.75", "1.0", "digits/at_max"),
    Plant("attacks.apgd", "self._coordinates / 1.5", "self._coordinates / 2", "digits/at_max_source"),
    Plant("attacks.apgd", "higher = loss > state.best_loss", "higher = loss < state.best_loss", "digits/ramp"),
    Plant("config.mixtures.moving_average", "latest >= in_epochs", "latest > in_epochs", GENERALIST),
    Plant("core.values", "(epoch - start) / (end - start)", "(epoch - start - 0.1) / (end - start)", "digits/nt"),
    Plant("core.values", "math.cos(math.pi * share)", "math.cos(1.1 * math.pi * share)", "digits/rst_source"),
    Plant("data.augmentation", "2 * settings.crop_padding + 1", "2 * settings.crop_padding", "variants/nt"),
    Plant("data.augmentation", "columns.flip(0), columns", "columns, columns", "variants/nt"),
    Plant("data.images", "div_(255)", "div_(256)", "digits/nt"),
    Plant("data.minibatches", '"order", epoch', '"order", epoch - 1', "digits/nt"),
    Plant("models.small_cnn", "max_pool2d", "avg_pool2d", "digits/nt"),
    Plant("models.bezier", "2 * position * (1 - position)", "position * (1 - position)", "digits/rmc"),
    Plant("training.combinations", "score >= best", "score < best", "beyond/greedy_soup"),
    Plant(
        "training.combinations", "lambda candidate: judge", "lambda candidate: -judge", "variants/generalist_d_nt_linf"
    ),
    Plant(
        "training.combinations",
        "float(name in members) / len(members)",
        "float(name in members)",
        "beyond/uniform_soup",
    ),
    Plant("training.gradient_projection", "cosine.clamp_min(0)", "cosine", "digits/ramp_source"),
    Plant(
        "training.gradient_projection",
        "(1 - natural_share) * robust_update",
        "(1.1 - natural_share) * robust_update",
        "digits/ramp",
    ),
    Plant("training.learner", "schedule.at(epoch, share)", "schedule.at(epoch - 1, share)", "digits/nt"),
    Plant("training.learner", "nesterov=settings.nesterov", "nesterov=False", "digits/rst_source"),
    Plant(
        "training.learner",
        "weight_decay=settings.weight_decay,\n            **kernels",
        "weight_decay=0.0,\n            **kernels",
        "digits/nt",
    ),
    Plant("training.run", "self.mixture.after_step(epoch,", "self.mixture.after_step(epoch - 1,", GENERALIST),
    Plant(
        "training.run",
        "self.mixture.after_epoch(\n                epoch,",
        "self.mixture.after_epoch(\n                epoch - 1,",
        GENERALIST,
    ),
    Plant(
        "training.mixture",
        "(ratios[learner.name], self._source(learner))",
        "(ratios[learner.name] ** 1.1, self._source(learner))",
        "digits/generalist_t",
    ),
    Plant("training.mixture", "learner.average is not None", "learner.average is None", AUTHORS),
    Plant(
        "training.mixture", 'optimizer_state == "reset"', 'optimizer_state != "reset"', "beyond/optimizer_state_reset"
    ),
    Plant(
        "training.mixture",
        "copy_weights(self.model, learner.model)",
        "copy_weights(self.model, self._learners[0].model)",
        GENERALIST,
    ),
    Plant("training.mode_connectivity", "epoch <= self._settings", "epoch < self._settings", "digits/rmc"),
    Plant("training.mode_connectivity", "[(0.5, weight_tensors(end))", "[(0.45, weight_tensors(end))", "digits/rmc"),
    Plant("training.selection", 'score > self._best["score"]', 'score >= self._best["score"]', "variants/nt"),
    Plant("training.weights", "alpha=(1 - decay) * ratio", "alpha=(1 - decay**2) * ratio", GENERALIST),
    Plant("training.weights", "(update + 1) /", "(update + 2) /", AUTHORS),
]
PLANTS = [*OBJECTIVES, *OTHERS]
