"""The official files: read by torchvision, downloaded from a server on this machine, refused when damaged.

The files are small ones in the official formats; their MD5 and addresses replace the official ones in torchvision.
"""

from __future__ import annotations

import gzip
import hashlib
import pickle
import socket
import tarfile
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.io import savemat
from torchvision.datasets import CIFAR10, CIFAR100, MNIST, SVHN

from pipeline.config import DatasetName
from pipeline.core.errors import RequestError
from pipeline.data import download
from pipeline.data.sources import read_official

BATCHES = ["data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5", "test_batch"]
PINNED_DIGITS = "50633b623f555b34"
OFFICIAL = ["cifar10", "cifar100", "mnist", "svhn"]


class Site:
    """A server on this machine, the folder that it serves, and what the official files hold."""

    def __init__(self, folder: Path, address: str) -> None:
        self.folder = folder
        self.address = address
        self.requests: list[str] = []
        self.images: dict[str, NDArray[np.uint8]] = {}
        self.labels: dict[str, list[int]] = {}

    def install(self, name: str, root: Path) -> None:
        """Put the official files below `root`, as a person would."""
        below = root / "MNIST" / "raw" if name == "mnist" else root
        below.mkdir(parents=True, exist_ok=True)
        for file in (self.folder / name).iterdir():
            if file.suffix == ".gz" and name.startswith("cifar"):
                with tarfile.open(file) as archive:
                    archive.extractall(below, filter="data")
            else:
                (below / file.name).write_bytes(file.read_bytes())


class Handler(SimpleHTTPRequestHandler):
    def __init__(self, *arguments: Any, site: Site) -> None:
        self.site = site
        super().__init__(*arguments, directory=str(site.folder))

    def log_message(self, format: str, *arguments: Any) -> None:
        self.site.requests.append(self.path)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setenv("no_proxy", "*")
    folder = tmp_path / "site"
    folder.mkdir()
    site = Site(folder, "")
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, site=site))
    site.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    for publish in (publish_cifar10, publish_cifar100, publish_mnist, publish_svhn):
        publish(site, monkeypatch)
    yield site
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "data" / "raw"


def random_images(count: int, *shape: int) -> NDArray[np.uint8]:
    return np.random.default_rng(count).integers(0, 256, (count, *shape), dtype=np.uint8)


def md5(content: bytes | bytearray) -> str:
    return hashlib.md5(content).hexdigest()


def publish_archive(site: Site, name: str, contents: dict[str, bytes], kind: Any, patch: pytest.MonkeyPatch) -> None:
    source = site.folder / "unpacked" / kind.base_folder
    source.mkdir(parents=True)
    (site.folder / name).mkdir()
    archive = site.folder / name / kind.filename
    with tarfile.open(archive, "w:gz") as packed:
        for file, content in contents.items():
            (source / file).write_bytes(content)
            packed.add(source / file, f"{kind.base_folder}/{file}")
    patch.setattr(kind, "url", f"{site.address}/{name}/{kind.filename}")
    patch.setattr(kind, "tgz_md5", md5(archive.read_bytes()))
    for attribute in ("train_list", "test_list"):
        patch.setattr(kind, attribute, [[file, md5(contents[file])] for file, _ in getattr(kind, attribute)])
    patch.setattr(kind, "meta", kind.meta | {"md5": md5(contents[kind.meta["filename"]])})


def publish_cifar10(site: Site, patch: pytest.MonkeyPatch) -> None:
    images, labels = random_images(12, 3, 32, 32), [index % 10 for index in range(12)]
    contents = {
        batch: pickle.dumps({"data": images[start : start + 2].reshape(2, -1), "labels": labels[start : start + 2]})
        for batch, start in zip(BATCHES, range(0, 12, 2), strict=True)
    }
    contents["batches.meta"] = pickle.dumps({"label_names": [str(index) for index in range(10)]})
    publish_archive(site, "cifar10", contents, CIFAR10, patch)
    site.images["cifar10"], site.labels["cifar10"] = images, labels


def publish_cifar100(site: Site, patch: pytest.MonkeyPatch) -> None:
    images, labels = random_images(7, 3, 32, 32), [99, 0, 50, 1, 2, 98, 3]
    contents = {
        "train": pickle.dumps({"data": images[:5].reshape(5, -1), "fine_labels": labels[:5], "coarse_labels": [0] * 5}),
        "test": pickle.dumps({"data": images[5:].reshape(2, -1), "fine_labels": labels[5:], "coarse_labels": [0] * 2}),
        "meta": pickle.dumps({"fine_label_names": [str(index) for index in range(100)]}),
    }
    publish_archive(site, "cifar100", contents, CIFAR100, patch)
    site.images["cifar100"], site.labels["cifar100"] = images, labels


