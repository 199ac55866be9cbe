"""Wrong data: official files and archives, prepared images, corrupted images, folders of pictures."""

from __future__ import annotations

import io
import json
import os
import pickle
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load, save

from benchmarks.bad_input.cases import PARAMS, Case
from benchmarks.bad_input.files import dumped, suite
from pipeline.config import parse_params
from pipeline.data.prepare import prepare
from pipeline.files import CHECKSUM, file_digest, write_record

RAW = "raw"
CIFAR = {
    "cifar10": ("cifar-10-python.tar.gz", "cifar-10-batches-py", "data_batch_1"),
    "cifar100": ("cifar-100-python.tar.gz", "cifar-100-python", "train"),
}
"""Archive, folder and first file of the official data."""
PERTURBED = "gaussian_noise"


class Code:
    """Something that unpickling would run."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str, str]]:
        return (_touch, ("written", "w"))


_touch = open
"""Leaves a file where it is called: what runs is seen."""


def params(dataset: str, **data: Any) -> bytes:
    """A params.yaml that is right, for a data set."""
    number = {"digits": 0, "cifar10": 2, "cifar100": 3}[dataset]
    content = suite(number)
    return dumped({**content, "data": {**content["data"], **data}})


# --- Official files


def _member(name: str, **fields: Any) -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    for key, value in fields.items():
        setattr(made, key, value)
    return made


def archive(members: list[tuple[tarfile.TarInfo, bytes]]) -> bytes:
    """A compressed tar file."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as packed:
        for member, content in members:
            member.size = len(content)
            packed.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def batch(images: Any, labels: Any) -> bytes:
    """As CIFAR's files are."""
    return pickle.dumps({b"data": images, b"labels": labels})


@cache
def archives() -> dict[str, bytes]:
    """Archives that must not be unpacked, and files that must not be read, by what is wrong with them."""
    folder, name = CIFAR["cifar10"][1:]
    whole = batch(np.zeros((10, 3072), np.uint8), [0] * 10)
    path = f"{folder}/{name}"
    return {
        "nothing": b"",
        "text": b"<html>404</html>",
        "one small file": archive([(_member(path), whole)]),
        "cut off": archive([(_member(path), whole)])[:-50],
        "a path out of the folder": archive([(_member("../../evil"), b"x")]),
        "an absolute path": archive([(_member("/tmp/bad-input-evil"), b"x")]),
        "a link out of the folder": archive(
            [(_member("link", type=tarfile.SYMTYPE, linkname="../../.."), b""), (_member("link/evil"), b"x")]
        ),
        "a hard link out of the folder": archive(
            [(_member("link", type=tarfile.LNKTYPE, linkname="../../params.yaml"), b"")]
        ),
        "a device": archive([(_member("zero", type=tarfile.CHRTYPE, devmajor=1, devminor=5), b"")]),
        "a zip file": _zip({"../../evil": b"x"}),
        "a pickle with code": pickle.dumps(Code()),
        "images of another shape": batch(np.zeros((10, 7), np.uint8), [0] * 10),
        "images of another type": batch(np.zeros((10, 3072), np.float64), [0] * 10),
        "labels out of range": batch(np.zeros((10, 3072), np.uint8), [10, -1, 2**40]),
    }


