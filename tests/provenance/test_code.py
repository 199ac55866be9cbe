"""The closure of the real experiments: complete, no wider than it must be, and cheap."""

from __future__ import annotations

import ast
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import pytest

from pipeline.config import Experiment, Params, parse_params
from pipeline.experiments.evaluate import evaluate_experiment
from pipeline.experiments.train import train_experiment
from pipeline.objectives import OBJECTIVES
from pipeline.provenance.closure import Sources
from pipeline.provenance.code import WATCHERS, Code, Stage, changes, code_of, named
from tests.conftest import REPOSITORY, TINY, composed, content_of
from tests.running import few_steps

PACKAGE = REPOSITORY / "pipeline"


@pytest.fixture(scope="module")
def params() -> Params:
    """All methods, small; an evaluation with every kind of attack."""
    content = content_of(*TINY[1:])
    content["training"] |= {"epochs": 2, "theory": {"interval": 1, "images": 8}}
    for entry in content["methods"].values():
        for learner in entry["learners"].values():
            learner["schedule"] = {"epochs": [0, 2], "values": [1, 0.1]}
        mixture = entry["mixture"] or {}
        if mixture.get("rule") == "mode_connectivity":
            mixture.update(path_starts_after=1, points=3)
        elif mixture.get("rule") == "moving_average":
            ratios = {name: [values[0], values[-1]] for name, values in mixture["mixing_ratios"].items()}
            mixture.update(breakpoints=[0, 2], mixing_ratios=ratios, warmup_epochs=1, communication_interval=1)
    small = {"norm": "linf", "epsilon": 0.1, "images": 4}
    content["evaluation"]["attacks"] = {
        "pgd": small | {"name": "pgd", "step_size": 0.05, "steps": 2},
        "mim": small | {"name": "mim", "step_size": 0.05, "steps": 2},
        "cw": small | {"name": "cw", "step_size": 0.05, "steps": 2},
        "noise": small | {"name": "noise", "draws": 2},
        "aa": small | {"name": "autoattack", "members": ["apgd_ce", "apgd_t", "fab_t"]},
    }
    content["evaluation"]["union"] = ["pgd", "aa"]
    content["tables"], content["figures"], content["search"] = {}, {}, None
    content["ablation"] = {"studies": {}}
    return parse_params(content)


CHECKS = {
    "pipeline.core.values:is_none",
    "pipeline.core.values:StrictModel._report_all",
    "pipeline.core.values:StrictModel.inconsistencies",
    "pipeline.core.values:parse_fraction",
}
"""What reads and checks settings once more: the values that come of it are in the fingerprint."""
SETTINGS = ("pipeline.config.", "pipeline.evaluation.attacks.")
"""Where the lambdas of fields say what a dump of settings leaves out."""


class Trace:
    """The functions of the package that ran while it was on, as 'module:object' or 'module:Class.member'."""

    def __init__(self) -> None:
        self.ran: set[str] = set()
        self._seen: set[CodeType] = set()

    def __call__(self, frame: FrameType, event: str, argument: Any) -> None:
        code = frame.f_code
        if event != "call" or code in self._seen:
            return
        self._seen.add(code)
        path = Path(code.co_filename)
        if PACKAGE not in path.parents or code.co_name == "<module>" or not code.co_flags & 0x2:  # class bodies
            return
        module = ".".join(path.relative_to(REPOSITORY).with_suffix("").parts).removesuffix(".__init__")
        self.ran.add(f"{module}:{code.co_qualname.partition('.<locals>')[0]}")


@contextmanager
def traced() -> Iterator[Trace]:
    trace = Trace()
    sys.setprofile(trace)
    try:
        yield trace
    finally:
        sys.setprofile(None)


def missed(trace: Trace, code: Code) -> set[str]:
    """What ran, can change numbers, and is not in the code."""
    watching = tuple(f"{one}{end}" for one in WATCHERS for end in (".", ":"))
    return {name for name in trace.ran if not name.startswith(watching) and not _is_known(name, code)}


def _is_known(name: str, code: Code) -> bool:
    """A lambda of a table has the table's name; a field's checks ran when the settings were read."""
    module, _, item = name.partition(":")
    if "<lambda>" in item:
        return module in code.modules or module.startswith(SETTINGS)
    return name in code.objects or name in CHECKS


QUICK = ("at", "generalist_t")
"""One learner, and three of them with a mixture: what `make test` traces."""


