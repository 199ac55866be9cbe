"""Some wrong requests of every kind; thousands of them: `make bad-input`."""

from __future__ import annotations

import json
import sys
import urllib.request
from pathlib import Path

import pytest

from benchmarks.bad_input import report
from benchmarks.bad_input.cases import Case, Outcome
from benchmarks.bad_input.files import STAGES, dumped, keeps, suite, written
from benchmarks.bad_input.kinds import KINDS, Kind, numbers, outcomes
from benchmarks.bad_input.running import import_all, run_apart, run_here
from pipeline.reporting.blocks import block
from tests.conftest import REPOSITORY

TOTAL = 150


@pytest.fixture(scope="module", autouse=True)
def imported() -> None:
    import_all()


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_a_wrong_request_ends_in_one_clear_message(kind: Kind) -> None:
    problems = [report.describe(one) for one in outcomes(kind, numbers(TOTAL)[kind.name], start=1) if one.problem]
    assert not problems, "\n".join(problems)


def test_as_a_process_it_ends_the_same() -> None:
    case = Case("", "", "train", STAGES["train"], written(dumped({**suite(0), "seeds": [10**400]})), ("seeds",))
    here, apart = run_here(case, "params"), run_apart(case)
    assert (here.problem, apart.problem, apart.code) == (None, None, 2)
    assert here.message == apart.message


# --- What would be a failure is one


def outcome(prepare: bytes, code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Outcome:
    """How a stage ends that consists of `code`."""
    (tmp_path / "stages").mkdir()
    (tmp_path / "stages/wrong.py").write_text(f"def main(arguments):\n    {code}\n")
    monkeypatch.setattr("stages.__path__", [str(tmp_path / "stages")])
    return run_here(Case("", "", "wrong", (), written(prepare), ("seeds",)), None)


@pytest.mark.parametrize(
    ("code", "problem"),
    [
        ("raise ValueError('seeds')", "traceback"),
        ("print('error: seeds', file=__import__('sys').stderr); return 1", "code"),
        ("return 0", "accepted"),
        ("open('x', 'w').close(); print('error: seeds', file=__import__('sys').stderr); return 2", "written"),
        ("open('../x', 'w').close(); print('error: seeds', file=__import__('sys').stderr); return 2", "written"),
        ("print('seeds', file=__import__('sys').stderr); return 2", "unclear"),
        ("print('error: something', file=__import__('sys').stderr); return 2", "unclear"),
        ("print('error: seeds\\nerror: x', file=__import__('sys').stderr); return 2", "unclear"),
        ("print('error: seeds', file=__import__('sys').stderr); return 2", None),
    ],
)
def test_every_kind_of_failure_is_seen(
    code: str, problem: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "stages.wrong", raising=False)
    assert outcome(b"x", code, tmp_path, monkeypatch).problem == problem
    monkeypatch.delitem(sys.modules, "stages.wrong", raising=False)


def test_the_proxies_of_a_request_are_gone_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "stages.wrong", raising=False)
    monkeypatch.setattr("urllib.request._opener", None)
    code = "import urllib.request; urllib.request.urlopen('http://127.0.0.1:9')"
    assert outcome(b"x", code, tmp_path, monkeypatch).problem == "traceback"
    assert urllib.request._opener is None  # type: ignore[attr-defined]
    monkeypatch.delitem(sys.modules, "stages.wrong", raising=False)


def test_what_takes_too_long_is_a_failure() -> None:
    case = Case("", "", "train", (), written(b""))
    assert Outcome(case, 2, "error: x", cpu_seconds=5.1).problem == "slow"
    assert Outcome(case, 2, "error: x", cpu_seconds=4.9, wall_seconds=30).problem is None


def test_a_file_that_is_right_after_all_is_no_failure_and_no_pass() -> None:
    case = next(iter(outcomes(KINDS[0], 1, start=0))).case
    right = run_here(Case("", "", "train", STAGES["train"], written(dumped(suite(0))), (), case.is_valid), "params")
    assert (right.problem, right.valid, right.code) == (None, True, None)


@pytest.mark.parametrize(
    ("given", "parsed", "same"),
    [
        ({"a": "8/255"}, {"a": 8 / 255, "b": 1}, True),
        ({"a": 1}, {"a": True}, False),
        ({"a": "1"}, {"a": 1}, True),
        ({"a": 1}, {"b": 1}, False),
        ({"a": [1, 2]}, {"a": [1]}, False),
        ({"name": "adversarial", "norm": "linf"}, {"name": "adversarial", "attack": {}}, True),
        ({"a": None}, {}, True),
        ({"a": float("nan")}, {"a": float("nan")}, False),
    ],
)
def test_what_was_accepted_is_compared_with_what_the_file_says(given: object, parsed: object, same: bool) -> None:
    assert keeps(given, parsed) == same


# --- The published numbers


def test_the_document_shows_what_was_measured_and_nothing_failed() -> None:
    result = json.loads(report.RESULTS.read_text())
    assert block(report.DOCUMENT.read_text(), "bad_input") == report.table(result)
    assert result["all"]["cases"] == 5000 and set(result["kinds"]) == {kind.name for kind in KINDS}
    for row in (result["all"], result["processes"]):
        assert row["refused"] + row["valid"] == row["cases"] and row["slowest_cpu_seconds"] < 10
    assert report.DOCUMENT == REPOSITORY / "docs/security.md"
