"""Browse the runs in MLflow's web interface.

It listens on 127.0.0.1 only: MLflow has no login by default, so whoever reaches the port can read and delete runs.
"""

from __future__ import annotations

import os
import subprocess
import sys
from argparse import Namespace

from stages import cli


@cli.command(
    cli.PARAMS,
    cli.option("--port", type=cli.whole(1, 65535), default=5000, help="default: %(default)s"),
)
def main(given: Namespace) -> None:
    """The command."""
    from pipeline.core.errors import PipelineError
    from pipeline.tracking import make_store, mask, tracking_uri

    uri = tracking_uri()
    if uri.startswith(("http://", "https://")):
        print(f"MLFLOW_TRACKING_URI is a server already: open {mask(uri)} in a browser")
        return
    make_store(uri)
    print(f"http://127.0.0.1:{given.port} shows {mask(uri)}; Ctrl-C ends it", flush=True)
    command = ["mlflow", "ui", "--host", "127.0.0.1", "--port", str(given.port)]
    # One worker without background jobs: a fifth of the memory, and ready in a third of the time. The address goes
    # through the environment: every user of the machine can read a command line, and it may have a password.
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_BACKEND_STORE_URI": uri}
    code = subprocess.run([sys.executable, "-m", *command, "--workers", "1"], env=environment, check=False).returncode
    if code not in (0, -2, 130):
        raise PipelineError(f"MLflow ended with exit code {code}; is port {given.port} taken? --port chooses another")


if __name__ == "__main__":
    raise SystemExit(main())
