"""A method gets another name, a clone pulls what a remote has: nothing is trained twice, and nothing stale is shown."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from typing import Any

import pytest
import yaml

from tests.conftest import TINY, content_of
from tests.test_chain import Checkout, cells, copy_working_tree

pytestmark = pytest.mark.timeout(3600)
AS_SOMEBODY = ("-c", "user.name=test", "-c", "user.email=test@localhost")


def small() -> dict[str, Any]:
    """Two methods of one learner each, two attacks, one table, no figure."""
    content = content_of(*TINY)
    content["methods"] = {name: content["methods"][name] for name in ("nt", "at")}
    content["figures"], content["ablation"], content["search"] = {}, {"studies": {}}, None
    union = ["pgd20_linf", "pgd20_l2"]
    attacks = content["evaluation"]["attacks"]
    content["evaluation"] |= {"attacks": {name: attacks[name] for name in union}, "union": union}
    columns = [{"metric": name, "label": name} for name in ("natural", "pgd20_linf")]
    content["tables"] = {"table1": {"caption": "Small", "rows": ["nt", "at"], "columns": columns}}
    return content


def renamed() -> dict[str, Any]:
    """The method nt under another name."""
    content = small()
    content["methods"] = {"plain": content["methods"]["nt"], "at": content["methods"]["at"]}
    content["tables"]["table1"]["rows"] = ["plain", "at"]
    return content


@dataclass
class Story:
    """What each step trained and showed."""

    checkout: Checkout
    epochs: dict[str, int] = field(default_factory=dict)
    """By moment, how many epochs were trained."""
    tables: dict[str, bytes] = field(default_factory=dict)

    def repro(self, moment: str, content: dict[str, Any] | None = None) -> None:
        """Do what `make repro` does up to the tables, with other settings where some are given."""
        path = self.checkout.folder / "params.yaml"
        if content is not None:
            path.write_text(yaml.safe_dump(content, sort_keys=False))
        said = self.checkout.call("dvc", "repro", "prepare")
        said += self.checkout.call("python", "-m", "stages.experiments", "--jobs", "1")
        said += self.checkout.call("dvc", "repro", "tables")
        self.epochs[moment] = said.count(": epoch ")
        reports = yaml.safe_load(path.read_text())["reports_folder"]
        self.tables[moment] = (self.checkout.folder / reports / "tables/table1.csv").read_bytes()

    def git(self, *words: str) -> str:
        return self.checkout.call("git", *AS_SOMEBODY, *words)


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Story:
    root = tmp_path_factory.mktemp("over_time")
    place = Checkout(root / "first")
    copy_working_tree(place.folder)
    told, ignored = Story(place), place.folder / ".gitignore"
    ignored.write_text(ignored.read_text().replace("/dvc.lock\n", ""))  # as it says for who has a remote
    told.git("init", "--quiet")
    told.repro("first", small())
    told.git("add", "--all")
    told.git("commit", "--quiet", "--message=first")
    place.call("dvc", "remote", "add", "--default", "--local", "disk", str(root / "remote"))
    place.call("dvc", "push")
    told.repro("renamed", renamed())
    elsewhere = Checkout(root / "second")
    told.git("clone", "--quiet", str(place.folder), str(elsewhere.folder))
    shutil.copy(place.folder / ".dvc/config.local", elsewhere.folder / ".dvc")
    elsewhere.call("dvc", "pull")
    cloned = Story(elsewhere)
    cloned.repro("cloned")
    told.epochs |= cloned.epochs
    told.tables |= cloned.tables
    return told


def rows(table: bytes) -> list[dict[str, Any]]:
    return [{str(key): value for key, value in row.items()} for row in cells(table).to_dict("records")]


def test_each_experiment_is_trained_once(story: Story) -> None:
    assert story.epochs == {"first": 8, "renamed": 0, "cloned": 0}


def test_a_renamed_method_keeps_its_numbers_under_its_new_name(story: Story) -> None:
    before, after = rows(story.tables["first"]), rows(story.tables["renamed"])
    assert [row["method"] for row in after] == ["plain", "plain", "at", "at"]
    assert [row["value"] for row in after] == [row["value"] for row in before]


def test_a_clone_that_pulls_has_the_table(story: Story) -> None:
    assert story.tables["cloned"] == story.tables["first"]
