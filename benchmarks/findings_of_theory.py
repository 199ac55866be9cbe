"""What benchmarks have measured, as Markdown: the blocks about the theorems."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from benchmarks.formats import Results, need, number, ranged, source, table
from benchmarks.timing import spread


def theory(results: Results) -> str:
    """What measuring the theorems costs."""
    found = need(results, "theory")
    return (
        f"Generalist-T on the digits at the default interval ({found['interval']} epochs, {found['images']} images), "
        f"{found['moments']} moments in {found['epochs']} epochs: **{ranged(found['share_of_training'], 100)} %** of "
        f"the training time (n = {found['rounds']}). {source(results, 'theory')}"
    )


def theorem_2(results: Results) -> str:
    """Both sides of Theorem 2, with every constant."""
    found = need(results, "theorems")
    keys = ("right_side", "epsilon_plus", "geometric_term", "constant")
    rows = [
        [
            *named,
            *(number(row[key]) for key in keys),
            number(row["epsilon"]["global"]),
            number(row["least_constant"]),
            "yes" if row["holds"] else "**no**",
        ]
        for named, row in _inequalities(found)
    ]
    header = ["Method", "Loss", "z", "right side", "eps_plus", "geometric term", "C = 2LM", "eps_g", "least C", "holds"]
    learners = "; ".join(
        f"`{method}`: {', '.join(f'{name} {number(ratio)}' for name, ratio in own['ratios'].items())}, "
        f"M at least {number(own['curvature'])}, learners' spread at most {number(own['learner_spread'])}"
        for method, own in found["methods"].items()
    )
    steepness = ", ".join(f"{loss.replace('_', ' ')} {number(value)}" for loss, value in found["steepness"].items())
    return (
        f"{table(header, rows, left=3)}\n\n{found['pairs']} pairs of each method, seeds "
        f"{', '.join(map(str, found['seeds']))}, after {found['epochs']} epochs. gamma: {learners}. L: {steepness}. "
        f"{source(results, 'theorems')}"
    )


def _inequalities(found: Mapping[str, Any]) -> Iterator[tuple[list[str], Mapping[str, Any]]]:
    """Every inequality that was measured, after the cells that name it: method, loss and view."""
    for method, own in found["methods"].items():
        for row in own["inequalities"]:
            yield [f"`{method}`", row["loss"].replace("_", " "), row["view"].replace("_", " ")], row


def learners_epsilons(results: Results) -> str:
    """epsilon of every learner and of the global learner, by view."""
    found = need(results, "theorems")
    names = list(dict.fromkeys(name for own in found["methods"].values() for name in own["ratios"]))
    rows = [
        [*named, *(number(row["epsilon"][name]) if name in row["epsilon"] else "--" for name in [*names, "global"])]
        for named, row in _inequalities(found)
    ]
    return f"{table(['Method', 'Loss', 'z', *names, 'global'], rows, left=3)}\n\n{source(results, 'theorems')}"


def minibatch_gradients(results: Results) -> str:
    """The claim of section III-C: with and without redistribution."""
    found = need(results, "theorems")
    rows = []
    for method, own in found["methods"].items():
        for learner in own["gradients"]["with"]:
            cells = [
                ranged(spread(own["gradients"][which][learner][kind]))
                for kind in ("product", "cosine")
                for which in ("with", "without")
            ]
            rows.append([f"`{method}`", learner, *cells])
    header = ["Method", "Learner", "product, with", "product, without", "cosine, with", "cosine, without"]
    return (
        f"{table(header, rows, left=2)}\n\nMedian (least, most) of the seeds {', '.join(map(str, found['seeds']))}, "
        f"after {found['epochs']} epochs. {source(results, 'theorems')}"
    )
