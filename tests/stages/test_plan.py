"""What a grid costs: probed once for every kind of experiment, and never started above the budget."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.core import machine
from pipeline.evaluation.attacks.autoattack import AutoAttack
from pipeline.grid import plan
from pipeline.grid.plan import Cost, branch_bytes, costs, describe_bytes, describe_seconds
from pipeline.studies.cells import cells
from tests.conftest import MakeParams, keep
from tests.stages.conftest import Finished, MakeWorkplace, Workplace


def small(content: dict[str, Any]) -> None:
    ablation, search = content["ablation"], content["search"]
    keep(content, list(content["methods"]), ["pgd20_linf", "noise_linf"])
    studies = {name: ablation["studies"][name] for name in ("communication_interval", "weight_averaging")}
    kept = {name: study | {"methods": ["generalist_d_nt_linf"]} for name, study in studies.items()}
    content |= {"ablation": ablation | {"studies": kept}, "search": search}


@pytest.fixture(scope="module")
def place(make_workplace: MakeWorkplace) -> Workplace:
    return make_workplace(small)


@pytest.fixture(scope="module")
def first(place: Workplace) -> Finished:
    return place.call("plan")


def test_a_plan_has_every_experiment_and_the_sum(first: Finished) -> None:
    first.expect(0)
    lines = first.out.splitlines()
    grid = lines.index("make ablation:")
    assert lines[0].startswith("make repro: ") and lines[grid + 1] == "6 experiments: 0 are done, 6 are not"
    assert sum("(training + evaluation)" in line for line in lines[grid:]) == 6
    experiments = int(lines[0].split()[2])
    assert sum("(training + evaluation)" in line for line in lines[:grid]) == experiments > 1
    for last in (lines[grid - 1], lines[-1]):
        assert last.startswith("in all about ") and "of memory for each worker" in last
        assert "of it to branch from (training.branch_gigabytes)" in last


def test_a_second_plan_probes_nothing_and_the_budget_is_kept(first: Finished, place: Workplace) -> None:
    place.change(lambda content: content["ablation"].update(budget_hours=1e-6))
    refused = place.call("plan")
    refused.expect(1, "that exceeds the budget of 1e-06 h and 50 GB", "--yes")
    assert "timing" not in refused.out
    place.call("plan", "--yes").expect(0)


@pytest.fixture
def prepared(prepared_digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The digits are prepared in the current folder, which is a new one."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data/prepared").mkdir(parents=True)
    (tmp_path / "data/prepared/digits").symlink_to(prepared_digits)


@pytest.mark.usefixtures("prepared")
def test_more_epochs_and_more_images_cost_more(make_params: MakeParams) -> None:
    def cost(*changes: Callable[[dict[str, Any]], Any]) -> Cost:
        one = cells(make_params(small, *changes), ["communication_interval"])[0].experiment
        return costs([one])[one.fingerprint]

    # Far apart, so that a neighbour on the same cores cannot turn the order around.
    tiny = cost(lambda raw: [attack.update(images=1) for attack in raw["evaluation"]["attacks"].values()])
    long = cost(lambda raw: raw["training"].update(epochs=400))
    assert long.training_seconds > 10 * tiny.training_seconds
    assert long.evaluation_seconds > tiny.evaluation_seconds
    assert 1e5 < tiny.disk_bytes < 1e7 and 1e8 < tiny.memory_bytes < 1e10


def test_what_is_kept_to_branch_from_is_counted_up_to_its_budget(make_params: MakeParams) -> None:
    def kept(gigabytes: float) -> int:
        def change(content: dict[str, Any]) -> None:
            content["training"].update(epochs=8, branch_gigabytes=gigabytes)
            mixture = content["methods"]["generalist_t"]["mixture"]
            mixture.update(breakpoints=[0, 2, 4, 6], warmup_epochs=4, communication_interval=2)

        params = make_params(change)
        experiments = [params.experiment(name, 1) for name in ("at", "generalist_t")]
        expected = {one.fingerprint: Cost(1.0, 1.0, 7, 10**9, 7) for one in experiments}
        return branch_bytes(experiments, expected)

    assert [kept(5.0), kept(1.5), kept(0.0)] == [2 * 10**9, 15 * 10**8, 0]  # after epochs 4 and 6 of Generalist-T


def test_a_smaller_ensemble_costs_less() -> None:
    standard = AutoAttack(name="autoattack", norm="linf", epsilon=0.1)
    less = AutoAttack(name="autoattack", norm="linf", epsilon=0.1, targets=3, queries=1000)
    assert standard.passes() == (100 + 900 + 1800, 5000)
    assert less.passes() == (100 + 300 + 600, 1000)


def test_workers_share_the_cores(make_params: MakeParams, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Probes have the threads that a worker will have; what fewer had found is not taken for it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(machine, "usable_cores", lambda: 8)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    probed, places = [], set()
    own = cells(make_params(small), ["communication_interval"])[0].experiment
    free = own.model_copy(update={"training": own.training.model_copy(update={"threads": None})})
    for one, sharers in ((free, 1), (free, 2), (free, 16), (own, 2)):
        shared = plan._sharing(one, sharers)
        assert shared.fingerprint == own.fingerprint
        probed.append(shared.training.threads)
        places.add(plan._kind(shared))
    assert probed == [8, 4, 1, 1] and len(places) == 3


@pytest.mark.usefixtures("prepared")
def test_what_would_diverge_has_a_cost_like_anything_else(make_params: MakeParams) -> None:
    def hasty(content: dict[str, Any]) -> None:
        small(content)
        for learner in content["methods"]["generalist_d_nt_linf"]["learners"].values():
            learner["optimizer"]["learning_rate"] = 1e30

    one = cells(make_params(hasty), ["communication_interval"])[0].experiment
    assert costs([one])[one.fingerprint].training_seconds > 0


@pytest.mark.usefixtures("prepared")
def test_each_kind_of_step_is_timed_once_and_what_there_is_no_time_for_is_told_from_the_others(
    make_params: MakeParams, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    params = make_params(small)
    nt, at, both = (params.experiment(name, 1) for name in ("nt", "at", "generalist_d_nt_linf"))
    taken: list[str] = []
    steps_of = plan._steps_of

    def counted(run: Any, learner: Any) -> Callable[[], None]:
        step = steps_of(run, learner)

        def take() -> None:
            taken.append(learner.name)
            step()

        return take

    monkeypatch.setattr(plan, "_steps_of", counted)
    monkeypatch.setattr(plan, "_timings", {})
    *_, last = [plan.probe(one) for one in (nt, at, both)]
    timed = 2 * (1 + plan.STEPS)
    assert len(taken) == timed + 2, "the two learners of Generalist-D take the steps of NT and AT"
    monkeypatch.setattr(plan, "_timings", {})
    assert plan.probe(both).checkpoint_bytes == last.checkpoint_bytes, "steps or not, a checkpoint has momentum"
    assert costs([]) == {}
    first = costs([nt], patience=0)[nt.fingerprint]
    told = costs([nt, both], patience=0)
    assert told[nt.fingerprint] == first
    assert told[both.fingerprint].training_seconds > 2 * first.training_seconds
    assert "0 of 1 kinds are timed, the others told from them; again goes on" in capsys.readouterr().out


def test_amounts_are_readable() -> None:
    assert [describe_bytes(count) for count in (7, 7e3, 7e6, 7.25e9)] == ["7 B", "7 kB", "7 MB", "7.2 GB"]
    assert [describe_seconds(seconds) for seconds in (7, 700, 70_000)] == ["7 s", "12 min", "19.4 h"]