def _zip(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as packed:
        for name, content in members.items():
            packed.writestr(name, content)
    return buffer.getvalue()


OTHERS: dict[str, Callable[[Path], Any]] = {
    "a folder": lambda path: path.mkdir(),
    "a link to nowhere": lambda path: path.symlink_to("nowhere"),
    "a link to itself": lambda path: path.symlink_to(path.name),
    "a link to params.yaml": lambda path: path.symlink_to(Path("..") / PARAMS),
    "a pipe": lambda path: os.mkfifo(path),
    "a link to an empty device": lambda path: path.symlink_to("/dev/null"),
}
"""What may lie in the place of a file."""


@st.composite
def official(draw: st.DrawFn, kind: str) -> Case:
    """CIFAR's archive, or a file of it, replaced; or its folder."""
    dataset = draw(st.sampled_from(sorted(CIFAR)))
    packed, folder, first = CIFAR[dataset]
    name = draw(
        st.sampled_from(
            [packed, folder, f"{folder}/{first}", f"{folder}/test_batch" if dataset == "cifar10" else f"{folder}/test"]
        )
    )
    what, make = draw(st.sampled_from(sorted([*_contents(), *OTHERS.items()], key=lambda item: item[0])))
    extra = draw(st.binary(max_size=8))

    def write(root: Path) -> None:
        (root / PARAMS).write_bytes(params(dataset, root=RAW))
        path = root / RAW / name
        path.parent.mkdir(parents=True)
        make(path)
        if extra and path.is_file() and not path.is_symlink():
            path.write_bytes(path.read_bytes() + extra)

    return Case(kind, f"{name}: {what}", "prepare", (), write, (name, packed))


def _contents() -> list[tuple[str, Callable[[Path], Any]]]:
    return [(what, _file(content)) for what, content in archives().items()]


def _file(content: bytes) -> Callable[[Path], Any]:
    return lambda path: path.write_bytes(content)


# --- Prepared images


@cache
def digits() -> dict[str, bytes]:
    """The files of the prepared digits."""
    with TemporaryDirectory() as folder:
        prepare(parse_params(suite(0)).data, Path(folder))
        return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def put_digits(folder: Path) -> Path:
    """The prepared digits in their place."""
    prepared = folder / "data/prepared/digits"
    prepared.mkdir(parents=True)
    for name, content in digits().items():
        (prepared / name).write_bytes(content)
    return prepared


def _resave(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    """Changed tensors, with a manifest that vouches for them."""
    path = folder / "images.safetensors"
    tensors = load(path.read_bytes())
    change(tensors)
    path.write_bytes(save(tensors))
    _vouch(folder)


def _vouch(folder: Path) -> None:
    _manifest(sha256=file_digest(folder / "images.safetensors"))(folder)


def _manifest(**changes: Any) -> Callable[[Path], Any]:
    def write(folder: Path) -> None:
        content = {key: value for key, value in json.loads(digits()["manifest.json"]).items() if key != CHECKSUM}
        write_record(folder / "manifest.json", {**content, **changes})

    return write


def _bytes(name: str, content: bytes) -> Callable[[Path], Any]:
    return lambda folder: (folder / name).write_bytes(content)


def _cut(folder: Path) -> None:
    path = folder / "images.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    _vouch(folder)


def _tensors(change: Callable[[dict[str, torch.Tensor]], Any]) -> Callable[[Path], Any]:
    return lambda folder: _resave(folder, change)


def _code(folder: Path) -> None:
    (folder / "images.safetensors").write_bytes(pickle.dumps(Code()))
    _vouch(folder)


def _instead(name: str, make: Callable[[Path], Any]) -> Callable[[Path], Any]:
    def replace(folder: Path) -> None:
        (folder / name).unlink()
        make(folder / name)

    return replace


PREPARED: dict[str, Callable[[Path], Any]] = {
    "images of another shape": _tensors(lambda t: t.update(train_images=t["train_images"][:, :, :7].contiguous())),
    "too few images": _tensors(lambda t: t.update(train_images=t["train_images"][:5].contiguous())),
    "images of float32": _tensors(lambda t: t.update(test_images=t["test_images"].float())),
    "images of int8": _tensors(lambda t: t.update(test_images=t["test_images"].to(torch.int8))),
    "labels above the range": _tensors(lambda t: t["train_labels"].fill_(10)),
    "labels below the range": _tensors(lambda t: t.update(train_labels=t["train_labels"].to(torch.int8) - 5)),
    "labels of float32 with NaN": _tensors(lambda t: t.update(test_labels=t["test_labels"].float() * float("nan"))),
    "labels with two axes": _tensors(lambda t: t.update(test_labels=t["test_labels"][:, None].contiguous())),
    "too few labels": _tensors(lambda t: t.update(test_labels=t["test_labels"][:3].contiguous())),
    "no labels": _tensors(lambda t: t.pop("test_labels")),
    "no tensors": _tensors(lambda t: t.clear()),
    "tensors cut off": _cut,
    "tensors replaced by a pickle": _code,
    "a manifest without a checksum": _bytes("manifest.json", b'{"name": "digits", "digest": "0", "sha256": "0"}'),
    "a byte changed": lambda folder: _bytes("images.safetensors", digits()["images.safetensors"][:-1] + b"?")(folder),
    "a manifest of bytes": _bytes("manifest.json", b"\xff\xfe"),
    "an empty manifest": _bytes("manifest.json", b""),
    "a manifest that is a list": _bytes("manifest.json", b"[]"),
    "a manifest that is null": _bytes("manifest.json", b"null"),
    "a manifest nested too deeply": _bytes("manifest.json", b"[" * 100_000),
    "a manifest of another data set": _manifest(name="mnist"),
    "a name that is a number": _manifest(name=3),
    "a digest that is a number": _manifest(digest=7),
    "a digest that is missing": _manifest(digest=None),
    "another digest of the file": _manifest(sha256="0" * 64),
    "a digest of the file that is a list": _manifest(sha256=[]),
    **{f"images: {what}": _instead("images.safetensors", make) for what, make in OTHERS.items()},
    **{f"manifest: {what}": _instead("manifest.json", make) for what, make in OTHERS.items()},
}


@st.composite
def prepared(draw: st.DrawFn, kind: str) -> Case:
    """The prepared digits, damaged or exchanged."""
    what, change = draw(st.sampled_from(sorted(PREPARED.items(), key=lambda item: item[0])))

    def write(folder: Path) -> None:
        (folder / PARAMS).write_bytes(params("digits"))
        change(put_digits(folder))

    return Case(kind, what, "train", ("nt", "--seed", "1"), write, ("data/prepared/digits",))


# --- Corrupted images


@cache
def grey_cifar() -> TemporaryDirectory[str]:
    """A prepared CIFAR-10 whose images are all black; the folder goes when the process ends."""
    made = TemporaryDirectory(prefix="bad-input-cifar-")
    tensors = {
        f"{part}_{what}": torch.zeros((count, 3, 32, 32) if what == "images" else (count,), dtype=torch.uint8)
        for part, count in (("train", 50_000), ("test", 10_000))
        for what in ("images", "labels")
    }
    path = Path(made.name, "images.safetensors")
    path.write_bytes(save(tensors))
    manifest = {"name": "cifar10", "digest": "0" * 64, "sha256": file_digest(path)}
    write_record(Path(made.name, "manifest.json"), manifest)
    return made


def _npy(array: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, **options)
    return buffer.getvalue()


def _header(text: str) -> bytes:
    content = text.encode("latin-1", "replace") + b"\n"
    return b"\x93NUMPY\x01\x00" + len(content).to_bytes(2, "little") + content


ARRAYS: dict[str, bytes] = {
    "nothing": b"",
    "text": b"<html>404</html>",
    "a pickle with code": pickle.dumps(Code()),
    "an array of objects with code": _npy(np.array([Code()], dtype=object), allow_pickle=True),
    "a damaged zip file": b"PK\x03\x04" + b"x" * 100,
    "a zip file of arrays": _zip({"a.npy": _npy(np.zeros(3, np.uint8))}),
    "another shape": _npy(np.zeros((50, 32, 32, 3), np.uint8)),
    "a single number": _npy(np.uint8(3)),
    "float64": _npy(np.zeros((5, 32, 32, 3))),
    "texts": _npy(np.array(["a", "b"])),
    "a header without an end": b"\x93NUMPY\x01\x00v\x00{'descr': '|u1', 'shape': (",
    "a header that is no mapping": _header("[1, 2]"),
    "a header that calls something": _header("{'descr': __import__('os').system('touch written')}"),
    "a header with an open bracket": _header("{'descr': '|u1', 'fortran_order': False, 'shape': ((((((" + "(" * 500),
    "a shape far beyond the file": _header("{'descr': '|u1', 'fortran_order': False, 'shape': (50000, 32, 32, 3), }"),
    "a shape of 10**30": _header("{'descr': '|u1', 'fortran_order': False, 'shape': (" + "9" * 30 + ",), }"),
    "a negative shape": _header("{'descr': '|u1', 'fortran_order': False, 'shape': (-5, 32, 32, 3), }"),
    "an unknown type": _header("{'descr': 'x99', 'fortran_order': False, 'shape': (1,), }"),
    "a format of the future": b"\x93NUMPY\x09\x00" + b"\0" * 100,
}


@st.composite
def corrupted(draw: st.DrawFn, kind: str) -> Case:
    """A file where those of CIFAR-10-C or CIFAR-10-P belong."""
    release = draw(st.sampled_from(["CIFAR-10-C", "CIFAR-10-P"]))
    contents = [(what, _file(content)) for what, content in ARRAYS.items()]
    what, make = draw(st.sampled_from(sorted([*contents, *OTHERS.items()], key=lambda item: item[0])))
    name = draw(st.sampled_from(["labels", PERTURBED, "fog"])) if release.endswith("C") else PERTURBED

    def write(folder: Path) -> None:
        (folder / PARAMS).write_bytes(params("cifar10", root=RAW))
        (folder / "data/prepared").mkdir(parents=True)
        (folder / "data/prepared/cifar10").symlink_to(grey_cifar().name)
        (folder / RAW / release).mkdir(parents=True)
        make(folder / RAW / release / f"{name}.npy")

    return Case(kind, f"{release}/{name}.npy: {what}", "corrupt", (), write, (f"{release}/{name}.npy",))


# --- Folders of pictures


def _picture(number: int, format: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    noise = np.random.default_rng(number).integers(256, size=(24, 20, 3), dtype=np.uint8)
    Image.fromarray(noise).save(buffer, format)
    return buffer.getvalue()


def tree(root: Path) -> Path:
    """Two classes with two pictures in each part."""
    for part in ("train", "val"):
        for label in ("cat", "dog"):
            folder = root / part / label
            folder.mkdir(parents=True)
            for number in range(2):
                (folder / f"{number}.png").write_bytes(_picture(number))
    return root


def _huge() -> bytes:
    """The beginning of a PNG that says it is 60,000 pixels wide and high."""
    return _picture(0)[:16] + (60_000).to_bytes(4, "big") * 2 + _picture(0)[24:]


def _flatten(root: Path) -> None:
    for label in ("cat", "dog"):
        shutil.rmtree(root / "val" / label)
    (root / "val/x.png").write_bytes(_picture(1))


def _file_for_folder(root: Path) -> None:
    shutil.rmtree(root / "val")
    (root / "val").write_text("x")


def _class(root: Path, *parts: str, pictures: bool) -> None:
    for part in parts:
        (root / part / "eel").mkdir()
        if pictures:
            (root / part / "eel/1.png").write_bytes(_picture(1))


def _upwards(root: Path) -> None:
    for number in range(2):
        (root / f"train/cat/again{number}").symlink_to("..")


TREES: dict[str, Callable[[Path], Any]] = {
    "no val": lambda root: shutil.rmtree(root / "val"),
    "no train": lambda root: shutil.rmtree(root / "train"),
    "val is a file": _file_for_folder,
    "no classes": _flatten,
    "a class that only train has": lambda root: _class(root, "train", pictures=True),
    "a class without pictures": lambda root: _class(root, "train", "val", pictures=False),
    "a link that leads to its own folder": lambda root: (root / "train/cat/again").symlink_to("../cat"),
    "two links that lead upwards": _upwards,
    "a link to nowhere": lambda root: (root / "train/cat/9.png").symlink_to("nowhere"),
    "a link to itself": lambda root: (root / "train/cat/9.png").symlink_to("9.png"),
    "a pipe": lambda root: os.mkfifo(root / "train/cat/9.png"),
    "a device": lambda root: (root / "train/cat/9.png").symlink_to("/dev/zero"),
    "an empty picture": lambda root: (root / "train/cat/1.png").write_bytes(b""),
    "a picture of text": lambda root: (root / "val/dog/1.png").write_text("<html>"),
    "a picture that is cut off": lambda root: (root / "train/cat/1.png").write_bytes(_picture(5)[:300]),
    "a picture of 3.6 gigapixels": lambda root: (root / "train/cat/1.png").write_bytes(_huge()),
    "a pickle that is called a picture": lambda root: (root / "val/cat/0.png").write_bytes(pickle.dumps(Code())),
    "PostScript that is called a picture": lambda root: (root / "val/cat/0.png").write_bytes(
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(written) (w) file\n"
    ),
}
LISTS: dict[str, bytes] = {
    "an empty list": b"",
    "a list of blanks": b"\n \n",
    "a list of what there is not": b"cat/9.png\n",
    "a list that leads out of val": b"../train/cat/0.png\n",
    "a list with a name twice": b"cat/0.png\ncat/0.png\n",
    "a list of bytes": b"\xff\xfe\x00\n",
    "a list of absolute paths": b"/etc/passwd\n",
}


@st.composite
def pictures(draw: st.DrawFn, kind: str) -> Case:
    """A tree of image folders with something wrong in it, a wrong list of images, a wrong destination."""
    what = draw(
        st.sampled_from(sorted([*TREES, *LISTS, "a destination that is a file", "a destination with other files"]))
    )
    damaged = " picture" in what or what.startswith("PostScript") or "called" in what

    def write(folder: Path) -> None:
        root = tree(folder / "pictures")
        if what in TREES:
            TREES[what](root)
        (folder / "list.txt").write_bytes(LISTS.get(what, b"cat/0.png\n"))
        if what == "a destination that is a file":
            (folder / "shards").write_text("x")
        if what == "a destination with other files":
            (folder / "shards").mkdir()
            (folder / "shards/thesis.tex").write_text("x")

    arguments = ("pictures", "shards", "--workers", "1", *(["--subset-list", "list.txt"] if what in LISTS else []))
    return Case(kind, what, "prepare_imagefolder", arguments, write, may_write="shards/" if damaged else None)


KINDS: dict[str, Callable[[str], st.SearchStrategy[Case]]] = {
    "CIFAR archives and files": official,
    "prepared images": prepared,
    "CIFAR-10-C and -P": corrupted,
    "folders of pictures": pictures,
}
