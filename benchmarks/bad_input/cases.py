"""What a wrong request is, and what it must end in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Content = dict[str, Any]
Prepare = Callable[[Path], Any]
SECONDS = 5.0
"""Of the processor, within which every wrong request is refused."""
PARAMS = "params.yaml"


class Accepted(BaseException):
    """Raised instead of the work that a request asks for, once a stage has accepted it; no handler may take it."""

    def __init__(self, accepted: Any = None) -> None:
        super().__init__()
        self.accepted = accepted
        """What was understood."""


@dataclass(frozen=True)
class Case:
    """One request."""

    kind: str
    """Row of the table."""
    what: str
    """In words, to be found again."""
    stage: str
    """Module below `stages`."""
    arguments: tuple[str, ...]
    prepare: Prepare = field(compare=False)
    """Writes the files of the request into the folder in which the stage runs."""
    mentions: tuple[str, ...] = ()
    """One of these must be in the message; none: any message will do."""
    is_valid: Callable[[Path, Any], bool] = field(default=lambda folder, accepted: False, compare=False)
    """Whether a request that was accepted, in this folder and as this, is right; decided without the code that did."""
    may_write: str | None = None
    """Below this path, which the request names, files may be left: finished shards are kept."""


@dataclass(frozen=True)
class Outcome:
    """How it ended."""

    case: Case
    code: int | None
    """None: it was accepted."""
    message: str
    """What is on stderr."""
    valid: bool = False
    """It was accepted, and it is right."""
    traceback: str = ""
    written: tuple[str, ...] = ()
    """Paths that were made, changed or removed."""
    cpu_seconds: float = 0.0
    wall_seconds: float = 0.0
    allowed_seconds: float = SECONDS

    @property
    def problem(self) -> str | None:
        """What is wrong with how it ended; None where nothing is."""
        if self.traceback:
            return "traceback"
        if self.written:
            return "written"
        if self.code is None:
            return None if self.valid else "accepted"
        if self.code != 2:
            return "code"
        if self.cpu_seconds > self.allowed_seconds:
            return "slow"
        return None if self._is_clear() else "unclear"

    def _is_clear(self) -> bool:
        """Whether stderr is one message, of readable length, that names what is wrong."""
        lines = self.message.splitlines()
        ours = self.message.startswith("error: ") and not any(line.startswith("error: ") for line in lines[1:])
        argparses = self.message.startswith("usage: ") and ": error: " in lines[-1]
        readable = (
            len(self.message) < 20_000 and "Warning: " not in self.message and " object at 0x" not in self.message
        )
        named = not self.case.mentions or any(text in self.message for text in self.case.mentions)
        return (ours or argparses) and readable and named


PROBLEMS = ("traceback", "code", "slow", "written", "unclear", "accepted")
"""In the order of the table's columns."""
