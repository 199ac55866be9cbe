"""Prepare the images of an experiment, once on a machine, and hold every run to the same ones."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.config import DataSettings, Experiment
from pipeline.core.errors import Interrupted, RequestError
from pipeline.core.files import Damaged, exclusive, write_json
from pipeline.data.images import is_prepared
from pipeline.data.prepare import prepare, prepare_streamed
from pipeline.provenance.folders import MANIFEST_FILE, prepared_folder


def ensure_prepared(experiment: Experiment, should_stop: Callable[[], str | None] = lambda: None) -> None:
    """Prepare the experiment's data on this machine, unless that is done; one process does it, others wait.

    Raises:
        Interrupted: `should_stop` gave a reason while another process prepared, or while shards were written; finished
            ones are kept.
    """
    folder = prepared_folder(experiment.data.name)
    wanted = [folder / str(size) / MANIFEST_FILE for size in experiment.stored_sizes] or [folder / MANIFEST_FILE]
    with _preparing(experiment.data, should_stop):
        own = experiment.data.is_own
        if not (is_prepared(folder, experiment.data) if own else all(path.exists() for path in wanted)):
            print(f"preparing {experiment.data.name} in {folder}", flush=True)
            _prepare(experiment.data, should_stop)


def prepare_data(data: DataSettings, should_stop: Callable[[], str | None]) -> None:
    """Prepare a data set, again if it is there already; where another process does so, wait for it.

    Raises:
        Interrupted, RequestError: as `ensure_prepared`.
    """
    with _preparing(data, should_stop):
        _prepare(data, should_stop)


@contextmanager
def _preparing(data: DataSettings, should_stop: Callable[[], str | None]) -> Iterator[None]:
    """Be the only one who prepares a data set."""

    def check() -> None:
        reason = should_stop()
        if reason is not None:
            raise Interrupted(f"{reason}: another process prepares {data.name}; the same command continues")

    folder = prepared_folder(data.name)
    # Not within the folder: whatever lies there is part of what DVC says it depends on.
    with exclusive(folder.with_name(f".{folder.name}.lock"), f"data set {data.name}", wait=check):
        yield


def _prepare(data: DataSettings, should_stop: Callable[[], str | None]) -> None:
    folder = prepared_folder(data.name)
    if data.streaming is not None:
        prepare_streamed(data, data.streaming, folder, should_stop)
        return
    manifest = prepare(data, folder)
    print(f"prepared {data.name} in {folder}: sha256 {manifest['sha256'][:16]}...", flush=True)


def check_same_data(folder: Path, digest: str) -> None:
    """Refuse to continue what was begun on other images: folders of images have no official content.

    Raises:
        RequestError: the digest is not the one that the working folder was begun with, or that one is damaged.
    """
    path = folder / "data.json"
    if not path.exists():
        write_json(path, {"digest": digest})
    try:
        begun = json.loads(path.read_text())["digest"]
    except (ValueError, KeyError, TypeError):
        raise Damaged(
            f"{path}: is damaged; remove it if {folder} was begun with the images that are prepared"
        ) from None
    if begun != digest:
        raise RequestError(
            f"{folder} was begun with images of digest {begun[:16]}..., the prepared ones have {digest[:16]}...; "
            "prepare the former again, or remove the folder to start anew"
        )
