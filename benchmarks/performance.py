"""Put what benchmarks have measured into README.md and pages of docs/, and draw it to reports/published/performance/.

Pages are written by hand but for what lies between `<!-- measured: NAME -->` and `<!-- end -->`, which comes from
benchmarks/results/ alone. `--check` writes nothing and fails where a page does not say what was measured.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from benchmarks.blocks import ON_THE_HOST, Results, Unmeasured, render
from benchmarks.frame import RESULTS, file_for
from pipeline.core.files import write_text
from pipeline.reporting.markdown import fill_blocks

REPOSITORY = RESULTS.parent.parent
PAGES = (
    *(f"docs/{name}.md" for name in ("performance", "ablation", "evaluation", "imagenet", "theory")),
    "README.md",
)
PICTURES = Path("reports/published/performance")
GPU = "gpu"
"""The block that says what was measured on a GPU at all."""
OTHERS = {"cpu_without_amx": "On a CPU without AMX:"}
"""What they speak of where it was measured."""


def read_results(folder: Path) -> dict[str, Results]:
    """What was measured, by kind of device: `results["cpu"]["step"]`. A file that names no machine does not count."""
    results: dict[str, dict[str, Any]] = {device: {} for device in ("cpu", "cuda", *OTHERS)}
    for name in sorted({path.name.split(".")[0] for path in folder.glob("*.json")}):
        for device, found in results.items():
            path = file_for(folder / f"{name}.json", device)
            content = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
            if "machine" in content:
                found[name] = content | {"file": path.name}
    return dict(results)


def block(name: str, results: dict[str, Results]) -> str:
    """The text of one block: of the CPU, of other CPUs, and of a GPU."""
    if name == GPU:
        measured = ", ".join(f"`{found}`" for found in results["cuda"])
        return f"On a GPU: {measured}." if measured else "Nothing has been measured on a GPU yet."
    texts = []
    for device in ("cpu", *OTHERS, "cuda"):
        if device != "cpu" and name in ON_THE_HOST:
            continue
        try:
            text = render(name, results.get(device, {}))
        except Unmeasured as missing:
            if device == "cpu":
                texts.append(f"Not measured (`{missing}`).")
        else:
            texts += [text] if device == "cpu" else [OTHERS.get(device, "On a GPU:"), text]
    return "\n\n".join(texts)


def fill(page: str, results: dict[str, Results]) -> str:
    """A page with all its blocks as they should be.

    Raises:
        TemplateNotFound: a block has a name that nothing is measured for.
    """
    return fill_blocks(page, lambda name: block(name, results))


def main(arguments: list[str] | None = None) -> int:
    """The command: 1 where `--check` finds a page that is not up to date."""
    parser = argparse.ArgumentParser(
        prog="benchmarks.performance", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="write nothing")
    given = parser.parse_args(arguments)
    results, differ = read_results(RESULTS), []
    for name in PAGES:
        before = (REPOSITORY / name).read_text(encoding="utf-8")
        after = fill(before, results)
        if before != after:
            differ.append(name)
        if not given.check:
            write_text(REPOSITORY / name, after)
    if given.check:
        print(f"not up to date, run python -m benchmarks.performance: {', '.join(differ)}" if differ else "up to date")
        return int(bool(differ))
    from benchmarks.pictures import draw

    drawn = draw(results["cpu"], REPOSITORY / PICTURES)
    print("wrote", *PAGES, *(path.relative_to(REPOSITORY) for path in drawn))
    return 0


if __name__ == "__main__":
    sys.exit(main())
