"""params.yaml: every mistake is named with its place, and fingerprints cover what changes numbers and nothing else."""

from __future__ import annotations

import datetime
import itertools
import math
from collections.abc import Callable, Iterator
from copy import deepcopy
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline.config import Experiment, MovingAverageSettings, Params, load_params, parse_params
from pipeline.config.composing import compose
from pipeline.config.training import HOW_TO_TRAIN
from pipeline.core.datasets import DATASETS
from pipeline.core.errors import RequestError
from pipeline.core.values import interpolate, parse_fraction
from pipeline.models import ARCHITECTURES, check_input
from tests.conftest import REPOSITORY, TINY, MakeParams, composed, content_of

CONF = REPOSITORY / "conf"
MISSING = object()
RAMP = {"rule": "gradient_projection", "natural": "natural", "robust": "linf"}
RMC = {"rule": "mode_connectivity", "endpoints": ["linf", "natural"], "middle": "natural", "path_starts_after": 2}
Content = dict[str, Any]
SCHEDULE = "methods.at.learners.linf.schedule"
OBJECTIVE = "methods.at.learners.linf.objective"
OPTIMIZER = "methods.nt.learners.natural.optimizer"
MIXTURE = "methods.generalist_d_nt_linf.mixture"


def put(content: Any, path: str, value: Any) -> None:
    """Set what `path` leads to, or remove it (MISSING)."""
    *parents, last = [int(part) if part.isdigit() else part for part in path.split(".")]
    for part in parents:
        content = content[part]
    if value is MISSING:
        del content[last]
    else:
        content[last] = value


def mistakes(content: Any) -> list[str]:
    """The lines of the message that refuses `content`."""
    with pytest.raises(RequestError) as caught:
        parse_params(content)
    first, *lines = str(caught.value).splitlines()
    count = "1 mistake" if len(lines) == 1 else f"{len(lines)} mistakes"
    assert first == f"params.yaml: {count}, nothing was started"
    return [line.strip() for line in lines]


# --- Suites


