"""Regenerated folders: their form, that they are addressed, resumed, and never mixed with anything."""

from __future__ import annotations

import hashlib
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.core.errors import PipelineError, RequestError
from pipeline.core.files import read_record
from pipeline.data.corruptions import generate
from pipeline.data.corruptions.catalogue import corrupt, image_generator
from pipeline.data.corruptions.facts import CORRUPTIONS, FRAMES, PERTURBATIONS, Release
from pipeline.data.corruptions.folders import Kind, open_regenerated
from pipeline.data.corruptions.generate import CleanImages, regenerate
from pipeline.data.corruptions.perturbations import perturb


@pytest.fixture
def destination(tmp_path: Path) -> Path:
    return tmp_path / "made"


def make(
    clean: CleanImages,
    destination: Path,
    names: tuple[str, ...] = ("contrast", "fog"),
    kind: Kind = "corruptions",
    **options: Any,
) -> dict[str, Any]:
    return regenerate(kind, clean, destination, names, **{"seed": 0, **options})


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.npy")}


def test_corruptions_have_the_official_form(clean: CleanImages, destination: Path) -> None:
    manifest = make(clean, destination, CORRUPTIONS)
    assert np.array_equal(np.load(destination / "labels.npy"), np.tile(clean.labels, 5).astype(np.uint8))
    for name in CORRUPTIONS:
        made = np.load(destination / f"{name}.npy")
        assert (made.shape, made.dtype) == ((25, 8, 8, 1), np.uint8)
        row = 3 * 5 + 2  # severity 4, image 2
        generator = image_generator(0, "corruptions", "digits", name, 4, 2)
        assert np.array_equal(made[row], corrupt(name, clean.images[2], 4, generator))
    assert read_record(destination / "manifest.json") == manifest
    assert manifest["regenerated"] is True
    assert {"source_digest", "seed", "versions", "jpeg_codec", "images"} <= manifest.keys()
    assert {path.name for path in destination.iterdir()} == {
        ".lock",
        "manifest.json",
        "labels.npy",
        *[f"{name}.npy" for name in CORRUPTIONS],
    }


def test_sequences_have_the_official_form(clean: CleanImages, destination: Path) -> None:
    manifest = make(clean, destination, PERTURBATIONS, "perturbations")
    assert np.array_equal(np.load(destination / "labels.npy"), clean.labels)
    for name in PERTURBATIONS:
        made = np.load(destination / f"{name}.npy")
        assert made.shape == (5, FRAMES[name], 8, 8, 1)
        generator = image_generator(0, "perturbations", "digits", name, 0, 4)
        assert np.array_equal(made[4], perturb(name, clean.images[4], generator))
    assert len(open_regenerated(destination, "perturbations", PERTURBATIONS)) == manifest["images"] == 5


def test_the_digests_are_those_of_files_that_numpy_would_write(clean: CleanImages, destination: Path) -> None:
    manifest = make(clean, destination)
    for name, known in manifest["files"].items():
        path = destination / f"{name}.npy"
        np.save(destination / "again.npy", np.load(path))
        assert path.read_bytes() == (destination / "again.npy").read_bytes()
        assert hashlib.md5(path.read_bytes()).hexdigest() == known["md5"]


def test_other_images_processes_and_names_change_no_image(clean: CleanImages, tmp_path: Path) -> None:
    make(clean, tmp_path / "one")
    make(clean, tmp_path / "two", processes=2)
    assert files(tmp_path / "one") == files(tmp_path / "two")
    fewer = replace(clean, images=clean.images[:3], labels=clean.labels[:3])
    make(fewer, tmp_path / "three", ("fog",))
    few, all_of_them = np.load(tmp_path / "three" / "fog.npy"), np.load(tmp_path / "one" / "fog.npy")
    assert np.array_equal(few[3:6], all_of_them[5:8])
    make(clean, tmp_path / "four", seed=1)
    assert files(tmp_path / "four")["fog.npy"] != files(tmp_path / "one")["fog.npy"]
    assert files(tmp_path / "four")["contrast.npy"] == files(tmp_path / "one")["contrast.npy"]


