"""What a computation reaches, on a small package."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.provenance.closure import Closure, Sources, closure

FILES = {
    "__init__.py": "from lib.core import helper as helper\n",
    "core.py": """
import numpy
from pydantic import BaseModel
from typing import Literal

SCALE = 2

def helper(x):
    return numpy.abs(x) * SCALE

def unused(x):
    return x

class Settings(BaseModel):
    rule: Literal["first"]
    inner: "Inner"
    size: int = limit()

    def at(self, epoch):
        return epoch * SCALE

    def never(self):
        return unused(1)

class Inner(BaseModel):
    def deep(self):
        return 1

def limit():
    return 3
""",
    "methods.py": """
from torch import nn
from lib import helper
from lib.core import Settings

class Network(nn.Module):
    def forward(self, x):
        return self.layer(x)

    def layer(self, x):
        return helper(x)

class First:
    def __call__(self, x):
        return helper(x)

class Second:
    def __call__(self, x):
        return x

METHODS = {"first": First, "second": Second}
LAZY = {"first": "lib.lazy:build", "second": "lib.other:build"}

def train(settings):
    return METHODS[settings.name], LAZY.get(settings.name), settings.at(1), settings.inner.deep()
""",
    "lazy.py": "def build():\n    return 1\n",
    "other.py": "def build():\n    return 2\n",
}


@pytest.fixture
def package(tmp_path: Path) -> Path:
    folder = tmp_path / "lib"
    folder.mkdir()
    for name, text in FILES.items():
        (folder / name).write_text(text)
    return folder


def found(folder: Path, *roots: str, strings: tuple[str, ...] = (), cut: tuple[str, ...] = ()) -> Closure:
    return closure(Sources({"lib": folder}), [f"lib.{root}" for root in roots], strings, cut)


def test_names_are_followed_through_imports_and_packages(package: Path) -> None:
    assert set(found(package, "methods:helper").objects) == {"lib.core:helper", "lib.core:SCALE"}
    assert found(package, "methods:helper").libraries == {"numpy"}


def test_entries_of_tables_are_reached_by_their_keys(package: Path) -> None:
    first = found(package, "methods:train", "core:Settings", strings=("first",)).objects
    assert {"lib.methods:METHODS.first", "lib.methods:First.__call__", "lib.lazy:build"} <= set(first)
    assert not {name for name in first if "Second" in name or "second" in name or "other" in name}


def test_members_are_reached_by_their_names_alone(package: Path) -> None:
    objects = found(package, "methods:train", "core:Settings", strings=("first",)).objects
    assert "lib.core:Settings.at" in objects and "lib.core:Inner.deep" in objects
    assert "lib.core:Settings.never" not in objects and "lib.core:unused" not in objects


def test_checks_of_settings_are_no_part(package: Path) -> None:
    """Their results are in the identity; the classes that fields lead to are followed."""
    assert "lib.core:limit" not in found(package, "methods:train", "core:Settings", strings=("first",)).objects


def test_settings_of_another_choice_have_no_methods(package: Path) -> None:
    objects = found(package, "methods:train", "core:Settings", strings=("second",)).objects
    assert "lib.core:Settings.at" not in objects


def test_a_class_that_a_library_calls_is_reached_as_a_whole(package: Path) -> None:
    objects = found(package, "methods:Network").objects
    assert {"lib.methods:Network.forward", "lib.methods:Network.layer", "lib.core:helper"} <= set(objects)


def test_what_is_cut_is_not_followed(package: Path) -> None:
    assert set(found(package, "methods:Network", cut=("lib.core",)).objects) == {
        "lib.methods:Network", "lib.methods:Network.forward", "lib.methods:Network.layer"
    }  # fmt: skip


def test_another_object_of_the_same_name_is_another_wiring(package: Path) -> None:
    """Two functions of one name, both reached: which of them is called matters."""
    (package / "user.py").write_text(
        "from lib.lazy import build\nfrom lib import other\ndef use():\n    return build()\n"
    )
    before = found(package, "user:use").objects["lib.user:use"]
    (package / "user.py").write_text(
        "from lib.other import build\nfrom lib import lazy\ndef use():\n    return build()\n"
    )
    written, wired = found(package, "user:use").objects["lib.user:use"]
    assert written == before[0] and wired != before[1]


def test_kept_summaries_are_those_of_the_source(package: Path, tmp_path: Path) -> None:
    def now() -> Closure:
        return closure(Sources({"lib": package}, tmp_path / "kept"), ["lib.core:helper"], ())

    first = now()
    assert now() == first and list((tmp_path / "kept").iterdir())
    (package / "core.py").write_text(FILES["core.py"].replace("SCALE = 2", "SCALE = 3"))
    assert now().objects["lib.core:SCALE"] != first.objects["lib.core:SCALE"]
    for path in (tmp_path / "kept").iterdir():
        path.write_text("{}")
    assert now() == closure(Sources({"lib": package}), ["lib.core:helper"], ())
