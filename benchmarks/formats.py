"""How pages show what benchmarks have measured: numbers, spreads, tables, and where they come from."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np

from pipeline.reporting.markdown import markdown_table

Results = Mapping[str, dict[str, Any]]
"""What was measured on one kind of device: what each benchmark left, by its name."""
Spread = Mapping[str, float]


class Unmeasured(Exception):
    """Something was not measured; the message is the command that measures it."""


def need(results: Results, name: str, *keys: str) -> Any:
    """What a benchmark left, or something within it.

    Raises:
        Unmeasured: it is not there.
    """
    found: Any = results.get(name)
    for key in keys:
        found = found.get(key) if isinstance(found, dict) else None
    if found is None:
        raise Unmeasured(f"python -m benchmarks.{name}")
    return found


def number(value: float) -> str:
    """Three significant digits, never with an exponent.

    >>> [number(value) for value in (1234.5, 12.345, 0.012345)]
    ['1,235', '12.3', '0.0123']
    """
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    digits = 2 - int(np.floor(np.log10(abs(value))))
    return f"{value:.{digits}f}"


def ranged(found: Spread, scale: float = 1.0) -> str:
    """A median with the least and the most."""
    median, least, most = (number(scale * found[key]) for key in ("median", "least", "most"))
    return f"{median} ({least}, {most})"


def percent(found: Spread) -> str:
    """The same in per cent."""
    return ranged(found, 100)


table = partial(markdown_table, left=1)
"""A table whose first column is text and the others are numbers; `left` gives another number of text columns."""


def source(results: Results, *names: str) -> str:
    """Where numbers come from: machine, versions and commit."""
    found = need(results, names[0])
    machine = found["machine"]
    threads = f"{machine['threads']} thread{'s' if machine['threads'] > 1 else ''}"
    where = f"{machine['device']}, {threads}"
    files = " and ".join(f"`{results.get(name, {}).get('file', f'{name}.json')}`" for name in names)
    return f"{where}; torch {found['torch']}, Python {found['python']}; commit `{found['git_commit'][:10]}`; {files}."
