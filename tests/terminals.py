"""Processes on a real terminal: what its screen shows from moment to moment, as an emulator draws it."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyte

from tests.conftest import PATIENCE

LINES = 40


@dataclass(frozen=True)
class Watched:
    """A process that was watched on a terminal until it ended."""

    code: int
    screens: list[list[str]]
    """What the screen showed after each piece of output, line by line."""
    text: str
    """All that scrolled by and the last screen."""


def watch(command: Sequence[str], columns: int, folder: Path, environment: Mapping[str, str]) -> Watched:
    """Run a command on a terminal so wide; one that says nothing for `PATIENCE` fails the test."""
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, columns, 0, 0))
    process = subprocess.Popen(
        [sys.executable, *command],
        cwd=folder,
        env={**environment, "TERM": "xterm-256color"},
        stdin=follower,
        stdout=follower,
        stderr=follower,
        start_new_session=True,
    )
    os.close(follower)
    screen = pyte.HistoryScreen(columns, LINES, history=100_000)
    stream, screens = pyte.ByteStream(screen), list[list[str]]()
    while piece := _read(leader, process):
        stream.feed(piece)
        shown = [line.rstrip() for line in screen.display]
        if not screens or shown != screens[-1]:
            screens.append(shown)
    os.close(leader)
    above = ["".join(row[column].data for column in range(columns)).rstrip() for row in screen.history.top]
    return Watched(process.wait(), screens, "\n".join([*above, *(screens[-1] if screens else [])]))


def _read(leader: int, process: subprocess.Popen[bytes]) -> bytes:
    ready, _, _ = select.select([leader], [], [], PATIENCE)
    if not ready:
        os.killpg(process.pid, signal.SIGKILL)
    assert ready, f"nothing was said for {PATIENCE:g} s"
    try:
        return os.read(leader, 65536)
    except OSError:  # the other side is closed
        return b""