def publish_mnist(site: Site, patch: pytest.MonkeyPatch) -> None:
    images, labels = random_images(6, 1, 28, 28), [9, 0, 5, 1, 2, 7]
    (site.folder / "mnist").mkdir()
    resources = []
    for part, chosen in (("train", slice(0, 4)), ("t10k", slice(4, 6))):
        count = len(labels[chosen]).to_bytes(4, "big")
        side = (28).to_bytes(4, "big")
        idx3 = b"\x00\x00\x08\x03" + count + side + side + images[chosen].tobytes()
        idx1 = b"\x00\x00\x08\x01" + count + bytes(labels[chosen])
        for file, content in ((f"{part}-images-idx3-ubyte.gz", idx3), (f"{part}-labels-idx1-ubyte.gz", idx1)):
            packed = gzip.compress(content)
            (site.folder / "mnist" / file).write_bytes(packed)
            resources.append((file, md5(packed)))
    patch.setattr(MNIST, "mirrors", [f"{site.address}/mnist/"])
    patch.setattr(MNIST, "resources", resources)
    site.images["mnist"], site.labels["mnist"] = images, labels


def publish_svhn(site: Site, patch: pytest.MonkeyPatch) -> None:
    images, labels = random_images(8, 3, 32, 32), [0, 1, 2, 9, 5, 0, 4, 3]
    (site.folder / "svhn").mkdir()
    listed = {}
    for part, chosen in (("train", slice(0, 5)), ("test", slice(5, 8))):
        file = site.folder / "svhn" / f"{part}_32x32.mat"
        # The official files number the classes 1..10, 10 is the digit 0.
        numbers = np.array([label or 10 for label in labels[chosen]], dtype=np.uint8)[:, None]
        savemat(file, {"X": images[chosen].transpose(2, 3, 1, 0), "y": numbers})
        listed[part] = [f"{site.address}/svhn/{file.name}", file.name, md5(file.read_bytes())]
    patch.setattr(SVHN, "split_list", listed)
    site.images["svhn"], site.labels["svhn"] = images, labels


def assert_reads(name: DatasetName, root: Path, site: Site) -> None:
    """All images and labels, training before test, in the order of the files."""
    train, test = read_official(name, root)
    for part in (train, test):
        assert part.images.dtype == torch.uint8 and part.labels.dtype == torch.int64
        assert part.images.is_contiguous()
        assert len(part) > 0
    assert torch.equal(torch.cat([train.images, test.images]), torch.from_numpy(site.images[name]))
    assert torch.cat([train.labels, test.labels]).tolist() == site.labels[name]


def contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("name", OFFICIAL)
def test_files_that_are_there_are_read_without_a_network(name: DatasetName, site: Site, root: Path) -> None:
    site.install(name, root)
    before = contents(root)
    assert_reads(name, root, site)
    assert contents(root) == before
    assert site.requests == []


@pytest.mark.parametrize("name", OFFICIAL)
def test_missing_files_are_downloaded_once(name: DatasetName, site: Site, root: Path) -> None:
    assert_reads(name, root, site)
    assert site.requests != []
    site.requests.clear()
    assert_reads(name, root, site)
    assert site.requests == []
    assert not list(root.glob(".download-*"))


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_an_archive_that_was_put_there_by_hand_is_unpacked_without_a_network(
    name: DatasetName, site: Site, root: Path
) -> None:
    archive = next((site.folder / name).iterdir())
    root.mkdir(parents=True)
    (root / archive.name).write_bytes(archive.read_bytes())
    assert_reads(name, root, site)
    assert site.requests == []
    assert (root / archive.name).read_bytes() == archive.read_bytes()


def test_one_missing_batch_is_downloaded_and_the_others_stay(site: Site, root: Path) -> None:
    site.install("cifar10", root)
    folder = root / "cifar-10-batches-py"
    (folder / "data_batch_3").unlink()
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert_reads("cifar10", root, site)
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_only_the_missing_one_of_four_files_is_downloaded(site: Site, root: Path) -> None:
    site.install("mnist", root)
    (root / "MNIST" / "raw" / "t10k-labels-idx1-ubyte.gz").unlink()
    assert_reads("mnist", root, site)
    assert set(site.requests) == {"/mnist/t10k-labels-idx1-ubyte.gz"}


