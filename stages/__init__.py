"""What `dvc.yaml` calls: thin commands around `pipeline`."""

import os
import sys
from importlib.util import find_spec


def way_out() -> str:
    """What to do where the project's packages are missing."""
    active = os.environ.get("VIRTUAL_ENV")
    if active and not os.path.isdir(active):
        return f"the active environment {active} is gone, was the folder moved? 'rm -rf .venv && make setup'"
    if os.path.isfile(os.path.join(".venv", "bin", "activate")):
        return "run 'source .venv/bin/activate' first, or .venv/bin/python instead of python"
    return "run 'make setup' first, then 'source .venv/bin/activate'"


if find_spec("pydantic") is None:
    sys.stderr.write(f"error: {sys.executable} has none of this project's packages: {way_out()}\n")
    sys.exit(2)

from pipeline.core.surroundings import settle  # noqa: E402 - where the packages are missing, that comes first

settle()