def test_chunks_do_not_show(clean: CleanImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(clean, tmp_path / "one")
    monkeypatch.setattr(generate, "CHUNK", 2)
    make(clean, tmp_path / "two")
    assert files(tmp_path / "one") == files(tmp_path / "two")


def test_whole_files_are_kept_and_others_made_again(
    clean: CleanImages, destination: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make(clean, destination)
    before = files(destination)
    times = {name: (destination / name).stat().st_mtime_ns for name in before}
    (destination / "fog.npy").write_bytes(before["fog.npy"][:-1])
    capsys.readouterr()
    make(clean, destination, ("contrast", "fog", "snow"))
    said = capsys.readouterr().out.splitlines()
    assert {name: files(destination)[name] for name in before} == before
    assert (destination / "contrast.npy").stat().st_mtime_ns == times["contrast.npy"]
    assert [line.split(": ")[1].startswith("is there") for line in said] == [True, True, False, False]
    open_regenerated(destination, "corruptions", ("contrast", "fog", "snow"))


def test_a_failure_leaves_whole_files_and_no_others(
    clean: CleanImages, destination: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(name: str, *arguments: Any) -> Any:
        if name == "fog":
            raise OSError(28, "no space left")
        return corrupt(name, *arguments)

    monkeypatch.setattr(generate, "corrupt", failing)
    with pytest.raises(OSError, match="no space left"):
        make(clean, destination)
    assert {path.name for path in destination.iterdir()} == {".lock", "manifest.json", "labels.npy", "contrast.npy"}
    monkeypatch.undo()
    make(clean, destination)
    open_regenerated(destination, "corruptions", ("contrast", "fog"))


@pytest.mark.parametrize("last", range(1, 8))
def test_a_stop_after_any_rename_loses_nothing(
    clean: CleanImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, last: int
) -> None:
    """Seven: the manifest, and then the labels and two corruptions, each followed by the manifest."""
    rename, renames = os.replace, 0

    def stopped(source: Path, target: Path) -> None:
        nonlocal renames
        rename(source, target)
        renames += 1
        if renames == last:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(os, "replace", stopped)
        make(clean, tmp_path / "stopped")
    manifest = make(clean, tmp_path / "stopped")
    assert manifest == make(clean, tmp_path / "whole")
    assert files(tmp_path / "stopped") == files(tmp_path / "whole")


def test_a_folder_that_was_made_differently_is_refused(clean: CleanImages, destination: Path) -> None:
    make(clean, destination)
    before = files(destination)
    with pytest.raises(RequestError, match=r"was made differently\n  seed: 0 there, 1 asked for\nRemove that folder"):
        make(clean, destination, seed=1)
    with pytest.raises(RequestError, match="source_digest"):
        make(replace(clean, labels=clean.labels[::-1].copy()), destination)
    with pytest.raises(RequestError, match="kind: corruptions there, perturbations asked for"):
        make(clean, destination, ("rotate",), "perturbations")
    assert files(destination) == before


def test_official_files_are_never_mixed_with_regenerated_ones(clean: CleanImages, installed: Path) -> None:
    before = files(installed)
    with pytest.raises(RequestError, match=r"holds .*fog\.npy.* and no manifest\.json: official files are never mixed"):
        make(clean, installed)
    assert files(installed) == before


def test_released_bytes_are_recognized(release: Release, clean: CleanImages, destination: Path) -> None:
    images = np.zeros((3, 4, 4, 3), np.uint8)
    manifest = make(CleanImages("cifar10", images, np.array([7, 8, 9])), destination)
    assert manifest["files"]["labels"]["official_bytes"] is True
    assert manifest["files"]["contrast"]["official_bytes"] is False


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": np.full(5, 256)}, "labels are 256 to 256, the format holds 0 to 255"),
        ({"images": np.zeros((5, 8, 8, 1))}, "type float64"),
        ({"images": np.zeros((5, 8, 8, 2), np.uint8)}, r"shape \(5, 8, 8, 2\) were given, expected"),
        ({"images": np.zeros((5, 3, 8, 1), np.uint8)}, "expected .* 4 pixels a side or more"),
    ],
)
def test_impossible_requests_are_refused_before_anything_is_written(
    clean: CleanImages, destination: Path, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(RequestError, match=message):
        make(replace(clean, **change), destination)
    assert not destination.exists()


def test_a_slow_file_speaks(
    clean: CleanImages, destination: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(generate, "LINE_INTERVAL", 0.0)
    make(clean, destination, ("contrast",))
    assert any("of 25 rows" in line and "a second" in line for line in capsys.readouterr().out.splitlines())


def test_a_full_disk_is_noticed_before(clean: CleanImages, destination: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage("/")._replace(free=3199)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(PipelineError, match="2 files need 3,200 bytes on this disk, 3,199 are free: make room"):
        make(clean, destination)
    assert files(destination) == {}
