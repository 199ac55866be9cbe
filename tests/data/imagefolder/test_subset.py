"""The choice of evaluated images."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from pipeline.core.errors import RequestError
from pipeline.data.imagefolder.subset import own_choice, read_list

NAMES = [f"n{number % 10}/{number}.JPEG" for number in range(6000)]


def test_our_own_choice_is_fixed() -> None:
    chosen = own_choice(NAMES, ())
    assert chosen.label == "our own choice"
    assert len(chosen.names) == len(set(chosen.names)) == 5000
    assert set(chosen.names) < set(NAMES)
    assert hashlib.sha256(chosen.content).hexdigest()[:16] == "a59920d81e8ca85c"


def test_a_damaged_image_changes_no_other_choice() -> None:
    whole = own_choice(NAMES, (), count=10).names
    without = own_choice(NAMES, {whole[3]}, count=10).names
    assert without[:9] == whole[:3] + whole[4:]
    assert without[9] not in whole


def test_fewer_images_than_wanted_are_all_chosen() -> None:
    assert sorted(own_choice(NAMES[:7], ()).names) == NAMES[:7]


def test_a_list_keeps_its_order_and_is_named_by_its_digest(tmp_path: Path) -> None:
    path = tmp_path / "ids.txt"
    path.write_bytes(b"n3/3.JPEG\r\nval/n1/1.JPEG\n\n  n2/2.JPEG\n")
    listed = read_list(path, NAMES)
    assert listed.names == ("n3/3.JPEG", "n1/1.JPEG", "n2/2.JPEG")
    assert listed.label == f"list {hashlib.sha256(path.read_bytes()).hexdigest()}"
    path.write_bytes(listed.content)
    assert read_list(path, NAMES).names == listed.names


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (None, r"ids.txt: cannot be read \(No such file"),
        (b"\n \n", "ids.txt: is empty; expected one path below val/ a line"),
        (
            b"n1/1.JPEG\nILSVRC2012_val_1.JPEG",
            r"1 of 2 paths are not in val/, for example 'ILSVRC2012_val_1.JPEG'; exp",
        ),
        (b"n1/1.JPEG\nn2/2.JPEG\nval/n1/1.JPEG", r"names 'n1/1.JPEG' 2 times; a subset has every image once"),
        (b"\xff\xfe\x00", "1 of 1 paths are not in val/"),
    ],
)
def test_a_list_that_does_not_fit_is_refused(tmp_path: Path, content: bytes | None, text: str) -> None:
    path = tmp_path / "ids.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(RequestError, match=text):
        read_list(path, NAMES)
