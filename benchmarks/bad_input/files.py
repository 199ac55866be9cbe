"""Wrong `params.yaml` files: valid ones of the suites in conf/, changed in places that are drawn."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterator
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from hypothesis import strategies as st

from benchmarks.bad_input.cases import PARAMS, Case, Content, Prepare
from benchmarks.bad_input.running import REPOSITORY
from pipeline.config import Params, parse_fraction
from stages.compose import compose

SUITES = (
    ("suite=digits", "competitors=none"),
    ("suite=digits", "attacks=full"),
    ("suite=cifar10", "competitors=none", "protocol=reference_code"),
    ("suite=cifar100", "competitors=none", "architecture=wrn32_10"),
    ("suite=imagenet", "recipes=imagenet_sources"),
)
NUMBERS_OF_SUITES = st.sampled_from([0, 0, 0, 0, 1, 2, 2, 2, 3, 3, 3, 4])
"""The large ones, which take longest, come up least often."""
STAGES: dict[str, tuple[str, ...]] = {
    "train": ("nt", "--seed", "1"),
    "evaluate": ("nt", "--seed", "1"),
    "ood": ("nt", "--seed", "1"),
    "attack": ("weights.safetensors",),
    "compare": ("nt", "at", "--seed", "1"),
    "explain": ("table1:nt:natural",),
    "export": ("nt-1",),
    **dict.fromkeys(["prepare", "corrupt", "report", "figures", "html", "plan", "ablation", "search"], ()),
    **dict.fromkeys(["stability", "doctor"], ()),
}
"""Those that read params.yaml, and how they are called."""
Spot = tuple[Any, ...]
MARK = "PLACE_OF_THE_CHANGE"
NAMES = (
    *("../outside", "/etc/passwd", "a/b", "..", ".", "~", "C:\\x", "a b", "a\nb", "-rf", "--help", "$(touch written)"),
    *("`touch written`", "; touch written #", "| touch written", "&& touch written", "%s", "{0}", "${oc.env:HOME}"),
    *("NUL", "con", "é", "\u202egnp.exe", "\u200b", "ﬁ", "名前", "😀", "a\u0301", "İ", "\ufeffa", "x" * 300, "", " "),
)
"""For a folder, a file, a shell or a reader."""
NUMBERS = (
    *(-1, 0, 2**31, 2**63, 2**64, 10**400, -(10**400), -0.5, 1e308, -1e308, 5e-324, math.inf, -math.inf, math.nan),
    *("1e400", "-1e400", "8/0", "0/0", "1/1e-400", "1e400/1", "nan", "8/255/3", "0x10", "1_000", "١٢", "²", "½", "∞"),
)
JUNK: st.SearchStrategy[Any] = st.one_of(
    st.sampled_from([None, True, False, "", "x", [], {}, [[]], [None], {"name": 1}, {"a": {"b": {}}}, {1: 2}]),
    st.sampled_from(["2024-01-01", "yes", "null", "[1]", "12:30:45", {"name": ["x"]}, [{"metric": []}], "\n"]),
    st.integers(-(10**6), 10**6),
    st.floats(allow_nan=True, allow_infinity=True),
    st.text(max_size=20),
    st.lists(st.one_of(st.none(), st.integers(), st.text(max_size=3)), max_size=4),
    st.dictionaries(st.text(max_size=8), st.integers(), max_size=3),
)


@cache
def suite(number: int) -> Content:
    """The content of one of `SUITES`; not to be changed."""
    content: Content = yaml.safe_load(compose(list(SUITES[number]), REPOSITORY / "conf"))
    return content


@cache
def spots(number: int) -> tuple[Spot, ...]:
    """The path of every value in it."""
    return tuple(_below(suite(number), ()))


def _below(content: Any, path: Spot) -> Iterator[Spot]:
    items = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in items:
        yield (*path, key)
        yield from _below(value, (*path, key))


def at(content: Any, path: Spot) -> Any:
    """The value that a path leads to."""
    for part in path:
        content = content[part]
    return content


def put(content: Content, path: Spot, value: Any) -> Content:
    """A copy with another value at a path."""
    changed = deepcopy(content)
    at(changed, path[:-1])[path[-1]] = value
    return changed


# --- What was accepted, judged without the code that did


def keeps(given: Any, parsed: Any) -> bool:
    """Whether a parsed section says all that the file says, and nothing else in its place.

    Missing keys may have got a default; numbers may be written as text or as fractions, a norm for the budget that it
    stands for.
    """
    if isinstance(given, dict):
        return isinstance(parsed, dict) and all(_keeps_key(given, str(key), parsed) for key in given)
    if isinstance(given, list):
        return isinstance(parsed, list) and len(given) == len(parsed) and all(map(keeps, given, parsed))
    if given is None or isinstance(given, bool) or isinstance(parsed, bool):
        return given is parsed
    if isinstance(given, str) and isinstance(parsed, int | float):
        given = parse_fraction(given)
    return isinstance(given, str | int | float) and bool(given == parsed)


def _keeps_key(given: Content, key: str, parsed: Content) -> bool:
    value = {str(name): value for name, value in given.items()}[key]
    if key in parsed:
        return keeps(value, parsed[key])
    budget = {"norm": "attack", "norms": "attacks"}.get(key)
    return budget in parsed if budget else value in (None, [], "epoch")  # what dumps leave out where it is the default


def is_valid(folder: Path, accepted: Any) -> bool:
    """Whether the file, as another reader reads it, says what was understood."""
    given = yaml.safe_load((folder / PARAMS).read_text(encoding="utf-8"))
    return isinstance(accepted, Params) and keeps(given, accepted.model_dump(mode="json"))


# --- Cases


def written(content: bytes) -> Prepare:
    """Put a params.yaml of these bytes."""
    return lambda folder: (folder / PARAMS).write_bytes(content)


def dumped(content: Any) -> bytes:
    """As YAML."""
    return str(yaml.dump(content, Dumper=yaml.CSafeDumper, sort_keys=False, allow_unicode=True)).encode()


@st.composite
def _case(draw: st.DrawFn, kind: str, what: str, prepare: Prepare, mentions: tuple[str, ...]) -> Case:
    stage = draw(st.sampled_from(sorted(STAGES)))
    return Case(kind, what, stage, STAGES[stage], prepare, mentions, is_valid)


def _shown(path: Spot) -> str:
    return ".".join(map(str, path))


@st.composite
def changed_value(draw: st.DrawFn, kind: str, values: st.SearchStrategy[Any], numbers_only: bool = False) -> Case:
    """Another value in one place."""
    number = draw(NUMBERS_OF_SUITES)
    fitting = [path for path in spots(number) if not numbers_only or _is_number(at(suite(number), path))]
    path, value = draw(st.sampled_from(fitting)), draw(values)
    content = put(suite(number), path, value)
    return draw(_case(kind, f"{_shown(path)} = {value!r:.60}", written(dumped(content)), (str(path[0]), PARAMS)))


def _is_number(value: Any) -> bool:
    if isinstance(value, str):
        return re.fullmatch(r"[\d.e-]+(/\d+)?", value) is not None
    return isinstance(value, int | float) and not isinstance(value, bool)


@st.composite
def missing_key(draw: st.DrawFn, kind: str) -> Case:
    """Without one key, or the entry of a list."""
    number = draw(NUMBERS_OF_SUITES)
    path = draw(st.sampled_from(spots(number)))
    content = deepcopy(suite(number))
    del at(content, path[:-1])[path[-1]]
    return draw(_case(kind, f"without {_shown(path)}", written(dumped(content)), (str(path[0]), PARAMS)))


@st.composite
def unknown_key(draw: st.DrawFn, kind: str) -> Case:
    """One key more, or one that is spelt otherwise."""
    number = draw(NUMBERS_OF_SUITES)
    path = draw(st.sampled_from([path for path in spots(number) if isinstance(path[-1], str)]))
    known = str(path[-1])
    spellings = [known + "s", known[:-1], known.upper(), f"{known} ", known.replace("_", "-") + "-", known[::-1] + "x"]
    key = draw(st.one_of(st.sampled_from(spellings), st.text(max_size=30), st.sampled_from(NAMES)))
    content = deepcopy(suite(number))
    section = at(content, path[:-1])
    section[key] = section.pop(known) if draw(st.booleans()) else section[known]
    return draw(_case(kind, f"{_shown(path)} as {key!r:.60}", written(dumped(content)), (str(path[0]), PARAMS, key)))


@st.composite
def several(draw: st.DrawFn, kind: str) -> Case:
    """Two to five mistakes of different kinds in one file."""
    number = draw(NUMBERS_OF_SUITES)
    content, what = deepcopy(suite(number)), []
    for path in draw(st.lists(st.sampled_from(spots(number)), min_size=2, max_size=5, unique=True)):
        value = draw(st.one_of(JUNK, st.sampled_from(NUMBERS), st.sampled_from(NAMES)))
        try:
            content = put(content, path, value)
        except (LookupError, TypeError):
            continue  # an earlier change has removed the place
        what.append(f"{_shown(path)} = {value!r:.30}")
    return draw(_case(kind, ", ".join(what), written(dumped(content)), ()))


@st.composite
def raw_value(draw: st.DrawFn, kind: str, snippets: st.SearchStrategy[str]) -> Case:
    """YAML of any form in one place."""
    number = draw(NUMBERS_OF_SUITES)
    path, snippet = draw(st.sampled_from(spots(number))), draw(snippets)
    text = dumped(put(suite(number), path, MARK)).decode().replace(MARK, snippet)
    return draw(_case(kind, f"{_shown(path)}: {snippet[:60]!r}", written(text.encode()), ()))


@st.composite
def doubled_key(draw: st.DrawFn, kind: str) -> Case:
    """A line, or a section, twice."""
    number = draw(NUMBERS_OF_SUITES)
    path = draw(st.sampled_from([path for path in spots(number) if isinstance(path[-1], str)]))
    content = deepcopy(suite(number))
    section = at(content, path[:-1])
    section[MARK] = draw(st.one_of(JUNK, st.just(section[path[-1]])))
    text = dumped(content).decode().replace(MARK, path[-1])
    return draw(_case(kind, f"{_shown(path)} twice", written(text.encode()), (f"'{path[-1]}' is given twice",)))


def _bomb(depth: int, width: int, closing: str) -> str:
    """Lists of aliases of lists: width ** depth values from a few hundred bytes."""
    levels = ["&l0 [" + ", ".join(["0"] * width) + "]"]
    levels += [f"&l{level} [{', '.join([f'*l{level - 1}'] * width)}]" for level in range(1, depth)]
    return f"[{', '.join(levels)}, {closing}]"


ALIASES: st.SearchStrategy[str] = st.one_of(
    st.builds(_bomb, st.integers(2, 30), st.integers(2, 40), st.sampled_from(["1", "*l0", "*l1"])),
    st.sampled_from(["&a [*a]", "&a {b: *a}", "&a {<<: *a}", "*nowhere", "&a [&b [*a, *b]]", "&a", "{<<: [1]}"]),
    st.sampled_from(
        ["{<<: {name: pgd}, name: mim}", "{<<: &a {<<: &b {<<: *a}}}", "&a [1, &a 2, *a]", "{? &k [1] : *k}"]
    ),
)
TAG_NAMES = (
    *("!!python/object/apply:os.system", "!!python/object/new:os.system", "!!python/name:os.system", "!!python/tuple"),
    *("!!python/module:os", "!!python/object:pathlib.Path", "!!binary", "!!set", "!!omap", "!!pairs", "!!timestamp"),
    *("!!int", "!!float", "!!bool", "!!null", "!!str", "!!seq", "!!map", "!x", "!<tag:x,2000:y>", "!!merge"),
)
TAGGED = ("[touch written]", "{a: null}", "x", "1", "aGVsbG8=", "[1, 2]", "[{a: 1}, {b: 2}]", '""', "2024-13-41")
TAGS: st.SearchStrategy[str] = st.builds("{} {}".format, st.sampled_from(TAG_NAMES), st.sampled_from(TAGGED))


def _nested(depth: int, form: str, closed: bool) -> str:
    opening, closing = {"list": ("[", "]"), "mapping": ("{a: ", "}"), "key": ("{? ", "}"), "block": ("- ", "")}[form]
    return opening * depth + ("1" + closing * depth if closed else "")


LARGE: st.SearchStrategy[str] = st.one_of(
    st.builds(
        _nested,
        st.sampled_from([60, 300, 1000, 5000, 50_000]),
        st.sampled_from(["list", "mapping", "key"]),
        st.booleans(),
    ),
    st.builds(lambda count: "x" * count, st.sampled_from([300, 10_000, 100_000, 2_000_000])),
    st.builds(lambda count: "9" * count, st.sampled_from([310, 4000, 5000, 100_000])),
    st.builds(lambda count: f"[{', '.join(map(str, range(count)))}]", st.sampled_from([1000, 20_000, 100_000])),
    st.builds(lambda count: "{" + ", ".join(f"k{n}: {n}" for n in range(count)) + "}", st.sampled_from([1000, 20_000])),
    st.builds(lambda count: f"[{'x, ' * count}x]", st.sampled_from([1000, 20_000])),
)


@st.composite
def damaged_bytes(draw: st.DrawFn, kind: str) -> Case:
    """A file in another encoding, with foreign bytes, or of nothing else."""
    content = dumped(suite(draw(NUMBERS_OF_SUITES)))
    place = draw(st.integers(0, len(content)))
    foreign = draw(st.binary(min_size=1, max_size=40))
    what, changed = draw(
        st.sampled_from(
            [
                ("foreign bytes", content[:place] + foreign + content[place:]),
                ("bytes replaced", content[:place] + foreign + content[place + len(foreign) :]),
                ("nothing but bytes", foreign * 20),
                ("cut off", content[:place]),
                ("UTF-16", content.decode().encode("utf-16")),
                ("UTF-32", content.decode().encode("utf-32-le")),
                ("Latin-1", content[:place] + "é".encode("latin-1") + content[place:]),
                ("a zero byte", content[:place] + b"\0" + content[place:]),
                ("a tab", content[:place] + b"\n\t" + content[place:]),
                ("another document", content[:place] + b"\n---\n" + content[place:]),
                ("gzip", b"\x1f\x8b" + content),
            ]
        )
    )
    return draw(_case(kind, f"{what} at {place}", written(changed), (PARAMS,)))


NOT_FILES: dict[str, Callable[[Path], Any]] = {
    "missing": lambda path: None,
    "empty": lambda path: path.write_bytes(b""),
    "a folder": lambda path: path.mkdir(),
    "a link to nowhere": lambda path: path.symlink_to("nowhere"),
    "a link to itself": lambda path: path.symlink_to(path.name),
    "a link to a folder": lambda path: path.symlink_to(path.parent),
    "a pipe that nobody writes to": lambda path: os.mkfifo(path),
    "a device without an end": lambda path: path.symlink_to("/dev/zero"),
    "an empty device": lambda path: path.symlink_to("/dev/null"),
    "a file with blanks": lambda path: path.write_text(" \n\n# nothing\n"),
    "a list": lambda path: path.write_text("- suite: digits\n"),
    "a number": lambda path: path.write_text("3\n"),
    "JSON": lambda path: path.write_text('{"suite": "digits"}'),
    "100 MB": lambda path: os.truncate(_touched(path), 100_000_000),
}


def _touched(path: Path) -> Path:
    path.touch()
    return path


@st.composite
def not_a_file(draw: st.DrawFn, kind: str) -> Case:
    """Something else in the place of params.yaml, under any name."""
    what, make = draw(st.sampled_from(sorted(NOT_FILES.items(), key=lambda item: item[0])))
    stage = draw(st.sampled_from(sorted(STAGES)))
    name = draw(st.sampled_from([PARAMS, "other.yaml", "größe.yaml", "a b.yaml", "x" * 200 + ".yaml"]))
    return Case(
        kind,
        f"{name[:20]}: {what}",
        stage,
        (*STAGES[stage], "--params", name),
        lambda folder: make(folder / name),
        (name,),
    )


KINDS: dict[str, Callable[[str], st.SearchStrategy[Case]]] = {
    "values of another type": lambda kind: changed_value(kind, JUNK),
    "numbers out of range, NaN, infinity": lambda kind: changed_value(
        kind, st.sampled_from(NUMBERS), numbers_only=True
    ),
    "Unicode, paths and shell characters as values": lambda kind: changed_value(kind, st.sampled_from(NAMES)),
    "missing keys": missing_key,
    "unknown and renamed keys": unknown_key,
    "several mistakes at once": several,
    "keys given twice": doubled_key,
    "anchors, aliases, YAML bombs": lambda kind: raw_value(kind, ALIASES),
    "YAML tags, Python objects": lambda kind: raw_value(kind, TAGS),
    "deep nesting, very long texts and lists": lambda kind: raw_value(kind, LARGE),
    "foreign bytes, other encodings, cut off": damaged_bytes,
    "no file, folders, links, pipes, devices": not_a_file,
}
