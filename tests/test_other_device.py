"""`tests/other_device.py`, in a process of its own: a device that torch was told of stays for its lifetime."""

from __future__ import annotations

import subprocess
import sys

from tests.conftest import REPOSITORY


def test_training_is_at_home_on_another_device() -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", "tests/other_device.py"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
