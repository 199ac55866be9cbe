"""Settings and data that are small enough for tests and real all the same."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import settings
from torch import nn
from xdist.scheduler import LoadScopeScheduling

from pipeline.config import Params, parse_params
from pipeline.config.composing import Composition, compose_suite
from pipeline.core.devices import Backend
from pipeline.data.images import ImageSplit, load_split
from pipeline.data.prepare import prepare
from pipeline.models import build_model
from tests.running import RunExperiment, Trained, run_experiment

REPOSITORY = Path(__file__).resolve().parent.parent
PATIENCE = 480.0
"""Seconds after which what has not come about on a busy machine never will."""
TINY = [
    "competitors=none",
    "training.epochs=4",
    "training.batch_size=16",
    "training.threads=1",
    "training.validation_interval=1",
    "data.train_images=48",
    "data.held_out_images=32",
    "data.test_images=24",
    "threat_model.linf.steps=2",
    "threat_model.l2.steps=2",
    "methods.generalist_d_nt_linf.mixture.breakpoints=[0,1,2,4]",
    "methods.generalist_d_nt_linf.mixture.decay=0.95",
    "methods.generalist_d_nt_linf.mixture.warmup_epochs=2",
    "methods.generalist_d_nt_linf.mixture.communication_interval=2",
    "ablation.studies.communication_interval.values=[1,2,3]",
    "ablation.studies.communication_interval_to_15.values=[1,2,3]",
    "evaluation.batch_size=16",
]
"""Hydra overrides that shrink the suite `digits`: four epochs of three steps."""

MakeParams = Callable[..., Params]


@cache
def composition(*overrides: str) -> Composition:
    """What Hydra makes of overrides; that takes most of a second, and several tests ask for the same."""
    return compose_suite(overrides, REPOSITORY / "conf")


def composed(*overrides: str) -> Params:
    """The settings of a suite."""
    return composition(*overrides).params


def content_of(*overrides: str) -> dict[str, Any]:
    """The plain content of a suite's params.yaml; whoever asks may change it."""
    return deepcopy(_content(*overrides))


@cache
def _content(*overrides: str) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(composition(*overrides).content)
    return content


def keep(content: dict[str, Any], methods: Sequence[str], attacks: Sequence[str] = ()) -> None:
    """Leave these methods of a params.yaml, and of the attacks these, which are its union; no tables, figures, grid."""
    content["methods"] = {name: content["methods"][name] for name in methods}
    content |= {"tables": {}, "figures": {}, "ablation": {"studies": {}}, "search": None}
    if attacks:
        known = content["evaluation"]["attacks"]
        content["evaluation"] |= {"attacks": {name: known[name] for name in attacks}, "union": list(attacks)}


def small_table(rows: Sequence[str], *metrics: str) -> dict[str, Any]:
    """A table of these methods, whose columns are called what they show."""
    columns = [{"metric": name, "label": name} for name in metrics]
    return {"caption": "Small", "rows": list(rows), "columns": columns}


ONE_AFTER_ANOTHER = (
    "tests/stages/test_ablation.py",
    "tests/stages/test_local_grid.py",
    "tests/environment/test_waits.py",
    "tests/faults/test_tracking_outages.py",
    "tests/stages/test_imagenet.py",
    "tests/stages/test_plan.py",
    "tests/stages/test_torchrun.py",
    "tests/training/test_distributed.py",
    "tests/training/test_mesh.py",
)
"""Files whose tests start servers or several processes that work at once: two of them together want more cores than
there are, wait for each other's locksteps, and meet time limits."""
TOGETHER = (("tests/reporting/page/",), ("tests/config/", "tests/test_config"))
"""How the names of files begin that share what takes long: a suite that is trained, suites that are composed."""
LONG = (
    "tests/test_newcomer.py",
    "tests/test_tutorial.py",
    "tests/test_chain.py",
    "tests/stages/test_code_changes.py",
    "tests/reporting/reproduction/test_reproduction.py",
    "tests/reporting/page/test_report.py",
    "tests/test_config.py",
    "tests/reporting/test_figures.py",
    "tests/faults/test_faults.py",
    "tests/benchmarks/test_benchmarks.py",
    "tests/stages/test_faults.py",
    "tests/training/test_golden.py",
)
"""Files that take a minute or more: begun last, they would keep one process at work when the others are done."""

