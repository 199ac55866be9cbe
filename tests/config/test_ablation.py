"""The grid: every cell is what its study says, cells that are the same experiment share it, and mistakes are listed."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config import (
    AdamSettings,
    Experiment,
    MovingAverageSettings,
    Params,
    parse_params,
)
from pipeline.core.errors import RequestError
from pipeline.reporting.figures.ablation import AblationFigure
from pipeline.reporting.figures.trade_off import TradeOffFigure
from pipeline.studies.cells import Cell, cells
from tests.conftest import REPOSITORY, MakeParams, composed

D, T = "generalist_d_nt_linf", "generalist_t"


def cifar10() -> Params:
    return composed("suite=cifar10")


def of(found: list[Cell], study: str, method: str) -> dict[str, Experiment]:
    return {cell.setting: cell.experiment for cell in found if (cell.study, cell.method) == (study, method)}


def mixture(experiment: Experiment) -> MovingAverageSettings:
    settings = experiment.method.mixture
    assert isinstance(settings, MovingAverageSettings)
    return settings


@pytest.mark.parametrize(
    ("suite", "points", "experiments"),
    [
        ("digits", 28, 24),
        ("digits ablation=full", 104, 80),
        ("cifar10", 104, 78),
        ("cifar10_reduced", 28, 23),
        ("cifar10_study", 3 * 19, 3 * 16),
    ],
)
def test_every_suite_has_a_grid_whose_cells_share_experiments(suite: str, points: int, experiments: int) -> None:
    params = composed(*f"suite={suite}".split())
    found = cells(params)
    assert len(found) == points
    assert len({cell.experiment.fingerprint for cell in found}) == experiments
    assert len({id(cell.experiment) for cell in found}) == experiments
    assert len({cell.experiment.identifier for cell in found}) == experiments


@pytest.mark.parametrize("suite", sorted(path.stem for path in (REPOSITORY / "conf/suite").glob("*.yaml")))
def test_every_suite_draws_studies_that_it_has(suite: str) -> None:
    params = composed(f"suite={suite}")
    drawn = {figure.study for figure in params.figures.values() if isinstance(figure, AblationFigure)}
    assert drawn <= set(params.ablation.studies)


def test_the_study_of_fidelity_changes_what_the_authors_code_has_otherwise() -> None:
    def params(protocol: str) -> Params:
        overrides = ["suite=cifar10_study", f"protocol={protocol}"]
        return composed(*overrides)

    paper, theirs = params("paper"), mixture(params("reference_code").experiment(D, 1))
    switched = of(cells(paper, ["switches"], [1]), "switches", D)
    default = switched.pop("as it is")
    assert default.fingerprint == paper.experiment(D, 1).fingerprint
    assert mixture(switched["gamma_1 ends at 0.4"]).mixing_ratios == theirs.mixing_ratios
    assert mixture(switched["restart after every batch"]).redistribution == theirs.redistribution
    averaged = switched["averages of averages"]
    assert mixture(averaged).source == theirs.source
    assert all(learner.weight_averaging is not None for learner in averaged.method.learners.values())
    shared = switched["shared learning rate"].method.learners
    assert shared["natural"].optimizer.learning_rate == shared["linf"].optimizer.learning_rate
    assert mixture(switched["BatchNorm recomputed"]).batch_norm == "recompute"
    assert len({one.fingerprint for one in switched.values()} | {default.fingerprint}) == 6


def test_what_is_the_method_itself_has_its_name() -> None:
    found = cells(cifar10())
    for study, method, setting in (
        ("gamma_trend", T, "decreasing"),
        ("decay_stages", T, "1-1-1-0"),
        ("second_ratio", T, "b = 0.5"),
        ("communication_interval", T, "c = 5"),
        ("weight_averaging", T, "none"),
        ("optimizers", T, "Adam: none"),
        ("mixing_ratios", D, "1-1-1-0"),
        ("communication_interval_to_15", D, "c = 5"),
    ):
        experiment = of(found, study, method)[setting]
        assert experiment.identifier == f"{method}-1"
        assert experiment.fingerprint == cifar10().experiment(method, 1).fingerprint
        assert experiment.grid and not cifar10().experiment(method, 1).grid


def test_ratios_are_those_of_the_papers() -> None:
    found = cells(cifar10())
    assert mixture(of(found, "second_ratio", T)["b = 0.4"]).ratios_at(100) == pytest.approx(
        {"linf": 0.5, "natural": 0.2, "l2": 0.3}
    )
    assert mixture(of(found, "decay_stages", T)["1-1-0-0"]).ratios_at(100) == {"linf": 0, "natural": 0.5, "l2": 0.5}
    brackets = {
        setting: mixture(one).mixing_ratios["natural"] for setting, one in of(found, "mixing_ratios", D).items()
    }
    assert brackets == {
        "1-1-1-0": [0, 0, 0, 1],
        "1-1-0.8-0.2": [0, 0, 0.2, 0.8],
        "1-1-1-0.5": [0, 0, 0, 0.5],
        "0.5-0.5-0.5-0.5": [0.5] * 4,
    }


def test_intervals_have_their_number_on_the_axis() -> None:
    found = [cell for cell in cells(cifar10()) if cell.study == "communication_interval_to_15"]
    assert [cell.value for cell in found] == list(range(1, 16))
    assert [mixture(cell.experiment).communication_interval for cell in found] == list(range(1, 16))


def test_a_share_of_a_short_run_is_the_papers_interval_in_proportion() -> None:
    """5 of 120 epochs are 5/8 of an epoch of 15, and 8 of 120 are the one epoch that the suite has."""
    params = composed("suite=digits", "ablation=full")
    found = {cell.setting: cell for cell in cells(params, ["communication_interval_to_15"])}
    assert list(found) == [f"c = {count}/120" if count != 8 else "c = 1" for count in range(1, 16)]
    assert [cell.value for cell in found.values()] == [count / 8 for count in range(1, 16)]
    assert mixture(found["c = 5/120"].experiment).communication_interval == "5/120"
    assert found["c = 1"].experiment.identifier == f"{D}-1"


def test_weight_averages_of_those_who_have_one_are_mixed() -> None:
    found = of(cells(cifar10()), "weight_averaging", T)
    assert list(found) == ["none", "linf", "natural", "l2", "all"]
    averaged = {
        setting: [name for name, learner in one.method.learners.items() if learner.weight_averaging is not None]
        for setting, one in found.items()
    }
    assert averaged["natural"] == ["natural"] and averaged["all"] == ["linf", "natural", "l2"]
    assert [mixture(one).source for one in found.values()] == ["learners"] + ["weight_averages"] * 4


def test_every_learner_has_either_optimizer_and_joint_training_is_the_baseline() -> None:
    found = of(cells(cifar10()), "optimizers", T)
    assert len(found) == 2**3 + 2
    assert found["joint: SGD"].identifier == "at-1"
    joint = found.pop("joint: Adam").method
    assert (
        joint.mixture is None
        and joint.learners["linf"].objective == found.pop("joint: SGD").method.learners["linf"].objective
    )
    assert [learner.optimizer.name for learner in joint.learners.values()] == ["adam"]
    for setting, one in found.items():
        adams = [name for name, item in one.method.learners.items() if isinstance(item.optimizer, AdamSettings)]
        shown = {0: "none", 3: "all"}.get(len(adams), ", ".join(adams))
        assert setting == f"Adam: {shown}"
        assert {one.method.learners[name].optimizer.learning_rate for name in adams} <= {1e-4}, "as both papers say"


def switched(values: Any, methods: Any = (D,)) -> Callable[[dict[str, Any]], None]:
    return study(varies="settings", methods=list(methods), values=values)


def test_settings_of_any_name_change_what_they_name_and_nothing_else(make_params: MakeParams) -> None:
    params = make_params(
        switched(
            {
                "as it is": {},
                "to 0.4": {"mixture": {"mixing_ratios": {"linf": [1, 1, 1, 0.4], "natural": [0, 0, 0, 0.6]}}},
                "shared rate": {"learners": {"natural": {"optimizer": {"learning_rate": 0.01}}}},
            }
        )
    )
    default = params.experiment(D, 1)
    found = of(cells(params), "mine", D)
    assert found["as it is"].identifier == f"{D}-1"
    assert found["as it is"].fingerprint == default.fingerprint
    ended = mixture(found["to 0.4"])
    assert ended.mixing_ratios == {"linf": [1, 1, 1, 0.4], "natural": [0, 0, 0, 0.6]}
    assert ended.model_copy(update={"mixing_ratios": mixture(default).mixing_ratios}) == mixture(default)
    assert found["to 0.4"].method.learners == default.method.learners
    learners = found["shared rate"].method.learners
    assert learners["natural"].optimizer == default.method.learners["natural"].optimizer.model_copy(
        update={"learning_rate": 0.01}
    )
    assert learners["linf"] == default.method.learners["linf"] and mixture(found["shared rate"]) == mixture(default)
    assert list(found) == ["as it is", "to 0.4", "shared rate"]


def test_methods_without_a_mixture_are_run_as_they_are(make_params: MakeParams) -> None:
    params = make_params(switched({"as it is": {}}, ["nt", "at", D]))
    assert [cell.experiment.identifier for cell in cells(params)] == ["nt-1", "at-1", f"{D}-1"]


def test_another_objective_or_optimizer_replaces_the_whole_section(make_params: MakeParams) -> None:
    adam = {"name": "adam", "learning_rate": 0.001}
    values = {"l2": {"learners": {"linf": {"objective": {"name": "adversarial", "norm": "l2"}, "optimizer": adam}}}}
    params = make_params(switched(values, ["at"]))
    learner = of(cells(params), "mine", "at")["l2"].method.learners["linf"]
    assert learner.objective == params.methods["at_l2"].learners["l2"].objective
    assert isinstance(learner.optimizer, AdamSettings)


@given(switches=st.lists(st.sampled_from(["redistribution", "batch_norm", "decay_warmup"]), unique=True))
def test_switches_together_are_the_switches_one_after_the_other(
    switches: list[str], tiny_content: dict[str, Any]
) -> None:
    other = {"redistribution": "every_batch", "batch_norm": "recompute", "decay_warmup": True}
    together = {"mixture": {name: other[name] for name in switches}}
    raw = deepcopy(tiny_content)
    switched({"together": together})(raw)
    found = of(cells(parse_params(raw)), "mine", D)["together"]
    for name in switches:
        raw["methods"][D]["mixture"][name] = other[name]
    assert found.fingerprint == parse_params(raw).experiment(D, 1).fingerprint


def test_pairs_differ_in_one_training_image_alone(make_params: MakeParams) -> None:
    params = make_params(study(varies="replaced_example", methods=["at", D], values=[0, 47]))
    found = cells(params)
    assert [cell.setting for cell in found] == ["none", "example 0", "example 47"] * 2
    assert all(cell.value is None for cell in found)
    for method in ("at", D):
        none, *others = of(found, "mine", method).values()
        assert none.identifier == f"{method}-1"
        assert none.fingerprint == params.experiment(method, 1).fingerprint
        assert [one.identifier for one in others] == [f"{method}_mine_example_{position}-1" for position in (0, 47)]
        assert [one.data.replaced_example for one in others] == [0, 47]
        for one in others:
            assert one.grid and one.model_copy(update={"name": none.name, "data": none.data}) == none


def test_names_do_not_depend_on_what_is_asked_for() -> None:
    every = {cell.experiment.fingerprint: cell.experiment.identifier for cell in cells(cifar10())}
    for study in cifar10().ablation.studies:
        for cell in cells(cifar10(), [study]):
            assert cell.study == study
            assert every[cell.experiment.fingerprint] == cell.experiment.identifier


def test_seeds_are_any(make_params: MakeParams) -> None:
    found = cells(make_params(), ["second_ratio"], [7, 8])
    assert [cell.experiment.seed for cell in found] == [7, 8] * 3
    assert {cell.experiment.identifier for cell in found} >= {"generalist_t-7", "generalist_t_second_ratio_b_0-8"}


def test_a_seed_that_is_given_twice_counts_once_and_none_is_negative(make_params: MakeParams) -> None:
    assert [cell.experiment.seed for cell in cells(make_params(), ["second_ratio"], [7, 7])] == [7] * 3
    with pytest.raises(RequestError, match="seeds are whole numbers from 0 on, got -1"):
        cells(make_params(), seeds=[0, -1])


def test_a_name_that_two_experiments_would_have_is_told_once_for_all_seeds(make_params: MakeParams) -> None:
    params = make_params(study(varies="second_ratio", methods=[T], values=[0.1, 0.1000001]))
    with pytest.raises(RequestError, match="the grid has 1 impossible cell, "):
        cells(params, seeds=[1, 2])


def test_an_experiment_survives_its_journey_to_a_worker() -> None:
    for cell in cells(cifar10()):
        received = Experiment.model_validate(cell.experiment.model_dump(mode="json"))
        assert received == cell.experiment
        assert received.evaluation_fingerprint == cell.experiment.evaluation_fingerprint


@given(b=st.floats(0, 1), first=st.lists(st.floats(0, 1), min_size=4, max_size=4), epoch=st.floats(0, 4))
def test_any_ratios_stay_on_the_simplex(
    b: float, first: list[float], epoch: float, tiny_content: dict[str, Any]
) -> None:
    content = {
        **tiny_content,
        "figures": {},
        "ablation": {
            "studies": {
                "b": {"label": "b", "methods": [T], "varies": "second_ratio", "values": [b]},
                "gamma": {"label": "gamma", "methods": [T, D], "varies": "first_ratio", "values": [first]},
            }
        },
    }
    for cell in cells(parse_params(content)):
        ratios = mixture(cell.experiment).ratios_at(epoch)
        assert min(ratios.values()) >= 0 and sum(ratios.values()) == pytest.approx(1)


# --- Mistakes


def study(**content: Any) -> Callable[[dict[str, Any]], None]:
    def put(raw: dict[str, Any]) -> None:
        raw["ablation"]["studies"] = {"mine": {"label": "mine", "methods": [D], **content}}
        raw["figures"] = {}  # those of the studies that it had

    return put


def called_all(raw: dict[str, Any]) -> None:
    """A learner whose name is that of another setting of the study: averages on it, and on all."""
    study(varies="weight_averaging")(raw)
    method = raw["methods"][D]
    method["learners"]["all"] = method["learners"].pop("linf")
    ratios = method["mixture"]["mixing_ratios"]
    ratios["all"] = ratios.pop("linf")


IMPOSSIBLE = [
    (study(methods=["at"], varies="weight_averaging"), "at, every setting: it has no mixture with the rule"),
    (study(methods=["generalist"], varies="weight_averaging"), "unknown method 'generalist': did you mean"),
    (study(varies="second_ratio", values=[0.5]), f"{D}, every b: b divides the rest between two of three learners"),
    (study(varies="communication_interval", values=[9]), f"{D}, c = 9: it divides none of the epochs"),
    (study(varies="first_ratio", values=[[1, 1, 0]]), f"{D}, 1-1-0: mixture.mixing_ratios.linf: expected 4 ratios"),
    (
        study(varies="first_ratio", values=[[1, 1, 1, 2]]),
        f"{D}, 1-1-1-2: mixture.mixing_ratios: ratios at breakpoint number 4 leave the simplex",
    ),
    (
        study(varies="optimizers", adam={"name": "adam", "learning_rate": 0.1}, joint="at_nt"),
        f"{D}, joint: unknown method 'at_nt'",
    ),
    (
        study(varies="first_ratio", values=[[0, 0, 0, 1], [0, 0, 0, 0.5]], labels=["↑", "→"]),
        f"mine: {D}, →: a different experiment is called '{D}_mine', too; settings",
    ),
    (
        study(varies="replaced_example", values=[48]),
        f"{D}, example 48: 48 is not among the 48 training images, which count from 0",
    ),
    (study(varies="second_ratio", methods=[T], values=[0.1, 0.1000001]), f"is called '{T}_mine_b_0_1', too"),
    (
        switched({"misspelt": {"mixture": {"redistributon": "every_batch"}}}),
        f"{D}, misspelt: mixture.redistributon: unknown key; did you mean 'redistribution'",
    ),
    (
        switched({"average": {"mixture": {"batch_norm": "averaged"}}}),
        f"{D}, average: mixture.batch_norm: input should be 'average' or 'recompute' (got \"averaged\")",
    ),
    (
        switched({"l2": {"learners": {"linf": {"objective": {"name": "adversarial", "norm": "l3"}}}}}),
        f"{D}, l2: learners.linf.objective: norm 'l3' has no budget in threat_model",
    ),
    (switched({"twice": {}}, ["generalist"]), "generalist, every setting: unknown method 'generalist'"),
    (called_all, f"mine: {D}, all: a different experiment is called '{D}_mine_all', too"),
    (
        study(varies="first_ratio", values=[[0, 0, 0, 1]], labels=["increasing " * 10]),
        f"{D}, {'increasing ' * 10}: its name has 135 characters, at most 120 are possible: '{D}_mine_increasing",
    ),
]


@pytest.mark.parametrize(("change", "text"), IMPOSSIBLE)
def test_impossible_cells_are_named(
    make_params: MakeParams, change: Callable[[dict[str, Any]], None], text: str
) -> None:
    with pytest.raises(RequestError, match="the grid has 1 impossible cell, nothing was started") as caught:
        cells(make_params(change))
    assert text in str(caught.value)


def test_all_impossible_cells_are_in_one_message_and_those_not_asked_for_do_not_matter(make_params: MakeParams) -> None:
    def change(raw: dict[str, Any]) -> None:
        raw["ablation"]["studies"]["second_ratio"]["methods"] = [D, "at"]
        raw["ablation"]["studies"]["communication_interval"]["values"] = [1, 9]

    with pytest.raises(RequestError, match="3 impossible cells"):
        cells(make_params(change))
    assert len(cells(make_params(change), ["optimizers"])) == 6


def test_an_unknown_study_lists_the_valid_ones(make_params: MakeParams) -> None:
    with pytest.raises(RequestError, match="unknown study 'optimisers': did you mean 'optimizers'"):
        cells(make_params(), ["optimisers"])


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (
            study(varies="first_ratio", values=[[1]], labels=["a", "b"]),
            "mine.labels: 1 values need as many labels, got 2",
        ),
        (study(varies="second_ratio", values=[1.5]), "mine.values.0: input should be less than or equal to 1"),
        (switched({}), "mine.values: "),
        (switched({"nothing": None}), "mine.values.nothing: expected a mapping (got null)"),
        (study(varies="gamma"), "mine.varies: unknown 'gamma'"),
        (
            study(varies="optimizers", adam={"name": "sgd", "learning_rate": 1}),
            "mine.adam.name: input should be 'adam'",
        ),
    ],
)
def test_mistakes_in_the_file_are_named(
    make_params: MakeParams, change: Callable[[dict[str, Any]], None], text: str
) -> None:
    with pytest.raises(RequestError) as caught:
        make_params(change)
    assert text in str(caught.value)


def test_a_file_without_studies_has_an_empty_grid(make_params: MakeParams) -> None:
    params: Params = make_params(lambda raw: raw.update(ablation={}, figures={}))
    assert cells(params) == []


APPENDIX = ["trades_frontier", "generalist_frontier", "learning_rates"]


@pytest.mark.parametrize("suite", ["digits", "cifar10", "cifar100", "svhn", "mnist", "cifar10_study"])
def test_the_cvpr_papers_appendix_is_a_grid_of_every_suite_that_has_trades(suite: str) -> None:
    params = composed(f"suite={suite}", "ablation=appendix")
    found, plain = cells(params, seeds=[1]), {method: params.experiment(method, 1) for method in ("trades_1", D)}
    betas = of(found, "trades_frontier", "trades_1")
    objectives = [one.method.learners["linf"].objective.model_dump() for one in betas.values()]
    assert [objective["beta"] for objective in objectives] == [0.5, 1, 2, 6]
    assert all(one == {**objectives[0], "beta": one["beta"]} for one in objectives)
    assert betas["beta = 1"].fingerprint == plain["trades_1"].fingerprint
    ends = of(found, "generalist_frontier", D)
    assert [mixture(one).mixing_ratios["linf"] for one in ends.values()] == [
        [1, 1, 1, end] for end in (0, 0.1, 0.2, 0.4, 0.6)
    ]
    assert ends["gamma = 0"].fingerprint == plain[D].fingerprint
    rates = of(found, "learning_rates", D)
    assert rates.pop("as it is").fingerprint == plain[D].fingerprint
    assert {
        setting: tuple(one.method.learners[name].optimizer.learning_rate for name in ("linf", "natural"))
        for setting, one in rates.items()
    } == {f"AT {first:g}, NT {second:g}": (first, second) for first in (0.01, 0.1) for second in (0.01, 0.1)}
    for one in rates.values():
        assert one.method.learners["linf"].schedule == plain[D].method.learners["linf"].schedule
    assert len(cells(params, APPENDIX, [1])) == 14


def test_the_appendix_draws_both_frontiers_between_the_same_metrics() -> None:
    params = composed("suite=cifar10", "ablation=appendix")
    figure = params.figures["frontiers"]
    assert isinstance(figure, TradeOffFigure)
    assert (figure.x.metric, figure.y.metric, figure.studies) == ("natural", "aa_linf", APPENDIX[:2])
