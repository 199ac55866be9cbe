"""One process per GPU, and a GPU is free again when its process is killed."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest

from pipeline.grid import slots
from pipeline.grid.slots import gpu_slot, visible_devices
from tests.conftest import PATIENCE

FIRST, SECOND = "MIG-first", "MIG-second"


@pytest.fixture(autouse=True)
def two_devices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slots, "slots_folder", lambda: tmp_path)
    monkeypatch.setenv(slots.VISIBLE, f"{FIRST}, {SECOND}")


def never() -> str | None:
    return None


def hold(ready: Event) -> None:
    with gpu_slot(print, never):
        ready.set()
        time.sleep(300)


def test_each_process_has_a_device_of_its_own() -> None:
    said: list[str] = []
    with gpu_slot(said.append, never):
        assert os.environ[slots.VISIBLE] == FIRST
        os.environ[slots.VISIBLE] = f"{FIRST},{SECOND}"
        with gpu_slot(said.append, never):
            assert os.environ[slots.VISIBLE] == SECOND
    assert said == [f"on GPU {FIRST}", f"on GPU {SECOND}"]
    assert os.environ[slots.VISIBLE] == f"{FIRST}, {SECOND}"


def test_a_killed_process_frees_its_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(slots.VISIBLE, FIRST)
    context, said = multiprocessing.get_context("fork"), list[str]()
    ready = context.Event()
    process = context.Process(target=hold, args=(ready,))
    process.start()
    assert ready.wait(PATIENCE)

    def say(text: str) -> None:
        said.append(text)
        if "taken" in text:
            assert process.pid is not None
            os.kill(process.pid, signal.SIGKILL)

    with gpu_slot(say, never, wait=0.05):
        assert os.environ[slots.VISIBLE] == FIRST
    process.join()
    assert said == [f"all GPUs of this machine are taken ({FIRST}): waiting for one", f"on GPU {FIRST}"]


def test_a_stop_ends_the_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(slots.VISIBLE, FIRST)
    said: list[str] = []
    with gpu_slot(print, never):
        monkeypatch.setenv(slots.VISIBLE, FIRST)
        with gpu_slot(said.append, lambda: "SIGTERM received", wait=0.05):
            pass
    assert len(said) == 1


def test_devices_are_named_by_uuid(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slots, "_uuids", lambda: ["GPU-a", "GPU-b"])
    assert visible_devices({}) == ["GPU-a", "GPU-b"]
    assert visible_devices({slots.VISIBLE: "1"}) == ["GPU-b"]
    assert visible_devices({slots.VISIBLE: "GPU-b,GPU-a"}) == ["GPU-b", "GPU-a"]
    assert visible_devices({slots.VISIBLE: ""}) == visible_devices({slots.VISIBLE: "-1"}) == []
