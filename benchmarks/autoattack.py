"""Our AutoAttack against its authors' package called directly: the same verdicts, and how long each takes.

A small network is trained on digits for a minute; then both attack the same images with the same seed and batch size,
in turn in one process, starting with another one every round.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import torch
from torch import nn

from benchmarks.loops import suite
from benchmarks.publishing import publish
from benchmarks.timing import Option, ratios, read_arguments, synchronize
from pipeline.attacks.pgd import PGD
from pipeline.config import EvaluationSettings
from pipeline.core.errors import PipelineError
from pipeline.core.streams import stream_seed
from pipeline.data.images import ImageSet, load_split
from pipeline.data.prepare import prepare
from pipeline.evaluation.evaluate import Evaluation
from pipeline.evaluation.journal import Journal
from pipeline.models import build_model

EPSILON = 40 / 255
OPTIONS = {
    "images": Option(64, 2, "attacked"),
    "steps": Option(150, 5, "of training before"),
    "rounds": Option(3, 1, "attacks by each"),
}


class Silent:
    """Watches nothing."""

    def on_attack(self, attack: str, pieces: int) -> None:
        """Nothing."""

    def on_piece(self, part: str, robust: int, images: int, ends_batch: bool) -> None:
        """Nothing."""


def trained_model(images: ImageSet, steps: int) -> nn.Module:
    """A network that resists a little: some steps of adversarial training."""
    torch.manual_seed(0)
    model = build_model("small_cnn", "digits").to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.003)
    attack, generator = PGD(norm="linf", epsilon=EPSILON, step_size=EPSILON / 4, steps=7), torch.Generator()
    for step in range(steps):
        order = torch.randperm(len(images), generator=generator.manual_seed(step))[:128]
        inputs, labels = images.batch(order)
        loss = nn.functional.cross_entropy(model.train()(attack.perturb(model, inputs, labels, generator)), labels)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
    return model.eval()


def ours(model: nn.Module, images: ImageSet) -> tuple[list[bool], float]:
    """Verdicts and seconds of the project's evaluation, journal included."""
    attack = {"name": "autoattack", "norm": "linf", "epsilon": EPSILON}
    settings = EvaluationSettings.model_validate(
        {"batch_size": len(images), "attacks": {"aa": attack, "again": attack}, "union": ["aa", "again"]}
    )
    settings = settings.model_copy(update={"attacks": {"aa": settings.attacks["aa"]}})
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        verdicts = Evaluation(model, images, settings, Journal(Path(folder)), Silent()).run()
        elapsed = time.perf_counter() - started
    return verdicts.loc[verdicts["attack"] == "aa", "correct"].tolist(), elapsed


def theirs(model: nn.Module, images: ImageSet) -> tuple[list[bool], float]:
    """Verdicts and seconds of the package."""
    from pyautoattack import AutoAttack

    inputs, labels = images.batch(torch.arange(len(images)))
    seed = stream_seed(0, "autoattack", 0)
    started = time.perf_counter()
    attack = AutoAttack(model, norm="Linf", eps=EPSILON, seed=seed, version="standard", device=str(inputs.device))
    adversarial, _ = attack.run_standard_evaluation(inputs, labels, batch_size=len(images))
    synchronize(inputs.device)
    elapsed = time.perf_counter() - started
    with torch.no_grad():
        return (model(adversarial).argmax(1) == labels).tolist(), elapsed


def main(arguments: list[str] | None = None) -> int:
    """The command."""
    given = read_arguments(__doc__, "autoattack", OPTIONS, arguments)
    data = suite("suite=digits", "competitors=none").data
    with tempfile.TemporaryDirectory() as folder:
        prepare(data, Path(folder))
        split = load_split(Path(folder), data)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = trained_model(split.train, given.steps).to(device)
    images = split.test.subset(torch.arange(given.images)).to(device)
    seconds: dict[str, list[float]] = {"ours": [], "theirs": []}
    robust = 0
    for number in range(given.rounds):
        runs = {run.__name__: run(model, images) for run in ((ours, theirs) if number % 2 == 0 else (theirs, ours))}
        if runs["ours"][0] != runs["theirs"][0]:
            raise PipelineError("the verdicts differ from those of the package")
        robust = sum(runs["ours"][0])
        for name, (_, elapsed) in runs.items():
            seconds[name].append(elapsed)
    compared = ratios(seconds["ours"], seconds["theirs"])
    result = {
        "ratio_median": compared["median"],
        "ratio_least": compared["least"],
        "ratio_most": compared["most"],
        "seconds": seconds,
        "rounds": given.rounds,
        "images": given.images,
        "robust_images": robust,
    }
    publish(given.output, result, device)
    return 0


if __name__ == "__main__":
    sys.exit(main())
