"""Another number of epochs at composition: whatever counts epochs keeps its share of the run."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config import MovingAverageSettings, Params, parse_params
from pipeline.config.remarks import early_end
from pipeline.config.scaling import SHOWN, Scaling
from pipeline.core.values import in_epochs
from pipeline.studies.cells import cells
from pipeline.studies.trials import Search
from tests.conftest import REPOSITORY, composed, composition

CONF = REPOSITORY / "conf"
T = "generalist_t"


SOURCES = ("suite=cifar10", "recipes=sources", "training.epochs=20")


def notes_of(*overrides: str) -> list[str]:
    return composition(*overrides).notes


def mixture_of(params: Params, name: str = T) -> MovingAverageSettings:
    mixture = params.methods[name].mixture
    assert isinstance(mixture, MovingAverageSettings)
    return mixture


@pytest.mark.parametrize(
    ("suite", "epochs", "protocol"),
    [
        ("cifar10", 20, "paper"),
        ("digits", 10, "paper"),
        ("digits", 20, "reference_code"),
        ("imagenet", 8, "paper"),
        ("cifar10_study", 20, "paper"),
        ("cifar10_reduced", 3, "reference_code"),
    ],
)
def test_every_suite_can_be_shorter_or_longer(suite: str, epochs: int, protocol: str) -> None:
    """Rates, mixing ratios and restarts at the same shares of the run; the grid and the search are possible."""
    own = composed(f"suite={suite}", f"protocol={protocol}")
    scaled = composed(f"suite={suite}", f"protocol={protocol}", f"training.epochs={epochs}")
    before, share = own.training.epochs, epochs / own.training.epochs
    for name, method in own.methods.items():
        if method.epochs is not None:
            continue
        for learner, settings in method.learners.items():
            schedule = scaled.methods[name].learners[learner].schedule
            assert schedule.values == settings.schedule.values
            assert schedule.epochs == pytest.approx([epoch * share for epoch in settings.schedule.epochs], abs=1e-3)
        if isinstance(method.mixture, MovingAverageSettings):
            mixture = mixture_of(scaled, name)
            assert mixture.mixing_ratios == method.mixture.mixing_ratios
            assert mixture.breakpoints[-1] == epochs
            for key in ("communication_interval", "warmup_epochs"):
                was, is_now = in_epochs(getattr(method.mixture, key), before), in_epochs(getattr(mixture, key), epochs)
                assert is_now / epochs == was / before
            assert mixture.decay**epochs == pytest.approx(method.mixture.decay**before, rel=1e-3)
    assert len(cells(scaled)) == len(cells(own))
    if scaled.training.selection.split != "test":
        Search.of(scaled).check(scaled.search.trials if scaled.search else 0)
    assert f"{epochs} epochs" in scaled.description


def test_the_same_epochs_change_nothing() -> None:
    assert composition("suite=digits", "training.epochs=15") == composition("suite=digits")


def test_forcing_the_epochs_scales_too() -> None:
    assert mixture_of(composed("suite=digits", "++training.epochs=30")).warmup_epochs == 18


def test_what_is_asked_for_by_name_stays() -> None:
    base = "methods.generalist_d_nt_linf.mixture"
    params = composed(
        "suite=digits",
        "training.epochs=20",
        f"{base}={{breakpoints:[0,1,2,20],warmup_epochs:3}}",
        f"{base}.decay=0.5",
        "training.validation_interval=2",
        "description=mine",
    )
    mixture = mixture_of(params)
    assert (mixture.breakpoints, mixture.warmup_epochs, mixture.decay) == ([0, 1, 2, 20], 3, 0.5)
    assert params.methods["at"].learners["linf"].schedule.epochs == [0, 1, 2, 20]
    assert mixture.communication_interval == "1/15"  # of the same mapping, and not asked for
    assert (params.training.validation_interval, params.description) == (2, "mine")


def test_the_papers_interval_is_a_share_of_a_short_run_and_whole_where_it_can_be() -> None:
    assert mixture_of(composed("suite=cifar10", "training.epochs=20")).communication_interval == "5/120"
    assert mixture_of(composed("suite=cifar10", "training.epochs=24")).communication_interval == 1
    raw: dict[str, Any] = {"methods": {"one": {"mixture": {"communication_interval": 5}}}}
    Scaling(120, 240).apply(raw)
    assert raw["methods"]["one"]["mixture"]["communication_interval"] == 10
    long = composed("suite=imagenet", "training.epochs=8")
    assert long.ablation.studies["communication_interval"].model_dump()["values"][:2] == ["1/240", "2/240"]


def test_an_own_number_of_epochs_is_scaled_and_every_phase_keeps_an_epoch() -> None:
    fast = composed("suite=imagenet", "training.epochs=8").methods["fast_at"]
    assert fast.epochs == 3 and fast.phases is not None
    assert [phase.first_epoch for phase in fast.phases] == [1, 2, 3]
    assert fast.learners["linf"].schedule.epochs == [0, 0.2, 1.2, 2.4, 3]
    longer = composed("suite=imagenet", "training.epochs=480").methods["fast_at"]
    assert longer.epochs == 30 and longer.phases is not None
    assert [phase.first_epoch for phase in longer.phases] == [1, 13, 25]
    given_epochs = composed("suite=imagenet", "training.epochs=8", "methods.fast_at.epochs=15").methods["fast_at"]
    assert given_epochs.learners["linf"].schedule.epochs == [0, 1, 6, 12, 15]


def test_every_recipe_of_a_source_scales_with_its_own_epochs() -> None:
    own, short = composed("suite=cifar10", "recipes=sources"), composed(*SOURCES)
    for name, method in own.methods.items():
        epochs = short.methods[name].epochs
        if method.epochs is None or epochs is None:
            continue
        assert epochs == pytest.approx(method.epochs / 6, abs=0.5)
        for learner, settings in method.learners.items():
            first, last = (one.at(1) for one in (settings.schedule, short.methods[name].learners[learner].schedule))
            assert first == pytest.approx(last, rel=0.15) or name in ("fast_at_source", "msd_source", "rst_source")


def test_what_cannot_act_within_an_epoch_gets_whole_ones() -> None:
    beyond = composed("suite=digits_beyond", "training.epochs=10")
    assert mixture_of(beyond, "tuned_ratios").communication_interval == 1
    assert mixture_of(beyond, "greedy_soup").communication_interval == 1
    assert mixture_of(beyond, "generalist_d_nt_linf").communication_interval == "1/15"
    rmc = composed("suite=cifar10", "training.epochs=20").methods["rmc"].mixture
    assert rmc is not None and rmc.model_dump()["path_starts_after"] == 13


def test_studies_that_replace_settings_are_scaled() -> None:
    raw: dict[str, Any] = {
        "ablation": {
            "studies": {
                "late": {"varies": "settings", "values": {"late": {"mixture": {"warmup_epochs": 100}}}},
                "often": {"varies": "communication_interval", "values": [1, "7/120", 60]},
            }
        }
    }
    Scaling(120, 60).apply(raw)
    studies = raw["ablation"]["studies"]
    assert studies["late"]["values"]["late"]["mixture"]["warmup_epochs"] == 50
    assert studies["often"]["values"] == ["1/120", "7/120", 30]


@given(
    before=st.integers(1, 300), after=st.integers(1, 300), interval=st.integers(1, 300), decay=st.floats(0.5, 0.9999)
)
def test_shares_stay_what_they_were(before: int, after: int, interval: int, decay: float) -> None:
    breakpoints = sorted({0, before / 3, before / 2, before})
    mixture = {"breakpoints": breakpoints, "communication_interval": interval, "decay": decay}
    raw: dict[str, Any] = {"methods": {"one": {"learners": {}, "mixture": dict(mixture)}}}
    Scaling(before, after).apply(raw)
    scaled = raw["methods"]["one"]["mixture"]
    assert scaled["breakpoints"][-1] == after
    assert scaled["breakpoints"] == sorted(set(scaled["breakpoints"]))
    if interval <= before:
        assert in_epochs(scaled["communication_interval"], after) == Fraction(interval * after, before)
    assert 0 <= scaled["decay"] < 1


def test_a_person_is_told_what_was_scaled() -> None:
    assert notes_of("suite=digits") == []
    first, *lines = notes_of("suite=cifar10", "training.epochs=20")
    assert first.startswith("scaled in proportion from 120 epochs to 20")
    assert "  methods.generalist_d_nt_linf.mixture.communication_interval: 5 -> 5/120" in lines
    assert "  methods.generalist_d_nt_linf.mixture.breakpoints: [0, 40, 80, 120] -> [0, 6.667, 13.333, 20]" in lines
    many = notes_of(*SOURCES)
    assert len(many) == SHOWN + 2 and many[-1].startswith("  and ")


def test_a_schedule_that_ends_before_the_last_epoch_is_said(raw: dict[str, Any]) -> None:
    assert early_end(parse_params(raw)) is None
    raw["training"]["epochs"] = 5
    params = parse_params(raw)
    one = early_end(params, ["at"])
    assert one is not None and one.startswith(
        "schedule of methods.at.learners.linf ends at epoch 4 of 5: constant from there on."
    )
    assert "training.epochs=5, which scales them" in one
    # One of nt, at and at_l2, two and the ratios of both Generalist-D, three and the ratios of Generalist-T.
    assert "schedule of methods.nt.learners.natural ends at epoch 4 of 5, and 12 more end before it:" in str(
        early_end(params)
    )


def test_a_schedule_that_is_meant_to_end_is_not_spoken_of(raw: dict[str, Any]) -> None:
    raw["training"]["epochs"] = 5
    schedule = raw["methods"]["at"]["learners"]["linf"]["schedule"]
    schedule["interpolation"] = "step"
    assert early_end(parse_params(raw), ["at"]) is None
    schedule["interpolation"] = "linear"
    raw["methods"]["at"]["epochs"] = 6
    assert early_end(parse_params(raw), ["at"]) is None
    for suite in ("digits", "cifar10", "imagenet"):
        assert early_end(composed(f"suite={suite}")) is None  # RMC's endpoints rest after their last breakpoint
    assert early_end(composed("suite=cifar10", "training.epochs=20")) is None
