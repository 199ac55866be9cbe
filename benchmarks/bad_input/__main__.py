"""Draw wrong requests, check how each ends, and write the table of docs/security.md.

    python -m benchmarks.bad_input --cases 5000

Each case is a call of a stage's `main` in a new folder; some of those that are refused run again as real processes.
Every case must end with exit code 2 and one message, within 5 s of the processor, without a traceback and with every
file as it was. Exit code 1 where one does not.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import repeat
from multiprocessing import get_context

from benchmarks.bad_input.cases import PROBLEMS
from benchmarks.bad_input.kinds import KINDS, numbers
from benchmarks.bad_input.report import DOCUMENT, RESULTS, Row, added, run_kind, table
from benchmarks.bad_input.running import import_all
from benchmarks.publishing import publish
from pipeline.machine import usable_cores
from pipeline.reporting.blocks import replace_block
from stages.cli import positive


def main(arguments: list[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=positive, default=5000, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument(
        "--jobs", type=positive, default=usable_cores(), help="at once (default: %(default)s, as cores)"
    )
    parser.add_argument("--only", nargs="+", metavar="KIND", help="kinds that begin so; nothing is written then")
    given = parser.parse_args(arguments)
    chosen = [kind for kind in KINDS if not given.only or kind.name.startswith(tuple(given.only))]
    counts, started = numbers(given.cases), time.perf_counter()
    with ProcessPoolExecutor(given.jobs, get_context("spawn"), import_all) as pool:
        parts = pool.map(
            run_kind, [kind.name for kind in chosen], [counts[kind.name] for kind in chosen], repeat(given.seed)
        )
        found = dict(zip([kind.name for kind in chosen], _told(parts), strict=True))
    rows = {kind.name: {"about": kind.about, **found[kind.name][0]} for kind in chosen}
    result = {
        "seed": given.seed,
        "all": added([row for row, _ in found.values()]),
        "kinds": rows,
        "processes": added([row for _, row in found.values()]),
        "seconds": round(time.perf_counter() - started),
    }
    if not given.only:
        replace_block(DOCUMENT, "bad_input", table(publish(RESULTS, result)))
    return 1 if any(result[part][name] for part in ("all", "processes") for name in PROBLEMS) else 0


def _told(parts: Iterable[tuple[Row, Row, list[str]]]) -> Iterator[tuple[Row, Row]]:
    """Print what comes from each kind as soon as it is there."""
    for row, apart, lines in parts:
        print("\n".join(lines), flush=True)
        yield row, apart


if __name__ == "__main__":
    sys.exit(main())
