"""From overrides to params.yaml: edits are kept, mistakes are named."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from pipeline.config import load_params
from pipeline.config.composing import is_edited, with_found, with_header, write_composed
from pipeline.core.errors import RequestError
from stages import compose
from tests.conftest import REPOSITORY

TEXT = with_header(["suite=digits"], "suite: digits\nseeds:\n- 1\n")
OTHER = with_header(["suite=cifar10"], "suite: cifar10\n")


@pytest.mark.parametrize(
    "edited",
    [
        TEXT.replace("- 1", "- 2"),
        TEXT + "# mine\n",
        TEXT.replace("\nsuite", "\n# mine\nsuite"),
        TEXT.replace(" As composed", " As written"),  # without a digest
        "seeds: [1]\n" + TEXT,
        "suite: digits\n",
        "",
    ],
)
def test_an_edited_file_is_replaced_only_on_demand_and_kept(edited: str, tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(edited)
    said = r"edited .*, nothing was changed\. 'git diff .*--overwrite .*params\.yaml\.bak"
    with pytest.raises(RequestError, match=said):
        write_composed(path, OTHER, overwrite=False)
    assert path.read_text() == edited and list(tmp_path.iterdir()) == [path]
    kept = write_composed(path, OTHER, overwrite=True)
    assert kept == tmp_path / "params.yaml.bak" and kept.read_text() == edited
    assert path.read_text() == OTHER
    path.write_text(edited)
    again = write_composed(path, OTHER, overwrite=True)
    assert again == tmp_path / "params.yaml.bak2" and (again.read_text(), kept.read_text()) == (edited, edited)


def test_a_file_as_composed_is_replaced_without_a_word(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    for text in (TEXT, OTHER, OTHER):
        assert write_composed(path, text, overwrite=False) is None
        assert path.read_text() == text and list(tmp_path.iterdir()) == [path]


def test_the_committed_file_is_as_it_was_composed() -> None:
    assert not is_edited((REPOSITORY / "params.yaml").read_text())


def test_the_command_keeps_edits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(REPOSITORY)
    output = tmp_path / "params.yaml"
    command = ["suite=digits", "competitors=none", "--output", str(output)]
    assert compose.main(command) == 0
    edited = output.read_text().replace("epochs: 15", "epochs: 16", 1)
    output.write_text(edited)
    assert load_params(output).training.epochs == 16
    assert compose.main(command) == 2
    assert "was edited since it was composed" in capsys.readouterr().err
    assert output.read_text() == edited
    assert compose.main([*command, "--overwrite"]) == 0
    assert "kept your edited" in capsys.readouterr().out
    assert output.with_name("params.yaml.bak").read_text() == edited


@pytest.mark.parametrize(
    "block",
    [
        "  found:\n    classes:\n    - cat\n    - dog  # both\n    train_images: 3\n",
        "  found: {classes: [cat,\n    dog]}\n",
        "  found: null\n",
    ],
)
def test_what_stands_after_the_images_that_were_found_stays(block: str) -> None:
    after = "  # held out, for epochs\n  held_out_images: 4  # of 40\n\n# next\nseeds: [1]\n"
    changed = with_found(f"data:\n  name: images\n{block}{after}", {"classes": ["owl"]})
    assert yaml.safe_load(changed)["data"] == {"name": "images", "found": {"classes": ["owl"]}, "held_out_images": 4}
    assert changed.endswith(after)
