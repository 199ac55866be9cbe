"""Folders of corrupted images: what is accepted, and that everything else is named and left alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.core.errors import RequestError
from pipeline.data.corruptions.facts import BENCHMARK_CORRUPTIONS, CORRUPTIONS, RELEASES, Release
from pipeline.data.corruptions.folders import open_corruptions, open_perturbations, open_regenerated, row_chunks
from pipeline.data.corruptions.generate import CleanImages, regenerate
from tests.data.corruptions.conftest import COUNT, SIZE

LABELS = np.array([7, 8, 9])


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_official_files_are_accepted(installed: Path, root: Path) -> None:
    folder = open_corruptions(root, "cifar10")
    assert (folder.kind, folder.provenance, folder.names) == ("corruptions", "official", BENCHMARK_CORRUPTIONS)
    assert folder.labels.tolist() == LABELS.tolist()
    assert len(folder) == COUNT
    assert folder.file("fog") == installed / "fog.npy"


def test_only_the_files_that_are_asked_for_must_be_there(installed: Path, root: Path) -> None:
    (installed / "saturate.npy").unlink()
    assert open_corruptions(root, "cifar10", ("fog",)).names == ("fog",)
    with pytest.raises(RequestError, match=r"1 file is missing or damaged\n  .*saturate\.npy: is missing"):
        open_corruptions(root, "cifar10", CORRUPTIONS)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def cut_the_header(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:50])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def drop_a_row(path: Path) -> None:
    np.save(path, np.load(path)[:-1])


def make_float(path: Path) -> None:
    np.save(path, np.load(path).astype(np.float32))


def zip_it(path: Path) -> None:
    with open(path, "wb") as stream:
        np.savez(stream, first=np.zeros(1))


def pickle_it(path: Path) -> None:
    np.save(path, np.array([{}], dtype=object), allow_pickle=True)


MD5 = "expected MD5 [0-9a-f]{32}, found [0-9a-f]{32}"
DAMAGES = [truncate, cut_the_header, empty, flip_a_bit, drop_a_row, make_float, zip_it, pickle_it]


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", ["fog", "labels"])
def test_damage_is_named_and_nothing_is_written(
    installed: Path, root: Path, name: str, damage: Callable[[Path], None]
) -> None:
    damage(installed / f"{name}.npy")
    before = contents(root)
    with pytest.raises(RequestError, match=rf"{name}\.npy: {MD5}") as caught:
        open_corruptions(root, "cifar10", ("fog", "frost"))
    assert caught.value.exit_code == 2
    for way_out in ("by hand", "allow the download", "regenerate", RELEASES["cifar10"].archive_md5):
        assert way_out in str(caught.value)
    assert contents(root) == before


def test_all_problems_are_in_one_message(installed: Path, root: Path) -> None:
    truncate(installed / "fog.npy")
    (installed / "snow.npy").unlink()
    drop_a_row(installed / "labels.npy")
    with pytest.raises(RequestError, match="3 files are missing or damaged") as caught:
        open_corruptions(root, "cifar10")
    assert all(f"{name}.npy" in str(caught.value) for name in ("fog", "snow", "labels"))


@pytest.mark.parametrize("dataset", ["digits", "svhn"])
def test_data_sets_without_a_release_say_so(root: Path, dataset: str) -> None:
    with pytest.raises(RequestError, match=f"'{dataset}' has no official corrupted images, only cifar10 and cifar100"):
        open_corruptions(root, dataset)
    with pytest.raises(RequestError, match="regenerate them"):
        open_perturbations(root, dataset, LABELS)


def install_sequences(root: Path) -> Path:
    folder = root / "CIFAR-10-P"
    folder.mkdir(parents=True)
    for name, frames in (("rotate", 31), ("translate", 16)):
        np.save(folder / f"{name}.npy", np.zeros((COUNT, frames, SIZE, SIZE, 3), np.uint8))
    return folder


def test_sequences_are_accepted_without_a_digest_and_say_so(release: Release, root: Path) -> None:
    path = install_sequences(root)
    folder = open_perturbations(root, "cifar10", LABELS, ("rotate", "translate"))
    assert (folder.path, folder.kind, folder.provenance) == (path, "perturbations", "unverified")
    assert folder.labels.tolist() == LABELS.tolist()


FORMS = [
    (truncate, r"holds no whole NumPy array \(ValueError, \d+ bytes\)"),
    (cut_the_header, "holds no whole NumPy array"),
    (empty, r"holds no whole NumPy array \(\w+, 0 bytes\)"),
    (drop_a_row, r"holds uint8 of shape \(2, 31,.*expected uint8 of shape \(3, 31"),
    (make_float, "holds float32 of shape"),
    (zip_it, "holds no whole NumPy array"),
    (pickle_it, "holds no whole NumPy array"),
    (Path.unlink, "is missing"),
]


@pytest.mark.parametrize(("damage", "message"), FORMS)
def test_sequences_of_another_form_are_refused(
    release: Release, root: Path, damage: Callable[[Path], None], message: str
) -> None:
    path = install_sequences(root)
    damage(path / "rotate.npy")
    with pytest.raises(RequestError, match=rf"rotate\.npy: {message}(.|\n)*no archive"):
        open_perturbations(root, "cifar10", LABELS, ("rotate", "translate"))


@pytest.fixture
def regenerated(clean: CleanImages, tmp_path: Path) -> Path:
    folder = tmp_path / "regenerated"
    regenerate("corruptions", clean, folder, ("contrast", "fog"), seed=0)
    return folder


def test_regenerated_files_are_accepted_and_say_so(regenerated: Path) -> None:
    folder = open_regenerated(regenerated, "corruptions", ("fog",))
    assert (folder.provenance, folder.names, folder.labels.tolist()) == ("regenerated", ("fog",), [3, 1, 4, 1, 5])


def test_regenerated_files_are_checked(regenerated: Path) -> None:
    with pytest.raises(RequestError, match="is of corruptions, perturbations were asked for"):
        open_regenerated(regenerated, "perturbations", ("fog",))
    with pytest.raises(RequestError, match=r"not in manifest\.json: snow\. Remove"):
        open_regenerated(regenerated, "corruptions", ("fog", "snow"))
    flip_a_bit(regenerated / "fog.npy")
    with pytest.raises(RequestError, match=r"fog\.npy: expected MD5 (.|\n)*what is whole is kept"):
        open_regenerated(regenerated, "corruptions", ("fog",))


@pytest.mark.parametrize("change", ["", "{", "[]", "null", '{"regenerated": false}', '{"regenerated": true}'])
def test_a_damaged_manifest_is_refused(regenerated: Path, change: str) -> None:
    (regenerated / "manifest.json").write_text(change)
    with pytest.raises(RequestError, match=r"manifest\.json: is damaged"):
        open_regenerated(regenerated, "corruptions", ("fog",))


def test_a_missing_manifest_is_refused(regenerated: Path) -> None:
    assert json.loads((regenerated / "manifest.json").read_text())["regenerated"] is True
    (regenerated / "manifest.json").unlink()
    with pytest.raises(RequestError, match=r"manifest\.json: is missing, .*; regenerate"):
        open_regenerated(regenerated, "corruptions", ("fog",))


@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.integers(1, 20), data=st.data())
def test_chunks_are_the_rows_in_order(tmp_path: Path, rows: int, data: st.DataObject) -> None:
    array = np.random.default_rng(rows).integers(0, 256, (rows, 2, 2, 3), dtype=np.uint8)
    np.save(tmp_path / "array.npy", array)
    first = data.draw(st.integers(0, rows - 1))
    count = data.draw(st.integers(1, rows - first))
    size = data.draw(st.integers(1, rows))
    chunks = list(row_chunks(tmp_path / "array.npy", first, count, size))
    assert np.array_equal(np.concatenate(chunks), array[first : first + count])
    assert all(len(chunk) <= size for chunk in chunks)


def test_the_official_facts_are_consistent() -> None:
    for release in RELEASES.values():
        assert release.archive_bytes > 19 * 153_600_128 + 50_128
        digests = [release.archive_md5, *release.files.values()]
        assert len(set(digests)) == 21
        assert all(len(digest) == 32 for digest in digests)
    assert replace(RELEASES["cifar10"]).folder == "CIFAR-10-C"
