"""Every kind of extension is one file: the examples of CONTRIBUTING.md and docs/, each run through its stage."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from pipeline.config import Params
from pipeline.config.evaluation import ATTACKS
from pipeline.config.figures import FIGURES
from pipeline.config.metrics import METRICS
from pipeline.config.mixture import MIXTURES
from pipeline.core.errors import RequestError
from pipeline.experiments.card import _attack
from pipeline.experiments.evaluate import evaluate_experiment
from pipeline.experiments.train import train_experiment
from pipeline.provenance.closure import Sources
from pipeline.provenance.code import code_of
from pipeline.reporting.drawing import read_coverage, write_figures
from pipeline.reporting.explain import explain
from pipeline.reporting.page.text import describe
from pipeline.reporting.results import collect
from pipeline.reporting.tables import lay_out, of_suite
from tests.conftest import REPOSITORY, MakeParams
from tests.reporting.planting import plant
from tests.running import RunExperiment

WriteExample = Callable[[str, str], Path]
LINF = {"norm": "linf", "epsilon": "8/255"}


def example(heading: str) -> str:
    """The Python of a section of CONTRIBUTING.md, or of the page on networks."""
    text = "".join(
        (REPOSITORY / page).read_text(encoding="utf-8") for page in ("CONTRIBUTING.md", "docs/own_network.md")
    )
    section = text.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    found = re.search(r"```python\n(.*?)```", section, re.DOTALL)
    assert found is not None, f"there is no example of '{heading}'"
    return found[1]


@pytest.fixture
def write_example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[WriteExample]:
    """Writes the example of a section to a module of one's own: `write_example("Add an attack", "my_attacks.fade")`."""
    written: list[str] = []

    def write(heading: str, module: str) -> Path:
        path = tmp_path.joinpath("own", *module.split(".")).with_suffix(".py")
        path.parent.mkdir(parents=True)
        path.write_text(example(heading))
        monkeypatch.syspath_prepend(str(tmp_path / "own"))
        written.append(module.partition(".")[0])
        return path

    yield write
    for name in [name for name in sys.modules if name.partition(".")[0] in written]:
        del sys.modules[name]


