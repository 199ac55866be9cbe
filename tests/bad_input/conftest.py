"""What every wrong request must end in, and the folder in which it is made."""

from __future__ import annotations

import contextlib
import io
import os
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml

Make = Callable[[Path], Any]
SECONDS = 5.0
"""Of the processor, within which a request is refused."""
NOWHERE = "http://127.0.0.1:9"
"""A port on which nobody listens: downloads fail at once."""
OTHERS: dict[str, Make] = {
    "a folder": lambda path: path.mkdir(),
    "a link to nowhere": lambda path: path.symlink_to("nowhere"),
    "a link to itself": lambda path: path.symlink_to(path.name),
    "a pipe": os.mkfifo,
    "an empty device": lambda path: path.symlink_to("/dev/null"),
}
"""What may lie in the place of a file."""


def bytes_of(content: bytes) -> Make:
    return lambda path: path.write_bytes(content)


def listing(folder: Path) -> dict[Path, tuple[int, ...]]:
    """Every file and link below a folder, with what changes when it is written; without locks that nobody holds."""
    paths = [path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir()]
    states = {path: path.lstat() for path in paths}
    return {
        path: (state.st_ino, state.st_size, state.st_mtime_ns, state.st_mode)
        for path, state in states.items()
        if state.st_size or not path.name.endswith("lock")
    }


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_content: dict[str, Any]) -> Path:
    """The folder of a stage, with a params.yaml that is right, and room around it that is watched as well."""
    work = tmp_path / "outer/work"
    work.mkdir(parents=True)
    (work / "params.yaml").write_text(yaml.safe_dump(tiny_content, sort_keys=False))
    monkeypatch.chdir(work)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, NOWHERE)
    monkeypatch.setenv("no_proxy", "127.0.0.1,localhost")
    monkeypatch.setattr("urllib.request._opener", None)  # it keeps the proxies that it saw first
    return work


def refused(folder: Path, stage: str, *arguments: str, names: str = "", may_write: str = "") -> None:
    """Call a stage and hold how it ends against what is promised.

    Args:
        folder: Where it runs.
        names: What the message must contain.
        may_write: Files below this path of the folder may be left.
    """
    main = import_module(f"stages.{stage}").main
    before, said, started = listing(folder.parents[1]), io.StringIO(), time.process_time()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        try:
            code = main(list(arguments))
        except SystemExit as left:
            code = left.code
    spent, message, after = time.process_time() - started, said.getvalue(), listing(folder.parents[1])
    changed = [path for path in before.keys() | after.keys() if before.get(path) != after.get(path)]
    assert code == 2, message
    assert not [path for path in changed if not may_write or folder / may_write not in path.parents]
    assert spent < SECONDS
    lines = message.splitlines()
    ours = lines[0].startswith("error: ") and not any(line.startswith("error: ") for line in lines[1:])
    assert ours or (lines[0].startswith("usage: ") and ": error: " in lines[-1]), message
    assert names in message and "Warning: " not in message and " object at 0x" not in message and len(message) < 20_000