def names(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def dataset_of(suite: str) -> str:
    """Its own, or that of the suite that it is built on."""
    content = yaml.safe_load((CONF / f"suite/{suite}.yaml").read_text())
    return str(content["data"]["name"]) if "data" in content else dataset_of(content["defaults"][0])


def takes(architecture: str, dataset: str) -> bool:
    """Whether a network takes the images of a data set; of one's own, which nobody has looked at, one is tried."""
    if dataset not in DATASETS:
        return architecture == "small_cnn"
    try:
        check_input(architecture, DATASETS[dataset])
    except ValueError:
        return False
    return True


ALONE = ("digits", "digits_beyond", "imagenet", "own")
"""Suites with images that no other suite has, and networks that take no others."""
PLAIN = ("preact_resnet18", "resnet18_width32", "resnet20", "wrn28_10", "wrn34_10")
"""Networks of which suites know nothing but the name: composed with one suite."""
REFUSED = ("digits_beyond", "reference_code")


def compositions() -> Iterator[tuple[str, str, str]]:
    """Every suite with every network that takes its images, the protocols in turn; `ALONE` and `PLAIN` with both."""
    protocols = names("protocol")
    for (row, suite), (column, architecture) in itertools.product(
        enumerate(names("suite")), enumerate(names("architecture"))
    ):
        if takes(architecture, dataset_of(suite)) and (suite == "cifar10" or architecture not in PLAIN):
            chosen = protocols[(row + column) % len(protocols)]
            for protocol in protocols if suite in ALONE or architecture in PLAIN else [chosen]:
                yield suite, architecture, protocol


def test_every_suite_and_every_network_is_composed_with_every_protocol() -> None:
    found = list(compositions())
    for group, place in (("suite", 0), ("architecture", 1)):
        pairs = {(chosen[place], chosen[2]) for chosen in found}
        assert pairs == set(itertools.product(names(group), names("protocol"))), group


@pytest.mark.parametrize(
    ("suite", "architecture", "protocol"),
    [
        pytest.param(*chosen, marks=[] if chosen[2] == "paper" else pytest.mark.slow)
        for chosen in compositions()
        if chosen[::2] != REFUSED
    ],
)
def test_suites_compose_with_networks_that_take_their_images(suite: str, architecture: str, protocol: str) -> None:
    params = composed(f"suite={suite}", f"architecture={architecture}", f"protocol={protocol}")
    assert (params.suite, params.model.architecture, params.protocol) == (suite, architecture, protocol)
    experiments = list(params.experiments())
    assert len({experiment.fingerprint for experiment in experiments}) == len(experiments)


@pytest.mark.parametrize("suite", names("suite"))
def test_nothing_is_trained_that_neither_a_table_nor_figure_1_shows(suite: str) -> None:
    params = composed(f"suite={suite}", *(["architecture=resnet50"] if suite == "imagenet" else []))
    points = [group for figure in params.figures.values() for group in getattr(figure, "groups", [])]
    shown = {method for table in params.tables.values() for method in table.rows}
    assert set(params.methods) == shown | {method for group in points for method in group.methods}


@pytest.mark.parametrize(
    ("overrides", "text"),
    [
        ("suite=mnist architecture=wrn50_2", "model.architecture: "),
        ("suite=digits_beyond protocol=reference_code", "images that select epochs, which are the test images here"),
    ],
)
def test_suites_that_cannot_be_are_refused(overrides: str, text: str) -> None:
    with pytest.raises(RequestError, match=text):
        compose(overrides.split(), CONF)


def test_an_attack_that_is_null_is_left_out_and_nothing_may_name_it(raw: Content) -> None:
    before = parse_params(raw).evaluation.attacks
    raw["evaluation"]["attacks"]["noise_linf"] = None
    assert parse_params(raw).evaluation.attacks == {key: value for key, value in before.items() if key != "noise_linf"}
    raw["evaluation"]["union"] = ["aa_linf", "noise_linf"]
    assert "evaluation.union: unknown attack 'noise_linf'" in mistakes(raw)[0]


def test_a_method_may_have_its_own_number_of_epochs_and_batch_size(raw: Content) -> None:
    common = parse_params(raw).experiment("at", 1)
    put(raw, "methods.at.epochs", 9)
    put(raw, "methods.at.batch_size", 4)
    put(raw, f"{SCHEDULE}.epochs", [0, 1, 2, 9])
    own = parse_params(raw).experiment("at", 1)
    assert (own.training.epochs, own.training.batch_size) == (9, 4)
    assert own.fingerprint != common.fingerprint
    assert parse_params(raw).experiment("nt", 1).training == common.training
    put(raw, f"{SCHEDULE}.epochs", [0, 1, 2, 10])
    assert mistakes(raw) == [f"{SCHEDULE}.epochs: breakpoint 10 lies beyond the last epoch 9 (training.epochs)"]


def test_the_seed_need_not_be_named_where_there_is_one(raw: Content) -> None:
    assert parse_params(raw).experiment("at", None) == parse_params(raw).experiment("at", 1)
    raw["seeds"] = [3, 5]
    with pytest.raises(RequestError, match=r"several seeds, \[3, 5\]: say which is meant, --seed 3"):
        parse_params(raw).experiment("at", None)
    raw["seeds"] = [5]
    assert parse_params(raw).experiment("at", None).seed == 5


def test_networks_and_their_suites_have_the_same_names() -> None:
    assert names("architecture") == sorted(ARCHITECTURES)


def test_the_committed_file_is_the_default_suite() -> None:
    def content(text: str) -> list[str]:
        return [line for line in text.splitlines() if not line.startswith("#")]

    assert content((REPOSITORY / "params.yaml").read_text()) == content(compose([], CONF))


@pytest.mark.parametrize(
    ("override", "text"),
    [
        ("suite=cifar", "unknown suite 'cifar': did you mean 'cifar10'? Valid: cifar10, "),
        ("trainin.epochs=3", "unknown key 'trainin.epochs': did you mean 'training'? Valid: suite, architecture, "),
        ("training.epoch=3", "unknown key 'training.epoch': did you mean 'epochs'? Valid: epochs, batch_size, "),
        ("training.epochs.x=3", "unknown key 'training.epochs.x': training.epochs is a value, not a section"),
        (
            "architecture=resnet19",
            "unknown architecture 'resnet19': did you mean 'resnet18'? Valid: preact_resnet18, resnet18",
        ),
        ("architectur=resnet18", "unknown key 'architectur': did you mean 'architecture'?"),
        ("seed=[1,2]", "unknown key 'seed': did you mean 'seeds'?"),
        ("methods.my_t={label: x}", "+methods.my_t=... adds one"),
        ("~methods.nope", "unknown key 'methods.nope': Valid: nt, at, "),
        ("+training.epochs=3", "'training.epochs' is there already; write training.epochs=..., without +"),
        ("training={epochs: 3}", "write training.epochs=... by itself, so that the schedule is scaled with it"),
        ("~suite", "one file of suite is always chosen; write suite=NAME"),
        ("suite=digits,mnist", "'suite=digits,mnist' gives several values, expected one"),
        ("digits", "'digits' is no override; write suite=digits"),
        ("cifar", "'cifar' is no override; expected key=value, for example suite=digits or training.epochs=20"),
        ("seeds=[1,", "'seeds=[1,' cannot be read ("),
        ("data.root=~/pictures", "no shell has put your home in place of ~ here; write the path out"),
        ("=3", "'=3' names no key; expected key=value"),
        ("hydra.run.dir=x", "'hydra.run.dir=x' is a setting of Hydra itself"),
        ("training.epochs=${nothing}", "nothing"),
        ("training.epochs=0", "training.epochs: input should be greater than or equal to 1 (got 0)"),
    ],
)
def test_overrides_that_do_not_compose_are_named(override: str, text: str) -> None:
    with pytest.raises(RequestError, match="suite=digits") as caught:
        compose(["suite=digits", override], CONF)
    message = str(caught.value)
    assert text in message
    assert not any(word in message for word in ("pkg://", "\\t", "hydra.cc", "To append", "multirun"))


def test_every_override_that_does_not_compose_is_named_at_once() -> None:
    with pytest.raises(RequestError) as caught:
        compose(["digits", "architecture=resnet19"], CONF)
    assert str(caught.value).splitlines() == [
        "cannot compose digits architecture=resnet19:",
        "  'digits' is no override; write suite=digits",
        "  unknown architecture 'resnet19': did you mean 'resnet18'? Valid: " + ", ".join(sorted(ARCHITECTURES)),
    ]


# --- Mistakes

ATTACK = {"name": "pgd", "norm": "linf", "epsilon": 0.1, "step_size": 0.1, "steps": 1}

MISTAKES: list[tuple[str, Any, str, str]] = [
    # what is changed, to what, the path that the message names, what it says
    ("training.epoch", 3, "training.epoch", "unknown key; did you mean 'epochs'? Valid: batch_size, branch_gi"),
    (f"{OPTIMIZER}.momentun", 1, f"{OPTIMIZER}.momentun", "unknown key; did you mean 'momentum'? Valid: decay_ba"),
    ("evaluation.attacks.aa_l2.steps", 3, "evaluation.attacks.aa_l2.steps", "unknown key; Valid: epsilon, images, mem"),
    ("data.augmentation.crop_pad", 1, "data.augmentation.crop_pad", "did you mean 'crop_padding'? Valid: crop_pad"),
    ("tables.table1.columns.0.name", "x", "tables.table1.columns.0.name", "unknown key; Valid: label, metric"),
    ("seed", [1], "seed", "unknown key; did you mean 'seeds'?"),
    ("training", None, "training", "expected a mapping (got null)"),
    ("training", [], "training", "expected a mapping (got a list of 0)"),
    ("methods.nt.learners.natural", "sgd", "methods.nt.learners.natural", 'expected a mapping (got "sgd")'),
    ("methods", {}, "methods", "expected more entries"),
    ("methods.nt.label", MISSING, "methods.nt.label", "is missing"),
    ("methods.Bad-Name", {"label": "x", "learners": {}}, "methods.Bad-Name", "a name consists of a-z, 0-9 and _"),
    ("seeds", 1, "seeds", "expected a list (got 1)"),
    ("seeds", [1, 2, 1], "seeds", "1 is given more than once"),
    ("seeds", [-1], "seeds.0", "greater than or equal to 0 (got -1)"),
    ("training.epochs", 1.5, "training.epochs", "input should be a valid integer, got a number with a fractional part"),
    ("training.epochs", "many", "training.epochs", 'unable to parse string as an integer (got "many")'),
    ("training.epochs", math.inf, "training.epochs", "input should be a finite number"),
    ("training.batch_size", 10**30, "training.batch_size", "less than 2147483648 (got 1000000"),
    ("training.batch_size", True, "training.batch_size", "expected a number, got true"),
    ("data.augmentation.horizontal_flip", 1, "data.augmentation.horizontal_flip", "should be a valid boolean (got 1)"),
    ("data.name", "cifar", "data.name", "unknown data set 'cifar': did you mean 'cifar10'? Valid: digits, cifar10, "),
    ("data.name", ["digits"], "data.name", "input should be a valid string (got a list of 1)"),
    ("data.held_out_images", 1437, "data.held_out_images", "1437 + train_images 48 exceed the 1437 training images of"),
    ("data.test_images", 361, "data.test_images", "361 exceed the 360 test images of digits"),
    ("data.replaced_example", 48, "data.replaced_example", "48 is not among the 48 training images, which count from"),
    (
        "model.architecture",
        "resnet18",
        "model.architecture",
        "resnet18 takes images from 16 x 16 to 96 x 96 pixels, but the data has 1 x 8 x 8; networks that",
    ),
    (
        "model.architecture",
        "resnet1",
        "model.architecture",
        "did you mean 'resnet18'? Valid: small_cnn, resnet18, resnet18_width16, re",
    ),
    ("model.normalization", {"mean": [0, 0], "std": [1]}, "model.normalization.mean", "each of 1 channels, got 2"),
    ("threat_model", None, "threat_model", "expected a mapping (got null)"),
    ("threat_model.linf", 8, "threat_model.linf", "expected a mapping (got 8)"),
    ("threat_model.linf.epsilon", "8/0", "threat_model.linf.epsilon", "a fraction such as '8/255', got '8/0'"),
    ("threat_model.linf.epsilon", -0.1, "threat_model.linf.epsilon", "greater than or equal to 0 (got -0.1)"),
    (f"{SCHEDULE}.epochs", [0, 2, 1, 4], f"{SCHEDULE}.epochs", "breakpoints must increase strictly, got [0.0, 2.0, 1"),
    (f"{SCHEDULE}.epochs", [0, 1, 2, 5], f"{SCHEDULE}.epochs", "breakpoint 5 lies beyond the last epoch 4 (training."),
    (f"{SCHEDULE}.values", [1, 1, 1], f"{SCHEDULE}.values", "4 breakpoints need as many values, got 3"),
    (f"{SCHEDULE}.values.3", "x", f"{SCHEDULE}.values.3", "unable to parse string as a number"),
    (f"{OPTIMIZER}.name", "sgdd", f"{OPTIMIZER}.name", "unknown 'sgdd': did you mean 'sgd'? Valid: sgd, adam"),
    (f"{OPTIMIZER}.name", MISSING, OPTIMIZER, "needs a 'name'"),
    (f"{OPTIMIZER}.momentum", 1, f"{OPTIMIZER}.momentum", "less than 1 (got 1)"),
    (f"{OBJECTIVE}.norm", "l0", OBJECTIVE, "norm 'l0' has no budget in threat_model; norms with one: linf, l2, l1"),
    (f"{OBJECTIVE}.norm", ["linf"], OBJECTIVE, "norm '['linf']' has no budget"),
    (f"{OBJECTIVE}.attack", 3, OBJECTIVE, "option 'attack': expected a mapping"),
    (f"{OBJECTIVE}.name", "adverserial", OBJECTIVE, "unknown objective 'adverserial': did you mean 'adversarial'?"),
    (f"{OBJECTIVE}.name", "os.path", OBJECTIVE, "module 'os.path' has no 'OBJECTIVE'"),
    (f"{OBJECTIVE}.name", ".natural", OBJECTIVE, "unknown objective '.natural'"),
    (f"{OBJECTIVE}.beta", 6, OBJECTIVE, "option 'beta': unknown key; Valid: attack, name"),
    (
        "methods.nt.learners.natural.objective.norm",
        "linf",
        "methods.nt.learners.natural.objective",
        "'norm': unknown key",
    ),
    ("methods.nt.learners.global", {}, "methods.nt.learners.global", "'global' is the name of the mixture's own learn"),
    (MIXTURE, None, MIXTURE, "2 learners (linf, natural) need one that combines them"),
    (f"{MIXTURE}.breakpoints", [0, 1, 1, 4], f"{MIXTURE}.breakpoints", "breakpoints must increase strictly"),
    (f"{MIXTURE}.mixing_ratios.linf", [1, 1, 1], f"{MIXTURE}.mixing_ratios.linf", "expected 4 ratios, one for each of"),
    (
        f"{MIXTURE}.mixing_ratios.linf.3",
        0.5,
        f"{MIXTURE}.mixing_ratios",
        "number 4 leave the simplex: linf 0.5, natur",
    ),
    (f"{MIXTURE}.mixing_ratios.l2", [0, 0, 0, 0], f"{MIXTURE}.mixing_ratios", "names ['l2', 'linf', 'natural'], learn"),
    (f"{MIXTURE}.rule", "mean", f"{MIXTURE}.rule", "unknown mixture 'mean': Valid: gradient_projection, mode_con"),
    (f"{MIXTURE}.rule", MISSING, MIXTURE, "needs a 'rule'"),
    (f"{MIXTURE}.dekay", 0.9, f"{MIXTURE}.dekay", "did you mean 'decay'?"),
    (MIXTURE, {**RAMP, "robust": "l2"}, MIXTURE, "names ['l2', 'natural'], learners are ['linf', 'natural']"),
    (MIXTURE, {**RMC, "path_starts_after": 4}, f"{MIXTURE}.path_starts_after", "leaves no epoch for the path before"),
    (MIXTURE, {**RMC, "endpoints": ["linf"]}, f"{MIXTURE}.endpoints", "expected more entries"),
    (f"{MIXTURE}.warmup_epochs", 5, f"{MIXTURE}.warmup_epochs", "5 lies beyond the last epoch 4 (training.epochs)"),
    (f"{MIXTURE}.communication_interval", 0, f"{MIXTURE}.communication_interval", "greater than or equal to 1 (got 0)"),
    (f"{MIXTURE}.source", "weight_averages", f"{MIXTURE}.source", "none of ['linf', 'natural'] has"),
    (
        "methods.generalist_d_nt_linf.learners.natural.architecture",
        "small_cnn",
        "methods.generalist_d_nt_linf.learners",
        "linf has model.architecture, natural has small_cnn",
    ),
    ("evaluation.attacks.natural", ATTACK, "evaluation.attacks", "natural: the name of a metric that is always there"),
    ("evaluation.union", ["aa_linf", "aa_l3"], "evaluation.union", "unknown attack 'aa_l3': did you mean 'aa_l2'?"),
    ("evaluation.union", ["aa_linf", "aa_linf"], "evaluation.union", "'aa_linf' is given more than once"),
    ("tables.table1.paper", ["V"], "tables.table1.paper.0", "input should be '1a', '1b', 'I', 'II', 'III' or 'IV'"),
    ("tables.table1.rows", ["nt", "nt"], "tables.table1.rows", "'nt' is given more than once"),
    ("tables.table1.columns.1.metric", "natural", "tables.table1.columns", "'natural' is given more than once"),
    (
        "tables.table1.columns.1.relative_to",
        "at",
        "tables.table1.columns.1.relative_to",
        "only training_seconds is given relative to a method, pgd20_linf is not",
    ),
    ("tables.table1.file", "table4", "tables", "'table4' is given more than once"),
    ("tables.table1.rows", ["nt", "att"], "tables.table1.rows", "unknown method 'att': did you mean 'at'? Valid: nt, "),
    (
        "tables.table1.columns.1.metric",
        "pgd",
        "tables.table1.columns.1.metric",
        "unknown metric 'pgd': Valid: natural",
    ),
]


@pytest.mark.parametrize(("path", "value", "place", "text"), MISTAKES)
def test_a_mistake_is_named_once_with_its_place(raw: Content, path: str, value: Any, place: str, text: str) -> None:
    put(raw, path, value)
    found = [line for line in mistakes(raw) if line.startswith(f"{place}: ")]
    assert len(found) == 1 and text in found[0], mistakes(raw)


@pytest.mark.parametrize(
    "path", ["threat_model", "threat_model.linf", "threat_model.linf.epsilon", "methods", "evaluation.attacks"]
)
def test_a_mistake_that_others_build_on_is_named_once(raw: Content, path: str) -> None:
    put(raw, path, None)
    assert len(mistakes(raw)) == 1


def test_what_is_none_of_several_kinds_is_named_by_its_place(raw: Content) -> None:
    raw["training"]["phases"] = [{"first_epoch": 1, "stored_size": [None]}]
    assert {line.split(": ")[0] for line in mistakes(raw)} == {"training.phases.0.stored_size"}


def test_no_mistake_hides_another(raw: Content) -> None:
    """Across sections, and within one: of single keys and between keys."""
    changes = {
        "suite": "Digits",
        "seeds": [1, 1],
        "data.root": 3,
        "data.held_out_images": 2000,
        "training.epoch": 4,
        "training.selection.split": "best",
        f"{OPTIMIZER}.momentun": 0.9,
        f"{SCHEDULE}.values": [1, -1],
        f"{MIXTURE}.communication_interval": 0,
        f"{MIXTURE}.breakpoints": [0, 2, 1, 9],
        f"{MIXTURE}.mixing_ratios": {"linf": [1, 1, 1, 1], "naturl": [0, 0, 0, 1]},
        f"{MIXTURE}.source": "weight_averages",
        "methods.generalist_d_nt_linf.learners.linf.objective": {"name": "adversarial", "norm": "l0"},
        "methods.generalist_d_nt_linf.learners.natural.architecture": "small_cnn",
        "evaluation.batch_size": 0,
        "evaluation.union": ["aa_l2", "aa_l3"],
        "tables.table1.rows": ["att"],
        "tables.table1.columns.6.metric": "worst_case",
    }
    for path, value in changes.items():
        put(raw, path, value)
    found = mistakes(raw)
    places = {line.split(": ")[0] for line in found}
    expected = set(changes) - {f"{SCHEDULE}.values", "methods.generalist_d_nt_linf.learners.natural.architecture"}
    assert places == expected | {f"{SCHEDULE}.values", f"{SCHEDULE}.values.1", "methods.generalist_d_nt_linf.learners"}
    ratios = [line for line in found if line.startswith(f"{MIXTURE}.mixing_ratios: ")]
    assert len(ratios) == 2, "the names and the simplex"
    assert "beyond the last epoch" in next(line for line in found if "must increase" in line)


def parts(content: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of everything within nested mappings and lists."""
    items = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in items:
        yield (*path, key)
        yield from parts(value, (*path, key))


SMALL = content_of(*TINY)
JUNK = st.one_of(
    st.sampled_from([None, True, math.inf, math.nan, -1, 0, 0.5, 10**30, "", "x", "1/2", "..", datetime.date.today()]),
    st.sampled_from([[], {}, [1], [None], [[1]], {"name": 1}, {1: 2, "a": 3}, {"name": ["x"]}]),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(list(parts(SMALL))), JUNK), min_size=1, max_size=3))
@example([(("model", "normalization"), {"mean": [0], "std": [1]})])
def test_whatever_is_in_the_file_the_answer_is_params_or_a_list_of_mistakes(
    changes: list[tuple[tuple[Any, ...], Any]],
) -> None:
    content = deepcopy(SMALL)
    for path, junk in changes:
        here: Any = content
        try:
            for part in path[:-1]:
                here = here[part]
            here[path[-1]] = junk
        except (LookupError, TypeError):
            pass  # an earlier change has removed the place
    try:
        assert isinstance(parse_params(content), Params)
    except RequestError:
        assert mistakes(content)


BOMB = "a0: &l0 [x, x]\n" + "".join(f"a{n}: &l{n} [*l{n - 1}, *l{n - 1}]\n" for n in range(1, 40))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected a mapping of sections, got null"),
        ("- suite: digits\n", "expected a mapping of sections, got a list of 1"),
        ("suite: [digits\n", "is not YAML: line 2, column 1: expected ',' or ']', but got '<stream end>'"),
        ("suite: digits\nseeds: [1]\nsuite: cifar10\n", "is not YAML: line 3, column 1: key 'suite' is given twice"),
        ("data:\n  name: digits\n  name: mnist\n", "is not YAML: line 3, column 3: key 'name' is given twice"),
        ("suite: !!python/object:os.system {}\n", "is not YAML: line 1, column 8: could not determine a constructor"),
        ("suite: 2024-13-45\n", "is not YAML: month must be in 1..12"),
        (f"seeds: [{'9' * 5000}]\n", "is not YAML: Exceeds the limit"),
        ("[" * 5000, "is not YAML: maximum recursion depth exceeded"),
        ("suite: \x00\n", "is not YAML: unacceptable character #x0000"),
        ("suite: !!set {a}\n", "is not YAML: line 1, column 8: could not determine a constructor for the tag"),
        ("suite: !!bool x\n", "a tag such as !!int has a value that it does not fit (KeyError('x'))"),
        ("suite: &a [*a]\n", "its aliases (*name) stand for more than 1,048,576 values; write them out"),
        (BOMB, "its aliases (*name) stand for more than 1,048,576 values; write them out"),
        (f"suite: {'x' * 2**20}", "is larger than 1,048,576 characters, expected settings"),
    ],
)
def test_a_file_that_is_not_a_mapping_is_one_sentence(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(text)
    with pytest.raises(RequestError) as caught:
        load_params(path)
    assert str(caught.value).startswith(f"{path}: {message}") and "\n" not in str(caught.value)


def test_a_file_that_cannot_be_read_names_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"No such file or directory\). 'make suite SUITE=digits' writes it"):
        load_params(tmp_path / "params.yaml")
    with pytest.raises(RequestError, match=r"^nowhere.yaml: cannot be read \(No such file or directory\)"):
        load_params("nowhere.yaml")
    with pytest.raises(RequestError, match="is not a file; remove it, or put the file in its place"):
        load_params(tmp_path)
    (tmp_path / "latin1.yaml").write_bytes("label: é".encode("latin-1"))
    with pytest.raises(RequestError, match="is not YAML: 'utf-8' codec"):
        load_params(tmp_path / "latin1.yaml")


def test_anchors_and_merges_are_no_repeated_keys(tmp_path: Path, raw: Content) -> None:
    text = yaml.safe_dump({key: value for key, value in raw.items() if key != "threat_model"})
    budget = "&budget {epsilon: 8/255, step_size: 2/255, steps: 3}"
    text += f"threat_model:\n  linf: {budget}\n  l2: {{<<: *budget, epsilon: 1/2}}\n"
    (tmp_path / "params.yaml").write_text(text)
    threat_model = load_params(tmp_path / "params.yaml").threat_model
    assert (threat_model["l2"].epsilon, threat_model["l2"].steps) == (0.5, 3)


def test_methods_and_seeds_that_the_file_does_not_declare_are_refused(make_params: MakeParams) -> None:
    params = make_params()
    with pytest.raises(RequestError, match=r"unknown method 'generalist': did you mean 'generalist_t'\? Valid: nt, at"):
        params.experiment("generalist", 1)
    with pytest.raises(RequestError, match=r"seed 7 is not one of 'seeds' in params.yaml: \[1\]"):
        params.experiment("nt", 7)


# --- Values


@given(st.integers(0, 10**9), st.integers(1, 10**9))
def test_fractions_are_read_as_the_field_writes_them(numerator: int, denominator: int) -> None:
    exact = float(Fraction(numerator, denominator))
    assert parse_fraction(f"{numerator}/{denominator}") == pytest.approx(exact, rel=1e-15)
    assert parse_fraction(f" {numerator} / {denominator} ") == pytest.approx(exact, rel=1e-15)
    assert parse_fraction(str(numerator)) == numerator


def test_values_that_are_no_text_pass_and_other_texts_do_not() -> None:
    assert parse_fraction(0.031) == 0.031
    assert parse_fraction(None) is None
    for wrong in ("8/255/2", "eight", "1/0", "", "/", "8/"):
        with pytest.raises(ValueError, match="expected a number or a fraction such as '8/255'"):
            parse_fraction(wrong)


@st.composite
def piecewise(draw: st.DrawFn) -> tuple[list[float], list[float]]:
    epochs = sorted(draw(st.sets(st.integers(0, 200), min_size=1, max_size=6)))
    values = draw(st.lists(st.floats(0, 10), min_size=len(epochs), max_size=len(epochs)))
    return [float(epoch) for epoch in epochs], values


@given(piecewise(), st.floats(-10, 210))
def test_interpolation_passes_its_breakpoints_and_stays_between_them(
    points: tuple[list[float], list[float]], epoch: float
) -> None:
    epochs, values = points
    assert [interpolate(epochs, values, at) for at in epochs] == values
    assert interpolate(epochs, values, epochs[0] - 1) == values[0]
    assert interpolate(epochs, values, epochs[-1] + 1) == values[-1]
    assert min(values) - 1e-9 <= interpolate(epochs, values, epoch) <= max(values) + 1e-9
    for left, right in pairwise(epochs):
        middle = interpolate(epochs, values, (left + right) / 2)
        ends = interpolate(epochs, values, left) + interpolate(epochs, values, right)
        assert middle == pytest.approx(ends / 2, abs=1e-9)


@pytest.mark.parametrize(
    ("interpolation", "expected"),
    [("linear", [1, 1, 0.75, 0.5, 0.5]), ("cosine", [1, 1, 0.853553, 0.5, 0.5]), ("step", [1, 1, 1, 1, 0])],
)
def test_a_schedule_goes_on_in_a_line_a_wave_or_a_step(interpolation: Any, expected: list[float]) -> None:
    steps = interpolation == "step"
    epochs, values = ([0.0, 9.0], [1.0, 0.0]) if steps else ([0.0, 1.0, 9.0], [1.0, 1.0, 0.0])
    at = [0, 1, 3, 8.9, 9] if steps else [0, 1, 3, 5, 5]
    assert [interpolate(epochs, values, epoch, interpolation) for epoch in at] == pytest.approx(expected, abs=1e-6)


@given(st.data(), st.integers(1, 5), st.integers(1, 4), st.floats(0, 130))
def test_mixing_ratios_stay_on_the_simplex_at_every_epoch(
    data: st.DataObject, learners: int, breakpoints: int, epoch: float
) -> None:
    shares = data.draw(st.lists(st.lists(st.integers(0, 9), min_size=learners, max_size=learners), min_size=breakpoints,
                                max_size=breakpoints).filter(lambda rows: all(map(sum, rows))))  # fmt: skip
    ratios = {f"l{i}": [row[i] / sum(row) for row in shares] for i in range(learners)}
    mixture = MovingAverageSettings(
        rule="moving_average",
        breakpoints=[40.0 * number for number in range(breakpoints)],
        mixing_ratios=ratios,
        decay=0.9,
        warmup_epochs=1,
        communication_interval=1,
    )
    found = mixture.ratios_at(epoch)
    assert list(found) == list(ratios) and min(found.values()) >= 0
    assert sum(found.values()) == pytest.approx(1)


# --- Fingerprints


@pytest.fixture(scope="module")
def rich() -> Experiment:
    """An experiment that has every kind of numeric setting."""
    content = content_of(*TINY, "protocol=reference_code")
    content["model"]["normalization"] = {"mean": [0.5], "std": [0.25]}
    return parse_params(content).experiment("generalist_d_nt_linf", 1)


def test_an_experiment_survives_json_with_the_same_fingerprints(rich: Experiment) -> None:
    again = Experiment.model_validate(rich.model_dump(mode="json"))
    assert again == rich
    assert again.fingerprint == rich.fingerprint
    assert again.evaluation_fingerprint == rich.evaluation_fingerprint


def with_value(experiment: Experiment, path: tuple[Any, ...], value: Any) -> Experiment:
    content = experiment.model_dump(mode="json")
    here: Any = content
    for part in path[:-1]:
        here = here[part]
    here[path[-1]] = value
    return Experiment.model_validate(content)


def other_number(path: tuple[Any, ...], value: Any) -> Any:
    """Another value that is valid as well."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    return value + 0.25 if {"epochs", "breakpoints"} & set(path) else value * 0.9 + 0.001


def test_every_number_that_training_uses_changes_the_fingerprint(rich: Experiment) -> None:
    content = rich.model_dump(mode="json")
    fingerprints = {rich.fingerprint: "the experiment itself"}
    for path in parts(content):
        value: Any = content
        for part in path:
            value = value[part]
        elsewhere = path[0] in ("evaluation", "ood") or path[-1] in {"root", "grid", *HOW_TO_TRAIN}
        ignored = elsewhere or "mixing_ratios" in path
        if isinstance(value, int | float) and not ignored:
            changed = with_value(rich, path, other_number(path, value)).fingerprint
            assert changed not in fingerprints, f"{path} and {fingerprints[changed]}"
            fingerprints[changed] = str(path)
    assert len(fingerprints) > 50


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("method.mixture.mixing_ratios", {"linf": [1, 1, 1, 0.5], "natural": [0, 0, 0, 0.5]}),
        ("method.mixture.redistribution", "epoch_end"),
        ("method.mixture.source", "learners"),
        ("method.mixture.batch_norm", "recompute"),
        ("method.learners.linf.optimizer", {"name": "adam", "learning_rate": 0.05}),
        ("method.learners.linf.objective", {"name": "natural"}),
        ("training.precision", "bfloat16"),
        ("training.selection.split", "last"),
        ("data.test_images", None),
        ("data.replaced_example", 0),
        ("model.normalization", None),
        ("threat_model", {}),
    ],
)
def test_every_choice_that_training_depends_on_changes_the_fingerprint(rich: Experiment, path: str, value: Any) -> None:
    assert with_value(rich, tuple(path.split(".")), value).fingerprint != rich.fingerprint


