"""Compare two evaluated models image by image: experiments of one suite or two, cells of the grid, foreign weights."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch

from pipeline.config import DataSettings, Experiment, Params
from pipeline.core.errors import RequestError, did_you_mean
from pipeline.core.files import read_frame, read_kept
from pipeline.data.split import open_split
from pipeline.evaluation.statistics import mcnemar
from pipeline.experiments.results import load_verdicts, read_settings
from pipeline.provenance.folders import prepared_folder, training_folder
from pipeline.reporting.comparison import Disputed, draw_curves, draw_images, flat, png
from pipeline.studies.cells import cells

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NATURAL = "natural"
ANEW = "train and evaluate again"
PICTURES = 8
"""Images of each kind that are shown."""
UNSAID = {"suite", "name", "grid"}
"""Settings of an experiment that decide about nothing."""


@dataclass(frozen=True)
class Side:
    """One of the two that are compared."""

    name: str
    settings: Mapping[str, Any]
    """Whatever decided about the numbers, as plain values: `data`, `evaluation` and others."""
    data_digest: str
    """What the prepared images are known by."""
    verdicts: pd.DataFrame
    history: pd.DataFrame
    """A row per epoch; none where the model was not trained here."""

    @property
    def data(self) -> DataSettings:
        """Which images it is tested on."""
        return DataSettings.model_validate(self.settings["data"])

    @property
    def attacks(self) -> dict[str, dict[str, Any]]:
        """The settings of its attacks that decide about an image's verdict; none for images as they are."""
        attacks = self.settings["evaluation"]["attacks"]
        kept = {name: {key: value for key, value in one.items() if key != "images"} for name, one in attacks.items()}
        return {NATURAL: {}, **kept}

    def judged(self, attack: str) -> pd.DataFrame:
        """Its verdicts under one attack, by image."""
        return self.verdicts[self.verdicts["attack"] == attack].set_index("image")


@dataclass(frozen=True, repr=False)
class Comparison:
    """Two models on the same test images: the tables `accuracies` and `settings`; `left_out` says which attacks are not
    compared, and why. In a notebook, the last line of a cell shows all of it with its pictures.
    """

    first: Side
    second: Side
    settings: pd.DataFrame
    """Settings that differ, by their path; a column for each model, empty where it has no such setting."""
    accuracies: pd.DataFrame
    """By attack: `images`, both accuracies in [0, 1], how many images `only` each gets right, and McNemar's exact
    `p` (how likely a difference at least this large is if neither is better)."""
    left_out: Mapping[str, str]
    """Attacks that are not compared, and why."""

    def disputed(self, attack: str) -> tuple[list[int], list[int]]:
        """Positions of the test images that only the first, and that only the second model gets right."""
        right = [side.judged(attack)["correct"] for side in (self.first, self.second)]
        one, other = (column.astype(bool) for column in pd.concat(right, axis=1, join="inner").T.to_numpy())
        images = pd.concat(right, axis=1, join="inner").index
        return [int(image) for image in images[one & ~other]], [int(image) for image in images[other & ~one]]

    def curves(self) -> Figure | None:
        """A figure of both trainings over each other; None where neither model was trained here."""
        sides = {side.name: side.history for side in (self.first, self.second) if len(side.history)}
        return draw_curves(sides) if sides else None

    def images(self, attack: str = NATURAL) -> Figure:
        """A figure of test images that only one of the two gets right under an attack.

        Raises:
            RequestError: the attack is not compared, or the data is not prepared here.
        """
        if attack not in self.accuracies.index:
            raise RequestError(f"unknown attack '{attack}': {did_you_mean(attack, list(self.accuracies.index))}")
        data = self.first.data
        split = open_split(prepared_folder(data.name), data)
        if split.digest != self.first.data_digest:
            raise RequestError(f"the images of {data.name} that are prepared here are not those that were tested on")
        rows = []
        for images, right, wrong in zip(
            self.disputed(attack), (self.first, self.second), (self.second, self.first), strict=True
        ):
            chosen = images[:PICTURES]
            seen = [data.facts.classes[int(number)] for number in wrong.judged(attack)["predicted"].reindex(chosen)]
            shown = split.test.subset(torch.tensor(chosen, dtype=torch.long))
            rows.append(Disputed(f"only {right.name} is right: {len(images)}", shown, seen))
        return draw_images(rows, data.facts.classes, attack)

    def __repr__(self) -> str:
        return f"{self.first.name} and {self.second.name}\n{self.accuracies}"

    def _repr_html_(self) -> str:
        figures = [figure for figure in (self.curves(), self.images()) if figure is not None]
        tables = [self.accuracies.to_html(), self.settings.to_html()]
        reasons = [f"<p>{escape(attack)}: {escape(reason)}</p>" for attack, reason in self.left_out.items()]
        return "".join([tables[0], *reasons, tables[1], *(f'<p><img src="{png(figure)}"></p>' for figure in figures)])


