"""What benchmarks have measured, as Markdown: what a thousand experiments would take."""

from __future__ import annotations

from benchmarks.formats import Results, need, number, source, table
from pipeline.core.datasets import DATASETS
from pipeline.evaluation.attacks.autoattack import PASSES
from pipeline.reporting.page.text import html

EXPERIMENTS = 1000
PGD_PASSES = 20
"""Passes of PGD-20 over an image."""
DAY, YEAR = 86_400.0, 365.25 * 86_400


def imagenet(results: Results) -> str:
    """What a thousand experiments would take on machines like this one."""
    case = need(results, "methods", "architectures", "resnet50")
    operations = need(results, "peak", "gigaflops_per_image", "resnet50")
    facts = DATASETS["imagenet"]
    assert facts.train_images is not None and facts.test_images is not None
    seen = facts.train_images * case["epochs"]
    seconds = {name: seen / one["images_per_second"]["median"] for name, one in case["methods"].items()}
    rows = [
        [
            str(html(one["label"])),
            number(one["images_per_second"]["median"]),
            number(seconds[name] / DAY),
            number(EXPERIMENTS * seconds[name] / YEAR),
            number(seen * operations[name] / 1e9),
        ]
        for name, one in case["methods"].items()
    ]
    header = ["method", "images/s", "one, days", f"{EXPERIMENTS:,}, years", "operations of one, 1e18"]
    attacked = 2 * facts.test_images * (sum(map(sum, PASSES.values())) + PGD_PASSES)
    trained = seen * (case["attack_steps"] + 1)
    megabytes = need(results, "mixture", "mixture", "resnet50", "2", "weights_megabytes")
    remarks = [
        f"Training: seconds = {facts.train_images:,} images x {case['epochs']} epochs / rate; of {EXPERIMENTS:,} "
        f"experiments times {EXPERIMENTS:,}, divided by the number of machines like this one.",
        f"Assumed: the rate at batch {case['batch_size']}, with {case['attack_steps']} attack steps, holds for batch "
        f"{case['suite_batch_size']}; loading keeps up; held-out accuracies and checkpoints are not counted.",
        f"Evaluation: at most {attacked:,} passes over an image (PGD-20 and AutoAttack in two norms on "
        f"{facts.test_images:,} images, as if every image resisted every attack), "
        f"{number(100 * attacked / trained)} % of the {trained:,} of AT's training.",
        f"Kept weights: {EXPERIMENTS:,} x 2 copies x {number(megabytes)} MB = "
        f"{number(EXPERIMENTS * 2 * megabytes / 1e6)} TB.",
        "For another machine: seconds = operations / (its peak x the share of the peak that is measured there).",
    ]
    lines = "\n".join(f"- {remark}" for remark in remarks)
    return f"{table(header, rows)}\n\n{lines}\n\n{source(results, 'methods', 'peak', 'mixture')}"