def test_the_order_of_keys_does_not_matter(raw: Content) -> None:
    def backwards(content: Any) -> Any:
        if isinstance(content, dict):
            return {key: backwards(content[key]) for key in reversed(content)}
        return content

    first, second = parse_params(raw), parse_params(backwards(raw))
    for experiment in first.experiments():
        assert second.experiment(experiment.name, 1).fingerprint == experiment.fingerprint


NAMES: list[Callable[[Content], Any]] = [
    lambda raw: raw.update(suite="other", description="other", protocol="reference_code", tables={}, seeds=[3, 1]),
    lambda raw: raw.update(reports_folder="reports/elsewhere"),
    lambda raw: raw["methods"]["at"].update(label="Other"),
    lambda raw: raw["training"].update(device="cpu", threads=7),
    lambda raw: raw["data"].update(root="/elsewhere"),
]
EVALUATION: list[Callable[[Content], Any]] = [
    lambda raw: raw["data"].update(test_images=None),
    lambda raw: raw["evaluation"].update(batch_size=5),
    lambda raw: raw["evaluation"].update(seed=5),
    lambda raw: raw["evaluation"]["attacks"]["aa_l2"].update(images=7),
    lambda raw: raw["evaluation"].update(union=["pgd20_linf", "pgd20_l2"]),
]


