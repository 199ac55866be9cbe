"""A method gets another name, seeds and a suite come and go, DVC's cache is swept, an older commit is checked out, a
clone on another disk pulls what a remote has: nothing is trained twice, and nothing stale is shown."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import yaml

from tests.conftest import TINY, content_of, keep, small_table
from tests.test_chain import Checkout, cells, copy_working_tree

pytestmark = pytest.mark.timeout(3600)
AS_SOMEBODY = ("-c", "user.name=test", "-c", "user.email=test@localhost")


def small() -> dict[str, Any]:
    """Two methods of one learner each, two attacks, one table, no figure."""
    content = content_of(*TINY)
    keep(content, ["nt", "at"], ["pgd20_linf", "pgd20_l2"])
    content["tables"] = {"table1": small_table(["nt", "at"], "natural", "pgd20_linf")}
    return content


def renamed() -> dict[str, Any]:
    """The method nt under another name."""
    content = small()
    content["methods"] = {"plain": content["methods"]["nt"], "at": content["methods"]["at"]}
    content["tables"]["table1"]["rows"] = ["plain", "at"]
    return content


def another_suite() -> dict[str, Any]:
    """A suite of one of the methods with other settings and two seeds."""
    content = small()
    del content["methods"]["at"]
    content |= {"suite": "other", "reports_folder": "reports/other", "seeds": [1, 2]}
    content["training"]["batch_size"] = 24
    content["tables"]["table1"]["rows"] = ["nt"]
    return content


@dataclass
class Story:
    """What each step trained and showed."""

    checkout: Checkout
    epochs: dict[str, int] = field(default_factory=dict)
    """By moment, how many epochs were trained."""
    tables: dict[str, bytes] = field(default_factory=dict)

    def repro(self, moment: str, content: dict[str, Any] | None = None, by_dvc_alone: bool = False) -> None:
        """Do what `make repro` does up to the tables, with other settings where some are given."""
        path, said = self.checkout.folder / "params.yaml", ""
        if content is not None:
            path.write_text(yaml.safe_dump(content, sort_keys=False))
        if not by_dvc_alone:
            said += self.checkout.call("dvc", "repro", "prepare")
            said += self.checkout.call("python", "-m", "stages.experiments", "--jobs", "1")
        said += self.checkout.call("dvc", "repro", "tables")
        self.epochs[moment] = said.count(": epoch ")
        reports = yaml.safe_load(path.read_text())["reports_folder"]
        self.tables[moment] = (self.checkout.folder / reports / "tables/table1.csv").read_bytes()

    def commit(self, message: str) -> None:
        self.git("add", "--all")
        self.git("commit", "--quiet", f"--message={message}")

    def git(self, *words: str) -> str:
        return self.checkout.call("git", *AS_SOMEBODY, *words)


@pytest.fixture(scope="module")
def another_disk() -> Iterator[Path]:
    """A folder of another file system than that of the tests."""
    with TemporaryDirectory(dir="/dev/shm") as folder:
        yield Path(folder)


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory, another_disk: Path) -> Story:
    root = tmp_path_factory.mktemp("over_time")
    place = Checkout(root / "first")
    copy_working_tree(place.folder)
    told, ignored = Story(place), place.folder / ".gitignore"
    ignored.write_text(ignored.read_text().replace("/dvc.lock\n", ""))  # as it says for who has a remote
    told.git("init", "--quiet")
    told.repro("first", small())
    told.commit("first")
    place.call("dvc", "remote", "add", "--default", "--local", "disk", str(root / "remote"))
    place.call("dvc", "push")
    told.repro("renamed", renamed())
    told.repro("another suite", another_suite())
    told.commit("another suite")
    told.git("checkout", "--quiet", "--force", "HEAD~")
    place.call("dvc", "checkout")
    place.call("dvc", "gc", "--workspace", "--force")
    told.repro("the older commit, swept", by_dvc_alone=True)
    told.git("checkout", "--quiet", "--force", "-")
    told.repro("one seed less", another_suite() | {"seeds": [2]}, by_dvc_alone=True)
    clone(told, root / "second", another_disk)
    return told


def clone(told: Story, folder: Path, cache: Path) -> None:
    """Tell of a clone of the first commit that pulls, with DVC's cache in another place."""
    first, second = told.checkout.folder, Checkout(folder)
    told.git("clone", "--quiet", str(first), str(folder))
    cloned = Story(second)
    cloned.git("checkout", "--quiet", "HEAD~")
    shutil.copy(first / ".dvc/config.local", folder / ".dvc")
    second.call("dvc", "cache", "dir", "--local", str(cache))
    second.call("dvc", "pull")
    cloned.repro("cloned", by_dvc_alone=True)
    told.epochs |= cloned.epochs
    told.tables |= cloned.tables


def rows(table: bytes) -> list[dict[str, Any]]:
    return [{str(key): value for key, value in row.items()} for row in cells(table).to_dict("records")]


def test_each_experiment_is_trained_once(story: Story) -> None:
    trained = {moment: count for moment, count in story.epochs.items() if count}
    assert trained == {"first": 8, "another suite": 8} and len(story.epochs) == 6


def test_a_renamed_method_keeps_its_numbers_under_its_new_name(story: Story) -> None:
    before, after = rows(story.tables["first"]), rows(story.tables["renamed"])
    assert [row["method"] for row in after] == ["plain", "plain", "at", "at"]
    assert [row["value"] for row in after] == [row["value"] for row in before]


def test_a_table_is_that_of_the_settings_that_are_there(story: Story) -> None:
    tables = story.tables
    two, one = rows(tables["another suite"]), rows(tables["one seed less"])
    assert [row["method"] for row in two] == [row["method"] for row in one] == ["nt", "nt"]
    assert [row["seeds"] for row in two] == [2, 2] and [row["seeds"] for row in one] == [1, 1]
    assert tables["the older commit, swept"] == tables["first"]


def test_a_clone_that_pulls_has_the_table(story: Story, another_disk: Path) -> None:
    assert story.tables["cloned"] == story.tables["first"]
    assert [path for path in another_disk.rglob("*") if path.is_file()], "its cache is there"
