"""How long stages take to start: until `--help` has ended, until the first line that they print; and `dvc repro` where
nothing is to do.

The stages run in a folder that is made for it: digits, one method on a few images, and for each stage what those before
it have written. A stage that would go on is stopped after its first line. `--finished FOLDER` names a checkout in which
the whole suite has run; `dvc repro` is timed there, if DVC says that nothing has changed.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.loops import CONF
from benchmarks.publishing import publish
from benchmarks.timing import Option, in_turn, read_arguments, spread
from pipeline.files import write_text
from stages.compose import compose

REPOSITORY = CONF.parent
STAGES = sorted(path.stem for path in (REPOSITORY / "stages").glob("[!_]*.py") if path.stem != "cli")
METHOD = "nt"
WEIGHTS = f"results/digits/{METHOD}-1/train/model.safetensors"
COMMANDS: dict[str, list[str]] = {
    "audit": [],
    "compose": ["--output", "composed.yaml"],
    "prepare": [],
    "train": [METHOD, "--seed", "1"],
    "evaluate": [METHOD, "--seed", "1"],
    "doctor": [],
    "plan": [],
    "compare": [METHOD, METHOD, "--seed", "1"],
    "attack": [WEIGHTS, "--attacks", "", "--images", "16"],
    "report": [],
    "figures": [],
    "html": [],
    "explain": [f"table1:{METHOD}:natural"],
    "export": [f"{METHOD}-1"],
    "corrupt": [],
    "ood": [METHOD, "--seed", "1"],
    "ui": ["--port", "5999"],
    "ablation": [],
    "search": [],
}
"""Arguments of the stages that are timed to their first line, in an order in which each finds what it needs."""
AWAITED = ("prepare", "train", "evaluate", "report", "figures", "corrupt")
"""Stages that are not stopped after their first line, since others need what they write."""
OPTIONS = {
    "stages": Option(list(COMMANDS), ["compose", "prepare"], "timed to their first line; those before are needed"),
    "finished": Option("", "", "a checkout with finished results; without it, dvc repro is not measured"),
    "rounds": Option(3, 1, "starts of each"),
}
OVERRIDES = [
    "suite=digits",
    "competitors=none",
    "data.train_images=64",
    "data.test_images=32",
    "evaluation.attacks.aa_linf.images=8",
    "evaluation.attacks.aa_l2.images=8",
]
PATIENCE = 120.0
UP_TO_DATE = "Data and pipelines are up to date."


def environment() -> dict[str, str]:
    """Of a stage that must reach no server, and whose lines arrive when they are printed."""
    left_out = ("MLFLOW_", "PREFECT_", "PYTHONDONTWRITEBYTECODE")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(left_out)}
    return kept | {"PYTHONPATH": str(REPOSITORY), "PYTHONUNBUFFERED": "1"}


def seconds_to_help(stage: str) -> float:
    """Until `--help` has ended."""
    started = time.perf_counter()
    command = [sys.executable, "-m", f"stages.{stage}", "--help"]
    subprocess.run(command, env=environment(), stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - started


def seconds_to_first_line(stage: str, folder: Path) -> float:
    """Until a stage prints a line that is not empty; then it is awaited or stopped."""
    started = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", f"stages.{stage}", *COMMANDS[stage]],
        cwd=folder,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    line = next((line.strip() for line in process.stdout if line.strip()), "")
    found = time.perf_counter() - started
    if stage not in AWAITED:
        _stop(process)
    rest, _ = process.communicate(timeout=PATIENCE)
    if not line or line.startswith("error:") or (stage in AWAITED and process.returncode != 0):
        raise SystemExit(f"stages.{stage} failed with exit code {process.returncode}:\n{line}\n{rest}")
    print(f"{stage}: {found:.2f} s to '{line[:80]}'", file=sys.stderr, flush=True)
    return found


def _stop(process: subprocess.Popen[str]) -> None:
    """End a stage and what it has started."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
            process.wait(PATIENCE / 4)
        except (ProcessLookupError, subprocess.TimeoutExpired):
            continue


def first_lines(stages: list[str]) -> dict[str, float]:
    """Seconds by stage, in a new folder."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        folder = Path(name)
        write_text(folder / "params.yaml", compose(OVERRIDES, CONF))
        for needed in ("conf", "dvc.yaml", "prefect.yaml", "automations.yaml", "constraints.txt"):
            (folder / needed).symlink_to(REPOSITORY / needed)
        return {stage: seconds_to_first_line(stage, folder) for stage in COMMANDS if stage in stages}


def repro_seconds(folder: str, rounds: int) -> dict[str, Any]:
    """Of `dvc repro` in a checkout where everything has run, or why that is not measured."""
    if not folder:
        return {"not_measured": "no finished checkout was given; give --finished FOLDER"}
    if UP_TO_DATE not in _dvc(folder, "repro", "--dry"):
        return {"not_measured": "the checkout that was given has something to run"}

    def measure() -> float:
        started = time.perf_counter()
        if UP_TO_DATE not in _dvc(folder, "repro"):
            raise SystemExit(f"dvc repro ran something in {folder}")
        return time.perf_counter() - started

    return {"seconds": spread(in_turn({"repro": measure}, rounds)["repro"])}


def _dvc(folder: str, *arguments: str) -> str:
    return subprocess.run(["dvc", *arguments], cwd=folder, stdout=subprocess.PIPE, text=True, check=True).stdout


def main(arguments: list[str] | None = None) -> int:
    """The command."""
    given = read_arguments(__doc__, "startup", OPTIONS, arguments)
    helps = in_turn({stage: partial(seconds_to_help, stage) for stage in STAGES}, given.rounds)
    lines = [first_lines(given.stages) for _ in range(given.rounds)]
    result = {
        "help_seconds": {stage: spread(values) for stage, values in helps.items()},
        "first_line_seconds": {stage: spread(found[stage] for found in lines) for stage in lines[0]},
        "repro": repro_seconds(given.finished, given.rounds),
        "rounds": given.rounds,
    }
    publish(given.output, result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
