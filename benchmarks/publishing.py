"""What every benchmark leaves: its numbers with the code and the versions that gave them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.files import write_json
from pipeline.provenance import git_commit, versions


def publish(path: Path, numbers: Mapping[str, Any]) -> None:
    """Write `numbers` to `path` as JSON, with the commit and the versions, and print them."""
    result = {**numbers, "git_commit": git_commit(), **versions()}
    write_json(path, result)
    print(json.dumps(result, indent=2))
