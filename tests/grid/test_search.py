"""The search with experiments that take no time: their runs are in a real MLflow store, with numbers of our choice."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from pipeline.config import Experiment, MovingAverageSettings
from pipeline.core.errors import PipelineError
from pipeline.core.files import Busy
from pipeline.grid.search import Study, Trial, opened, run_search
from pipeline.studies.trials import Point, Search
from pipeline.tracking import read_trials
from tests.conftest import MakeParams
from tests.reporting.planting import plant

METHOD = "generalist_d_nt_linf"


@pytest.fixture
def search(make_params: MakeParams, store: Path) -> Search:
    return a_search(make_params)


def a_search(make_params: MakeParams, **content: Any) -> Search:
    """Over 51 x 2 x 3 settings, two at a time, with a sampler that learns from the third trial on."""

    def put(raw: dict[str, Any]) -> None:
        raw["search"] |= {"method": METHOD, "at_a_time": 2, "startup_trials": 2, **content}
        raw["search"]["space"] = {
            "first_ratio_end": {"low": 0, "high": 0.5},
            "communication_interval": {"low": 1, "high": 2},
            "warmup_epochs": {"low": 1, "high": 3},
        }

    made = Search.of(make_params(put))
    made.check(made.settings.trials)
    return made


def objectives(one: Experiment) -> tuple[float, float]:
    """More of gamma_1 is less natural and more robust; a later t' loses both, and so does the second seed."""
    mixture = one.method.mixture
    assert isinstance(mixture, MovingAverageSettings)
    ratio = next(iter(mixture.mixing_ratios.values()))[-1]
    loss = 0.01 * int(mixture.warmup_epochs) + 0.02 * (one.seed - 1)
    return 0.9 - 0.4 * ratio - loss, 0.4 + 0.2 * ratio - loss


@dataclass
class Workers:
    """What the grid does with experiments: plant the runs of those that MLflow does not have."""

    folder: Path
    worked_on: list[str] = field(default_factory=list)
    calls: int = 0
    fails: set[int] = field(default_factory=set)
    """Calls, from 1, in which the first experiment fails."""
    stops_in: int | None = None
    """The call in which somebody stops the search, after the first experiment."""

    def __call__(self, experiments: list[Experiment]) -> Mapping[str, str]:
        self.calls += 1
        failed = experiments[:1] if self.calls in self.fails else []
        for number, one in enumerate(experiments[len(failed) :]):
            if number == 1 and self.calls == self.stops_in:
                raise KeyboardInterrupt
            self.work_on(one)
        return {one.fingerprint: "...\nthe loss is nan" for one in failed}

    def work_on(self, one: Experiment) -> None:
        folder = self.folder / "planted" / one.evaluation_fingerprint
        if folder.exists():
            return
        self.worked_on.append(one.identifier)
        natural, worst_case = objectives(one)
        held_out = {"held_out/global/natural": natural, "held_out/global/worst_case_union": worst_case}
        before = {name: 1.0 for name in held_out}
        records = [{"epoch": 1, **before}, {"epoch": 2, **held_out}]
        plant(folder, one, {"natural": natural - 0.1, "worst_case_union": worst_case - 0.1}, records)


def told(search: Search) -> list[Trial]:
    with opened(search) as study:
        return study.told()


