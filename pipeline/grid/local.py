"""A Prefect server and its workers on this machine, for as long as a grid runs."""

from __future__ import annotations

import contextlib
import json
import os
import random
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Thread

import psutil

from pipeline.core.errors import PipelineError
from pipeline.core.files import write_json

POOLS = ("experiments", "grids")
PROCESSES = "processes.json"
"""Below the engine's home: who runs."""
START = 120.0
"""Seconds that the server may take to answer."""
STOP = 60.0
"""Seconds that a process may take to save and end."""


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

    @property
    def environment(self) -> dict[str, str]:
        """What every process of Prefect needs to find this server, and nobody else's."""
        return {
            "PREFECT_HOME": str(self.home),
            "PREFECT_API_URL": self.url,
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_CLOUD_ENABLE_ORCHESTRATION_TELEMETRY": "false",
            "DO_NOT_TRACK": "1",
            "PREFECT_WORKER_QUERY_SECONDS": "2",
            "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
        }

    def start(self, name: str, *command: str, **environment: str) -> subprocess.Popen[bytes]:
        """Start `python -m prefect ...` in a session of its own, so that Ctrl-C does not reach it before us."""
        log = self.home / "logs" / f"{name}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as stream:
            process = subprocess.Popen(
                [sys.executable, "-m", "prefect", *command],
                env=os.environ | self.environment | environment,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.processes[name] = process
        self._remember()
        return process

    def run(self, *command: str) -> None:
        """Run `python -m prefect ...` to its end.

        Raises:
            PipelineError: it failed.
        """
        finished = subprocess.run(
            [sys.executable, "-m", "prefect", *command],
            env=os.environ | self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if finished.returncode != 0:
            raise PipelineError(f"'prefect {' '.join(command)}' failed:\n{finished.stdout}{finished.stderr}")

    def start_server(self) -> None:
        """Start the server, and wait until it answers.

        Raises:
            PipelineError: it ended, or it does not answer.
        """
        server = self.start("server", "server", "start", "--host", "127.0.0.1", "--port", str(self.port))
        deadline = time.monotonic() + START
        while not self._answers():
            if server.poll() is not None or time.monotonic() > deadline:
                raise PipelineError(f"the Prefect server did not start; its log: {self.home / 'logs/server.log'}")
            time.sleep(0.2)

    def _answers(self) -> bool:
        try:
            urllib.request.urlopen(f"{self.url}/health", timeout=2).close()
        except OSError:
            return False
        return True

    def deploy(self) -> None:
        """Make the pools and the deployments of prefect.yaml."""
        with ThreadPoolExecutor() as threads:
            pools = [
                threads.submit(self.run, "work-pool", "create", "--type", "process", "--overwrite", pool)
                for pool in POOLS
            ]
        for pool in pools:
            pool.result()
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
        deadline = time.monotonic() + START
        while True:
            with urllib.request.urlopen(request, timeout=START) as answer:
                if sum(worker["status"] == "ONLINE" for worker in json.load(answer)) >= count:
                    return
            if time.monotonic() > deadline:
                raise PipelineError(f"the workers did not start; their logs: {self.home / 'logs'}")
            time.sleep(0.2)

    def stop(self) -> None:
        """End all processes: workers let their runs save, then the server goes."""
        server = self.processes.pop("server", None)
        for group in (list(self.processes.values()), [server] if server else []):
            _end([psutil.Process(process.pid) for process in group if process.poll() is None])
            for process in group:
                process.wait()
        self.processes.clear()
        self._remember()

    def _remember(self) -> None:
        """Write down who runs, so that the next start finds what a kill left behind."""
        alive = [process.pid for process in self.processes.values() if process.poll() is None]
        started = {str(pid): psutil.Process(pid).create_time() for pid in alive}
        write_json(self.home / PROCESSES, started)


def end_leftovers(home: Path) -> None:
    """End the server and the workers of an earlier start that was killed, with all their children.

    Args:
        home: Of the `LocalEngine` that started them.
    """
    path = home / PROCESSES
    remembered: Mapping[str, float] = json.loads(path.read_text()) if path.exists() else {}
    found = [psutil.Process(int(pid)) for pid, created in remembered.items() if _is_same(int(pid), created)]
    if found:
        print(f"ending {len(found)} processes that an earlier start left behind", flush=True)
        _end(found)


def _is_same(pid: int, created: float) -> bool:
    if not psutil.pid_exists(pid):
        return False
    process = psutil.Process(pid)
    return process.create_time() == created and _is_alive(process)


def _end(processes: list[psutil.Process]) -> None:
    """SIGTERM to what the processes run, then to themselves: a worker that ends kills its runs before they save."""
    for family in ([child for process in processes for child in process.children(recursive=True)], processes):
        for process in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.terminate()
        deadline = time.monotonic() + STOP
        while (alive := [process for process in family if _is_alive(process)]) and time.monotonic() < deadline:
            time.sleep(0.1)
        for process in alive:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()


def _is_alive(process: psutil.Process) -> bool:
    """Whether it has not ended; in a container, nobody may ever ask an orphan how it did."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


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
