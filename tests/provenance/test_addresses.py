"""Addresses are of the code that runs, not of that which lay elsewhere when they were written."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from pipeline.provenance.addresses import MADE_FROM, _inputs, write_addresses
from pipeline.provenance.code import sources


def test_a_checkout_that_was_copied_or_moved_has_addresses_of_its_own_code(raw: dict[str, Any], tmp_path: Path) -> None:
    params, output, original = tmp_path / "params.yaml", tmp_path / "addresses.json", tmp_path / "original"
    params.write_text(json.dumps(raw))
    assert write_addresses(params, output) and not write_addresses(params, output)
    known = json.loads(output.read_text())
    packages = {name: original / name for name in known[MADE_FROM]["packages"]}
    for name, folder in sources().packages.items():
        shutil.copytree(folder, packages[name], ignore=shutil.ignore_patterns("__pycache__"))
    copied = json.dumps(known | {MADE_FROM: _inputs(params, known, packages)})
    output.write_text(copied)
    assert write_addresses(params, output), "code that was changed in the copy alone would not count"
    output.write_text(copied)
    shutil.rmtree(original)
    assert write_addresses(params, output) and not write_addresses(params, output)
