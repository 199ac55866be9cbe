"""One trial of each fault: harm a stage at a seeded moment, let it go on, and compare with one that was left alone."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.faults.host import Ended
from tests.faults.places import STAGES, STEPS, Place, Workshop

STRIKES = 4
"""On one folder, before it is left to end."""
TAIL = 400
"""Characters of a child's output that are kept with what went wrong."""


@dataclass
class Outcome:
    """What came of one trial."""

    struck: int = 0
    """Faults that hit."""
    lost: list[str] = field(default_factory=list)
    """Finished work that was gone afterwards, or never came to its end."""
    changed: list[str] = field(default_factory=list)
    """Results that differ from those of a stage that was left alone."""
    unsaid: list[str] = field(default_factory=list)
    """Damage that was not noticed, an exit code or a message that was not as promised."""
    repeated_steps: int = 0
    """Most steps of a training that were done twice because of one fault; an epoch has `STEPS`."""
    repeated_pieces: int = 0
    """Most pieces of an evaluation that were."""
    slowest: float = 0.0
    """Seconds that the answer to a stop took."""
    ways: dict[str, int] = field(default_factory=dict)
    """How often each way of doing harm was taken."""

    def took(self, way: str) -> None:
        """Count a fault that hit."""
        self.struck += 1
        self.ways[way] = self.ways.get(way, 0) + 1


Trial = Callable[[Workshop, random.Random], Outcome]


def start(
    workshop: Workshop, place: Place, stage: str, faults: Mapping[str, str] = {}, memory: int | None = None
) -> int:
    """Start a stage in a place; `faults` are the environment that `faults.c` and the host look at."""
    command = STAGES[stage]
    environment = {"FAULTS_FOLDER": str(place.folder), "FAULTS_WORK": str(place.work), **faults}
    return workshop.host.start(command.module, command.arguments, place.folder, environment, memory)


def run(
    workshop: Workshop, place: Place, stage: str, faults: Mapping[str, str] = {}, memory: int | None = None
) -> Ended:
    """Run a stage in a place to its end."""
    return workshop.host.wait(start(workshop, place, stage, faults, memory))


def go_on(workshop: Workshop, place: Place, stage: str, outcome: Outcome) -> Ended:
    """Let the same command end, and compare what is there with what should be."""
    ended = run(workshop, place, stage)
    if ended.code == 0:
        compare(workshop, place, stage, outcome)
    else:
        outcome.lost.append(f"{stage} in {place.folder} does not go on: {ended.out[-TAIL:]}")
    return ended


def settle(workshop: Workshop, place: Place, outcome: Outcome) -> Outcome:
    """Remove a place where all was as promised; another one is kept to be looked at."""
    if not (outcome.lost or outcome.changed or outcome.unsaid):
        workshop.remove(place)
    return outcome


def compare(workshop: Workshop, place: Place, stage: str, outcome: Outcome) -> None:
    """Note every result that is missing, or is not what an undisturbed stage left."""
    expected, found = workshop.expected[stage], place.results(STAGES[stage])
    for path in sorted(expected.keys() | found.keys()):
        if path not in found:
            outcome.lost.append(f"{stage}: {place.folder / path}")
        elif found[path] != expected.get(path):
            outcome.changed.append(f"{stage}: {place.folder / path}: {found[path]}, expected {expected.get(path)}")


@contextlib.contextmanager
def watched(place: Place, outcome: Outcome) -> Iterator[None]:
    """Note finished work that was there before the block and is not after it."""
    before = place.whole()
    yield
    after = place.whole()
    for path, digest in before.items():
        if path not in after and "/checkpoints/" not in path:
            outcome.lost.append(f"{place.folder / path}")
        elif "/evaluation/" in path and after.get(path) != digest:
            outcome.changed.append(f"{place.folder / path}")
    if newest(after) < newest(before):
        outcome.lost.append(f"checkpoint {newest(before)} in {place.folder}")


def newest(files: dict[str, str]) -> str:
    """The name of the newest finished checkpoint, '' where there is none."""
    return max((Path(path).name for path in files if "/checkpoints/" in path and path.endswith(".json")), default="")


def count_repeated(place: Place, boundaries: list[int], outcome: Outcome) -> None:
    """Find out how much was done twice: `boundaries` are the lengths of the list of what was done at every fault."""
    done = place.done()
    for begin, end in zip(boundaries, [*boundaries[1:], len(done)], strict=True):
        again = [line for line in done[begin:end] if line in set(done[:begin])]
        outcome.repeated_steps = max(outcome.repeated_steps, sum(line.startswith("step") for line in again))
        outcome.repeated_pieces = max(outcome.repeated_pieces, sum(line.startswith("piece") for line in again))
    if outcome.repeated_steps > STEPS or outcome.repeated_pieces > 1:
        outcome.unsaid.append(f"{outcome.repeated_steps} steps and {outcome.repeated_pieces} pieces were repeated")


# --- Kills and stops


def strike(
    workshop: Workshop, place: Place, stage: str, generator: random.Random, number: signal.Signals
) -> tuple[Ended, str]:
    """Send a signal to a stage: at a random moment, or at a random call by which it changes the disk."""
    if generator.random() < 0.3:
        pid = start(workshop, place, stage)
        time.sleep(generator.uniform(0, workshop.seconds[stage]))
        os.kill(pid, number)
        return workshop.host.wait(pid), "at a random moment"
    action = generator.choice(("kill", "after", "torn")) if number == signal.SIGKILL else "stop"
    point = str(generator.randint(1, len(workshop.calls[stage])))
    way = {"after": "after a call", "torn": "in the middle of a write"}.get(action, "before a call")
    return run(workshop, place, stage, {"FAULTS_POINT": point, "FAULTS_ACTION": action}), way


def interrupted(stage: str, number: signal.Signals) -> Trial:
    """A stage that gets a signal up to `STRIKES` times, and is started again every time."""
    expected = {signal.SIGKILL: (-signal.SIGKILL,), signal.SIGTERM: (75,)}[number]

    def trial(workshop: Workshop, generator: random.Random) -> Outcome:
        place, outcome = workshop.place(stage), Outcome()
        boundaries: list[int] = []
        while outcome.struck < STRIKES:
            with watched(place, outcome):
                ended, way = strike(workshop, place, stage, generator, number)
            if ended.code == 0:
                break
            outcome.took(way)
            boundaries.append(len(place.done()))
            too_early = ended.code == -signal.SIGTERM and not ended.out  # Python was not yet listening
            if ended.code not in expected and not too_early:
                outcome.unsaid.append(f"{stage}: exit code {ended.code} after {number.name}: {ended.out[-TAIL:]}")
            if "Traceback" in ended.out:
                outcome.unsaid.append(f"{stage}: {ended.out[-TAIL:]}")
        if outcome.struck:
            go_on(workshop, place, stage, outcome)
            count_repeated(place, boundaries, outcome)
        return settle(workshop, place, outcome)

    return trial
