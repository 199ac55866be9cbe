"""Measure every wait of the list, and write its two times to docs/reliability.md.

python -m tests.environment.measured_waits
"""

from __future__ import annotations

import json
import math
import signal
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

from benchmarks.frame import publish
from pipeline.core.files import write_text
from pipeline.reporting.markdown import block, fill_blocks, markdown_table
from tests.conftest import REPOSITORY, content_of
from tests.environment.test_waits import named_waits, wait_and_stop
from tests.environment.waits import SCENARIOS

RESULTS = REPOSITORY / "benchmarks/results/waits.json"
PAGE = REPOSITORY / "docs/reliability.md"
SIGNALS = (signal.SIGTERM, signal.SIGINT)


def table(found: Mapping[str, Any]) -> str:
    """The block of the page that results make."""
    waits, rows = named_waits(), []
    for name, times in sorted(found["waits"].items(), key=lambda item: item[0].lower()):
        most = "" if math.isinf(waits[name].patience) else f"{waits[name].patience:.0f} s"
        rows.append([name, waits[name].whom, most, *(f"{times[key]:.1f} s" for key in ("first_word", "end"))])
    return markdown_table(["wait", "for", "at most", "first word", "end"], rows, left=2)


def main() -> None:
    """Let each wait speak, and stop it, one after the other."""
    text, found = yaml.safe_dump(content_of("competitors=none"), sort_keys=False), {}
    for place, name in enumerate(SCENARIOS):
        with TemporaryDirectory() as folder:
            (Path(folder) / "params.yaml").write_text(text)
            waited = wait_and_stop(name, SIGNALS[place % 2], Path(folder))
        assert waited.code == 75, (name, waited)
        found[name] = {"first_word": waited.silent, "end": waited.ending, "signal": SIGNALS[place % 2].name}
    publish(RESULTS, {"waits": found})
    made, page = table(json.loads(RESULTS.read_text())), PAGE.read_text(encoding="utf-8")
    write_text(PAGE, fill_blocks(page, lambda name: made if name == "waits" else block(page, name)))


if __name__ == "__main__":
    main()
