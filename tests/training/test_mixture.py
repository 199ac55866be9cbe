"""The properties of Generalist that methods.md 1.21 to 1.23 lists, (a) to (h), on real training runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pipeline.config import MovingAverageSettings
from pipeline.core.errors import RequestError
from pipeline.core.values import interpolate
from pipeline.training.mixture import GlobalLearner
from pipeline.training.weights import recompute_batch_norm, weight_tensors
from tests.conftest import TINY, MakeParams, content_of
from tests.running import RunExperiment, assert_same

D_NT_LINF, D_LINF_L2, T = "generalist_d_nt_linf", "generalist_d_linf_l2", "generalist_t"
PAPER = {
    "rule": "moving_average",
    "breakpoints": [0, 40, 80, 120],
    "decay": 0.999,
    "warmup_epochs": 75,
    "communication_interval": 5,
}
Change = Callable[[dict[str, Any]], Any]


def mixture(method: str, **values: Any) -> Change:
    """A change of a method's mixture."""
    return lambda raw: raw["methods"][method]["mixture"].update(values)


def ratios(method: str, **values: list[float]) -> Change:
    """A change of a method's mixing ratios."""
    return lambda raw: raw["methods"][method]["mixture"].update(mixing_ratios=values)


def without_copies(method: str) -> Change:
    """t' = infinity: an interval that no epoch is a multiple of."""
    return mixture(method, communication_interval=1000)


def same_optimizer(raw: dict[str, Any]) -> None:
    """The natural learner's settings for every learner of every method."""
    recipe = raw["methods"]["nt"]["learners"]["natural"]["optimizer"]
    for method in raw["methods"].values():
        for learner in method["learners"].values():
            learner["optimizer"] = recipe


def no_budget(*norms: str) -> Change:
    """epsilon = 0 in these norms."""
    return lambda raw: [raw["threat_model"][norm].update(epsilon=0) for norm in norms]


