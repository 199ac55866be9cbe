"""What benchmarks have measured, as Markdown: a template in `blocks/` for each block of the pages."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from benchmarks.frame import spread
from pipeline.core.datasets import DATASETS
from pipeline.evaluation.attacks.autoattack import PASSES
from pipeline.reporting.page.text import html

Results = Mapping[str, dict[str, Any]]
"""What was measured on one kind of device: what each benchmark left, by its name."""
TEMPLATES = Path(__file__).with_name("blocks")
ENDING = ".md.j2"
BLOCKS = sorted(path.name.removesuffix(ENDING) for path in TEMPLATES.iterdir())
ON_THE_HOST = {
    "grid", "ood_memory", "imagefolder", "theorem_2", "learners_epsilons",
    "minibatch_gradients", "methods_picture", "growth_picture", "profile_picture",
}  # fmt: skip
"""Blocks that have nothing to say of a GPU."""
PGD_PASSES = 20
"""Passes of PGD-20 over an image."""


class Unmeasured(Exception):
    """Something was not measured; the message is the command that measures it."""


def render(name: str, results: Results) -> str:
    """The text of a block.

    Raises:
        TemplateNotFound: nothing is measured for a block of this name.
        Unmeasured: it has not been measured.
    """
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"number": number, "ranged": ranged, "spread": spread, "threads": threads, "html": html}
    environment.globals |= {
        "results": results,
        "need": partial(need, results),
        "source": partial(source, results),
        "straight_line": straight_line,
        "imagenet": DATASETS["imagenet"],
        "attack_passes": sum(map(sum, PASSES.values())) + PGD_PASSES,
    }
    return environment.get_template(name + ENDING).render().strip()


def need(results: Results, name: str, *keys: str) -> Any:
    """What a benchmark left, or something within it.

    Raises:
        Unmeasured: it is not there.
    """
    found: Any = results.get(name)
    for key in keys:
        found = found.get(key) if isinstance(found, dict) else None
    if found is None:
        raise Unmeasured(f"python -m benchmarks {name}")
    return found


def source(results: Results, *names: str) -> str:
    """Where numbers come from: machine, threads unless parts have each their own, versions and commit."""
    found = need(results, names[0])
    machine, parts = found["machine"], json.dumps({key: part for key, part in found.items() if key != "machine"})
    where = machine["device"] + ("" if '"threads"' in parts else f", {threads(machine['threads'])}")
    files = " and ".join(f"`{results.get(name, {}).get('file', f'{name}.json')}`" for name in names)
    return f"{where}; torch {found['torch']}, Python {found['python']}; commit `{found['git_commit'][:10]}`; {files}."


def threads(count: int) -> str:
    """How many threads computed."""
    return f"{count} thread{'s' if count > 1 else ''}"


def number(value: float) -> str:
    """Three significant digits, never with an exponent.

    >>> [number(value) for value in (1234.5, 12.345, 0.012345)]
    ['1,235', '12.3', '0.0123']
    """
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    digits = 2 - int(np.floor(np.log10(abs(value))))
    return f"{value:.{digits}f}"


def ranged(found: Mapping[str, float], scale: float = 1.0) -> str:
    """A median with the least and the most."""
    median, least, most = (number(scale * found[key]) for key in ("median", "least", "most"))
    return f"{median} ({least}, {most})"


def straight_line(measured: Mapping[str, Any]) -> dict[str, float]:
    """Intercept and slope of a line through median seconds by count, and how far a median is from it at most."""
    counts = np.array([float(key) for key in measured])
    seconds = np.array([one["seconds"]["median"] for one in measured.values()])
    slope, intercept = np.polyfit(counts, seconds, 1)
    residual = np.abs((slope * counts + intercept - seconds) / seconds).max()
    return {"intercept": round(intercept, 6), "slope": round(slope, 6), "residual": residual}