def compare(first: Experiment | Path, second: Experiment | Path, attacks: Sequence[str] | None = None) -> Comparison:
    """Compare two evaluated models.

    Args:
        first: An experiment, whose results must be of its settings and of this code; or a folder of results, which is
            taken as it is: of another suite, of a cell of the grid, of foreign weights.
        second: The same.
        attacks: Names of attacks, or `natural` (None: all that both have).

    Raises:
        RequestError: one of them is not evaluated, their test images are not the same, an attack is unknown, or none of
            `attacks` is the same attack for both.
    """
    sides = [_of_experiment(one) if isinstance(one, Experiment) else _of_folder(one) for one in (first, second)]
    if problems := list(_other_images(*sides)):
        raise RequestError(f"{sides[0].name} and {sides[1].name} were not tested on the same images: {problems[0]}")
    known = dict.fromkeys([*sides[0].attacks, *sides[1].attacks])
    for attack in attacks or ():
        if attack not in known:
            raise RequestError(f"unknown attack '{attack}': {did_you_mean(attack, list(known))}")
    reasons = {attack: _reason(attack, *sides) for attack in attacks or known}
    shared = [attack for attack, reason in reasons.items() if not reason]
    if not shared:
        why = "; ".join(f"{attack}: {reason}" for attack, reason in reasons.items())
        raise RequestError(f"{sides[0].name} and {sides[1].name} have none of these attacks in common: {why}")
    return Comparison(
        sides[0],
        sides[1],
        _differences(*sides),
        pd.DataFrame([_row(attack, *sides) for attack in shared]).set_index("attack"),
        {attack: reason for attack, reason in reasons.items() if reason},
    )


def named(params: Params, given: str, seed: int | None) -> Experiment | Path:
    """What a person means by a name: a method, an experiment such as at-1, a cell of the grid, or a folder of
    results.

    Raises:
        RequestError: there is nothing of that name, or several seeds where none is given.
    """
    if given in params.methods:
        return params.experiment(given, seed)
    declared = {one.identifier: one for one in params.experiments()}
    if given in declared:
        return declared[given]
    if Path(given).is_dir():
        return Path(given)
    grid = {cell.experiment.identifier: cell.experiment for cell in cells(params)}
    for name in (given, f"{given}-{params.seeds[0] if seed is None else seed}"):
        if name in grid:
            return grid[name]
    raise RequestError(
        f"'{given}' is no experiment of params.yaml, cell of its grid or folder of results: "
        f"{did_you_mean(given, [*declared, *grid])}"
    )


def _of_experiment(experiment: Experiment) -> Side:
    verdicts = load_verdicts(experiment)
    return _trained(experiment.identifier, experiment, training_folder(experiment), verdicts)