def test_a_search_asks_learns_and_ends_with_its_front(
    search: Search, store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    workers = Workers(store)
    text = run_search(search, 5, workers)
    found = told(search)
    assert [trial.number for trial in found] == list(range(5)) and workers.calls == 3
    assert found[0].point == search.default == Point(0.0, 2, 2)
    for trial in found:
        (one,) = search.experiments(trial.point)
        assert trial.values == pytest.approx(objectives(one))
    best = [one for one in found if not any(_beats(other, one) for other in found)]
    with opened(search) as study:
        front = study.front()
    assert {trial.number for trial in front} == {trial.number for trial in best}
    assert [trial.values for trial in front] == sorted((trial.values or () for trial in best), reverse=True)
    assert len(workers.worked_on) == len({trial.point for trial in found}), "one experiment for each setting"
    assert text == (store / "reports/digits/small_cnn/search.md").read_text() and text in capsys.readouterr().out
    lines = text.splitlines()
    assert lines[0] == f"{METHOD}: 5 trials, 0 failed, {len(front)} on the front"
    natural, robust = front[0].values or (0, 0)
    assert f"| {natural:.2%} | {robust:.2%} | {natural - 0.1:.2%} | {robust - 0.1:.2%} | front" in lines[4]
    assert sum(line.endswith("|  |  |  |") for line in lines) == 5 - len({*front, found[0]})


def _beats(one: Trial, other: Trial) -> bool:
    gains = [mine - theirs for mine, theirs in zip(one.values or (), other.values or (), strict=True)]
    return min(gains) >= 0 and max(gains) > 0


def test_a_search_that_is_stopped_goes_on_to_the_same_trials(
    search: Search, store: Path, make_params: MakeParams, empty_store: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    undisturbed = Workers(store)
    run_search(search, 4, undisturbed)
    expected = told(search)

    elsewhere = tmp_path_factory.mktemp("stopped")
    shutil.copy(empty_store, elsewhere / "mlflow.db")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(elsewhere)
        worked_on: list[str] = []
        for stop in (1, 2):
            stopped = Workers(elsewhere, worked_on, stops_in=stop)
            with pytest.raises(KeyboardInterrupt):
                run_search(search, 4, stopped)
        assert sum(not trial.is_open for trial in told(search)) == 2
        run_search(search, 4, Workers(elsewhere, worked_on))
        assert told(search) == expected
        assert worked_on == undisturbed.worked_on, "nothing is worked on twice"


def test_more_trials_are_added_to_those_that_are_told(search: Search, store: Path) -> None:
    workers = Workers(store)
    run_search(search, 2, workers)
    first = told(search)
    run_search(search, 3, workers)
    assert told(search)[:2] == first and len(told(search)) == 3
    calls = workers.calls
    run_search(search, 3, workers)
    assert workers.calls == calls


def test_a_failed_trial_stops_nothing(search: Search, store: Path) -> None:
    text = run_search(search, 4, Workers(store, fails={2}))
    found = told(search)
    assert [trial.values is None for trial in found] == [False, False, True, False]
    assert found[2].failure == "...\nthe loss is nan"
    assert text.startswith(f"{METHOD}: 4 trials, 1 failed, ")
    assert f"trial 2 ({found[2].point.text}) has failed:\n\n```\n...\nthe loss is nan\n```" in text


def test_a_search_whose_every_trial_fails_has_failed(search: Search, store: Path) -> None:
    class NoWorkers(Workers):
        def __call__(self, experiments: list[Experiment]) -> Mapping[str, str]:
            return {one.fingerprint: "killed" for one in experiments}

    with pytest.raises(PipelineError, match="every one of 3 trials has failed; the summary says why"):
        run_search(search, 3, NoWorkers(store))
    assert [trial.failure for trial in told(search)] == ["killed"] * 3


def test_a_trial_counts_with_its_means_over_seeds_and_is_found_in_mlflow(make_params: MakeParams, store: Path) -> None:
    search = a_search(make_params, seeds=[1, 2])
    run_search(search, 2, Workers(store))
    found = told(search)
    for trial in found:
        values = [objectives(one) for one in search.experiments(trial.point)]
        assert trial.values == pytest.approx([sum(each) / 2 for each in zip(*values, strict=True)])
    runs = read_trials("digits", search.digest)
    assert sorted(zip(runs["trial"], runs["seed"], strict=True)) == [(0, 1), (0, 2), (1, 1), (1, 2)]
    shown = {(row["trial"], row["first_ratio_end"], row["communication_interval"]) for _, row in runs.iterrows()}
    assert shown == {(one.number, one.point.first_ratio_end, one.point.communication_interval) for one in found}
    assert read_trials("digits", "0" * 16).empty and read_trials("another", search.digest).empty


def test_the_sampler_learns_from_what_it_is_told(search: Search, store: Path) -> None:
    """Told that late t' lose in both, it prefers early ones."""
    with opened(search) as study:
        for _ in range(20):
            for trial in study.ask(1):
                (one,) = search.experiments(trial.point)
                study.tell(trial, objectives(one))
        early = [trial.point.warmup_epochs == 1 for trial in study.told()]
    assert sum(early[10:]) > 6


def test_the_sampler_is_seeded(make_params: MakeParams, store: Path) -> None:
    def first_two(seed: int, file: str) -> list[Point]:
        study = Study(a_search(make_params, sampler_seed=seed), store / file)
        return [trial.point for trial in study.ask(3)][1:]

    assert first_two(0, "a.db") == first_two(0, "b.db") != first_two(1, "c.db")
    one, other = first_two(0, "a.db")
    assert one != other


def test_the_method_as_it_is_is_no_trial_where_the_space_does_not_hold_it(make_params: MakeParams, store: Path) -> None:
    def narrow(raw: dict[str, Any]) -> None:
        raw["search"]["space"] = {
            "first_ratio_end": {"low": 0.1, "high": 0.5},
            "communication_interval": {"low": 1, "high": 1},
            "warmup_epochs": {"low": 3, "high": 3},
        }

    search = Search.of(make_params(narrow))
    points = [trial.point for trial in Study(search, store / "optuna.db").ask(4)]
    assert all(0.1 <= point.first_ratio_end <= 0.5 for point in points)
    assert {(point.communication_interval, point.warmup_epochs) for point in points} == {(1, 3)}


def test_what_a_kill_left_without_its_settings_is_asked_for_anew(search: Search, store: Path) -> None:
    import optuna

    file = store / "optuna.db"
    Study(search, file)
    left = optuna.load_study(study_name=search.digest, storage=f"sqlite:///{file}")
    left.enqueue_trial({"first_ratio_end": 0.0, "communication_interval": 2, "warmup_epochs": 2})
    left.ask()
    asked = Study(search, file).ask(2)
    assert [trial.number for trial in asked] == [1, 2] and asked[0].point == search.default


def test_a_run_from_before_the_objectives_were_recorded_is_named_with_the_way_out(search: Search, store: Path) -> None:
    (default,) = search.experiments(search.default)
    plant(store / "planted" / default.evaluation_fingerprint, default, {}, [{"epoch": 1, "held_out/global/natural": 1}])
    with pytest.raises(
        PipelineError, match=r"MLflow's run .* of generalist_d_nt_linf-1 lacks .*worst_case_union: it was"
    ):
        run_search(search, 2, Workers(store))
    assert told(search) == [], "nothing is told of what can be mended"


def test_numbers_that_mlflow_does_not_have_yet_are_waited_for(search: Search) -> None:
    with pytest.raises(
        PipelineError, match=r"MLflow does not have the numbers of generalist_d_nt_linf-1, which are done"
    ):
        run_search(search, 2, lambda experiments: {})
    assert told(search) == []


def test_two_processes_do_not_search_the_same(search: Search) -> None:
    with opened(search), pytest.raises(Busy, match=f"search {search.digest} is being worked on"), opened(search):
        pass
