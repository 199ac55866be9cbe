"""Wrong command lines of every stage, and wrong pieces in conf/."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from hypothesis import strategies as st

from benchmarks.bad_input.cases import PARAMS, Case
from benchmarks.bad_input.files import JUNK, NAMES, STAGES, dumped, spots, suite
from benchmarks.bad_input.running import REPOSITORY

VALID: dict[str, tuple[str, ...]] = {
    **STAGES,
    "compose": ("suite=digits",),
    "audit": (),
    "prepare_imagefolder": ("pictures", "shards"),
    "ui": (),
}
"""How every stage may be called."""
WHOLE = ("-1", "1.5", "x", "", "1e400", "²", "½", "nan", "0x1", "9" * 5000, "1 2")
FROM_1 = (*WHOLE, "0", "-0")
REAL = ("x", "", "1,5", "0x1")
OPTIONS: dict[str, dict[str, tuple[str, ...]]] = {
    "train": {"--seed": (*WHOLE, "2", "99999999999")},
    "evaluate": {
        "--seed": WHOLE,
        "--shard": ("0/2", "3/2", "1", "a/b", "1/²", "/", "", "1/2/3", "-1/2", "1/" + "9" * 5000),
    },
    "ood": {"--seed": (*WHOLE, "7")},
    "compare": {"--seed": WHOLE, "--attack": ("pgd", "", "aa_linf,aa_l2", *NAMES[:6])},
    "attack": {
        "--images": FROM_1,
        "--mean": (*REAL, "nan", "inf"),
        "--std": (*REAL, "nan", "0", "-1"),
        "--attacks": ("pgd", "aa_linf,x", "a b", "AA_linf"),
        "--architecture": ("resnet", "", "ResNet18", *NAMES[:6]),
    },
    "corrupt": {"--processes": FROM_1},
    "html": {"--examples": WHOLE},
    "plan": {
        "--workers": FROM_1,
        "--seeds": WHOLE,
        "--studies": ("x", "", *NAMES[:6]),
        "--suite": ("x", "../base", "${x}", "a=b"),
    },
    "ablation": {
        "--workers": FROM_1,
        "--limit": FROM_1,
        "--studies": ("x", "gamma"),
        "--suite": ("x", "digits,mnist", "{a}"),
    },
    "search": {"--trials": FROM_1, "--workers": FROM_1},
    "prepare_imagefolder": {"--size": (*FROM_1, "Original"), "--workers": FROM_1, "--images-per-shard": FROM_1},
    "ui": {"--port": (*WHOLE, "0", "65536", "99999999999")},
}
"""Wrong values by stage and option."""
POSITIONALS: dict[str, tuple[str, ...]] = {
    "train": NAMES,
    "evaluate": NAMES,
    "ood": NAMES,
    "compare": NAMES,
    "explain": (
        *NAMES,
        "table1",
        "table1:nt",
        "table1:nt:natural:x",
        "table9:nt:natural",
        "table1:x:natural",
        "::",
        "table1:nt:x",
    ),
    "export": (*NAMES, "nt-2", "nt-", "-1", "x-1", "nt-²", "nt-" + "9" * 5000, "table1:x:natural", "table1"),
    "figures": (*NAMES, "trade_off", "framework.pdf"),
    "stability": (*NAMES, "gamma_trend"),
    "attack": (*NAMES[:6], "missing.pt", ".", "/dev/null", "x" * 300 + ".pt"),
    "compose": (
        *("suite=x", "suit=digits", "=", "a=b=c", "training.epochs=", "+training.epochs=3", "++", "~suite", "[", "{"),
        *(
            "suite=../base",
            "training.epochs=${training.epochs}",
            "training.epochs=${nothing}",
            "seeds=[1,",
            "seeds=1e400",
        ),
        *("a.b.c=1", "hydra.run.dir=x", "training.epochs=" + "9" * 400, "description=[]", "methods=null", "\n", "é=1"),
        *("suite=digits,mnist", "${oc.env:NOWHERE}"),
    ),
    "prepare_imagefolder": ("missing", ".", "/dev/null", *NAMES[:4]),
}
"""Wrong first arguments."""


def place(folder: Path) -> None:
    """A params.yaml that is right, and conf/."""
    (folder / PARAMS).write_bytes(dumped(suite(0)))
    shutil.copytree(REPOSITORY / "conf", folder / "conf")


@st.composite
def wrong_option(draw: st.DrawFn, kind: str) -> Case:
    """A value that an option does not take."""
    stage = draw(st.sampled_from(sorted(OPTIONS)))
    option = draw(st.sampled_from(sorted(OPTIONS[stage])))
    value = draw(st.sampled_from(OPTIONS[stage][option]))
    given = list(VALID[stage])
    if option in given:
        del given[given.index(option) : given.index(option) + 2]
    extra = ["--std", "1"] if option == "--mean" else ["--mean", "0"] if option == "--std" else []
    arguments = (*given, *extra, f"{option}={value}")
    return Case(
        kind,
        f"{stage} {option}={value[:40]!r}",
        stage,
        arguments,
        place,
        (option, value[:20] or "''", "seed", "attack"),
    )


@st.composite
def wrong_name(draw: st.DrawFn, kind: str) -> Case:
    """A method, cell, figure, run, suite or file that there is not."""
    stage = draw(st.sampled_from(sorted(POSITIONALS)))
    value = draw(st.one_of(st.sampled_from(POSITIONALS[stage]), _texts(stage)))
    arguments = (*VALID[stage][1:], "--", value)
    if stage in ("compare", "prepare_imagefolder"):
        arguments = (*VALID[stage][2:], "--", value, VALID[stage][1])
    return Case(kind, f"{stage} {value[:40]!r}", stage, arguments, place)


def _texts(stage: str) -> st.SearchStrategy[str]:
    """What cannot be a name here; the operating system passes no zero bytes."""
    letters = st.characters(exclude_characters="\0", exclude_categories=["Cs"])
    return st.text(letters, min_size=1, max_size=30).map(lambda text: f"{text}!" if stage != "compose" else f"!{text}")


@st.composite
def wrong_form(draw: st.DrawFn, kind: str) -> Case:
    """Options that there are not, values that are missing, arguments too many or too few."""
    stage = draw(st.sampled_from(sorted(VALID)))
    valid = VALID[stage]
    unknown = draw(st.text(st.characters(min_codepoint=97, max_codepoint=122), min_size=3, max_size=12))
    choices: list[tuple[str, ...]] = [
        (*valid, f"--no-such-{unknown}"),
        (*valid, f"--no-such-{unknown}=1"),
        (*valid, "-" + unknown[0].upper() + "Z"),
        (*valid, "--no-such-option", "--help-me"),
    ]
    if stage not in ("compose", "figures"):
        choices.append((*valid, unknown, "one-too-many"))
    if valid and stage != "compose":
        choices += [valid[:-1], ()]
    choices += [(*valid, option) for option in OPTIONS.get(stage, ())]
    choices += (
        [(*valid, "--output")] if stage in ("attack", "report", "figures", "html", "export", "audit", "compose") else []
    )
    arguments = draw(st.sampled_from(choices))
    return Case(kind, f"{stage} {' '.join(arguments)[:60]}", stage, arguments, place)


# --- conf/


@st.composite
def composition(draw: st.DrawFn, kind: str) -> Case:
    """A piece of conf/ that leads to itself, to nothing, or has something wrong in it."""
    what, change = draw(st.sampled_from(sorted(PIECES.items(), key=lambda item: item[0])))
    spot = draw(st.sampled_from([path for path in spots(0) if isinstance(path[-1], str)]))
    junk = draw(JUNK)

    def prepare(folder: Path) -> None:
        place(folder)
        change(folder / "conf", spot, junk)

    output = draw(st.sampled_from(["params.yaml", "new.yaml"]))
    return Case(
        kind,
        f"{what} ({'.'.join(map(str, spot))})",
        "compose",
        ("suite=digits", "--output", output),
        prepare,
        (),
        _composed_the_same,
    )


def _composed_the_same(folder: Path, accepted: Any) -> bool:
    """Whether what was written is a file that the composition without the change gives, but for the changed spot."""
    written = [yaml.safe_load(path.read_text()) for path in folder.glob("*.yaml")]
    return all(isinstance(content, dict) and content.keys() == suite(1).keys() for content in written)


def _append(path: Path, text: str) -> None:
    path.write_text(path.read_text() + text)


def _replace(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text, f"{path} has no '{old}'"
    path.write_text(text.replace(old, new, 1))


def _override(conf: Path, spot: tuple[Any, ...], value: Any) -> None:
    """In the suite, which comes last."""
    content: Any = {}
    here = content
    for part in spot[:-1]:
        if isinstance(part, int):
            return _append(conf / "suite/digits.yaml", "\nno_such_section: 1\n")
        here[part] = {}
        here = here[part]
    here[spot[-1]] = value
    (conf / "competitors/all.yaml").write_text(
        "# @package _global_\n" + dumped({**content, "no_such_section": 1}).decode()
    )
    return None


def _circle(conf: Path, spot: tuple[Any, ...], value: Any) -> None:
    for name, other in (("a", "b"), ("b", "a")):
        (conf / f"suite/{name}.yaml").write_text(f"defaults:\n  - {other}\n")
    _replace(conf / "config.yaml", "suite: digits", "suite: a")


def _folder(conf: Path, spot: tuple[Any, ...], value: Any) -> None:
    (conf / "base.yaml").unlink()
    (conf / "base.yaml").mkdir()


Change = Callable[[Path, tuple[Any, ...], Any], Any]
PIECES: dict[str, Change] = {
    "a suite that includes itself": lambda conf, spot, junk: _replace(
        conf / "suite/digits.yaml", "defaults:\n", "defaults:\n  - /suite: digits\n"
    ),
    "two pieces that include each other": _circle,
    "a value that refers to itself": lambda conf, spot, junk: _replace(
        conf / "suite/digits.yaml", "epochs: 15", "epochs: ${training.epochs}"
    ),
    "values that refer to each other": lambda conf, spot, junk: _replace(
        conf / "suite/digits.yaml",
        "epochs: 15, batch_size: 64",
        "epochs: ${training.batch_size}, batch_size: ${training.epochs}",
    ),
    "a value that refers to nothing": lambda conf, spot, junk: _replace(
        conf / "suite/digits.yaml", "epochs: 15", "epochs: ${no.such.key}"
    ),
    "a resolver that there is not": lambda conf, spot, junk: _replace(
        conf / "suite/digits.yaml", "epochs: 15", "epochs: '${no_such:1}'"
    ),
    "a piece that there is not": lambda conf, spot, junk: _replace(
        conf / "config.yaml", "protocol: paper", "protocol: papyrus"
    ),
    "a group that there is not": lambda conf, spot, junk: _replace(
        conf / "config.yaml", "protocol: paper", "protocols: paper"
    ),
    "a piece that is no YAML": lambda conf, spot, junk: _append(conf / "base.yaml", "\nx: [1\n"),
    "a piece that is a list": lambda conf, spot, junk: (conf / "base.yaml").write_text("- 1\n"),
    "a piece that is empty": lambda conf, spot, junk: (conf / "base.yaml").write_text(""),
    "a piece of foreign bytes": lambda conf, spot, junk: (conf / "base.yaml").write_bytes(b"\xff\xfe\x00x"),
    "a piece that is a folder": _folder,
    "a piece with a key twice": lambda conf, spot, junk: _append(conf / "base.yaml", "\nseeds: [1]\nseeds: [2]\n"),
    "a piece with a Python object": lambda conf, spot, junk: _append(
        conf / "base.yaml", "\ndescription: !!python/object/apply:os.system [touch written]\n"
    ),
    "no defaults": lambda conf, spot, junk: (conf / "config.yaml").write_text("suite: digits\n"),
    "no conf": lambda conf, spot, junk: shutil.rmtree(conf),
    "a section that there is not, and a wrong value": _override,
}

KINDS: dict[str, Callable[[str], st.SearchStrategy[Case]]] = {
    "values of options": wrong_option,
    "names of methods, cells, figures, runs, files": wrong_name,
    "options and arguments that there are not": wrong_form,
    "pieces of conf/, cycles": composition,
}
