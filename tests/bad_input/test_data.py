"""Wrong data: official files, prepared and corrupted images, folders of pictures."""

from __future__ import annotations

import io
import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load, save

from pipeline.core.files import CHECKSUM, file_digest, write_record
from tests.bad_input.archives import BATCH, CIFAR10, Code, archives
from tests.bad_input.conftest import OTHERS, Make, bytes_of, refused
from tests.data.imagefolder.conftest import settings_of


def other_data(folder: Path, content: dict[str, Any], name: str) -> None:
    """A params.yaml of another data set, whose official files are in raw/."""
    suite = yaml.safe_load((folder / "params.yaml").read_text())
    data = {**suite["data"], "name": name, "root": "raw", **content}
    (folder / "params.yaml").write_text(yaml.safe_dump({**suite, "data": data, "model": {"architecture": "resnet18"}}))


OFFICIAL = OTHERS | {what: bytes_of(content) for what, content in archives().items()}


@pytest.mark.parametrize("make", OFFICIAL.values(), ids=OFFICIAL)
@pytest.mark.parametrize("name", ["cifar-10-python.tar.gz", BATCH])
def test_wrong_official_files(folder: Path, name: str, make: Make) -> None:
    other_data(folder, {}, "cifar10")
    path = folder / "raw" / name
    path.parent.mkdir(parents=True)
    make(path)
    refused(folder, "prepare", names=CIFAR10)


def tensors(change: Callable[[dict[str, torch.Tensor]], Any]) -> Make:
    """Changed tensors, with a manifest that vouches for them."""

    def write(prepared: Path) -> None:
        read = load((prepared / "images.safetensors").read_bytes())
        change(read)
        rewrite(save(read))(prepared)

    return write


def manifest(**changes: Any) -> Make:
    def write(prepared: Path) -> None:
        path = prepared / "manifest.json"
        content = {key: value for key, value in json.loads(path.read_text()).items() if key != CHECKSUM}
        write_record(path, {**content, **changes})

    return write


def rewrite(content: bytes) -> Make:
    def write(prepared: Path) -> None:
        (prepared / "images.safetensors").write_bytes(content)
        manifest(sha256=file_digest(prepared / "images.safetensors"))(prepared)

    return write


def instead(name: str, make: Make) -> Make:
    def write(prepared: Path) -> None:
        (prepared / name).unlink()
        make(prepared / name)

    return write


PREPARED: dict[str, Make] = {
    "images of int8": tensors(lambda t: t.update(test_images=t["test_images"].to(torch.int8))),
    "labels with NaN": tensors(lambda t: t.update(test_labels=t["test_labels"].float() * float("nan"))),
    "labels with two axes": tensors(lambda t: t.update(test_labels=t["test_labels"][:, None].contiguous())),
    "no labels": tensors(lambda t: t.pop("test_labels")),
    "no tensors": tensors(lambda t: t.clear()),
    "tensors cut off": lambda prepared: rewrite((prepared / "images.safetensors").read_bytes()[:-100])(prepared),
    "a pickle": rewrite(pickle.dumps(Code())),
    "a manifest nested too deeply": lambda prepared: (prepared / "manifest.json").write_bytes(b"[" * 100_000),
    "a name that is a number": manifest(name=3),
    "a digest that is a number": manifest(digest=7),
    "a digest of the file that is a list": manifest(sha256=[]),
    **{f"images: {what}": instead("images.safetensors", make) for what, make in OTHERS.items()},
    **{f"manifest: {what}": instead("manifest.json", make) for what, make in OTHERS.items()},
}


@pytest.mark.parametrize("change", PREPARED.values(), ids=PREPARED)
def test_wrong_prepared_images(folder: Path, prepared_digits: Path, change: Make) -> None:
    shutil.copytree(prepared_digits, folder / "data/prepared/digits")
    change(folder / "data/prepared/digits")
    refused(folder, "train", "nt", "--seed", "1", names="data/prepared/digits")


def npy(header: str) -> bytes:
    content = header.encode("latin-1") + b"\n"
    return b"\x93NUMPY\x01\x00" + len(content).to_bytes(2, "little") + content


