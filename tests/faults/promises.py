"""Every fault, what is promised for it, and how often it is tried."""

from __future__ import annotations

import signal
from dataclasses import dataclass

from tests.faults import damage, disks, others
from tests.faults.trials import Trial, interrupted

CONTINUES = "Nothing finished is lost; the same command ends with the same bits."


@dataclass(frozen=True)
class Fault:
    """A row of the table."""

    name: str
    what: str
    """The harm, in words."""
    promise: str
    trial: Trial
    share: float
    """Of N faults; those of a group that `N` stands for add up to 1."""

    def wanted(self, count: int) -> int:
        """How many faults are to hit where N is `count`."""
        return max(1, round(count * self.share))


KILLS = {
    "prepare": (0.10, ""),
    "train": (0.25, " At most one epoch is repeated."),
    "evaluate": (0.25, " At most one batch of one attack is repeated."),
    "experiment": (0.20, " At most one epoch or one batch of one attack is repeated."),
    "corrupt": (0.05, " Finished files are kept."),
    "ood": (0.08, " The stage is repeated."),
    "tables": (0.07, " The stage is repeated."),
}
"""Share and repeated work of each stage; `experiment` is what a worker of the grid does: prepare, train, evaluate."""


def _signals() -> list[Fault]:
    found = []
    for stage, (share, repeated) in KILLS.items():
        trial = interrupted(stage, signal.SIGKILL)
        found.append(Fault(f"kill/{stage}", f"SIGKILL of `{stage}`", CONTINUES + repeated, trial, share))
    for stage, (share, _) in KILLS.items():
        promise = f"Exit code 75 and one message. {CONTINUES}"
        trial = interrupted(stage, signal.SIGTERM)
        found.append(Fault(f"stop/{stage}", f"SIGTERM to `{stage}`", promise, trial, share / 4))
    return found


def _damages() -> list[Fault]:
    refused = "Refused by whatever uses them, with the file's name and the command that writes it anew."
    return [
        Fault(
            "damage/checkpoint",
            "Newest checkpoint truncated, emptied, or a bit flipped",
            "Said aloud; the one before it is used, to the same bits.",
            damage.checkpoint,
            0.1,
        ),
        Fault(
            "damage/journal",
            "A piece of an evaluation's journal, likewise",
            "Said aloud; the piece is computed again, to the same verdicts.",
            damage.piece,
            0.1,
        ),
        *(
            Fault(f"damage/{name}", f"Any file of {name}, likewise", refused, damage.found_when_used(name), 1.0)
            for name in damage.USES
        ),
    ]


FAULTS: dict[str, Fault] = {
    fault.name: fault
    for fault in (
        *_signals(),
        Fault(
            "disk/full",
            "Disk full after a random number of bytes",
            f"Exit code 1, one message, nothing half-written. With room again: {CONTINUES}",
            disks.full,
            0.15,
        ),
        Fault(
            "disk/failing",
            "Input/output error from fsync, rename, write or open",
            f"Exit code 1, one message that names the file, nothing half-written. On a whole disk: {CONTINUES}",
            disks.failing,
            0.15,
        ),
        Fault(
            "disk/read-only",
            "Disk mounted read-only",
            f"Exit code 1, one message. Mounted for writing: {CONTINUES}",
            disks.read_only,
            0.04,
        ),
        Fault(
            "disk/order",
            "Loss of power, as far as the order of calls tells",
            "A file has its name only when its bytes are on the disk, and nothing follows before the name is.",
            disks.order,
            1.0,
        ),
        *_damages(),
        Fault(
            "processes/turned away",
            "A second process on an experiment",
            "It leaves with exit code 2 and names the first: process, host, since when. It changes nothing. Where the "
            "first was killed, the next one takes the lock over and says so.",
            others.turned_away,
            0.08,
        ),
        Fault(
            "processes/waits",
            "Two workers of the grid on one experiment, or on its data",
            "The second waits and names the first; a stop ends its wait with exit code 75. Both end well.",
            others.waits,
            0.08,
        ),
        Fault("clock", "The clock jumps by up to 400 days, either way", "The same bits.", others.clock, 0.25),
        Fault(
            "memory",
            "No more memory (RLIMIT_AS)",
            "The stage ends with exit code 1, in one message where the library that asked says what it lacks. "
            f"With memory: {CONTINUES}",
            others.memory,
            0.1,
        ),
        Fault(
            "not a number",
            "Images that are not numbers, to one learner in one step",
            "Exit code 1; learner, epoch and batch are named; checkpoints stay. With proper images: the same bits, at "
            "most one epoch repeated.",
            others.not_a_number,
            0.08,
        ),
    )
}