def test_a_without_memory_the_global_learner_is_the_combination_after_every_step(
    make_params: MakeParams, run_method: RunExperiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    updates = 0
    original = GlobalLearner.update

    def checked(self: GlobalLearner, epoch: int) -> None:
        nonlocal updates
        original(self, epoch)
        updates += 1
        weights = [weight_tensors(learner.model) for learner in self._learners]
        gamma = interpolate([0, 1, 2, 4], [1, 1, 1, 0], epoch)
        for ours, linf, natural in zip(weight_tensors(self.model), *weights, strict=True):
            torch.testing.assert_close(ours, gamma * linf + (1 - gamma) * natural)

    monkeypatch.setattr(GlobalLearner, "update", checked)
    run_method(make_params(mixture(D_NT_LINF, decay=0.0)), D_NT_LINF)
    assert updates == 4 * 3


def test_b_with_ratio_one_and_no_copies_it_is_the_average_of_adversarial_training(
    make_params: MakeParams, run_method: RunExperiment
) -> None:
    params = make_params(
        without_copies(D_NT_LINF),
        ratios(D_NT_LINF, linf=[1, 1, 1, 1], natural=[0, 0, 0, 0]),
        lambda raw: raw["methods"]["at"]["learners"]["linf"].update(weight_averaging={"decay": 0.95}),
    )
    generalist, at = run_method(params, D_NT_LINF), run_method(params, "at")
    assert_same(generalist.learner("linf"), at.learner("linf"))
    assert_same(generalist.mixture, at.average("linf"))


def test_c_with_ratio_zero_it_is_the_average_of_natural_training(
    make_params: MakeParams, run_method: RunExperiment
) -> None:
    params = make_params(
        without_copies(D_NT_LINF),
        ratios(D_NT_LINF, linf=[0, 0, 0, 0], natural=[1, 1, 1, 1]),
        lambda raw: raw["methods"]["nt"]["learners"]["natural"].update(weight_averaging={"decay": 0.95}),
    )
    assert_same(run_method(params, D_NT_LINF).mixture, run_method(params, "nt").average("natural"))


def test_d_without_copies_every_learner_is_a_standalone_run(make_params: MakeParams, run_method: RunExperiment) -> None:
    params = make_params(without_copies(T))
    generalist = run_method(params, T)
    for method, learner in (("nt", "natural"), ("at", "linf"), ("at_l2", "l2")):
        assert_same(generalist.learner(learner), run_method(params, method).learner(learner))


def test_e_without_budget_and_with_equal_settings_all_learners_are_one(
    make_params: MakeParams, run_method: RunExperiment
) -> None:
    params = make_params(same_optimizer, no_budget("linf", "l2"))
    generalist = run_method(params, T)
    assert_same(generalist.learner("linf"), generalist.learner("natural"))
    assert_same(generalist.learner("linf"), generalist.learner("l2"))
    other = run_method(
        make_params(same_optimizer, no_budget("linf", "l2"), ratios(D_LINF_L2, linf=[0] * 4, l2=[1] * 4)), D_LINF_L2
    )
    for name, tensor in generalist.mixture.items():
        torch.testing.assert_close(tensor, other.mixture[name], msg=f"{name} depends on the mixing ratios")


@pytest.mark.parametrize("method", [D_NT_LINF, D_LINF_L2, T])
def test_f_after_a_copy_all_state_dicts_are_equal(
    make_params: MakeParams, run_method: RunExperiment, method: str
) -> None:
    trained = run_method(make_params(), method)
    assert trained.observer.records[-1]["redistributed"] == 1.0
    for learner in trained.state["learners"]:
        assert_same(trained.learner(learner), trained.mixture)


@pytest.mark.parametrize(("redistribution", "copies"), [("epoch_end", 2), ("every_batch", 2 * 3)])
def test_g_copies_happen_from_the_warmup_on_at_every_interval(
    make_params: MakeParams,
    run_method: RunExperiment,
    monkeypatch: pytest.MonkeyPatch,
    redistribution: str,
    copies: int,
) -> None:
    happened = []
    original = GlobalLearner.redistribute

    def counted(self: GlobalLearner) -> None:
        happened.append(self)
        original(self)

    monkeypatch.setattr(GlobalLearner, "redistribute", counted)
    trained = run_method(make_params(mixture(T, redistribution=redistribution)), T)
    assert len(happened) == copies
    assert [record["redistributed"] for record in trained.observer.records] == [0, 1, 0, 1]


def test_g_the_papers_schedule_has_ten_copies(make_params: MakeParams) -> None:
    settings = MovingAverageSettings.model_validate(
        {**PAPER, "mixing_ratios": {"linf": [1, 1, 1, 0], "l2": [0, 0, 0, 1]}}
    )
    learner = GlobalLearner.__new__(GlobalLearner)
    learner._settings, learner._epochs = settings, 120
    assert [epoch for epoch in range(1, 121) if learner.redistributes_in(epoch)] == list(range(75, 121, 5))


@pytest.mark.parametrize(("end", "at_100", "at_81"), [(0.0, 0.5, 0.975), (0.4, 0.7, 0.985)])
def test_h_the_mixing_ratio_falls_linearly_after_epoch_80(end: float, at_100: float, at_81: float) -> None:
    content = {**PAPER, "mixing_ratios": {"linf": [1, 1, 1, end], "natural": [0, 0, 0, 1 - end]}}
    settings = MovingAverageSettings.model_validate(content)
    found = {epoch: settings.ratios_at(epoch)["linf"] for epoch in (1, 40, 80, 81, 100, 120)}
    assert found == pytest.approx({1: 1, 40: 1, 80: 1, 81: at_81, 100: at_100, 120: end})


def test_without_an_l2_budget_linf_l2_is_nt_linf(make_params: MakeParams, run_method: RunExperiment) -> None:
    params = make_params(same_optimizer, no_budget("l2"))
    assert_same(run_method(params, D_LINF_L2).mixture, run_method(params, D_NT_LINF).mixture)


@pytest.mark.parametrize(("share", "two_learners"), [(1.0, D_NT_LINF), (0.0, D_LINF_L2)])
def test_three_learners_with_one_share_of_zero_are_two(
    make_params: MakeParams, run_method: RunExperiment, share: float, two_learners: str
) -> None:
    params = make_params(ratios(T, linf=[1, 1, 1, 0], natural=[0, 0, 0, share], l2=[0, 0, 0, 1 - share]))
    assert_same(run_method(params, T).mixture, run_method(params, two_learners).mixture)


def test_three_learners_of_which_two_are_equal_are_two(make_params: MakeParams, run_method: RunExperiment) -> None:
    params = make_params(same_optimizer, no_budget("l2"))
    three, two = run_method(params, T).mixture, run_method(params, D_NT_LINF).mixture
    for name, tensor in three.items():
        torch.testing.assert_close(tensor, two[name], rtol=1e-4, atol=1e-5)


@given(gamma=st.floats(0, 1), share=st.floats(0, 1), epoch=st.floats(0, 130))
def test_mixing_ratios_stay_on_the_simplex(gamma: float, share: float, epoch: float) -> None:
    rest = 1 - gamma
    content = {"linf": [1, 1, 1, gamma], "natural": [0, 0, 0, share * rest], "l2": [0, 0, 0, rest - share * rest]}
    found = MovingAverageSettings.model_validate({**PAPER, "mixing_ratios": content}).ratios_at(epoch)
    assert min(found.values()) >= 0
    assert sum(found.values()) == pytest.approx(1)


def test_half_of_the_remainder_goes_to_the_natural_learner(make_params: MakeParams) -> None:
    settings = make_params().methods[T].mixture
    assert isinstance(settings, MovingAverageSettings)
    assert settings.ratios_at(3) == pytest.approx({"linf": 0.5, "natural": 0.25, "l2": 0.25})


def test_mixing_weight_averages_lags_behind_mixing_weights(make_params: MakeParams, run_method: RunExperiment) -> None:
    def averaged(raw: dict[str, Any]) -> None:
        for learner in raw["methods"][D_NT_LINF]["learners"].values():
            learner["weight_averaging"] = {"decay": 0.5}

    memoryless: list[Change] = [without_copies(D_NT_LINF), averaged, mixture(D_NT_LINF, decay=0.0)]
    raw_mixed = run_method(make_params(*memoryless), D_NT_LINF)
    ema_mixed = run_method(make_params(*memoryless, mixture(D_NT_LINF, source="weight_averages")), D_NT_LINF)
    assert_same(raw_mixed.mixture, raw_mixed.learner("natural"))
    assert_same(ema_mixed.mixture, ema_mixed.average("natural"))


def test_decay_warmup_forgets_the_start_early(make_params: MakeParams, run_method: RunExperiment) -> None:
    changes: list[Change] = [without_copies(D_NT_LINF), mixture(D_NT_LINF, decay=0.999)]
    distances = []
    for warmup in (False, True):
        trained = run_method(make_params(*changes, mixture(D_NT_LINF, decay_warmup=warmup)), D_NT_LINF)
        target = trained.learner("natural")["linear.weight"]
        distances.append(float((trained.mixture["linear.weight"] - target).norm()))
    assert distances[1] < distances[0] / 2


def test_recomputed_statistics_are_those_of_the_images(tiny_split: Any, make_params: MakeParams) -> None:
    from pipeline.models import build_model

    images = tiny_split.train.images.float() / 255
    model = build_model("small_cnn", "digits")
    recompute_batch_norm(model, [images])
    first = model.get_submodule("norms.0")
    features = model.get_submodule("convolutions.0")(images)
    torch.testing.assert_close(first.running_mean, features.mean((0, 2, 3)).detach())


def test_recomputing_changes_statistics_and_nothing_else(make_params: MakeParams, run_method: RunExperiment) -> None:
    changes: list[Change] = [without_copies(D_NT_LINF)]
    averaged = run_method(make_params(*changes), D_NT_LINF).mixture
    recomputed = run_method(make_params(*changes, mixture(D_NT_LINF, batch_norm="recompute")), D_NT_LINF).mixture
    different = {name for name in averaged if not torch.equal(averaged[name], recomputed[name])}
    assert different and all("running" in name or "num_batches" in name for name in different)


def test_the_reference_protocol_trains(run_method: RunExperiment) -> None:
    from pipeline.config import parse_params

    params = parse_params(content_of(*TINY, "protocol=reference_code"))
    trained = run_method(params, D_NT_LINF)
    record = trained.observer.records[-1]
    assert record["mixing_ratio/linf"] == pytest.approx(0.4)
    assert record["learning_rate/natural"] == record["learning_rate/linf"]
    assert "test/global/natural" in record
    assert_same(trained.learner("linf"), trained.mixture)


def flat(weights: Iterable[Tensor]) -> Tensor:
    return torch.cat([weight.detach().flatten().double() for weight in weights])


@pytest.mark.parametrize(
    "changes", [{}, {"decay_warmup": True}, {"ratios": "tuned"}, {"redistribution": "every_batch"}]
)
def test_the_geometric_term_is_about_the_global_learner_before_the_last_update_and_restart(
    make_params: MakeParams, run_method: RunExperiment, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    """Followed from outside: what theta_g was before every update, and what the learners last got from it."""
    expected: dict[int, list[tuple[float, float, float]]] = {}
    update, redistribute = GlobalLearner.update, GlobalLearner.redistribute
    seen: dict[str, Any] = {}

    def updating(self: GlobalLearner, epoch: int) -> None:
        seen.setdefault("restart", flat(self.model.parameters()))
        gamma, previous = self.ratios_at(epoch), flat(self.model.parameters())
        own = {one.name: flat(one.model.parameters()) for one in self._learners}
        mean = sum((gamma[name] * vector for name, vector in own.items()), torch.tensor(0.0))
        bars = (previous, seen["restart"], mean)
        terms = [
            sum(gamma[name] * (vector - bar).square().sum().item() for name, vector in own.items()) for bar in bars
        ]
        seen.update(epoch=epoch, terms=terms)
        update(self, epoch)

    def restarting(self: GlobalLearner) -> None:
        expected.setdefault(seen["epoch"], []).append(tuple(seen["terms"]))
        redistribute(self)
        seen["restart"] = flat(self.model.parameters())

    monkeypatch.setattr(GlobalLearner, "update", updating)
    monkeypatch.setattr(GlobalLearner, "redistribute", restarting)
    shares = ratios(T, linf=[0.4] * 4, natural=[0.4] * 4, l2=[0.2] * 4)
    records = run_method(make_params(shares, mixture(T, **changes)), T).observer.records
    names = [f"theorem_2/{name}" for name in ("previous_iterate", "last_restart", "learner_spread")]
    found = {int(record["epoch"]): [record[name] for name in names] for record in records if names[0] in record}
    assert found.keys() == expected.keys() == {2, 4}
    for epoch, steps in expected.items():
        assert found[epoch] == pytest.approx(torch.tensor(steps).mean(0).tolist(), rel=1e-3)
        assert 0 < found[epoch][2] < min(found[epoch][:2])


def test_a_learner_alone_has_no_spread_but_a_distance_from_the_global_learner(
    make_params: MakeParams, run_method: RunExperiment
) -> None:
    """gamma = 1: a term about the mean of the learners would be 0."""
    shares = ratios(T, linf=[1] * 4, natural=[0] * 4, l2=[0] * 4)
    record = run_method(make_params(shares), T).observer.records[-1]
    assert record["theorem_2/learner_spread"] == 0
    assert record["theorem_2/previous_iterate"] > 0 and record["theorem_2/last_restart"] > 0


def test_without_memory_there_is_no_previous_iterate(make_params: MakeParams, run_method: RunExperiment) -> None:
    record = run_method(make_params(mixture(T, decay=0.0)), T).observer.records[-1]
    assert "theorem_2/previous_iterate" not in record and record["theorem_2/last_restart"] > 0


@pytest.mark.parametrize(("optimizer_state", "kept"), [("keep", True), ("reset", False)])
def test_momentum_goes_on_or_from_zero(
    make_params: MakeParams, run_method: RunExperiment, optimizer_state: str, kept: bool
) -> None:
    trained = run_method(make_params(mixture(T, optimizer_state=optimizer_state)), T)
    assert trained.observer.records[-1]["redistributed"] == 1
    for learner in trained.state["learners"].values():
        assert bool(learner["optimizer"]["state"]) == kept


def test_tuned_ratios_stay_on_the_simplex_and_are_kept(make_params: MakeParams, run_method: RunExperiment) -> None:
    params = make_params(mixture(T, ratios="tuned"))
    trained = run_method(params, T)
    used = [
        {name: record[f"mixing_ratio/{name}"] for name in ("linf", "natural", "l2")}
        for record in trained.observer.records
    ]
    assert used[1] == params.methods[T].mixture.ratios_at(2)  # type: ignore[union-attr]
    assert used[2] == used[3] != params.methods[T].mixture.ratios_at(3)  # type: ignore[union-attr]
    for ratios_used in (*used, trained.state["mixture"]["tuned"]):
        assert min(ratios_used.values()) >= 0
        assert sum(ratios_used.values()) == pytest.approx(1)


@pytest.mark.parametrize("result", ["uniform_soup", "greedy_soup"])
def test_a_soup_is_the_mean_of_its_learners_as_they_were_at_the_end(
    make_params: MakeParams, run_method: RunExperiment, result: str
) -> None:
    trained = run_method(make_params(mixture(T, result=result), without_copies(T)), T)
    gamma = {name: trained.observer.records[-1][f"mixing_ratio/{name}"] for name in trained.state["learners"]}
    members = [name for name, ratio in gamma.items() if ratio > 0]
    assert members if result == "greedy_soup" else len(members) == 3
    for name, tensor in trained.mixture.items():
        if tensor.is_floating_point():
            mean = torch.stack([trained.learner(member)[name] for member in members]).mean(0)
            torch.testing.assert_close(tensor, mean)
    assert trained.result.selected_epoch == 4


def test_a_soup_is_cooked_before_its_learners_become_one(make_params: MakeParams, run_method: RunExperiment) -> None:
    trained = run_method(make_params(mixture(T, result="uniform_soup")), T)
    first, second = trained.learner("linf"), trained.learner("natural")
    assert any(not torch.equal(first[name], second[name]) for name in first)
    assert [record["redistributed"] for record in trained.observer.records] == [0, 1, 0, 0]


@pytest.mark.parametrize("change", [{"ratios": "tuned"}, {"result": "greedy_soup"}])
def test_the_test_set_never_chooses_ratios(make_params: MakeParams, change: dict[str, str]) -> None:
    with pytest.raises(RequestError, match="the test images here"):
        make_params(mixture(T, **change), lambda raw: raw["training"]["selection"].update(split="test"))


@pytest.mark.parametrize("change", [{"ratios": "tuned"}, {"result": "uniform_soup"}])
def test_learners_that_are_one_network_are_not_combined(make_params: MakeParams, change: dict[str, str]) -> None:
    with pytest.raises(RequestError, match="every_batch has made the same network"):
        make_params(mixture(T, redistribution="every_batch", **change))
