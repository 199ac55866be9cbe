"""Which images are shown, and that they are those that the verdicts are about."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save
from torch import nn

from pipeline.config import EvaluationSettings, Params
from pipeline.core.errors import PipelineError, RequestError
from pipeline.data.images import ImageSplit
from pipeline.evaluation.evaluate import Evaluation
from pipeline.evaluation.journal import Journal
from pipeline.evaluation.predictions import channels_last
from pipeline.evaluation.verdicts import verdict_frame
from pipeline.reporting import examples
from pipeline.reporting.examples import NATURAL, Pictures, choose, correctness, craft, disputed, shown_attacks, views
from pipeline.tracking import StoredRun
from tests.conftest import MakeParams

LABELS = [0, 0, 0, 1, 1, 1, 2, 2]
RIGHT = {
    NATURAL: [1, 1, 0, 1, 1, 0, 1, 1],
    "pgd": [1, 0, 0, 1, 0, 0, 1, 0],
}


def verdicts(right: dict[str, list[int]], labels: list[int] = LABELS) -> pd.DataFrame:
    frames = [
        verdict_frame(
            name, labels[: len(values)], [label if good else 9 for label, good in zip(labels, values, strict=False)]
        )
        for name, values in right.items()
    ]
    return pd.concat(frames, ignore_index=True)


class Silent:
    """Somebody who watches an evaluation and says nothing."""

    def on_attack(self, attack: str, pieces: int) -> None:
        pass

    def on_piece(self, part: str, robust: int, images: int, ends_batch: bool) -> None:
        pass


@pytest.fixture
def params(make_params: MakeParams) -> Params:
    return make_params()


@pytest.fixture
def settings() -> EvaluationSettings:
    """PGD in two norms, of which one sees part of the images; batches are smaller than that."""
    attack = {"name": "pgd", "steps": 5}
    linf = {**attack, "norm": "linf", "epsilon": 0.15, "step_size": 0.04}
    l2 = {**attack, "norm": "l2", "epsilon": 0.6, "step_size": 0.15, "images": 13}
    attacks = {"a": linf, "b": l2, "later": {**linf, "steps": 9}}
    return EvaluationSettings.model_validate({"batch_size": 8, "seed": 3, "attacks": attacks, "union": ["a", "b"]})


def test_what_is_shown_is_wrong_then_fooled_then_robust_and_of_several_classes() -> None:
    assert choose(verdicts(RIGHT), ["pgd"], 6) == [2, 5, 1, 4, 0, 3]
    assert choose(verdicts(RIGHT), ["pgd"], 3) == [2, 1, 0]
    assert choose(verdicts(RIGHT), ["pgd"], 99) == [2, 5, 1, 4, 7, 0, 3, 6]


def test_only_images_that_every_attack_saw_are_shown() -> None:
    assert sorted(choose(verdicts({**RIGHT, "pgd": [1, 0, 1]}), ["pgd"], 99)) == [0, 1, 2]


def test_disputed_images_are_those_that_most_others_get_wrong() -> None:
    tables = {
        "ours": verdicts({"pgd": [1, 1, 1, 0, 1, 1, 1, 1]}),
        "one": verdicts({"pgd": [0, 1, 0, 0, 0, 1, 0, 1]}),
        "two": verdicts({"pgd": [1, 1, 0, 0, 0, 1, 0, 0]}),
    }
    labels = pd.Series(LABELS)
    correct = correctness(tables)
    assert disputed(correct, labels, ["ours"], 9) == [2, 4, 6, 0, 7]
    assert disputed(correct, labels, ["ours"], 2) == [2, 4]
    assert disputed(correct[["ours"]], labels, ["ours"], 9) == []
    assert disputed(correct, labels, ["ours", "one"], 9) == [7]


@given(st.lists(st.tuples(st.booleans(), st.booleans(), st.booleans()), max_size=30), st.integers(1, 10))
def test_disputed_images_are_right_for_one_and_wrong_for_another(rows: list[tuple[bool, ...]], count: int) -> None:
    correct = pd.DataFrame(rows, columns=["ours", "one", "two"], dtype=bool).rename_axis("image")
    found = disputed(correct, pd.Series([0] * len(rows)), ["ours"], count)
    expected = [place for place, (ours, one, two) in enumerate(rows) if ours and not (one and two)]
    assert len(found) == min(count, len(expected)) and set(found) <= set(expected)


def test_crafted_again_they_are_the_images_of_the_verdicts(
    digits_model: nn.Module, tiny_split: ImageSplit, settings: EvaluationSettings, tmp_path: Path
) -> None:
    table = Evaluation(digits_model, tiny_split.test, settings, Journal(tmp_path), Silent()).run()
    shown = shown_attacks(settings)
    assert list(shown) == ["a", "b"]
    fooled = 0
    for name, attack in shown.items():
        seen = table[table["attack"] == name].set_index("image")["predicted"]
        chosen = sorted(seen.index, key=lambda image: image * 7 % 24)
        for group in (chosen[:5], chosen[5:]):
            found = craft(digits_model, tiny_split.test, group, name, attack, settings.batch_size, settings.seed)
            predicted = digits_model(channels_last(found)).argmax(1).tolist()
            assert predicted == seen[group].tolist()
            fooled += sum(
                guess != int(tiny_split.test.labels[image]) for guess, image in zip(predicted, group, strict=True)
            )
    assert fooled > 5  # what is compared does change


def test_views_have_pixels_classes_and_maps(params: Params, digits_model: nn.Module, tiny_split: ImageSplit) -> None:
    experiment, chosen = params.experiment("nt", 1), [5, 0]
    weights = save({name: tensor.contiguous() for name, tensor in digits_model.state_dict().items()})
    found = views(experiment, weights, tiny_split.test, chosen, [NATURAL, "pgd_l2"])
    natural, attacked = found[NATURAL], found["pgd_l2"]
    assert torch.equal(natural.pixels, tiny_split.test.images[chosen])
    inputs, _ = tiny_split.test.batch(torch.tensor(chosen))
    assert torch.equal(natural.predicted, digits_model(inputs).argmax(1))
    lengths = (attacked.pixels.float() - natural.pixels.float()).flatten(1).norm(dim=1) / 255
    epsilon, rounding = experiment.evaluation.attacks["pgd_l2"].epsilon, 0.5 * 8 / 255
    assert lengths.min() > 0 and lengths.max() <= epsilon + rounding
    assert natural.maps.shape == (2, 8, 8) and natural.maps.dtype == torch.uint8


@pytest.mark.parametrize("damage", ["other network", "no file"])
def test_weights_that_do_not_fit_are_refused(params: Params, tiny_split: ImageSplit, damage: str) -> None:
    weights = save({"a": torch.zeros(1)}) if damage == "other network" else b"nothing"
    with pytest.raises(PipelineError, match="the weights of nt-1 in MLflow cannot be used"):
        views(params.experiment("nt", 1), weights, tiny_split.test, [0], [NATURAL])


def test_pictures_are_crafted_once(
    params: Params, digits_model: nn.Module, prepared_digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = save({name: tensor.contiguous() for name, tensor in digits_model.state_dict().items()})
    asked: list[str] = []

    def read(run_ids: list[str], name: str, reader: object) -> dict[str, bytes]:
        asked.append(name)
        return {run: weights for run in run_ids if run == "run"}

    digests = {"run": "one", "lost": "two"}

    def run_of(run_id: str) -> StoredRun:
        return StoredRun(run_id, "FINISHED", "", {"weights_sha256": digests[run_id]}, {})

    monkeypatch.setattr(examples, "read_artifacts", read)
    monkeypatch.setattr(examples, "read_run", run_of)
    said: list[str] = []
    pictures = Pictures(prepared_digits, tmp_path, said.append)
    experiment = params.experiment("nt", 1)
    first = pictures.seen(experiment, "run", [3, 1], [NATURAL, "pgd_l2"])
    again = pictures.seen(experiment, "run", [3, 1], [NATURAL, "pgd_l2"])
    assert list(first) == list(again) == [NATURAL, "pgd_l2"]
    for name, view in first.items():
        assert all(torch.equal(tensor, getattr(again[name], part)) for part, tensor in vars(view).items())
    assert asked == ["model.safetensors"]
    assert said == ["nt-1: crafting 2 images (natural, pgd_l2)"]
    (kept,) = tmp_path.rglob("*.safetensors")
    kept.write_bytes(kept.read_bytes()[:-1])
    pictures.seen(experiment, "run", [3, 1], [NATURAL, "pgd_l2"])
    pictures.seen(experiment, "run", [1, 3], [NATURAL, "pgd_l2"])
    assert len(asked) == 3
    digests["run"] = "trained again"
    pictures.seen(experiment, "run", [1, 3], [NATURAL, "pgd_l2"])
    assert len(asked) == 4
    with pytest.raises(
        PipelineError,
        match=r"not in MLflow\. 'make tables' logs them again .* 'dvc repro --force train@nt-1' makes them",
    ):
        pictures.seen(experiment, "lost", [2], [NATURAL])
    with pytest.raises(RequestError, match="is not prepared"):
        Pictures(tmp_path / "nowhere", tmp_path).seen(experiment, "run", [3], [NATURAL])
