"""A Prefect server and its workers on this machine, for as long as a grid runs."""

from __future__ import annotations

import contextlib
import json
import os
import random
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryFile
from threading import Event, Thread
from typing import IO

import psutil

from pipeline.core.errors import PipelineError, RequestError
from pipeline.core.files import write_json
from pipeline.core.processes import end, is_alive
from pipeline.core.waiting import kind, until
from pipeline.tracking import sqlite_uri

POOLS = ("experiments", "grids")
PROCESSES = "processes.json"
"""Below the engine's home: who runs."""
START = 120.0
"""Seconds that the server may take to answer."""
SERVER = kind("Prefect server", "the Prefect server of this machine", START)
WORKERS = kind("workers", "the Prefect workers of this machine", START)
COMMANDS = kind("Prefect commands", "commands that make pools and deployments", 5 * START)


@dataclass
class LocalEngine:
    """The server, its workers, their environment and logs.

    Args:
        home: Folder of the server's database and of all logs, absolute.
        port: Where the server listens on 127.0.0.1.
    """

    home: Path
    port: int
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    """By name, in the order in which they were started."""

    @property
    def url(self) -> str:
        """The address of the API."""
        return f"http://127.0.0.1:{self.port}/api"

    def of_every_process(self, inherited: Mapping[str, str]) -> dict[str, str]:
        """The environment in which a process finds this server and nobody else's: another database, a profile or a key
        of Prefect Cloud that a person has set is left out."""
        return {name: value for name, value in inherited.items() if not name.startswith("PREFECT_")} | self.environment

    @property
    def environment(self) -> dict[str, str]:
        """What every process of Prefect needs to find this server."""
        _, _, database = sqlite_uri(self.home / "prefect.db").partition(":///")
        return {
            "PREFECT_HOME": str(self.home),
            "PREFECT_API_URL": self.url,
            "PREFECT_SERVER_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{database}",
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_CLOUD_ENABLE_ORCHESTRATION_TELEMETRY": "false",
            "DO_NOT_TRACK": "1",
            "PREFECT_WORKER_QUERY_SECONDS": "2",
            "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
        }

    def start(self, name: str, *command: str, **environment: str) -> subprocess.Popen[bytes]:
        """Start `python -m prefect ...`, which writes to a log."""
        log = self.home / "logs" / f"{name}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as stream:
            process = self._popen(command, stream, **environment)
        self.processes[name] = process
        self._remember()
        return process

    def run(self, *command: str) -> None:
        """Run `python -m prefect ...` to its end.

        Raises:
            PipelineError: it failed.
        """
        self.run_together([command])

    def run_together(self, commands: Sequence[Sequence[str]]) -> None:
        """Run several `python -m prefect ...` at a time to their ends; none is left behind.

        Raises:
            PipelineError: one failed.
        """
        named = " and ".join(f"'prefect {' '.join(command)}'" for command in commands)
        with ExitStack() as stack:
            outputs = [stack.enter_context(TemporaryFile()) for _ in commands]
            started = [
                stack.enter_context(_killed_at_the_end(self._popen(command, output)))
                for command, output in zip(commands, outputs, strict=True)
            ]
            until(COMMANDS, named, lambda: all(one.poll() is not None for one in started))
            for command, output, one in zip(commands, outputs, started, strict=True):
                if one.returncode != 0:
                    output.seek(0)
                    said = output.read().decode(errors="replace")
                    raise PipelineError(f"'prefect {' '.join(command)}' failed:\n{said}")

    def _popen(self, command: Sequence[str], output: IO[bytes], **environment: str) -> subprocess.Popen[bytes]:
        """In a session of its own, so that Ctrl-C does not reach it before us."""
        return subprocess.Popen(
            [sys.executable, "-m", "prefect", *command],
            env=self.of_every_process(os.environ) | environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def start_server(self) -> None:
        """Start the server, and wait until it answers.

        Raises:
            PipelineError: it ended, or it does not answer.
        """
        server = self.start("server", "server", "start", "--host", "127.0.0.1", "--port", str(self.port))
        failed = f"the Prefect server did not start; its log: {self.home / 'logs/server.log'}"

        def answers() -> bool:
            if server.poll() is not None:
                raise PipelineError(failed)
            return self._answers()

        until(SERVER, f"the Prefect server to answer at {self.url}", answers, in_vain=failed)

    def _answers(self) -> bool:
        try:
            urllib.request.urlopen(f"{self.url}/health", timeout=2).close()
        except OSError:
            return False
        return True

    def deploy(self) -> None:
        """Make the pools and the deployments of prefect.yaml."""
        self.run_together([("work-pool", "create", "--type", "process", "--overwrite", pool) for pool in POOLS])
        self.run("--no-prompt", "deploy", "--all")

    def start_worker(self, name: str, pool: str = POOLS[0], **environment: str) -> subprocess.Popen[bytes]:
        """Start a worker that takes one run at a time."""
        return self.start(name, "worker", "start", "--pool", pool, "--limit", "1", "--name", name, **environment)

    def wait_for_workers(self, count: int, pool: str = POOLS[0]) -> None:
        """Wait until so many workers of a pool are online: the grid divides its work among those that it finds.

        Raises:
            PipelineError: they do not appear.
        """
        request = urllib.request.Request(
            f"{self.url}/work_pools/{pool}/workers/filter", b"{}", {"Content-Type": "application/json"}, method="POST"
        )

        def are_online() -> bool:
            try:
                with urllib.request.urlopen(request, timeout=2) as answer:
                    return [worker["status"] for worker in json.load(answer)].count("ONLINE") >= count
            except OSError:
                return False

        whom = f"{count} workers of the pool '{pool}' to be online"
        until(WORKERS, whom, are_online, in_vain=f"the workers did not start; their logs: {self.home / 'logs'}")

    def stop(self) -> None:
        """End all processes: workers let their runs save, then the server goes."""
        server = self.processes.pop("server", None)
        for group in (list(self.processes.values()), [server] if server else []):
            end([psutil.Process(process.pid) for process in group if process.poll() is None])
            for process in group:
                process.wait()
        self.processes.clear()
        self._remember()

    def _remember(self) -> None:
        """Write down who runs, so that the next start finds what a kill left behind."""
        alive = [process.pid for process in self.processes.values() if process.poll() is None]
        started = {str(pid): psutil.Process(pid).create_time() for pid in alive}
        write_json(self.home / PROCESSES, started)


@contextmanager
def _killed_at_the_end(process: subprocess.Popen[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    with process:
        try:
            yield process
        finally:
            process.kill()


def end_leftovers(home: Path) -> None:
    """End the server and the workers of an earlier start that was killed, with all their children.

    Args:
        home: Of the `LocalEngine` that started them.

    Raises:
        RequestError: the system hides its processes, so that none could be ended.
    """
    try:
        psutil.Process()
    except psutil.Error:
        raise RequestError(
            "the processes of a grid could not be ended again: /proc, which shows them, cannot be read. Mount it, or "
            "name a server with workers elsewhere in PREFECT_API_URL; 'make repro' needs neither"
        ) from None
    path = home / PROCESSES
    remembered: Mapping[str, float] = json.loads(path.read_text()) if path.exists() else {}
    found = [process for pid, created in remembered.items() for process in _still_there(int(pid), created)]
    if found:
        print(f"ending {len(found)} processes that an earlier start left behind", flush=True)
        end(found)


def _still_there(pid: int, created: float) -> list[psutil.Process]:
    """The process that was created then; none where it has ended, or another has its number now."""
    try:
        process = psutil.Process(pid)
        return [process] if process.create_time() == created and is_alive(process) else []
    except psutil.NoSuchProcess:
        return []


PORTS = range(20000, 32000)
"""Below those that systems give to outgoing connections, one of which would else take the port before the server."""


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on, nor is likely to before a server has started.

    Raises:
        PipelineError: all are taken.
    """
    for port in random.SystemRandom().sample(PORTS, len(PORTS)):
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
    raise PipelineError(f"every port of 127.0.0.1 from {PORTS.start} to {PORTS.stop - 1} is taken")


@contextmanager
def local_engine(home: Path, workers: int, threads: int) -> Iterator[LocalEngine]:
    """A server with pools, deployments and workers of `threads` CPU threads each; all of it ends with the block.

    A worker that dies is started again meanwhile.

    Raises:
        PipelineError: the server or a deployment fails; the message has its output.
    """
    engine = LocalEngine(home.absolute(), free_port())
    try:
        engine.start_server()
        engine.deploy()
        names = [f"worker-{number}" for number in range(1, workers + 1)]
        for name in names:
            engine.start_worker(name, OMP_NUM_THREADS=str(threads))
        engine.wait_for_workers(workers)
        with _kept_alive(engine, names, threads):
            yield engine
    finally:
        engine.stop()


@contextmanager
def _kept_alive(engine: LocalEngine, names: list[str], threads: int) -> Iterator[None]:
    """Start workers again that die."""
    ended = Event()

    def watch() -> None:
        while not ended.wait(2.0):
            for name in names:
                if engine.processes[name].poll() is not None:
                    print(f"{name} died and is started again; its log: {engine.home / 'logs' / name}.log", flush=True)
                    engine.start_worker(name, OMP_NUM_THREADS=str(threads))

    watcher = Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()
