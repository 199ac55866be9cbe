"""Harm every stage in every way, N times, and write what came of it.

python -m tests.faults.campaign --trials 200 --seed 0

Results go to benchmarks/results/faults.json, the table in docs/reliability.md is written from them.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from benchmarks.frame import publish
from pipeline.core.files import write_text
from pipeline.core.progress import LINE_INTERVAL
from pipeline.reporting.markdown import block, fill_blocks
from tests.faults.host import REPOSITORY, Host
from tests.faults.places import Workshop
from tests.faults.promises import FAULTS, Fault
from tests.faults.trials import Outcome

RESULTS = REPOSITORY / "benchmarks/results/faults.json"
PAGE = REPOSITORY / "docs/reliability.md"


def row(fault: Fault, outcomes: Iterable[Outcome]) -> dict[str, Any]:
    """What the trials of one fault came to."""
    found = list(outcomes)
    ways: dict[str, int] = {}
    for outcome in found:
        for way, count in outcome.ways.items():
            ways[way] = ways.get(way, 0) + count
    return {
        "fault": fault.name,
        "what": fault.what,
        "promise": fault.promise,
        "faults": sum(outcome.struck for outcome in found),
        "lost": sum(len(outcome.lost) for outcome in found),
        "changed": sum(len(outcome.changed) for outcome in found),
        "unsaid": sum(len(outcome.unsaid) for outcome in found),
        "repeated_steps": max((outcome.repeated_steps for outcome in found), default=0),
        "repeated_pieces": max((outcome.repeated_pieces for outcome in found), default=0),
        "slowest_answer_seconds": round(max((outcome.slowest for outcome in found), default=0.0), 2),
        "ways": dict(sorted(ways.items())),
    }


def table(content: Mapping[str, Any]) -> str:
    """The rows as Markdown."""
    total = {key: sum(line[key] for line in content["rows"]) for key in ("faults", "lost", "changed", "unsaid")}
    lines = [
        f"{total['faults']} faults, seed {content['seed']}: {total['lost']} results lost, {total['changed']} changed, "
        f"{total['unsaid']} times not as promised otherwise. {content['cpu_seconds'] / 60:.0f} min of CPU, "
        f"torch {content['torch']}, Python {content['python']}.",
        "",
        "| fault | promise | faults | lost | changed | not as promised | observed |",
        "| :-- | :-- | --: | --: | --: | --: | :-- |",
    ]
    for line in content["rows"]:
        cells = [line[key] for key in ("what", "promise", "faults", "lost", "changed", "unsaid")]
        lines.append("| " + " | ".join(map(str, [*cells, _observed(line)])) + " |")
    return "\n".join(lines)


def _observed(line: Mapping[str, Any]) -> str:
    parts = [", ".join(f"{way}: {count}" for way, count in line["ways"].items())]
    if line["repeated_steps"]:
        parts.append(f"at most {line['repeated_steps']} of the 3 steps of an epoch repeated")
    if line["repeated_pieces"]:
        parts.append(f"at most {line['repeated_pieces']} batch of one attack repeated")
    if line["slowest_answer_seconds"]:
        parts.append(f"stops answered within {line['slowest_answer_seconds']} s")
    return "; ".join(part for part in parts if part)


def run(workshop: Workshop, fault: Fault, count: int, seed: int) -> list[Outcome]:
    """Try a fault until it has hit as often as wanted."""
    outcomes: list[Outcome] = []
    wanted, spoken = fault.wanted(count), time.monotonic()
    while (struck := sum(outcome.struck for outcome in outcomes)) < wanted:
        outcomes.append(fault.trial(workshop, random.Random(f"{seed}/{fault.name}/{len(outcomes)}")))
        for problem in (*outcomes[-1].lost, *outcomes[-1].changed, *outcomes[-1].unsaid):
            print(f"  {fault.name}, trial {len(outcomes) - 1}: {problem}", flush=True)
        if time.monotonic() - spoken > LINE_INTERVAL:
            spoken = time.monotonic()
            print(f"{fault.name}: {struck} of {wanted} faults", flush=True)
    print(f"{fault.name}: {struck} faults, {len(outcomes)} trials", flush=True)
    return outcomes


def main(arguments: list[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=200, help="N: kills of all stages; default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument("--only", action="append", choices=FAULTS, help="these faults alone; nothing is published")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="faults-") as folder, Host(Path(folder)) as host:
        workshop = Workshop(Path(folder), host)
        faults = [FAULTS[name] for name in given.only or FAULTS]
        rows = [row(fault, run(workshop, fault, given.trials, given.seed)) for fault in faults]
        cpu_seconds = host.cpu_seconds + time.process_time()  # of all stages, and of this process
    wrong = sum(line[key] for line in rows for key in ("lost", "changed", "unsaid"))
    if not given.only:
        content = {"trials": given.trials, "seed": given.seed, "cpu_seconds": cpu_seconds, "rows": rows}
        publish(RESULTS, content)
        published = json.loads(RESULTS.read_text())
        page, made = PAGE.read_text(encoding="utf-8"), table(published)
        write_text(PAGE, fill_blocks(page, lambda name: made if name == "faults" else block(page, name)))
        print(made)
    print(f"{sum(line['faults'] for line in rows)} faults, {wrong} promises broken")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
