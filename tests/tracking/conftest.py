"""Stores and servers for tests of tracking."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.tracking.servers import Server


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.fixture
def server(empty_store: Path, tmp_path: Path) -> Iterator[str]:
    """The address of a real `mlflow server` with its own store and artifacts."""
    made = Server(tmp_path, empty_store)
    made.start()
    try:
        yield made.address
    finally:
        made.kill()
