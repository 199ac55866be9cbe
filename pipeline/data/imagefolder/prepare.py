"""An ImageFolder tree as a folder of shards, a list of evaluated images, and a manifest that says what they are.

    train-00000.safetensors ...   training images, reduced once; beside each its record, a small JSON file
    val-00000.safetensors ...     validation images, the source's own bytes
    subset.txt                    the validation images that attacks are evaluated on, one path a line
    settings.json                 what the folder was begun with: another request for the same folder is refused
    manifest.json                 written last: without it nothing reads the folder

Validation images are not reduced: published figures come from the original files (Resize 256 and CenterCrop 224, or for
Fast-AT's network CenterCrop 288 without any resizing, which images of 256 pixels could not give), and a second
compression would move them. ImageNet's are 6.7 GB.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipeline.core.errors import RequestError
from pipeline.core.files import atomic_write, exclusive, read_kept, write_json, write_record
from pipeline.core.progress import PreparationDisplay
from pipeline.data.imagefolder.sharding import ShardResult, ShardTask, StopRequest, library_versions, make_shards
from pipeline.data.imagefolder.shards import QUALITY
from pipeline.data.imagefolder.subset import Subset, own_choice, read_list
from pipeline.data.imagefolder.tree import PARTS, Tree, list_tree

MANIFEST_FILE = "manifest.json"
SETTINGS_FILE = "settings.json"
SUBSET_FILE = "subset.txt"
LOCK_FILE = "lock"
FORMAT = "imagefolder shards, version 1"
DAMAGED_SHOWN = 20
"""So many damaged files are in the message; all of them are in the manifest, once they are allowed."""


@dataclass(frozen=True)
class ShardSettings:
    """What training images become."""

    size: int | None = 256
    """Shorter side in pixels; larger images are reduced to it. None keeps the source's bytes, as for validation."""
    images_per_shard: int = 2048
    """A fixed number, not a fixed size: a file that is restored changes one shard. 2,048 original images of ImageNet
    are about 230 MB, reduced to 256 pixels about 100 MB."""
    upright: bool = False
    """Turn images as their EXIF orientation says; ImageNet's published figures are of images as they are stored."""


def prepare_imagefolder(
    source: Path,
    destination: Path,
    settings: ShardSettings,
    display: PreparationDisplay,
    *,
    workers: int,
    subset_list: Path | None = None,
    allow_damaged: bool = False,
    should_stop: StopRequest = lambda: None,
) -> dict[str, Any]:
    """Write the tree at `source` to `destination` as shards, or continue where that was stopped; return the manifest.

    The same tree and settings give the same bytes, however often it was stopped and with however many workers.

    Args:
        source: A folder with train/<class>/... and val/<class>/...
        destination: A new folder, an empty one, or one where this was begun.
        subset_list: File with the validation images to evaluate on, one path a line; None: our own choice.
        allow_damaged: Leave damaged files out and list them in the manifest, instead of failing.
        should_stop: Asked several times a second whether to stop.

    Raises:
        Interrupted: `should_stop` gave a reason. As after every error, finished shards are kept and there is no
            manifest.
    """
    display.message(f"listing {source}")
    tree = list_tree(source)
    val_names = [file.name for file in tree.files["val"]]
    listed = None if subset_list is None else read_list(subset_list, val_names)
    _check_destination(destination, settings)
    with exclusive(destination / LOCK_FILE, f"folder {destination}"):
        write_json(destination / SETTINGS_FILE, _identity(settings))
        tasks = _plan(tree, destination, settings)
        _remove_others(destination, tasks)
        if tree.ignored:
            display.message(
                f"files that are no images and are ignored: {len(tree.ignored)}, for example {tree.ignored[0]}"
            )
        display.on_start(sum(len(files) for files in tree.files.values()))
        shards = list(zip(tasks, make_shards(tasks, workers, display, should_stop), strict=True))
        damaged = _damaged(shards)
        if not allow_damaged:
            _check_whole(damaged, source)
        subset = listed or own_choice(val_names, {name.removeprefix("val/") for name in damaged})
        _check_subset(subset, damaged)
        with atomic_write(destination / SUBSET_FILE) as stream:
            stream.write(subset.content)
        manifest = _manifest(tree, settings, shards, subset)
        write_record(destination / MANIFEST_FILE, manifest)
    return manifest


def read_manifest(folder: Path) -> dict[str, Any]:
    """What is in a prepared folder.

    Raises:
        RequestError: the folder is missing, is not finished, or its manifest is damaged or of another kind.
    """
    path = folder / MANIFEST_FILE
    way_out = "run 'python -m stages.prepare'"
    manifest = read_kept(path, "preparing was not begun or has not ended", way_out)
    if (found := manifest["format"]) != FORMAT:
        raise RequestError(f"{path}: is of format '{found}', expected '{FORMAT}'; prepare the images to another folder")
    return manifest


def describe(manifest: dict[str, Any], folder: Path) -> str:
    """What was made in a folder, for the person at the screen."""
    images, subset, damaged = manifest["images"], manifest["subset"], len(manifest["damaged"])
    lines = [
        f"prepared {images['train']:,} training and {images['val']:,} validation images of "
        f"{len(manifest['classes'])} classes in {folder}: digest {manifest['digest'][:16]}...",
        f"evaluation on {subset['images']:,} validation images ({subset['chosen_by']})",
        *([f"left out: {damaged} damaged images, listed in {MANIFEST_FILE}"] if damaged else []),
    ]
    return "\n".join(lines)