@pytest.fixture
def workplace(prepared_digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder with prepared digits, where stages run."""
    shutil.copytree(prepared_digits, tmp_path / "work/data/prepared/digits")
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work"


def own_sources() -> Sources:
    """Sources that know no extension yet."""
    return Sources({"pipeline": REPOSITORY / "pipeline"}, REPOSITORY / "pipeline/__pycache__/digests")


def test_an_attack_is_one_file(
    make_params: MakeParams, write_example: WriteExample, workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_example("Add an attack", "my_attacks.fade")
    fade = {"name": "my_attacks.fade", "share": 0.5, **LINF}
    pgd = {"name": "pgd", "step_size": "2/255", "steps": 2, **LINF}

    def with_fade(**changes: object) -> Params:
        evaluation = {"batch_size": 16, "attacks": {"fade": fade | changes, "pgd": pgd}, "union": ["fade", "pgd"]}
        return make_params(lambda raw: raw.update(evaluation=evaluation, tables={}, figures={}))

    params = with_fade()
    experiment = params.experiment("nt", 1)
    train_experiment(experiment, lambda: None)
    evaluate_experiment(experiment)
    (metrics,) = workplace.glob("results/**/metrics.json")
    assert {"natural", "fade", "pgd", "union"} <= json.loads(metrics.read_text())["metrics"].keys()
    assert experiment.evaluation_fingerprint != with_fade(share=1.0).experiment("nt", 1).evaluation_fingerprint
    assert "my_attacks.fade, 50% of the radius" in str(describe(params.evaluation.attacks["fade"]))
    assert _attack(experiment, "fade").endswith("epsilon 8/255, 50% of the radius")

    assert "my_attacks.fade:Fade.perturb" in code_of("evaluate", experiment, own_sources()).objects
    assert not any(name.startswith("my_attacks") for name in code_of("train", experiment).objects)
    with pytest.raises(RequestError, match=r"evaluation\.attacks\.fade\.shar: unknown key; did you mean 'share'\?"):
        with_fade(shar=1)
    with pytest.raises(RequestError, match=r"evaluation\.attacks\.fade\.share: .*less than or equal to 1"):
        with_fade(share=2)
    with pytest.raises(RequestError, match=r"evaluation\.attacks\.fade\.name: unknown attack 'my_attacks\.fad'"):
        with_fade(name="my_attacks.fad")
    path.with_name("broken.py").write_text("import nowhere_to_be_found\n")
    with pytest.raises(RequestError, match=r"module 'my_attacks\.broken' cannot be imported: ModuleNotFoundError"):
        with_fade(name="my_attacks.broken")
    path.with_name("half.py").write_text(example("Add an attack").replace("def passes", "def cost"))
    with pytest.raises(RequestError, match=r"'ATTACK' of module 'my_attacks\.half' lacks passes"):
        with_fade(name="my_attacks.half")


def test_a_figure_is_one_file(
    make_params: MakeParams, write_example: WriteExample, workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_example("Add a figure", "my_figures.bars")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{workplace}/runs.db")

    def with_bars(**changes: object) -> Params:
        bars = {"kind": "my_figures.bars", "caption": "Bars", "metric": "natural", "methods": ["nt", "at"]}
        return make_params(lambda raw: raw.update(figures={"bars": bars | changes}))

    params = with_bars()
    plant(workplace / "nt", params.experiment("nt", 1), {"natural": 0.9})
    assert [path.name for path in write_figures(params, ["bars"], workplace)] == ["bars.pdf", "bars.png", "bars.svg"]
    assert read_coverage(workplace) == {"bars": [1, 2]}
    with pytest.raises(RequestError, match=r"figures\.bars: unknown method 'att': did you mean 'at'\?"):
        with_bars(methods=["att"])
    with pytest.raises(RequestError, match=r"figures\.bars\.metrik: unknown key; did you mean 'metric'\?"):
        with_bars(metrik="natural")


def test_a_metric_is_one_file(
    make_params: MakeParams, write_example: WriteExample, workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_example("Add a metric", "my_metrics.kept")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{workplace}/runs.db")

    def with_metric(metric: str) -> Params:
        columns = [{"metric": "natural", "label": "Natural"}, {"metric": metric, "label": "Kept"}]
        table = {"caption": "Kept", "rows": ["nt", "at"], "columns": columns}
        return make_params(lambda raw: raw.update(tables={"kept": table}))

    params = with_metric("my_metrics.kept")
    plant(workplace / "nt", params.experiment("nt", 1), {"natural": 0.8, "aa_linf": 0.4, "worst_case_union": 0.3})
    (results,) = collect(params).values()
    shown = lay_out(of_suite("kept", params, results))
    assert [[cell.value for cell in row.cells] for row in shown.rows] == [["80", "37"], ["", ""]]
    assert r"$\ell_\infty$ $\epsilon = " in shown.details, "the budgets of the union's attacks"
    text = explain(params, "kept:nt:my_metrics.kept")
    assert "37.5000 %" in text and "aa_linf: autoattack" in text and "aa_l2: " in text
    with pytest.raises(RequestError, match=r"tables\.kept\.columns\.1\.metric: unknown metric 'my_metrics\.keept'"):
        with_metric("my_metrics.keept")


def test_a_mixture_is_one_file(make_params: MakeParams, write_example: WriteExample, run_method: RunExperiment) -> None:
    write_example("Add a mixture", "my_mixtures.mean")

    def with_mean(**changes: object) -> Params:
        mixture = {"rule": "my_mixtures.mean"} | changes
        return make_params(lambda raw: raw["methods"]["generalist_d_nt_linf"].update(mixture=mixture))

    params = with_mean()
    trained = run_method(params, "generalist_d_nt_linf")
    learners = [trained.learner(name) for name in params.methods["generalist_d_nt_linf"].learners]
    for name, weight in trained.mixture.items():
        if weight.is_floating_point():
            assert torch.allclose(weight, (learners[0][name] + learners[1][name]) / 2, atol=1e-6)
    objects = code_of("train", params.experiment("generalist_d_nt_linf", 1), own_sources()).objects
    assert "my_mixtures.mean:Mean.after_epoch" in objects
    assert "pipeline.training.mixture:GlobalLearner.redistribute" not in objects
    with pytest.raises(RequestError, match=r"mixture\.rulee: unknown key; did you mean 'rule'\?"):
        with_mean(rulee="mean")
    with pytest.raises(RequestError, match=r"mixture\.rule: unknown mixture 'my_mixtures\.men'"):
        with_mean(rule="my_mixtures.men")


def test_a_network_is_one_file(make_params: MakeParams, write_example: WriteExample, run_method: RunExperiment) -> None:
    write_example("A file of your own", "my_networks.tiny")

    def with_tiny(**changes: object) -> Params:
        model = {"architecture": "my_networks.tiny:Tiny", "arguments": {"width": 6}} | changes
        return make_params(lambda raw: raw["model"].update(model))

    params = with_tiny()
    assert run_method(params, "nt").learner("natural")["features.weight"].shape == (6, 1, 3, 3)
    assert params.experiment("nt", 1).fingerprint != with_tiny(arguments={}).experiment("nt", 1).fingerprint
    assert "my_networks.tiny:Tiny.forward" in code_of("train", params.experiment("nt", 1), own_sources()).objects
    with pytest.raises(
        RequestError, match=r"model\.architecture: network .*'my_networks' has no module 'tny'; did you"
    ):
        with_tiny(architecture="my_networks.tny:Tiny")
    with pytest.raises(
        RequestError, match=r"model\.arguments: is for an architecture 'package\.module:object', and 'sm"
    ):
        with_tiny(architecture="small_cnn")
    with pytest.raises(RequestError, match=r"model\.fit: .*should be a valid boolean"):
        with_tiny(fit="yes")
    with pytest.raises(
        RequestError, match=r"model\.layer: unknown key; Valid: architecture, arguments, fit, last_stage"
    ):
        with_tiny(layer="features")


def test_checking_settings_imports_nothing_that_draws_or_reads_tables() -> None:
    names = {"attack": ATTACKS.names(), "figure": FIGURES.names()}
    names |= {"metric": METRICS.names(), "mixture": MIXTURES.names()}
    assert {kind: len(found) for kind, found in names.items()} == {"attack": 5, "figure": 10, "metric": 9, "mixture": 3}
    code = (
        "import sys; from pathlib import Path; from pipeline.config import load_params;"
        "from pipeline.config.figures import FIGURES; [FIGURES.find(name) for name in FIGURES.names()];"
        "load_params(Path('params.yaml')); print({'matplotlib', 'pandas', 'mlflow', 'torchvision'} & set(sys.modules))"
    )
    command = [sys.executable, "-c", code]
    assert subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout == "set()\n"