SLOW = (
    "tests/benchmarks/test_benchmarks.py",
    "tests/data/imagefolder/test_loader.py::test_a_trainer_that_ends_in_an_epoch_leaves_nobody[sys",
    "tests/environment/test_conditions.py",
    "tests/environment/test_variables.py::test_a_wrong_value",
    "tests/environment/test_waits.py::test_a_wait_speaks",
    "tests/evaluation/test_autoattack.py::test_a_smaller_effort_asks_less[fab_t",
    "tests/evaluation/test_autoattack.py::test_colour_images",
    "tests/evaluation/test_autoattack.py::test_members_take_as_many_steps_as_the_package_gives_them[square",
    "tests/faults/",
    "tests/experiments/test_branches.py::test_who_is_killed",
    "tests/experiments/test_warm_up.py::test_a_killed",
    "tests/models/test_folding.py::test_crafted_examples_agree_to_rounding[wrn32_10",
    "tests/provenance/test_keeping.py",
    "tests/reporting/page/test_browser.py",
    "tests/reporting/page/test_report.py::test_mlflow_alone_gives_the_same_bytes_again",
    "tests/reporting/reproduction/test_reproduction.py::test_the_committed_page_and_files_are_up_to_date",
    "tests/reporting/test_figures.py::test_files_are_equal_however_often_they_are_written",
    "tests/reporting/test_figures.py::test_no_text_of_any_kind_of_figure_touches_another_or_a_marker[False",
    "tests/reporting/test_latex.py::test_every_table_of_a_suite_compiles",
    "tests/stages/test_ablation.py",
    "tests/stages/test_code_changes.py",
    "tests/stages/test_dvc_over_time.py",
    "tests/stages/test_faults.py",
    "tests/stages/test_imagenet.py",
    "tests/stages/test_local_grid.py::test_a_grid_ends_well",
    "tests/stages/test_own_network.py",
    "tests/stages/test_plan.py",
    "tests/stages/test_prepare_imagefolder.py::test_full_and_read_only_disks",
    "tests/stages/test_prepare_imagefolder.py::test_kills_and_stops",
    "tests/stages/test_printed.py",
    "tests/stages/test_secrets.py",
    "tests/stages/test_stop_after.py",
    "tests/stages/test_torchrun.py",
    "tests/stages/test_without_git.py",
    "tests/bad_input/",
    "tests/test_newcomer.py",
    "tests/test_other_device.py",
    "tests/test_security.py",
    "tests/test_soak.py",
    "tests/test_tutorial.py",
    "tests/tracking/test_store.py::test_a_full_disk_while",
    "tests/tracking/test_store.py::test_a_store_whose_making_is_killed_is_made_by_the_next_process[CREATE",
    "tests/training/test_distributed.py",
    "tests/training/test_golden.py",
    "tests/training/test_loop.py::test_a_compiled_network_trains_alike",
    "tests/training/test_mesh.py",
    "tests/training/test_branches.py::test_a_branch_has_the_bits_that_it_has_alone[a",
    "tests/training/test_warm_up.py::test_a_",
)
"""How the names of tests begin that `make test` leaves to `make test-all`: stories that others tell in less time (one
of DVC, one of Prefect, one of MLflow stay), campaigns, and golden numbers."""

# An example that a busy machine slows down is no failure.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")


