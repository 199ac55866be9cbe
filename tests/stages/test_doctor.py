"""The doctor as a command."""

from __future__ import annotations

from tests.stages.conftest import Workplace


def test_a_problem_is_printed_with_its_way_out_and_ends_with_1(workplace: Workplace) -> None:
    (workplace.folder / "data/prepared/digits/images.safetensors").write_bytes(b"")
    before = workplace.files()
    finished = workplace.call("doctor")
    finished.expect(1, "error: 1 problem was found")
    lines = finished.out.splitlines()
    (place,) = [number for number, line in enumerate(lines) if line.startswith("problem")]
    assert "Data: " in lines[place] and lines[place + 1].strip() == "way out: make prepare"
    assert workplace.files() == before
