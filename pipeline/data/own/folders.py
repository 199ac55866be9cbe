"""Folders of image files: `train/<class>/...` and `test/<class>/...`, or `<class>/...` alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from pipeline.config import DataSettings
from pipeline.core.errors import RequestError
from pipeline.core.machine import usable_cores
from pipeline.data.decoding import DamagedImage, decode
from pipeline.data.imagefolder.tree import list_tree
from pipeline.data.images import ImageSet
from pipeline.data.own.base import OwnData, Pixels, Size, put_together, split_off, to_pixels

TRAIN, TESTS = "train", ("test", "val")
LAYOUT = "expected train/<class>/ and test/<class>/ (or val/<class>/) there, or <class>/ alone"
UNREADABLE_SHOWN = 20


def read_folders(settings: DataSettings) -> OwnData:
    """All images below `data.root`, in the order of their classes and paths; see `read_own`."""
    root = settings.root
    tree = list_tree(root, parts_of(root), LAYOUT)
    if tree.ignored:
        print(
            f"files that are no images and are ignored: {len(tree.ignored)}, for example {tree.ignored[0]}", flush=True
        )
    files = [(root / part / file.name, file.label) for part, listed in tree.files.items() for file in listed]
    paths, labels = [path for path, _ in files], torch.tensor([label for _, label in files])
    whole = ImageSet(put_together(_read(paths, settings.size, root), len(paths)), labels)
    if len(tree.files) == 1:
        return split_off(whole, tree.classes, settings.split_seed)
    trained, tested = torch.arange(len(files)).tensor_split([len(tree.files[TRAIN])])
    return OwnData(whole.subset(trained), whole.subset(tested), tree.classes)


def parts_of(root: Path) -> tuple[str, ...]:
    """The parts of a tree: those that it is split into, or the root itself.

    Raises:
        RequestError: there is no such folder, or a part is missing.
    """
    if not root.is_dir():
        raise RequestError(f"data.root: {root} is no folder; {LAYOUT}")
    tests = [name for name in TESTS if (root / name).is_dir()]
    if not (root / TRAIN).is_dir():
        if tests:
            raise RequestError(f"{root}: has {tests[0]}/, but no train/; {LAYOUT}")
        return ("",)
    if not tests:
        hint = "a class that is called train has to be renamed"
        raise RequestError(f"{root}: has train/, but neither test/ nor val/; {LAYOUT}; {hint}")
    if len(tests) > 1:
        print(
            f"{root}: val/ is left alone, test/ is tested on; data.held_out_images of train/ select epochs", flush=True
        )
    return TRAIN, tests[0]


def _read(paths: Sequence[Path], size: Size, root: Path) -> Iterator[tuple[str, Pixels]]:
    """The images, decoded by several threads; a RequestError names all that cannot be read."""

    def read(path: Path) -> Pixels | str:
        try:
            return to_pixels(decode(path.read_bytes()), size)
        except DamagedImage as error:
            return str(error)
        except OSError as error:
            return f"cannot be read ({error.strerror})"

    wrong = []
    with ThreadPoolExecutor(usable_cores()) as pool:
        for path, result in zip(paths, pool.map(read, paths), strict=True):
            if isinstance(result, str):
                wrong.append(f"  {path}: {result}")
            elif not wrong:
                yield path.relative_to(root).as_posix(), result
    if wrong:
        more = [f"  and {len(wrong) - UNREADABLE_SHOWN} more"] if len(wrong) > UNREADABLE_SHOWN else []
        count = "1 image cannot be used" if len(wrong) == 1 else f"{len(wrong)} images cannot be used"
        raise RequestError("\n".join([f"{count}; restore, convert or remove", *wrong[:UNREADABLE_SHOWN], *more]))