@pytest.mark.parametrize(
    "method",
    [pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow) for name in composed(*TINY[1:]).methods],
)
def test_nothing_runs_in_training_that_its_code_does_not_hold(
    params: Params,
    prepared_digits: Path,
    empty_store: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    method: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(prepared_digits, tmp_path / "data/prepared/digits")
    shutil.copy(empty_store, tmp_path / "mlflow.db")  # making one under the profiler takes most of a training
    experiment = params.experiment(method, 1)
    with traced() as trace:
        train_experiment(experiment, lambda: None)
    assert len(trace.ran) > 100
    assert missed(trace, code_of("train", experiment)) == set()
    if method != "generalist_t":
        return
    with few_steps(), traced() as trace:
        evaluate_experiment(experiment)
    assert len(trace.ran) > 60
    assert missed(trace, code_of("evaluate", experiment)) == set()


@pytest.mark.parametrize("name", OBJECTIVES.names())
def test_a_changed_objective_is_the_code_of_those_who_name_it_alone(params: Params, tmp_path: Path, name: str) -> None:
    """A statement more in its loss changes the digest of every method that trains with it, and of no other but those
    whose own loss calls it."""
    copy = tmp_path / "pipeline"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    path = copy / "objectives" / f"{name}.py"
    text = path.read_text()
    assert "    ) -> Losses:\n" in text or "-> Losses:\n" in text
    head, call, body = text.rpartition("-> Losses:\n")
    path.write_text(f"{head}{call}        _changed = 1\n{body}")
    modules = Sources({"pipeline": copy}, PACKAGE / "__pycache__/digests")
    for experiment in params.experiments():
        before, after = code_of("train", experiment), code_of("train", experiment, modules)
        named_by = {str(learner.objective.name) for learner in experiment.method.learners.values()}
        reached = any(one.startswith(f"pipeline.objectives.{name}:") and "__call__" in one for one in before.objects)
        assert (before.digest != after.digest) == reached
        assert reached or name not in named_by
        if reached:
            assert f"pipeline/objectives/{name}.py" in named(changes(before, after))
        assert code_of("evaluate", experiment).digest == code_of("evaluate", experiment, modules).digest


MODULES = sorted(str(path.relative_to(PACKAGE)) for path in PACKAGE.rglob("*.py"))


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the package; whoever edits it mends it."""
    folder = tmp_path_factory.mktemp("copied") / "pipeline"
    shutil.copytree(PACKAGE, folder, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def mutations(source: str, objects: set[str]) -> Iterator[tuple[str, str]]:
    """A function that is reached and one that is not, as far as the module has them, each with a statement more."""
    lines, tree = source.splitlines(keepends=True), ast.parse(source)
    functions: dict[str, ast.FunctionDef] = {}
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            functions[node.name] = node
        elif isinstance(node, ast.ClassDef):
            functions |= {f"{node.name}.{one.name}": one for one in node.body if isinstance(one, ast.FunctionDef)}
    reached = next((name for name in functions if name in objects), None)
    other = next((name for name in functions if name not in objects), None)
    for name in filter(None, (reached, other)):
        last = functions[name].body[-1]
        before, after = lines[: last.lineno - 1], lines[last.lineno - 1 :]
        yield name, "".join([*before, " " * last.col_offset + "_changed = 1\n", *after])
    if not functions:
        yield "", source + "\n_changed = 1\n"


@pytest.mark.slow
@pytest.mark.parametrize("module", MODULES)
def test_a_changed_line_changes_the_digests_of_those_who_reach_it(params: Params, package: Path, module: str) -> None:
    source = (package / module).read_text()
    name = ".".join(Path("pipeline", module).with_suffix("").parts).removesuffix(".__init__")
    experiments = [params.experiment(method, 1) for method in ("nt", "generalist_d_nt_linf")]
    stages: tuple[Stage, ...] = ("train", "evaluate")
    before = [code_of(stage, one) for stage in stages for one in experiments]
    objects = {item.partition(":")[2] for code in before for item in code.objects if item.startswith(f"{name}:")}
    try:
        for changed, text in mutations(source, objects):
            (package / module).write_text(text)
            modules = Sources({"pipeline": package}, PACKAGE / "__pycache__/digests")
            now = [code_of(stage, one, modules) for stage in stages for one in experiments]
            differ = [one.digest != other.digest for one, other in zip(now, before, strict=True)]
            assert any(differ) == (changed in objects), changed
    finally:
        (package / module).write_text(source)


def test_moving_code_changes_nothing(params: Params, tmp_path: Path) -> None:
    copy = tmp_path / "pipeline"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    (copy / "core/streams.py").rename(copy / "addressed.py")
    for path in copy.rglob("*.py"):
        path.write_text(path.read_text().replace("pipeline.core.streams", "pipeline.addressed"))
    experiment, moved = params.experiment("generalist_t", 1), Sources({"pipeline": copy})
    for stage in ("train", "evaluate"):
        assert code_of(stage, experiment).digest == code_of(stage, experiment, moved).digest
        assert changes(code_of(stage, experiment), code_of(stage, experiment, moved)) == []


def test_versions_of_libraries_count(params: Params) -> None:
    code = code_of("evaluate", params.experiment("at", 1))
    assert {"torch", "numpy", "pyautoattack"} <= set(code.libraries)
    other = Code(code.objects, {**code.libraries, "torch": "1.0"})
    assert other.digest != code.digest
    assert changes(other, code) == [f"torch 1.0 -> {code.libraries['torch']}"]
    assert Code.from_json(code.as_json()) == code


def test_a_digest_is_cheap(params: Params, tmp_path: Path) -> None:
    """With the summaries that an earlier process has kept."""
    experiment = params.experiment("generalist_t", 1)

    def seconds(kept: Path | None) -> float:
        modules = Sources({"pipeline": PACKAGE}, kept)
        started = time.thread_time()
        code_of("train", experiment, modules)
        return time.thread_time() - started

    kept = tmp_path / "digests"
    whole = min(seconds(None) for _ in range(3))
    seconds(kept)
    assert min(seconds(kept) for _ in range(5)) < whole / 3


OWN = """
from typing import Literal
from mine.scale import SCALE
from pipeline.objectives.natural import Natural


class Mine(Natural):
    name: Literal["mine.loss"]

    def __call__(self, model, images, labels, moment):
        return super().__call__(SCALE * model, images, labels, moment)


OBJECTIVE = Mine
"""


def test_an_objective_of_another_package_counts_with_it(
    params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "mine"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "scale.py").write_text("SCALE = 2\n")
    (package / "loss.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    content = params.model_dump(mode="json")
    content["methods"]["nt"]["learners"]["natural"]["objective"] = {"name": "mine.loss"}
    content["tables"] = {}
    experiment: Experiment = parse_params(content).experiment("nt", 1)

    def objects() -> dict[str, str]:
        return dict(code_of("train", experiment, Sources({"pipeline": PACKAGE})).objects)

    before = objects()
    assert "mine.scale:SCALE" in before and "mine.loss:Mine.__call__" in before
    (package / "scale.py").write_text("SCALE = 3\n")
    assert objects()["mine.scale:SCALE"] != before["mine.scale:SCALE"]


def test_a_folder_that_happens_to_have_a_name_in_the_code_is_no_library(
    params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """'base' stands where objectives are imported by name; a folder of that name may be where a command is called."""
    experiment = params.experiment("at", 1)
    before = code_of("train", experiment)
    (tmp_path / "base").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    assert find_spec("base") is not None
    assert code_of("train", experiment, Sources({"pipeline": PACKAGE})).digest == before.digest


NETWORK = """
from torch import nn

from layers_of_mine import widths


class Net(nn.Sequential):
    def __init__(self, classes):
        super().__init__(nn.Flatten(), nn.Linear(64, widths()), nn.Linear(widths(), classes))


def other():
    return 1
"""


def test_a_network_of_ones_own_counts_with_what_it_imports(
    params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "net_of_mine.py").write_text(NETWORK)
    (tmp_path / "layers_of_mine.py").write_text("def widths():\n    return 8\n")
    monkeypatch.syspath_prepend(tmp_path)

    def code(architecture: str, stage: Stage = "train") -> Code:
        content = params.model_dump(mode="json")
        content["model"]["architecture"] = architecture
        return code_of(stage, parse_params(content).experiment("nt", 1), Sources({"pipeline": PACKAGE}))

    before = code("net_of_mine:Net")
    assert "net_of_mine:Net" in before.objects and "layers_of_mine:widths" in before.objects
    assert "net_of_mine:other" not in before.objects and "layers_of_mine" not in before.libraries
    (tmp_path / "layers_of_mine.py").write_text("def widths():\n    return 9\n")
    stages: tuple[Stage, ...] = ("train", "evaluate")
    for stage in stages:
        now = code("net_of_mine:Net", stage).objects["layers_of_mine:widths"]
        assert now != before.objects["layers_of_mine:widths"]
    theirs = code("torchvision.models:resnet18")
    assert "torchvision" in theirs.libraries and not any(name.startswith("torchvision") for name in theirs.objects)
