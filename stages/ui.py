"""Browse the runs in MLflow's web interface: the suite of params.yaml, with its accuracies.

It listens on 127.0.0.1 only: MLflow has no login by default, so whoever reaches the port can read and delete runs.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import webbrowser
from argparse import Namespace
from contextlib import suppress

from pipeline.core.errors import PipelineError, RequestError
from pipeline.core.waiting import kind, until
from stages import cli

HOST = "127.0.0.1"
GRACE = 3.0
"""Seconds that its processes have to end by themselves."""
PAGE = kind("MLflow's page", "MLflow's server on this machine, whose page is to be opened", 120.0)


@cli.command(
    cli.PARAMS,
    cli.option("--port", type=cli.whole(1, 65535), default=5000, help="default: %(default)s"),
    cli.option("--open", action="store_true", help="open it in the browser, too"),
)
def main(given: Namespace) -> None:
    from pipeline.tracking import list_of_runs, make_store, mask, tracking_uri

    uri, params = tracking_uri(), cli.params_of(given)
    if uri.startswith(("http://", "https://")):
        print(f"MLFLOW_TRACKING_URI is a server already: open {mask(uri)}/{list_of_runs(uri, params)} in a browser")
        return
    check_free(given.port)
    make_store(uri)
    address = f"http://{HOST}:{given.port}/{list_of_runs(uri, params)}"
    print(f"{address}\nshows the runs of {mask(uri)}; Ctrl-C ends it", flush=True)
    command = [sys.executable, "-m", "mlflow", "ui", "--host", HOST, "--port", str(given.port), "--workers", "1"]
    # One worker without background jobs: a fifth of the memory, and ready in a third of the time. The address goes
    # through the environment: every user of the machine can read a command line, and it may have a password.
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_BACKEND_STORE_URI": uri}
    server = subprocess.Popen(
        [*command, "--uvicorn-opts", "--log-level warning"], env=environment, start_new_session=True
    )
    try:
        if given.open:
            _open_when_ready(server, given.port, address)
        code = server.wait()
    except KeyboardInterrupt:
        return
    finally:
        _end(server)
    raise PipelineError(f"MLflow ended with exit code {code}; it said why above")


def check_free(port: int) -> None:
    """Refuse (RequestError) a port that somebody listens on, with the next one that is free."""
    free = next((other for other in range(port, 65536) if _is_free(other)), None)
    if free != port:
        way_out = "--port takes another" if free is None else f"{free} is free: make ui PORT={free}"
        raise RequestError(f"port {port} of {HOST} is taken by another program, perhaps another 'make ui'; {way_out}")


def _is_free(port: int) -> bool:
    with socket.socket() as tried:
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server does
        try:
            tried.bind((HOST, port))
        except OSError:
            return False
    return True


def _open_when_ready(server: subprocess.Popen[bytes], port: int, address: str) -> None:
    def answers() -> bool:
        with socket.socket() as asked:
            return server.poll() is not None or asked.connect_ex((HOST, port)) == 0

    until(PAGE, f"MLflow to answer on port {port} of {HOST}", answers)
    if server.poll() is None:
        webbrowser.open(address)


def _end(server: subprocess.Popen[bytes]) -> None:
    """End the server with all of its processes: not each of them ends with it, nor by SIGTERM while it begins."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(server.pid, number)
        with suppress(subprocess.TimeoutExpired):
            server.wait(GRACE)
        if number == signal.SIGTERM and _has_ended(server.pid):
            return


def _has_ended(group: int) -> bool:
    """Whether no process of a group is left, after a moment for those that are about to end."""
    for _ in range(20):
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(GRACE / 20)
    return False


if __name__ == "__main__":
    raise SystemExit(main())
