"""Settings of images of one's own: what is found is written, what does not fit is refused when they are read."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.config import load_params, parse_params
from pipeline.config.composing import compose_suite, is_edited, with_header
from pipeline.core.errors import RequestError
from pipeline.experiments.own_data import accept, fit
from tests.conftest import REPOSITORY, content_of
from tests.data.own import write_folders

CONF = REPOSITORY / "conf"


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folders(tmp_path_factory.mktemp("images"), train=20, test=4)


@pytest.fixture(scope="module")
def composed(tree: Path) -> str:
    overrides = ["suite=own", f"data.root={tree}"]
    return with_header(overrides, compose_suite(overrides, CONF, fit).content)


@pytest.fixture
def raw(composed: str) -> dict[str, Any]:
    made: dict[str, Any] = yaml.safe_load(composed)
    return made


def test_the_suite_says_what_was_found_and_fits_itself_to_it(raw: dict[str, Any]) -> None:
    found = raw["data"]["found"]
    assert found["classes"] == ["cat", "dog & co", "äsche_2"] and found["shape"] == [3, 64, 64]
    assert (found["train_images"], found["test_images"]) == (60, 12) and len(found["digest"]) == 16
    assert raw["data"]["held_out_images"] == 6
    assert raw["methods"]["generalist_t"]["mixture"]["decay"] == 0.5, "2 % of 60 steps are one step, at least two"
    assert raw["evaluation"]["attacks"]["aa_l2"]["members"] == ["apgd_ce", "apgd_dlr", "fab_t", "square"]
    assert "targets" not in raw["evaluation"]["attacks"]["aa_l2"], "three are all that there are, and more"
    experiment = parse_params(raw).experiment("at", 1)
    assert experiment.data.facts.classes == tuple(found["classes"])
    assert experiment.training_identity()["data"]["found"]["digest"] == found["digest"]


def test_other_images_are_other_experiments_and_another_root_is_not(raw: dict[str, Any]) -> None:
    other, moved = deepcopy(raw), deepcopy(raw)
    other["data"]["found"]["digest"] = "0" * 16
    moved["data"]["root"] = "elsewhere"
    one, two, three = (parse_params(content).experiment("at", 1) for content in (raw, other, moved))
    assert one.fingerprint == three.fingerprint != two.fingerprint


def test_no_held_out_share_leaves_a_last_minibatch_of_one() -> None:
    from pipeline.experiments.own_data import _hold_out

    for images in range(40, 140):
        data: dict[str, Any] = {"held_out_images": None}
        _hold_out(data, 32, images)
        assert (images - data["held_out_images"]) % 32 != 1


def test_a_file_is_not_run_before_somebody_has_looked(tmp_path: Path, composed: str, tree: Path) -> None:
    path = tmp_path / "params.yaml"
    lines = composed.splitlines(keepends=True)
    start = lines.index("  found:\n")
    path.write_text("".join(lines[:start] + lines[start + 6 :]))
    with pytest.raises(RequestError, match=r"data.found: is missing.*stages.prepare --accept"):
        load_params(path)
    said = accept(path)
    assert "60 training and 12 test images of 3 x 64 x 64" in said[0]
    assert load_params(path) == parse_params(yaml.safe_load(composed))


@pytest.mark.parametrize("style", ["as composed", "in one line"])
def test_what_is_found_anew_replaces_what_was(tmp_path: Path, raw: dict[str, Any], composed: str, style: str) -> None:
    root, path = write_folders(tmp_path / "tree"), tmp_path / "params.yaml"
    text = composed.replace(raw["data"]["root"], str(root))
    if style == "in one line":
        section = yaml.safe_dump(raw["data"] | {"root": str(root)}, default_flow_style=True, width=9999).strip()
        start, end = text.index("data:\n"), text.index("model:")
        text = f"{text[:start]}data: {section}  # mine\n{text[end:]}"
    path.write_text(text)
    accept(path)
    after = path.read_text()
    changed = yaml.safe_load(after)
    assert changed["data"].pop("found")["train_images"] == 36
    expected = yaml.safe_load(text)
    del expected["data"]["found"]
    assert changed == expected and ("# mine" in after) == (style == "in one line")


def test_a_composed_file_counts_as_composed_when_it_was_looked_again(tmp_path: Path, composed: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(composed)
    accept(path)
    assert not is_edited(path.read_text())
    path.write_text(composed.replace("epochs: 30", "epochs: 31"))
    accept(path)
    assert is_edited(path.read_text())


def change(raw: dict[str, Any], path: str, value: Any) -> None:
    *parts, last = path.split(".")
    here = raw
    for part in parts:
        here = here[part]
    here[last] = value


WRONG = {
    "more held out than there are": ("data.held_out_images", 60, "60 + train_images of at least 1 exceed the 60"),
    "more tested than there are": ("data.test_images", 13, "13 exceed the 12 test images of images"),
    "a large batch": ("training.batch_size", 64, "64 is more than the 54 images that are trained on; expected 54"),
    "a last batch of one": ("data.held_out_images", 27, "leave a last minibatch of one, which BatchNorm knows no spr"),
    "a batch of a method": ("methods.at.batch_size", 53, "methods.at.batch_size: the 54 images that are trained on"),
    "a member": ("evaluation.attacks.aa_l2.members", ["apgd_t"], "the data has 3 classes, apgd_t needs 4; expected [a"),
    "the standard": ("evaluation.attacks.aa_l2", {"name": "autoattack", "norm": "l2", "epsilon": 1}, "apgd_t needs 4"),
    "a network's mean": ("model.normalization", {"mean": [0.5], "std": [0.5]}, "one value for each of 3 channels"),
    "classes": ("data.classes", 3, "data.classes: data set 'images' has none"),
    "streaming": ("data.streaming", {"stored_size": 8}, "data.streaming: data set 'images' has none"),
    "a name": ("data.name", "image", "unknown data set 'image': did you mean 'images'?"),
}


@pytest.mark.parametrize(("path", "value", "message"), WRONG.values(), ids=WRONG)
def test_what_does_not_fit_the_images(raw: dict[str, Any], path: str, value: Any, message: str) -> None:
    change(raw, path, value)
    with pytest.raises(RequestError) as raised:
        parse_params(raw)
    assert message in str(raised.value)


def test_padding_that_images_are_too_small_for(raw: dict[str, Any]) -> None:
    raw["data"]["found"]["shape"] = [3, 6, 64]
    with pytest.raises(RequestError, match=r"crop_padding 4 is more than half of the 6 pixels .* expected 3 at most"):
        parse_params(raw)


@pytest.mark.parametrize(
    ("classes", "members"), [(2, "apgd_ce, fab_t, square"), (3, "apgd_ce, apgd_dlr, fab_t, square")]
)
def test_few_classes_are_attacked_by_what_is_defined(raw: dict[str, Any], classes: int, members: str) -> None:
    raw["data"]["found"]["classes"] = list("abcd")[:classes]
    raw["evaluation"]["attacks"]["aa_linf"]["members"] = ["apgd_t"]
    raw["evaluation"]["attacks"]["aa_l2"]["members"] = members.split(", ")
    with pytest.raises(RequestError) as raised:
        parse_params(raw)
    assert f"expected [{members}]" in str(raised.value) and "aa_l2" not in str(raised.value)


def test_attacks_that_are_a_single_member_are_left_out_with_what_shows_them(tree: Path) -> None:
    composition = compose_suite(["suite=own", "attacks=full", f"data.root={tree}"], CONF, fit)
    left = composition.params.evaluation.attacks
    assert {"apgd_ce_l2", "apgd_dlr_l2", "fab_t_l2", "square_l2"} <= left.keys() and "apgd_t_l2" not in left
    assert [line for line in composition.notes if line.startswith("apgd_t_l2, apgd_t_linf: left out, 3 classes")]
    columns = [column.metric for column in composition.params.tables["attacks_l2"].columns]
    assert "apgd_dlr_l2" in columns and "apgd_t_l2" not in columns


def test_a_streamed_tree_has_its_classes_found(tree: Path) -> None:
    root = write_folders(tree.parent / "streamed", train=1, val=1)
    overrides = ["suite=imagenet", "data.name=imagefolder", f"data.root={root}"]
    composition = compose_suite(overrides, CONF, fit)
    assert composition.params.data.facts.classes == ("cat", "dog & co", "äsche_2")


def test_suites_can_be_checked_without_images() -> None:
    assert content_of("suite=own")["data"]["name"] == "images"
