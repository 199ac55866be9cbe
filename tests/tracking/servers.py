"""Real MLflow servers that are started and killed, and what may lie between them and us."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal

from pipeline.grid.local import free_port
from tests.conftest import PATIENCE

Mode = Literal["up", "down", "error", "page", "hang"]

ERROR = b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 5\r\nConnection: close\r\n\r\nwrong"
PAGE = b"HTTP/1.1 200 OK\r\nContent-Length: 14\r\nConnection: close\r\n\r\n<html>Login..."


class Server:
    """`mlflow server` with its own store and artifacts, always at the same address.

    Args:
        folder: For its database, artifacts and log.
        empty_store: A database with MLflow's schema.
    """

    def __init__(self, folder: Path, empty_store: Path) -> None:
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self.port = free_port()
        self.address = f"http://127.0.0.1:{self.port}"
        shutil.copy(empty_store, folder / "server.db")

    def start(self) -> None:
        """Start it, unless it runs, and wait until it answers."""
        if self._process is not None:
            return
        options = {
            "--host": "127.0.0.1",
            "--port": str(self.port),
            "--workers": "1",
            "--backend-store-uri": f"sqlite:///{self._folder}/server.db",
            "--artifacts-destination": f"{self._folder}/server-artifacts",
        }
        command = [sys.executable, "-m", "mlflow", "server", *(part for option in options.items() for part in option)]
        environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        with open(self._folder / "server.log", "ab") as log:
            self._process = subprocess.Popen(
                command, stdout=log, stderr=log, env=environment, cwd=self._folder, start_new_session=True
            )
        self._wait()

    def _wait(self) -> None:
        assert self._process is not None
        deadline, log = time.monotonic() + PATIENCE, self._folder / "server.log"
        while True:
            assert self._process.poll() is None, log.read_text()
            try:
                urllib.request.urlopen(f"{self.address}/health", timeout=5).close()
                return
            except OSError as error:
                assert time.monotonic() < deadline, f"{error!r}\n{log.read_text()}"
            time.sleep(0.2)

    def kill(self) -> None:
        """SIGKILL to it and its workers, if it runs."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None


class Proxy:
    """Passes connections on to a server, or is one that is down, fails, answers with a web page, or hangs.

    Args:
        target: The server's port.
    """

    def __init__(self, target: int) -> None:
        self.mode: Mode = "up"
        self.requests = 0
        """Connections that were made."""
        self._target = target
        self._open: list[tuple[Mode, socket.socket]] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def switch(self, mode: Mode) -> None:
        """Behave so from now on; connections of before are cut."""
        self.mode = mode
        for made, connection in list(self._open):
            if made != mode:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Listen no more."""
        self.switch("down")
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self.requests += 1
                threading.Thread(target=self._serve, args=(connection, self.mode), daemon=True).start()

    def _serve(self, connection: socket.socket, mode: Mode) -> None:
        self._open.append((mode, connection))
        with suppress(OSError):
            if mode == "down":
                connection.close()
            elif mode in ("error", "page"):
                connection.recv(65536)
                connection.sendall(ERROR if mode == "error" else PAGE)
                connection.close()
            elif mode == "up":
                onward = socket.create_connection(("127.0.0.1", self._target))
                self._open.append((mode, onward))
                threading.Thread(target=_copy, args=(onward, connection), daemon=True).start()
                _copy(connection, onward)


def _copy(source: socket.socket, destination: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            destination.sendall(data)
        destination.shutdown(socket.SHUT_WR)


@contextmanager
def proxy(server: Server) -> Iterator[Proxy]:
    """A proxy before a server."""
    made = Proxy(server.port)
    try:
        yield made
    finally:
        made.close()