ARRAYS = OTHERS | {
    what: bytes_of(content)
    for what, content in {
        "nothing": b"",
        "a pickle with code": pickle.dumps(Code()),
        "a damaged zip file": b"PK\x03\x04" + b"x" * 100,
        "a header without an end": b"\x93NUMPY\x01\x00v\x00{'descr': '|u1', 'shape': (",
        "a header that calls something": npy("{'descr': __import__('os').system('touch written')}"),
        "a header with open brackets": npy("{'descr': '|u1', 'fortran_order': False, 'shape': (" + "(" * 500),
        "a shape of 10**30": npy("{'descr': '|u1', 'fortran_order': False, 'shape': (" + "9" * 30 + ",), }"),
        "a negative shape": npy("{'descr': '|u1', 'fortran_order': False, 'shape': (-5, 32, 32, 3), }"),
        "an unknown type": npy("{'descr': 'x99', 'fortran_order': False, 'shape': (1,), }"),
        "a format of the future": b"\x93NUMPY\x09\x00" + b"\0" * 100,
    }.items()
}


@pytest.fixture(scope="module")
def black_cifar(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared CIFAR-10 whose images are all black."""
    made = tmp_path_factory.mktemp("prepared")
    shapes = {"images": (3, 32, 32), "labels": ()}
    counts = {"train": 50_000, "test": 10_000}
    content = {
        f"{part}_{what}": torch.zeros((count, *shape), dtype=torch.uint8)
        for part, count in counts.items()
        for what, shape in shapes.items()
    }
    (made / "images.safetensors").write_bytes(save(content))
    record = {"name": "cifar10", "digest": "0" * 64, "sha256": file_digest(made / "images.safetensors")}
    write_record(made / "manifest.json", record)
    return made


@pytest.mark.parametrize("make", ARRAYS.values(), ids=ARRAYS)
@pytest.mark.parametrize("file", ["CIFAR-10-C/labels.npy", "CIFAR-10-P/gaussian_noise.npy"])
def test_wrong_corrupted_images(folder: Path, black_cifar: Path, file: str, make: Make) -> None:
    other_data(folder, {"train_images": 48, "held_out_images": 32, "test_images": 24}, "cifar10")
    (folder / "data/prepared").mkdir(parents=True)
    (folder / "data/prepared/cifar10").symlink_to(black_cifar)
    (folder / "raw" / file).parent.mkdir(parents=True)
    make(folder / "raw" / file)
    refused(folder, "corrupt", names=file)


def picture(number: int) -> bytes:
    buffer = io.BytesIO()
    noise = np.random.default_rng(number).integers(256, size=(24, 20, 3), dtype=np.uint8)
    Image.fromarray(noise).save(buffer, "PNG")
    return buffer.getvalue()


TREES: dict[str, tuple[str, Make]] = {
    "a link that leads to its own folder": ("train/cat/again", lambda path: path.symlink_to("../cat")),
    "a device": ("train/cat/9.png", lambda path: path.symlink_to("/dev/zero")),
    "an empty picture": ("train/cat/1.png", bytes_of(b"")),
    "a picture of 3.6 gigapixels": (
        "train/cat/1.png",
        bytes_of(picture(0)[:16] + (60_000).to_bytes(4, "big") * 2 + picture(0)[24:]),
    ),
    "a pickle": ("val/cat/0.png", bytes_of(pickle.dumps(Code()))),
    "PostScript": ("val/cat/0.png", bytes_of(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(written) (w) file\n")),
}
LISTS = (b"", b"cat/9.png\n", b"../train/cat/0.png\n", b"cat/0.png\ncat/0.png\n", b"\xff\xfe\x00\n", b"/etc/passwd\n")


@pytest.fixture
def pictures(folder: Path) -> Path:
    """Two classes with two pictures in each part."""
    for part in ("train", "val"):
        for label in ("cat", "dog"):
            (folder / "pictures" / part / label).mkdir(parents=True)
            for number in range(2):
                (folder / "pictures" / part / label / f"{number}.png").write_bytes(picture(number))
    content = settings_of(Path("pictures"), 2, subset_list="list.txt")
    (folder / "params.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    (folder / "list.txt").write_text("cat/0.png\n")
    return folder / "pictures"


@pytest.mark.parametrize(("place", "make"), TREES.values(), ids=TREES)
def test_wrong_folders_of_pictures(folder: Path, pictures: Path, place: str, make: Make) -> None:
    make(pictures / place)
    refused(folder, "prepare", names="pictures", may_write="data/prepared")


@pytest.mark.parametrize("content", LISTS, ids=repr)
def test_wrong_lists_of_pictures(folder: Path, pictures: Path, content: bytes) -> None:
    (folder / "list.txt").write_bytes(content)
    refused(folder, "prepare", names="list.txt", may_write="data/prepared")
