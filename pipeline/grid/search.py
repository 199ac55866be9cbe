"""The search: Optuna asks for settings, the grid trains and evaluates them, MLflow has what they come to.

A trial is a setting with all of its seeds. What was asked for and what was told is in a sqlite file below `runs/`, by
the search's digest, so that a search that is killed goes on with the same command. Every trial is drawn with a seed of
its own, from the sampler's and its number: a search that goes on draws what it would have drawn without the kill.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

from pipeline.config import Experiment
from pipeline.config.search import HUNDREDTHS
from pipeline.core.errors import PipelineError
from pipeline.core.files import exclusive, write_text
from pipeline.provenance.folders import RUNS
from pipeline.reporting.markdown import markdown_table
from pipeline.studies.trials import OBJECTIVES, Point, Search, point_from
from pipeline.tracking import sqlite_uri

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.samplers import BaseSampler
    from optuna.trial import FrozenTrial

Complete = Callable[[list[Experiment]], Mapping[str, str]]
"""Brings experiments to their end; returns by fingerprint why those failed that did."""
TEST_METRICS = ("natural", "worst_case_union")
"""On test images, shown beside the objectives; nothing is chosen by them."""
REASON = 2000
"""Characters of a failure that are kept."""


@dataclass(frozen=True)
class Trial:
    """One setting that was asked for."""

    number: int
    """From 0."""
    point: Point
    values: tuple[float, ...] | None
    """The values of `OBJECTIVES`, means over seeds in [0, 1]; None while they are not known, and after a failure."""
    failure: str | None
    """Why it has come to nothing."""

    @property
    def is_open(self) -> bool:
        """Whether nothing was told of it yet."""
        return self.values is None and self.failure is None


class Study:
    """What Optuna knows of a search.

    Args:
        search: Whose.
        file: Of sqlite; made where it is missing.
    """

    def __init__(self, search: Search, file: Path) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._search = search
        self._study = optuna.create_study(
            storage=sqlite_uri(file.absolute()),
            study_name=search.digest,
            directions=["maximize"] * len(OBJECTIVES),
            load_if_exists=True,
        )

    def trials(self) -> list[Trial]:
        """All that were asked for, by number."""
        reasons = self._study.user_attrs
        whole = [found for found in self._study.get_trials(deepcopy=False) if self._is_whole(found)]
        return [_trial(found, reasons.get(_reason_of(found.number), "")) for found in whole]

    def told(self) -> list[Trial]:
        """The trials that are done or have failed."""
        return [trial for trial in self.trials() if not trial.is_open]

    def front(self) -> list[Trial]:
        """The trials that no other one beats, the highest natural accuracy first."""
        best = {found.number for found in self._study.best_trials}
        front = [trial for trial in self.trials() if trial.number in best]
        return sorted(front, key=lambda trial: (trial.values or (), -trial.number), reverse=True)

    def ask(self, count: int) -> list[Trial]:
        """So many trials to work on: first those that a stop has left open, then new ones."""
        self._abandon_halves()
        self._ask_for_default()
        while sum(trial.is_open for trial in self.trials()) < count:
            self._study.sampler = self._sampler(len(self._study.get_trials(deepcopy=False)))
            self._study.ask(self._distributions())
        return [trial for trial in self.trials() if trial.is_open][:count]

    def tell(self, trial: Trial, values: Sequence[float]) -> None:
        """What a trial has come to, by `OBJECTIVES`."""
        self._study.tell(trial.number, list(values))

    def fail(self, trial: Trial, reason: str) -> None:
        """That a trial has come to nothing, and why."""
        from optuna.trial import TrialState

        self._study.set_user_attr(_reason_of(trial.number), reason[-REASON:])
        self._study.tell(trial.number, state=TrialState.FAIL)

    def _is_whole(self, found: FrozenTrial) -> bool:
        """Whether it has all of its settings: Optuna writes them one by one, and a kill may come between."""
        return found.params.keys() == self._distributions().keys()

    def _abandon_halves(self) -> None:
        from optuna.trial import TrialState

        for found in self._study.get_trials(deepcopy=False, states=[TrialState.RUNNING]):
            if not self._is_whole(found):
                self._study.tell(found.number, state=TrialState.FAIL)

    def _ask_for_default(self) -> None:
        """Have the method as it is tried first."""
        from optuna.trial import TrialState

        default = self._search.default
        waits = self._study.get_trials(deepcopy=False, states=[TrialState.WAITING])
        if not waits and self._search.holds(default) and default not in [trial.point for trial in self.trials()]:
            self._study.enqueue_trial(asdict(default))

    def _distributions(self) -> dict[str, BaseDistribution]:
        from optuna.distributions import FloatDistribution, IntDistribution

        space = self._search.settings.space
        ratio, whole = space.first_ratio_end, (space.communication_interval, space.warmup_epochs)
        return {
            "first_ratio_end": FloatDistribution(ratio.low, ratio.high, step=1 / HUNDREDTHS),
            "communication_interval": IntDistribution(whole[0].low, whole[0].high),
            "warmup_epochs": IntDistribution(whole[1].low, whole[1].high),
        }

    def _sampler(self, number: int) -> BaseSampler:
        """What draws the trial of a number, and nothing else."""
        from numpy.random import SeedSequence
        from optuna.samplers import TPESampler

        settings = self._search.settings
        seed = int(SeedSequence([settings.sampler_seed, number]).generate_state(1)[0])
        return TPESampler(seed=seed, n_startup_trials=settings.startup_trials)


def _trial(found: FrozenTrial, reason: str) -> Trial:
    values = tuple(found.values) if found.values else None
    failed = found.state.is_finished() and values is None
    return Trial(found.number, point_from(found.params), values, reason if failed else None)


def _reason_of(number: int) -> str:
    return f"failure of trial {number}"


@contextmanager
def opened(search: Search) -> Iterator[Study]:
    """What is known of a search, for one process at a time.

    Raises:
        Busy: another process searches.
    """
    folder = RUNS / "searches" / search.digest
    with exclusive(folder / "lock", f"search {search.digest}"):
        yield Study(search, folder / "optuna.db")


def run_search(search: Search, trials: int, complete: Complete) -> str:
    """Try settings until so many trials are told, those of earlier calls among them; a failed one stops nothing.

    Args:
        search: Its space is possible (`Search.check`).
        trials: In all.
        complete: Works on the experiments of some trials.

    Returns:
        As `conclude`.

    Raises:
        PipelineError: as `conclude`; or MLflow lacks numbers of what is done.
    """
    with opened(search) as study:
        while (left := trials - len(study.told())) > 0:
            batch = study.ask(min(search.settings.at_a_time, left))
            print(f"{trials - left} of {trials} trials are done; now {', '.join(str(one.number) for one in batch)}")
            experiments = {trial.number: search.experiments(trial.point) for trial in batch}
            failures = complete(list({one.fingerprint: one for of in experiments.values() for one in of}.values()))
            for trial in batch:
                _settle(search, study, trial, experiments[trial.number], failures)
        return conclude(search, study)


def _settle(
    search: Search, study: Study, trial: Trial, experiments: list[Experiment], failures: Mapping[str, str]
) -> None:
    """Tell what a trial has come to."""
    from pipeline.tracking import mark_trial

    reasons = [failures[one.fingerprint] for one in experiments if one.fingerprint in failures]
    if reasons:
        study.fail(trial, reasons[0])
        print(f"trial {trial.number} ({trial.point.text}) has failed")
        return
    values = _held_out(experiments)
    for one in experiments:
        mark_trial(one, search.digest, trial.number, trial.point)
    study.tell(trial, values)
    shown = "natural {:.2%}, worst-case union {:.2%}".format(*values)
    print(f"trial {trial.number} ({trial.point.text}): {shown} of held-out images")


def _held_out(experiments: Sequence[Experiment]) -> list[float]:
    """The objectives of a trial: means over its experiments, from MLflow."""
    from pipeline.tracking import deliver_left, finished_runs, read_selected_epochs

    if text := deliver_left().describe():
        print(text)
    rows = finished_runs(experiments, of_this_code=True).to_dict("records")
    runs = {row["fingerprint"]: str(row["run_id"]) for row in rows}  # the one that finished last is the last
    missing = [one.identifier for one in experiments if one.fingerprint not in runs]
    if missing:
        raise PipelineError(
            f"MLflow does not have the numbers of {', '.join(missing)}, which are done; the same command continues "
            "when they are delivered ('python -m stages.deliver', where they were trained)"
        )
    records = read_selected_epochs(runs.values())
    for one in experiments:
        run = runs[one.fingerprint]
        if not set(OBJECTIVES) <= records.get(run, {}).keys():
            raise PipelineError(
                f"MLflow's run {run} of {one.identifier} lacks {' or '.join(OBJECTIVES)}: it was trained before they "
                f"were recorded. To train it anew: 'mlflow runs delete --run-id {run}', remove "
                f"{RUNS / one.fingerprint}, and search again."
            )
    return [fmean(records[runs[one.fingerprint]][name] for one in experiments) for name in OBJECTIVES]


def conclude(search: Search, study: Study) -> str:
    """Say what a search has found, and write it to `search.md` in the suite's reports.

    Returns:
        Markdown: all trials, the front among them with its accuracies on test images, and why others failed.

    Raises:
        PipelineError: every trial has failed.
    """
    told, front = study.told(), study.front()
    text = "\n".join([*_table(search, told, front), *_failures(told)]) + "\n"
    write_text(search.params.reports / "search.md", text)
    print(text)
    if not front:
        raise PipelineError(f"every one of {len(told)} trials has failed; the summary says why")
    return text


def _table(search: Search, told: Sequence[Trial], front: Sequence[Trial]) -> Iterator[str]:
    """Every trial that is done, the front first."""
    done = [trial for trial in told if trial.values is not None]
    as_it_is = [trial for trial in done if trial.point == search.default]
    tested = _test_accuracies(search, [*front, *as_it_is])
    yield f"{search.settings.method}: {len(told)} trials, {len(told) - len(done)} failed, {len(front)} on the front"
    yield ""
    rows = []
    for trial in [*front, *(trial for trial in done if trial not in front)]:
        marks = ["front"] * (trial in front) + ["as in params.yaml"] * (trial in as_it_is)
        numbers = [f"{value:.2%}" for value in trial.values or ()] + tested.get(trial.number, [""] * len(TEST_METRICS))
        settings = [str(trial.number), *(f"{value:g}" for value in asdict(trial.point).values())]
        rows.append([*settings, *numbers, ", ".join(marks)])
    header = ["trial", "gamma_1", "c", "t'", "natural", "worst case", "natural, test", "worst case, test", ""]
    yield markdown_table(header, rows, left=0)
    yield ""
    yield "worst case: the share of images that are right under the attacks of every norm, per image"


def _test_accuracies(search: Search, trials: Sequence[Trial]) -> dict[int, list[str]]:
    """`TEST_METRICS` by trial, means over seeds; 'missing' where MLflow does not have them."""
    from pipeline.reporting.results import measure
    from pipeline.tracking import finished_runs

    experiments = {str(trial.number): search.experiments(trial.point) for trial in trials}
    if not experiments:
        return {}
    runs = finished_runs((one for of in experiments.values() for one in of), of_this_code=True)
    seeded = {number: {one.seed: one for one in of} for number, of in experiments.items()}
    found = measure(seeded, TEST_METRICS, runs).pivot(index="name", columns="metric", values="mean")
    return {
        trial.number: [
            "missing" if value != value else f"{value:.2f}%" for value in found.loc[str(trial.number), [*TEST_METRICS]]
        ]
        for trial in trials
    }


def _failures(told: Sequence[Trial]) -> Iterator[str]:
    for trial in told:
        if trial.failure is not None:
            yield from (
                "",
                f"trial {trial.number} ({trial.point.text}) has failed:",
                "",
                "```",
                trial.failure.strip(),
                "```",
            )
