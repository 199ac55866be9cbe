"""Wrong requests of a stage end with exit code 2 and one message, in seconds, and change no file.

The cases are those with which thousands of drawn requests once found a defect, and one of each kind around them.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.bad_input.conftest import OTHERS, Make, refused
from tests.conftest import REPOSITORY


@pytest.mark.parametrize(
    "body",
    [
        "raise ValueError('x')",
        "return 0",
        "print('error: x', file=sys.stderr); return 1",
        "print('x', file=sys.stderr); return 2",
        "print('error: x\\nerror: y', file=sys.stderr); return 2",
        "open('../x', 'w').write('x'); print('error: x', file=sys.stderr); return 2",
        "sum(range(10**7)); print('error: x', file=sys.stderr); return 2",
    ],
)
def test_every_other_end_would_fail(folder: Path, monkeypatch: pytest.MonkeyPatch, body: str) -> None:
    (folder / "wrong.py").write_text(f"import sys\n\n\ndef main(arguments):\n    {body}\n")
    monkeypatch.setattr("stages.__path__", [str(folder)])
    monkeypatch.setattr("tests.bad_input.conftest.SECONDS", 0.1)
    monkeypatch.delitem(sys.modules, "stages.wrong", raising=False)
    with pytest.raises((AssertionError, ValueError)):
        refused(folder, "wrong")
    monkeypatch.delitem(sys.modules, "stages.wrong", raising=False)


SEEDS: tuple[Any, ...] = ([10**400], ["²"], [True], [None], [], "1", ["1e400"], [float("nan")])
SUITES: tuple[Any, ...] = ("../outside", "/etc/passwd", "", " ", "a\nb", "é", "x" * 300, None, {})


@pytest.mark.parametrize(
    "wrong",
    [
        *({}, {"seed": []}, {1: 2}, {"": 1}, {"\u202egnp": 1}, {"x" * 300: 1}, {"nt; touch written": 1}),
        *({"seeds": value} for value in SEEDS),
        *({"suite": value} for value in SUITES),
        {"methods": {"$(touch written)": {"label": "x", "learners": {}}}},
        {"threat_model": {"linf": {"epsilon": "1e400/1", "step_size": "1/1e-400", "steps": 2**64}}},
        {"training": {"phases": [{"first_epoch": 1, "stored_size": [None]}]}},
        {"tables": {"table1": {"columns": [{"metric": []}]}}},
    ],
    ids=lambda wrong: repr(wrong)[:40],
)
@pytest.mark.parametrize("stage", ["train", "figures"])
def test_wrong_settings(folder: Path, tiny_content: dict[str, Any], stage: str, wrong: dict[Any, Any]) -> None:
    content = {**tiny_content, **wrong} if wrong else {}
    (folder / "params.yaml").write_text(yaml.safe_dump(content, allow_unicode=True))
    refused(folder, stage, *(["nt", "--seed", "1"] if stage == "train" else []), names="params.yaml")


@pytest.mark.parametrize(
    "content",
    [
        *(
            b"",
            b" \n# nothing\n",
            b"3\n",
            b"\xff\xfe\x00x",
            b"\x1f\x8bsuite: digits",
            b"suite: digits\n---\nsuite: x\n",
        ),
        *("suite: digits".encode(encoding) for encoding in ("utf-16", "utf-32-le")),
        *(opening * 50_000 for opening in (b"[", b"{a: ", b"{? ", b"- ")),
        *(
            b"suite: " + text
            for text in (b"\t", b"\0", b"!!python/tuple [1]", b"!!timestamp x", b"!!int ''", b"*a", b"&a")
        ),
        *(
            b"suite: " + text
            for text in (b"&a {b: *a}", b"&a {<<: *a}", b"{<<: [1]}", b"{? &k [1] : *k}", b"[x]" * 20_000)
        ),
    ],
    ids=lambda content: repr(content)[:40],
)
def test_a_params_file_of_other_bytes(folder: Path, content: bytes) -> None:
    (folder / "params.yaml").write_bytes(content)
    refused(folder, "evaluate", "nt", "--seed", "1", names="params.yaml")


@pytest.mark.parametrize(
    "make",
    [*OTHERS.values(), lambda path: path.symlink_to("/dev/zero"), lambda path: path.write_bytes(bytes(100_000_000))],
    ids=[*OTHERS, "a device without an end", "100 MB"],
)
@pytest.mark.parametrize("stage", ["tables", "plan", "doctor"])
def test_something_else_in_the_place_of_params(folder: Path, stage: str, make: Make) -> None:
    make(folder / "größe.yaml")
    refused(folder, stage, "--params", "größe.yaml", names="größe.yaml")


WHOLE = ("x", "", "1.5", "²", "½", "1e400", "9" * 5000)
OPTIONS: list[tuple[str, tuple[str, ...], str, tuple[str, ...]]] = [
    ("train", ("nt",), "--seed", (*WHOLE, "-1", "2")),
    ("evaluate", ("nt", "--seed", "1"), "--shard", ("0/2", "3/2", "1", "1/²", "/", "1/2/3", "1/" + "9" * 5000)),
    ("compare", ("nt", "at", "--seed", "1"), "--attack", ("pgd", "", "../outside")),
    ("evaluate_weights", ("weights.pt", "--mean", "0"), "--std", ("x", "nan", "0", "-1", "1,5")),
    ("evaluate_weights", ("weights.pt",), "--architecture", ("resnet", "", "$(touch written)")),
    ("evaluate_weights", ("weights.pt",), "--attacks", ("pgd", "aa_linf,x", "a b")),
    ("plan", (), "--workers", (*WHOLE, "0")),
    ("plan", (), "--suite", ("x", "../base", "${x}", "a=b", "{a}", "digits,mnist")),
    ("search", (), "--trials", (*WHOLE, "0")),
    ("ui", (), "--port", (*WHOLE, "0", "65536")),
    ("train", (), "--", ("../outside", "-rf", "\ufeffa", "x" * 300, "", "a\nb", "`touch written`")),
    ("explain", (), "--", ("table1", "table1:nt", "::", "table9:nt:natural", "table1:x:natural", "table1:nt:x", "")),
    ("export", (), "--", ("nt-", "nt-²", "nt-" + "9" * 5000, "-1", "table1:x:natural", "../outside", "")),
    ("figures", (), "--", ("trade_off", "framework.pdf", "../outside")),
    ("evaluate_weights", (), "--", ("missing.pt", ".", "/dev/null", "x" * 300 + ".pt", "")),
]


@pytest.mark.parametrize(
    ("stage", "given", "option", "value"),
    [
        pytest.param(stage, given, option, value, id=f"{stage} {option} {value[:20]!r}")
        for stage, given, option, values in OPTIONS
        for value in values
    ],
)
def test_wrong_arguments(folder: Path, stage: str, given: tuple[str, ...], option: str, value: str) -> None:
    shutil.copytree(REPOSITORY / "conf", folder / "conf")
    refused(
        folder,
        stage,
        *given,
        *([f"{option}={value}"] if option.startswith("--") and option != "--" else [option, value]),
    )


def replace(old: str, new: str, name: str = "suite/digits.yaml") -> Make:
    """Change one text of a piece of conf/."""

    def change(conf: Path) -> None:
        text = (conf / name).read_text()
        assert old in text
        (conf / name).write_text(text.replace(old, new, 1))

    return change


def circle(conf: Path) -> None:
    for name, other in (("a", "b"), ("b", "a")):
        (conf / f"suite/{name}.yaml").write_text(f"defaults:\n  - {other}\n")
    replace("suite: digits", "suite: a", "config.yaml")(conf)


PIECES: dict[str, Make] = {
    "a suite that includes itself": replace("defaults:\n", "defaults:\n  - /suite: digits\n"),
    "two pieces that include each other": circle,
    "a value that refers to itself": replace("epochs: 15", "epochs: ${training.epochs}"),
    "values that refer to each other": replace(
        "epochs: 15, batch_size: 64", "epochs: ${training.batch_size}, batch_size: ${training.epochs}"
    ),
    "a resolver that there is not": replace("epochs: 15", "epochs: '${no_such:1}'"),
    "a piece that there is not": replace("protocol: paper", "protocol: papyrus", "config.yaml"),
    "a group that there is not": replace("protocol: paper", "protocols: paper", "config.yaml"),
    "a piece that is no YAML": lambda conf: (conf / "base.yaml").write_text("x: [1\n"),
    "a piece that is a list": lambda conf: (conf / "base.yaml").write_text("- 1\n"),
    "a piece of foreign bytes": lambda conf: (conf / "base.yaml").write_bytes(b"\xff\xfe\x00x"),
    "a piece with a Python object": lambda conf: (conf / "base.yaml").write_text(
        "description: !!python/object/apply:os.system [touch written]\n"
    ),
    "no defaults": lambda conf: (conf / "config.yaml").write_text("suite: digits\n"),
    "no conf": shutil.rmtree,
}


@pytest.mark.parametrize("change", PIECES.values(), ids=PIECES)
def test_wrong_pieces_of_conf(folder: Path, change: Make) -> None:
    shutil.copytree(REPOSITORY / "conf", folder / "conf")
    change(folder / "conf")
    refused(folder, "compose", "suite=digits" if change is not circle else "suite=a", "--output", "new.yaml")