def _identity(settings: ShardSettings) -> dict[str, Any]:
    chosen = {name: value for name, value in asdict(settings).items() if name != "upright" or value}
    return {"format": FORMAT, **chosen, "quality": QUALITY}


def _check_destination(destination: Path, settings: ShardSettings) -> None:
    """Refuse to write among foreign files, or over shards that somebody made with other settings."""
    entries = destination.iterdir() if destination.is_dir() else [destination] if destination.exists() else []
    if all(path.name == LOCK_FILE or _is_leftover(path) for path in entries):
        return
    wanted = _identity(settings)
    try:
        found = json.loads((destination / SETTINGS_FILE).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        raise RequestError(
            f"{destination}: is there already and was not begun by this command; give a new or an empty folder"
        ) from None
    if found != wanted:
        raise RequestError(
            f"{destination}: was begun with {found}, asked for is {wanted}; give another folder, or remove this one"
        )


def _plan(tree: Tree, destination: Path, settings: ShardSettings) -> list[ShardTask]:
    """The shards of both parts: files in the tree's order, a fixed number in each."""
    tasks = []
    for part in PARTS:
        files, count = tree.files[part], settings.images_per_shard
        size = settings.size if part == "train" else None
        for number, first in enumerate(range(0, len(files), count)):
            path = destination / f"{part}-{number:05d}.safetensors"
            tasks.append(ShardTask(tree.root / part, path, files[first : first + count], size, settings.upright))
    return tasks


def _remove_others(destination: Path, tasks: Sequence[ShardTask]) -> None:
    """Remove what must not outlast this start: the old manifest, leftovers of a kill, shards beyond the last one."""
    expected = {path.name for task in tasks for path in (task.path, task.record_path)}
    (destination / MANIFEST_FILE).unlink(missing_ok=True)  # first: it vouches for the others
    for path in destination.iterdir():
        is_shard = path.name.startswith(PARTS) and path.suffix in (".safetensors", ".json")
        if _is_leftover(path) or (is_shard and path.name not in expected):
            path.unlink()


def _is_leftover(path: Path) -> bool:
    """Whether a killed process was about to write it."""
    return path.name.startswith(".") and path.suffix == ".tmp"


def _check_whole(damaged: dict[str, str], source: Path) -> None:
    if not damaged:
        return
    lines = [f"  {source / name}: {reason}" for name, reason in list(damaged.items())[:DAMAGED_SHOWN]]
    if len(damaged) > DAMAGED_SHOWN:
        lines.append(f"  and {len(damaged) - DAMAGED_SHOWN} more")
    raise RequestError(
        "\n".join(
            [
                f"{len(damaged)} image{' is' if len(damaged) == 1 else 's are'} damaged:",
                *lines,
                "  Restore them from the archive and run the same command again (what was finished is kept), or leave "
                "them out with --allow-damaged (in params.yaml: data.streaming.allow_damaged).",
            ]
        )
    )


def _check_subset(subset: Subset, damaged: dict[str, str]) -> None:
    missing = [name for name in subset.names if f"val/{name}" in damaged]
    if missing:
        raise RequestError(
            f"{len(missing)} of the {len(subset.names)} images in the list are damaged, for example "
            f"'val/{missing[0]}': accuracies on the others would be of another subset. Restore them from the archive "
            "and run the same command again"
        )


def _manifest(
    tree: Tree, settings: ShardSettings, shards: Sequence[tuple[ShardTask, ShardResult]], subset: Subset
) -> dict[str, Any]:
    """What the folder holds. `digest` names the data: it covers every shard and the choice of evaluated images."""
    entries: dict[str, list[dict[str, Any]]] = {part: [] for part in PARTS}
    counts: dict[str, Counter[str]] = {part: Counter() for part in PARTS}
    for task, result in shards:
        part, record = task.folder.name, result.record
        entry = {"file": task.path.name, "images": record.images, "bytes": record.bytes, "sha256": record.sha256}
        entries[part].append(entry)
        counts[part].update(record.images_per_class)
    per_class = {part: {name: counts[part][str(label)] for label, name in enumerate(tree.classes)} for part in PARTS}
    for part, found in per_class.items():
        if lost := [name for name, count in found.items() if count == 0]:
            raise RequestError(f"{part}/: every image of {', '.join(lost)} is damaged; restore some and run again")
    subset_digest = hashlib.sha256(subset.content).hexdigest()
    digests = [entry["sha256"] for part in PARTS for entry in entries[part]]
    return {
        **_identity(settings),
        "digest": hashlib.sha256(" ".join([*digests, subset_digest]).encode()).hexdigest(),
        "source": {"files": {part: len(tree.files[part]) for part in PARTS}, "sha256": tree.digest},
        "subset": {"images": len(subset.names), "chosen_by": subset.label, "sha256": subset_digest},
        "damaged": _damaged(shards),
        "ignored_files": len(tree.ignored),
        "versions": library_versions(),
        "classes": list(tree.classes),
        "images": {part: counts[part].total() for part in PARTS},
        "images_per_class": per_class,
        "shards": entries,
    }


def _damaged(shards: Sequence[tuple[ShardTask, ShardResult]]) -> dict[str, str]:
    """Reason by path below the tree."""
    return {f"{task.folder.name}/{name}": reason for task, result in shards for name, reason in result.damaged}
