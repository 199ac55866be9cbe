"""Evaluate weights from elsewhere on the suite of params.yaml: a state dict as .safetensors, .pt, .pth or .ckpt.

    python -m stages.evaluate_weights model.pt --architecture resnet18 --attacks pgd20_linf,aa_linf --images 1000

The file must hold tensors alone, under whatever keys and prefixes. What was matched, stripped and left out is said; a
normalisation layer in the file is used. Verdicts, metrics, accuracies by class and the signs of gradient masking go to
--output; a killed run goes on where it was.
"""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from stages import cli


@cli.command(
    cli.PARAMS,
    cli.option("weights", type=Path, help="the file"),
    cli.option("--architecture", help="a name, or package.module:object (default: that of params.yaml)"),
    cli.option("--key", help="which network of a file that holds several: a place such as ema, or a prefix"),
    cli.option("--mean", type=float, nargs="+", help="what the model subtracts, one value or one per channel"),
    cli.option("--std", type=float, nargs="+", help="what it then divides by"),
    cli.option("--any-scale", action="store_true", help="attack it although it does better in another scale"),
    cli.option("--claims", type=Path, help="a RobustBench model_info (JSON) to hold the accuracies against"),
    cli.option("--attacks", help="names from evaluation.attacks, comma-separated; '' for none (default: all)"),
    cli.option("--images", type=cli.positive, help="attack only the first so many test images"),
    cli.option("--output", type=Path, help="folder (default: results/external/<file name>)"),
)
def main(given: Namespace) -> None:
    from pipeline.experiments.foreign import ExternalModel, attack_external

    params = cli.params_of(given)
    architecture = params.model.architecture if given.architecture is None else given.architecture
    model = ExternalModel(given.weights, architecture, given.mean, given.std, given.key)
    attacks = None if given.attacks is None else [name for name in given.attacks.split(",") if name]
    output = given.output or Path("results/external") / given.weights.stem
    metrics = attack_external(params, model, attacks, given.images, output, given.any_scale, given.claims)
    print(f"evaluated {given.weights}: " + ", ".join(f"{key} {value:.2%}" for key, value in metrics.items()))


if __name__ == "__main__":
    raise SystemExit(main())
