"""Files that are truncated, emptied, or have a bit flipped: whoever uses them must find out, and say so."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable
from pathlib import Path

from pipeline.config import Experiment
from pipeline.core.errors import RequestError
from pipeline.data.images import load_split
from pipeline.experiments.ood import check_ood_results, corrupted_images
from pipeline.experiments.results import load_trained, load_verdicts
from pipeline.provenance.folders import prepared_folder
from tests.faults.places import PREPARED, RESULTS, Place, Workshop
from tests.faults.trials import TAIL, Outcome, Trial, go_on, run, settle

Use = Callable[[Experiment], object]
USES: dict[str, tuple[str, Use]] = {
    "training results": (f"{RESULTS}/train", load_trained),
    "evaluation results": (f"{RESULTS}/evaluate", load_verdicts),
    "prepared images": (PREPARED, lambda one: load_split(prepared_folder(one.data.name), one.data)),
    "corrupted images": ("data/corrupted", corrupted_images),
    "results on corrupted images": (f"{RESULTS}/ood", check_ood_results),
}
"""What is damaged, and what uses it."""


def harm(path: Path, generator: random.Random) -> str:
    """Truncate a file at a random byte, empty it, or flip a random bit; returns which."""
    content = bytearray(path.read_bytes())
    kind = generator.choice(("bit flipped", "truncated", "emptied"))
    if kind == "bit flipped":
        content[generator.randrange(len(content))] ^= 1 << generator.randrange(8)
    path.write_bytes(content if kind == "bit flipped" else content[: generator.randrange(len(content))])
    if kind == "emptied":
        path.write_bytes(b"")
    return kind


def found_when_used(name: str) -> Trial:
    """Damage to any file of a finished stage is found by what uses the stage's results."""
    root, use = USES[name]

    def trial(workshop: Workshop, generator: random.Random) -> Outcome:
        place, outcome = workshop.finished, Outcome()
        files = [path for path in sorted((place.folder / root).rglob("*")) if path.is_file() and path.name != ".lock"]
        path = generator.choice(files)
        before = path.read_bytes()
        kind = harm(path, generator)
        outcome.took(kind)
        try:
            with contextlib.chdir(place.folder):
                use(place.experiment)
        except RequestError as error:
            if path.name not in str(error):
                outcome.unsaid.append(f"{path} {kind}: the message does not name it: {error}")
        except Exception as error:
            outcome.unsaid.append(f"{path} {kind}: {type(error).__name__}: {error}")
        else:
            outcome.unsaid.append(f"{path} {kind}: used all the same")
        path.write_bytes(before)
        return outcome

    return trial


def working_file(stage: str, pattern: str) -> Trial:
    """Damage to what an interrupted stage goes on from is said aloud, and it ends with the same bits."""

    def trial(workshop: Workshop, generator: random.Random) -> Outcome:
        place, outcome = workshop.place(stage), Outcome()
        interrupt_late(workshop, place, stage, generator)
        # What a kill left without its digest was never finished, and nothing goes on from it.
        files = [path for path in sorted(place.folder.glob(pattern)) if path.with_suffix(".json").exists()]
        path = files[-1] if stage == "train" else generator.choice(files)
        kind = harm(path, generator)
        outcome.took(kind)
        ended = go_on(workshop, place, stage, outcome)
        if path.name not in ended.out or "damaged" not in ended.out:
            outcome.unsaid.append(f"{path} {kind}: {ended.out[-TAIL:]}")
        return settle(workshop, place, outcome)

    return trial


def interrupt_late(workshop: Workshop, place: Place, stage: str, generator: random.Random) -> None:
    """Kill a stage when it has written two checkpoints and more, or most pieces of the evaluation."""
    names = [number for number, (name, path) in enumerate(workshop.calls[stage], start=1) if _is_kept(name, path)]
    point = str(generator.choice(names[len(names) // 2 :]))
    run(workshop, place, stage, {"FAULTS_POINT": point, "FAULTS_ACTION": "after"})


def _is_kept(name: str, path: str) -> bool:
    return name == "rename" and path.endswith(".json") and ("/checkpoints/" in path or "/evaluation/" in path)


checkpoint = working_file("train", "runs/*/*/checkpoints/*.pt")
piece = working_file("evaluate", "runs/*/*/evaluation/*/*/*.json")