def _of_folder(folder: Path) -> Side:
    name = "/".join(folder.parts[-2:])
    evaluated = next((one for one in (folder / "evaluate", folder) if (one / "metrics.json").is_file()), None)
    if evaluated is None:
        raise RequestError(f"{folder}: is not evaluated, it has no metrics.json")
    record = read_kept(evaluated / "metrics.json", "it is not evaluated", ANEW)
    verdicts = read_frame(evaluated / "verdicts.parquet")
    if "settings" in record:
        return Side(name, record["settings"], record["data_digest"], verdicts, pd.DataFrame())
    experiment = read_settings(folder / "train")
    if experiment.evaluation_fingerprint != record.get("evaluation_fingerprint"):
        way_out = f"python -m stages.evaluate {experiment.name} --seed {experiment.seed}"
        raise RequestError(f"{folder}: its verdicts are of other settings than its weights; '{way_out}' gives its own")
    return _trained(name, experiment, folder / "train", verdicts)


def _trained(name: str, experiment: Experiment, folder: Path, verdicts: pd.DataFrame) -> Side:
    summary = read_kept(folder / "summary.json", "it is not trained", ANEW)
    history = pd.DataFrame(json.loads((folder / "history.json").read_text()))
    settings = experiment.model_dump(mode="json", exclude=UNSAID)
    return Side(name, settings, summary["data_digest"], verdicts, history)


def _other_images(first: Side, second: Side) -> Iterator[str]:
    """Why the same position in both test sets may not be the same image."""
    one, other = first.data, second.data
    if one.name != other.name:
        yield f"those of {one.name} and of {other.name}"
    if first.data_digest != second.data_digest:
        digests = f"{first.data_digest[:16]}... and {second.data_digest[:16]}..."
        yield f"{one.name} was prepared from other images for each, of digest {digests}"
    orders = [None if data.test_images is None else data.split_seed for data in (one, other)]
    if orders[0] != orders[1]:
        words = [
            "all in official order" if order is None else f"some drawn with split_seed {order}" for order in orders
        ]
        yield f"{words[0]}, and {words[1]}"
    if one.streaming and other.streaming and one.streaming.test_crop != other.streaming.test_crop:
        yield "they are cropped differently (test_crop)"
    labels = [side.judged(NATURAL)["label"] for side in (first, second)]
    both = pd.concat(labels, axis=1, join="inner").T.to_numpy()
    if (both[0] != both[1]).any():
        yield "their classes differ"


def _reason(attack: str, first: Side, second: Side) -> str:
    """Why two models are not compared under an attack; nothing where they are."""
    for side in (first, second):
        if attack not in side.attacks:
            return f"{side.name} was not attacked by it"
    one, other = first.attacks[attack], second.attacks[attack]
    different = [key for key in {**one, **other} if one.get(key) != other.get(key)]
    return f"it is not the same attack: {', '.join(different)} differ" if different else ""


def _row(attack: str, first: Side, second: Side) -> dict[str, Any]:
    one, other = (side.judged(attack)["correct"] for side in (first, second))
    shared = one.index.intersection(other.index)
    found = mcnemar(one, other)
    return {
        "attack": attack,
        "images": found.images,
        first.name: float(one[shared].mean()),
        second.name: float(other[shared].mean()),
        f"only {first.name}": found.only_first,
        f"only {second.name}": found.only_second,
        "p": found.p_value,
    }


def _differences(first: Side, second: Side) -> pd.DataFrame:
    one, other = dict(flat(first.settings)), dict(flat(second.settings))
    learners = [list(side.settings.get("method", {}).get("learners", ())) for side in (first, second)]
    if [len(names) for names in learners] == [1, 1]:  # a baseline's only learner is called by its goal
        mine, theirs = (f"method.learners.{names[0]}." for names in learners)
        other = {path.replace(theirs, mine, 1): value for path, value in other.items()}
    rows = {
        path: [one.get(path, ""), other.get(path, "")]
        for path in {**one, **other}
        if one.get(path) != other.get(path) and not path.endswith("label")
    }
    return pd.DataFrame.from_dict(rows, orient="index", columns=[first.name, second.name])