class Scheduling(LoadScopeScheduling):  # type: ignore[misc]
    """Keeps in one process the tests of a file, those of `ONE_AFTER_ANOTHER`, and those of each part of `TOGETHER`."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        if file in ONE_AFTER_ANOTHER:
            return "one after another"
        return next((part[0] for part in TOGETHER if file.startswith(part)), file)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Do not import, in each process of `make test`, files of which it runs nothing."""
    if config.option.markexpr != "not slow" or not collection_path.is_relative_to(REPOSITORY):
        return None
    name = collection_path.relative_to(REPOSITORY).as_posix() + "/" * collection_path.is_dir()
    return name in SLOW or None


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--begin-until", type=float, help="skip tests that would begin later, in seconds since 1970")


@pytest.hookimpl(tryfirst=True)  # before what it needs is made
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Leave out what there is no time for."""
    until = item.config.getoption("--begin-until")
    if until is not None and time.time() > until:
        pytest.skip("NOT TESTED: no time was left")


@pytest.hookimpl(tryfirst=True)  # before `-m` chooses
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark what is slow, and put long files first (with `--no-loadscope-reorder`, which keeps this order); last where
    time may be too short for all, so that few tests are left out."""
    for item in items:
        if item.nodeid.startswith(SLOW):
            item.add_marker("slow")
    first = {file: place for place, file in enumerate(ONE_AFTER_ANOTHER + LONG)}
    others = len(first) if config.getoption("--begin-until") is None else -1
    items.sort(key=lambda item: first.get(item.nodeid.partition("::")[0], others))


@pytest.hookimpl(optionalhook=True)  # unknown to pytest without xdist
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Scheduling:
    """How `pytest -n 2` shares out tests; `--dist loadgroup` loses its groups with this version of pytest."""
    return Scheduling(config, log)


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Tiny networks are fastest on one thread, and several test processes share the machine."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_content() -> dict[str, Any]:
    """The content of a small `params.yaml`."""
    return content_of(*TINY)


@pytest.fixture
def raw(tiny_content: dict[str, Any]) -> dict[str, Any]:
    """A copy of the small `params.yaml` that a test may change."""
    return deepcopy(tiny_content)


@pytest.fixture
def make_params(raw: dict[str, Any]) -> MakeParams:
    """Params from the small file with changes: `make_params(lambda raw: raw["data"].update(...))`."""

    def make(*changes: Callable[[dict[str, Any]], Any]) -> Params:
        content = deepcopy(raw)
        for change in changes:
            change(content)
        return parse_params(content)

    return make


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with MLflow's schema and nothing in it: making one takes seconds."""
    from mlflow import MlflowClient

    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def store(empty_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty store of its own in the current folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    return tmp_path


@pytest.fixture(scope="session")
def prepared_digits(tmp_path_factory: pytest.TempPathFactory, tiny_content: dict[str, Any]) -> Path:
    """The prepared digits."""
    folder = tmp_path_factory.mktemp("prepared") / "digits"
    prepare(parse_params(tiny_content).data, folder)
    return folder


@pytest.fixture(scope="session")
def tiny_split(prepared_digits: Path, tiny_content: dict[str, Any]) -> ImageSplit:
    """48 training, 32 held-out and 24 test images of digits."""
    return load_split(prepared_digits, parse_params(tiny_content).data)


@pytest.fixture(scope="session")
def digits_model(tiny_split: ImageSplit) -> nn.Module:
    """A network that knows the digits a little, in eval mode; tests leave it as it is."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = build_model("small_cnn", "digits")
    images, labels = tiny_split.train.batch(torch.arange(len(tiny_split.train)))
    optimizer = torch.optim.Adam(made.parameters(), lr=0.01)
    for _ in range(60):
        loss = nn.functional.cross_entropy(made(images), labels)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
    return made.eval()


@pytest.fixture
def cpu() -> Backend:
    """Float32 on the CPU."""
    return Backend(torch.device("cpu"), bfloat16=False)


@pytest.fixture
def run_method(tiny_split: ImageSplit, cpu: Backend, tmp_path: Path) -> RunExperiment:
    """`run_method(params, "at")` trains the experiment of a method with seed 1."""

    def run(params: Params, method: str, split: ImageSplit = tiny_split) -> Trained:
        return run_experiment(params.experiment(method, 1), split, cpu, tmp_path)

    return run