@pytest.mark.parametrize("change", NAMES)
def test_names_places_and_devices_change_no_fingerprint(
    make_params: MakeParams, change: Callable[[Content], Any]
) -> None:
    before, after = make_params().experiment("at", 1), make_params(change).experiment("at", 1)
    assert after.fingerprint == before.fingerprint
    assert after.evaluation_fingerprint == before.evaluation_fingerprint


@pytest.mark.parametrize("change", EVALUATION)
def test_evaluation_settings_change_the_evaluation_fingerprint_alone(
    make_params: MakeParams, change: Callable[[Content], Any]
) -> None:
    before, after = make_params().experiment("at", 1), make_params(change).experiment("at", 1)
    assert after.fingerprint == before.fingerprint
    assert after.evaluation_fingerprint != before.evaluation_fingerprint


def test_the_name_of_a_method_is_no_part_of_it(raw: Content) -> None:
    before = parse_params(raw).experiment("at", 1)
    raw["methods"] = {"renamed": raw["methods"]["at"]}
    raw["tables"], raw["figures"] = {}, {}
    assert parse_params(raw).experiment("renamed", 1).fingerprint == before.fingerprint


def test_other_weights_need_another_evaluation(make_params: MakeParams) -> None:
    params = make_params(lambda raw: raw.update(seeds=[1, 2]))
    found = {experiment.evaluation_fingerprint for experiment in params.experiments()}
    assert len(found) == 2 * len(params.methods)
