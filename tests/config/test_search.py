"""The search: every point of its space is a method, what is impossible is refused, its digest covers what matters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config import Experiment, MovingAverageSettings, Params, parse_params
from pipeline.core.errors import RequestError
from pipeline.studies.trials import Point, Search
from tests.conftest import REPOSITORY, MakeParams, composed

D, T = "generalist_d_nt_linf", "generalist_t"
SPACE = {
    "first_ratio_end": {"low": 0, "high": 0.5},
    "communication_interval": {"low": 1, "high": 2},
    "warmup_epochs": {"low": 1, "high": 3},
}
Change = Callable[[dict[str, Any]], None]


def section(method: str = T, space: dict[str, Any] | None = None, **content: Any) -> Change:
    """Put this search into the small file of four epochs."""

    def put(raw: dict[str, Any]) -> None:
        raw["search"] = {"method": method, "space": {**SPACE, **(space or {})}, **content}

    return put


def mixture(experiment: Experiment) -> MovingAverageSettings:
    settings = experiment.method.mixture
    assert isinstance(settings, MovingAverageSettings)
    return settings


@pytest.mark.parametrize("suite", sorted(path.stem for path in (REPOSITORY / "conf/suite").glob("*.yaml")))
def test_every_suite_has_a_search_that_is_possible_and_holds_the_papers_setting(suite: str) -> None:
    search = Search.of(composed(f"suite={suite}"))
    search.check(search.settings.trials)
    assert search.holds(search.default)
    own = search.experiments(search.default)[0]
    assert own.fingerprint == search.params.experiment(search.settings.method, 1).fingerprint
    assert own.identifier == f"{search.settings.method}-1" and own.grid


def test_a_point_changes_what_it_names_and_nothing_else(make_params: MakeParams) -> None:
    search = Search.of(make_params(section(seeds=[1, 2])))
    first, second = search.experiments(Point(0.3, 2, 3))
    ours, theirs = mixture(first), search.mixture
    assert ours.mixing_ratios == {"linf": [1, 1, 1, 0.3], "natural": [0, 0, 0, 0.35], "l2": [0, 0, 0, 0.35]}
    assert (ours.communication_interval, ours.warmup_epochs) == (2, 3)
    varied = {"mixing_ratios", "communication_interval", "warmup_epochs"}
    assert ours.model_dump(exclude=varied) == theirs.model_dump(exclude=varied)
    assert first.method.learners == search.method.learners
    assert first.identifier == "generalist_t_search_gamma_1_0_3_c_2_t_3-1" and second.seed == 2


def test_the_others_share_the_rest_as_they_did(make_params: MakeParams) -> None:
    def uneven(raw: dict[str, Any]) -> None:
        raw["methods"][T]["mixture"]["mixing_ratios"] = {
            "linf": [1, 1, 1, 0.2],
            "natural": [0, 0, 0, 0.6],
            "l2": [0, 0, 0, 0.2],
        }

    search = Search.of(make_params(section(), uneven))
    assert search.default.first_ratio_end == 0.2
    last = {name: ratios[-1] for name, ratios in mixture(search.experiments(Point(0.4, 1, 1))[0]).mixing_ratios.items()}
    assert last == pytest.approx({"linf": 0.4, "natural": 0.45, "l2": 0.15})


@given(ratio=st.integers(0, 100), interval=st.integers(1, 2), warmup=st.integers(1, 3))
def test_every_point_is_a_method_that_redistributes_and_has_a_name_of_its_own(
    tiny_content: dict[str, Any], ratio: int, interval: int, warmup: int
) -> None:
    content = dict(tiny_content)
    section(space={"first_ratio_end": {"low": 0, "high": 1}})(content)
    search, point = Search.of(parse_params(content)), Point(ratio / 100, interval, warmup)
    search.check(search.settings.trials)
    assert search.holds(point)
    (one,) = search.experiments(point)
    settings = mixture(one)
    assert any(settings.redistributes_in(epoch, 4) for epoch in range(1, 5))
    assert sum(settings.ratios_at(4).values()) == pytest.approx(1)
    other = Point((ratio + 1) % 101 / 100, interval, warmup)
    assert search.experiments(other)[0].name != one.name
    assert Experiment.model_validate(one.model_dump(mode="json")) == one


@pytest.mark.parametrize(
    ("point", "inside"),
    [
        (Point(0.5, 2, 3), True),
        (Point(0.505, 2, 3), False),
        (Point(0.125, 2, 3), False),
        (Point(0.51, 2, 3), False),
        (Point(0.5, 3, 3), False),
        (Point(0.5, 2, 4), False),
    ],
)
def test_the_space_holds_hundredths_within_its_ranges(make_params: MakeParams, point: Point, inside: bool) -> None:
    search = Search.of(make_params(section()))
    assert search.holds(point) is inside
    assert search.settings.space.settings == 51 * 2 * 3


def change(**content: Any) -> Change:
    return lambda raw: raw["search"].update(content)


def test_the_digest_covers_what_is_asked_for_and_what_it_comes_to(make_params: MakeParams) -> None:
    def digest(*changes: Change) -> str:
        return Search.of(make_params(section(), *changes)).digest

    same = digest()
    for harmless in (change(trials=7), change(at_a_time=1), lambda raw: raw["methods"][T].update(label="T")):
        assert digest(harmless) == same
    changes: list[Change] = [
        change(sampler_seed=1),
        change(startup_trials=3),
        change(seeds=[1, 2]),
        change(method=D),
        section(space={"warmup_epochs": {"low": 2, "high": 3}}),
        lambda raw: raw["training"].update(batch_size=8),
        lambda raw: raw["evaluation"].update(seed=1),
        lambda raw: raw["data"].update(held_out_images=16),
    ]
    assert len({same, *map(digest, changes)}) == 1 + len(changes)


# --- Mistakes


def own_epochs(raw: dict[str, Any]) -> None:
    raw["methods"][T] |= {"epochs": 2}
    raw["methods"][T]["mixture"]["breakpoints"] = [0, 0.5, 1, 2]
    for learner in raw["methods"][T]["learners"].values():
        learner["schedule"]["epochs"] = [0, 0.5, 1, 2]


IMPOSSIBLE: list[tuple[list[Change], str]] = [
    (
        [section(space={"warmup_epochs": {"low": 1, "high": 9}})],
        "search.space.warmup_epochs.high: 9 lies beyond the last epoch; valid: 1-4",
    ),
    ([section(), own_epochs], "search.space.warmup_epochs.high: 3 lies beyond the last epoch; valid: 1-2"),
    (
        [section(space={"communication_interval": {"low": 1, "high": 3}, "warmup_epochs": {"low": 1, "high": 4}})],
        "search.space.communication_interval: of 1 to 3, some divide none of the epochs from t' = 4 to the last, 4: "
        "the learners would never restart from the global learner; valid: 1-2, 4",
    ),
    (
        [section(space={"communication_interval": {"low": 1, "high": 2**31 - 1}})],
        "search.space.communication_interval: of 1 to 2147483647, some divide none",
    ),
    (
        [
            section(
                trials=4,
                space={name: {"low": 1, "high": 1} for name in SPACE} | {"warmup_epochs": SPACE["warmup_epochs"]},
            )
        ],
        "search.space: 4 trials are more than the 3 settings that it has; widen a range, or ask for fewer trials",
    ),
    (
        [section(), lambda raw: raw["training"]["selection"].update(split="test")],
        "training.selection.split: 'test' would choose settings on test images",
    ),
]


@pytest.mark.parametrize(("changes", "text"), IMPOSSIBLE)
def test_impossible_spaces_are_refused_with_what_is_valid(
    make_params: MakeParams, changes: list[Change], text: str
) -> None:
    search = Search.of(make_params(*changes))
    with pytest.raises(RequestError, match="the search is not possible, nothing was started") as caught:
        search.check(search.settings.trials)
    assert text in str(caught.value)


def test_all_that_is_impossible_is_in_one_message(make_params: MakeParams) -> None:
    space = {"communication_interval": {"low": 3, "high": 5}, "warmup_epochs": {"low": 4, "high": 9}}
    search = Search.of(make_params(section(space=space)))
    with pytest.raises(RequestError) as caught:
        search.check(10**6)
    assert len(str(caught.value).splitlines()) == 4


def test_a_method_that_cannot_be_varied_is_refused_with_those_that_can(make_params: MakeParams) -> None:
    with pytest.raises(RequestError, match=r"search\.method: 'at' has no mixture .* Valid: generalist_d_nt_linf, "):
        Search.of(make_params(section("at")))
    with pytest.raises(RequestError, match=r"search\.method: 'generalist_s' is unknown: did you mean 'generalist_t'"):
        Search.of(make_params(section("generalist_s")))
    without: Params = make_params(lambda raw: raw.update(search=None, figures={}))
    with pytest.raises(RequestError, match=r"params\.yaml has no section 'search'"):
        Search.of(without)


@pytest.mark.parametrize(
    ("put", "text"),
    [
        (
            section(space={"warmup_epochs": {"low": 3, "high": 2}}),
            "search.space.warmup_epochs.low: 3 lies above high, 2",
        ),
        (
            section(space={"first_ratio_end": {"low": 0, "high": 0.333}}),
            "search.space.first_ratio_end.high: mixing ratios are searched in hundredths, got 0.333",
        ),
        (
            section(space={"first_ratio_end": {"low": 0, "high": 1.1}}),
            "search.space.first_ratio_end.high: input should be less than or equal to 1",
        ),
        (
            section(space={"communication_interval": {"low": 0, "high": 1}}),
            "search.space.communication_interval.low: input should be greater than or equal to 1",
        ),
        (section(space={"decay": {"low": 0, "high": 1}}), "search.space.decay: unknown key; "),
        (section(seeds=[1, 1]), "search.seeds: 1 is given more than once"),
        (section(trials=0), "search.trials: input should be greater than or equal to 1"),
        (section(trails=3), "search.trails: unknown key; did you mean 'trials'?"),
    ],
)
def test_mistakes_in_the_file_are_named(make_params: MakeParams, put: Change, text: str) -> None:
    with pytest.raises(RequestError) as caught:
        make_params(put)
    assert text in str(caught.value)