def close_the_server(site: Site) -> None:
    """Every address now leads to a port where nobody listens."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{unused.getsockname()[1]}"
    for kind in (CIFAR10, CIFAR100):
        kind.url = kind.url.replace(site.address, nobody)
    MNIST.mirrors = [f"{nobody}/mnist/"]
    for entry in SVHN.split_list.values():
        entry[0] = entry[0].replace(site.address, nobody)


def remove_the_files(site: Site) -> None:
    """Every address is answered with 404."""
    for name in OFFICIAL:
        for file in (site.folder / name).iterdir():
            file.unlink()


def cut_the_files(site: Site) -> None:
    """Downloads end in the middle of a file."""
    for name in OFFICIAL:
        for file in (site.folder / name).iterdir():
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def replace_a_later_file(site: Site) -> None:
    """The download of several files breaks off after some of them."""
    for name in OFFICIAL:
        file = min((site.folder / name).iterdir())
        file.write_bytes(b"<html>maintenance</html>")


@pytest.mark.parametrize("name", OFFICIAL)
@pytest.mark.parametrize("break_it", [close_the_server, remove_the_files, cut_the_files, replace_a_later_file])
def test_a_failed_download_says_both_ways_out_and_leaves_nothing(
    name: DatasetName, break_it: Callable[[Site], None], site: Site, root: Path
) -> None:
    break_it(site)
    with pytest.raises(RequestError) as caught:
        read_official(name, root)
    message = str(caught.value)
    assert "the file is missing" in message
    assert "The download failed (" in message
    assert "there by hand (from http://127.0.0.1:" in message
    assert "python -m stages.prepare" in message
    assert list(root.iterdir()) == []


def test_a_failed_download_leaves_what_was_there(site: Site, root: Path) -> None:
    site.install("cifar10", root)
    (root / "cifar-10-batches-py" / "data_batch_3").unlink()
    before = contents(root)
    cut_the_files(site)
    with pytest.raises(RequestError) as caught:
        read_official("cifar10", root)
    expected = dict(CIFAR10.train_list)["data_batch_3"]
    missing = root / "cifar-10-batches-py" / "data_batch_3"
    assert f"  {missing}: expected MD5 {expected}, the file is missing\n" in str(caught.value)
    assert "data_batch_2" not in str(caught.value)
    assert contents(root) == before


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("cifar10", "cifar-10-batches-py/data_batch_3"),
        ("cifar10", "cifar-10-batches-py/test_batch"),
        ("cifar10", "cifar-10-batches-py/batches.meta"),
        ("cifar100", "cifar-100-python/train"),
        ("mnist", "MNIST/raw/train-images-idx3-ubyte.gz"),
        ("svhn", "test_32x32.mat"),
    ],
)
def test_a_damaged_file_is_named_and_neither_replaced_nor_downloaded(
    name: DatasetName, file: str, site: Site, root: Path
) -> None:
    site.install(name, root)
    content = bytearray((root / file).read_bytes())
    official = md5(content)
    content[len(content) // 2] ^= 1
    (root / file).write_bytes(content)
    before = contents(root)
    with pytest.raises(RequestError) as caught:
        read_official(name, root)
    message = str(caught.value)
    assert f"data set '{name}': 1 of its official files" in message
    assert f"  {root / file}: expected MD5 {official}, found {md5(content)}\n" in message
    assert "Remove every file with another MD5" in message and "python -m stages.prepare" in message
    assert contents(root) == before
    assert site.requests == []


def test_a_damaged_archive_is_named(site: Site, root: Path) -> None:
    root.mkdir(parents=True)
    (root / "cifar-10-python.tar.gz").write_bytes(b"half of it")
    with pytest.raises(RequestError, match=f"cifar-10-python.tar.gz: expected MD5 .*, found {md5(b'half of it')}"):
        read_official("cifar10", root)
    assert contents(root) == {"cifar-10-python.tar.gz": b"half of it"}


def test_an_old_damaged_archive_does_not_matter_when_the_files_are_there(site: Site, root: Path) -> None:
    site.install("cifar10", root)
    (root / "cifar-10-python.tar.gz").write_bytes(b"half of it")
    assert_reads("cifar10", root, site)


def test_unpacked_mnist_files_are_not_trusted(site: Site, root: Path) -> None:
    site.install("mnist", root)
    (root / "MNIST" / "raw" / "train-images-idx3-ubyte").write_bytes(b"anything")
    assert_reads("mnist", root, site)


def test_a_server_that_never_answers_is_given_up(site: Site, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "NETWORK_TIMEOUT", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setattr(CIFAR10, "url", f"http://127.0.0.1:{silent.getsockname()[1]}/{CIFAR10.filename}")
        with pytest.raises(RequestError, match=r"The download failed \(.*timed out"):
            read_official("cifar10", root)
    assert list(root.iterdir()) == []


def test_a_root_that_cannot_be_written_is_an_os_error(site: Site, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OSError):
        read_official("svhn", tmp_path / "file" / "raw")


def test_digits_are_split_once_and_for_all(tmp_path: Path) -> None:
    train, test = read_official("digits", tmp_path)
    assert train.images.shape == (1437, 1, 8, 8)
    assert test.images.shape == (360, 1, 8, 8)
    assert train.images.dtype == torch.uint8
    # 0..16 becomes 0..255, every value of it.
    values = sorted({round(value * 255 / 16) for value in range(17)})
    assert np.unique(torch.cat([train.images, test.images]).numpy()).tolist() == values
    shares = torch.bincount(train.labels) / torch.bincount(torch.cat([train.labels, test.labels]))
    assert (shares - 1437 / 1797).abs().max() < 0.01
    # Pinned: another split would test on images that kept runs were trained on.
    digest = hashlib.sha256(test.images.numpy().tobytes() + bytes(test.labels.tolist())).hexdigest()
    assert digest[:16] == PINNED_DIGITS
    assert list(tmp_path.iterdir()) == []
