"""Evaluation: verdicts that a kill cannot change, and AutoAttack as its authors run it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from pandas.testing import assert_frame_equal
from pyautoattack import AutoAttack
from torch import nn

from pipeline.config import EvaluationSettings
from pipeline.core.errors import RequestError
from pipeline.core.streams import stream_seed
from pipeline.data.images import ImageSet, ImageSplit
from pipeline.evaluation import evaluate as module
from pipeline.evaluation.evaluate import Evaluation, Shard
from pipeline.evaluation.journal import Journal
from tests.running import few_steps

LINF = {"norm": "linf", "epsilon": "20/255"}
ATTACKS: dict[str, dict[str, Any]] = {
    "pgd20_linf": {"name": "pgd", "step_size": "5/255", "steps": 3, **LINF},
    "aa_linf": {"name": "autoattack", "images": 10, **LINF},
    "aa_l2": {"name": "autoattack", "norm": "l2", "epsilon": 0.3, "images": 10},
}


class Silent:
    """An observer that counts the pieces it is told of."""

    def __init__(self) -> None:
        self.pieces = 0

    def on_attack(self, attack: str, pieces: int) -> None:
        assert pieces >= 0

    def on_piece(self, part: str, robust: int, images: int, ends_batch: bool) -> None:
        assert 0 <= robust <= images
        self.pieces += 1


def settings(batch_size: int = 6) -> EvaluationSettings:
    return EvaluationSettings.model_validate(
        {"batch_size": batch_size, "seed": 3, "attacks": ATTACKS, "union": ["aa_linf", "aa_l2"]}
    )


SHORT = EvaluationSettings.model_validate(
    {
        "batch_size": 8,
        "seed": 3,
        "attacks": {
            "pgd20_linf": ATTACKS["pgd20_linf"],
            "aa_linf": {**ATTACKS["aa_linf"], "epsilon": "8/255", "images": 5},
        },
        "union": ["pgd20_linf", "aa_linf"],
    }
)
"""Three batches each of natural images and PGD, then the four parts of AutoAttack on five images."""


@pytest.fixture(scope="module", autouse=True)
def quick() -> Iterator[None]:
    with few_steps():
        yield


@pytest.fixture(scope="module")
def short(digits_model: nn.Module, tiny_split: ImageSplit, tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """The verdicts of a shorter evaluation that nothing interrupted."""
    return Evaluation(digits_model, tiny_split.test, SHORT, Journal(tmp_path_factory.mktemp("short")), Silent()).run()


@pytest.fixture(scope="module")
def whole(digits_model: nn.Module, tiny_split: ImageSplit, tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """The verdicts of an evaluation that nothing interrupted."""
    return Evaluation(
        digits_model, tiny_split.test, settings(), Journal(tmp_path_factory.mktemp("whole")), Silent()
    ).run()


def test_verdicts_cover_every_attack_and_image(whole: pd.DataFrame, tiny_split: ImageSplit) -> None:
    counts = whole.groupby("attack", observed=True).size().to_dict()
    assert counts == {"natural": 24, "pgd20_linf": 24, "aa_linf": 10, "aa_l2": 10}
    natural = whole[whole["attack"] == "natural"]
    assert natural["label"].tolist() == tiny_split.test.labels.tolist()
    assert 0.5 < natural["correct"].mean() <= 1
    assert (whole["correct"] == (whole["predicted"] == whole["label"])).all()


def test_natural_verdicts_are_the_models_predictions(
    whole: pd.DataFrame, digits_model: nn.Module, tiny_split: ImageSplit
) -> None:
    with torch.no_grad():
        expected = digits_model(tiny_split.test.images.float() / 255).argmax(1)
    assert whole.loc[whole["attack"] == "natural", "predicted"].tolist() == expected.tolist()


@pytest.mark.parametrize(("name", "norm", "epsilon"), [("aa_linf", "Linf", 20 / 255), ("aa_l2", "L2", 0.3)])
def test_autoattack_gives_the_verdicts_of_its_authors_package_on_every_batch(
    whole: pd.DataFrame, digits_model: nn.Module, tiny_split: ImageSplit, name: str, norm: Any, epsilon: float
) -> None:
    robust: list[bool] = []
    for number, batch in enumerate((torch.arange(6), torch.arange(6, 10))):
        images, labels = tiny_split.test.batch(batch)
        seed = stream_seed(3, "autoattack", number)
        attack = AutoAttack(digits_model, norm=norm, eps=epsilon, seed=seed, version="standard", device="cpu")
        adversarial, _ = attack.run_standard_evaluation(images, labels, batch_size=6)
        with torch.no_grad():
            robust += (digits_model(adversarial).argmax(1) == labels).tolist()
    assert whole.loc[whole["attack"] == name, "correct"].tolist() == robust
    assert 0 < sum(robust) < 10, "a test on images that are all robust, or none, shows little"


def test_every_fooled_image_names_the_attack_that_fooled_it(whole: pd.DataFrame) -> None:
    natural = whole[whole["attack"] == "natural"].set_index("image")["correct"]
    for _, row in whole[whole["attack"].isin(["aa_linf", "aa_l2"])].iterrows():
        fooled = natural[row["image"]] and not row["correct"]
        assert row["fooled_by"] in (("apgd_ce", "apgd_t", "fab_t", "square") if fooled else ("",))


MEMBERS = ("apgd_ce", "apgd_dlr", "apgd_t", "fab_t", "square")


def test_every_attack_by_itself_and_the_ensemble_is_at_most_each(
    digits_model: nn.Module, tiny_split: ImageSplit, tmp_path: Path
) -> None:
    linf = {"epsilon": "20/255", "images": 12, "norm": "linf"}
    steps = {"step_size": "5/255", "steps": 5}
    attacks: dict[str, Any] = {name: {"name": "autoattack", "members": [name], **linf} for name in MEMBERS}
    attacks |= {"aa": {"name": "autoattack", **linf}, "noise": {"name": "noise", "draws": 5, **linf}}
    attacks |= {name: {"name": name, **steps, **linf} for name in ("pgd", "mim", "cw")}
    content = {"batch_size": 12, "attacks": attacks, "union": ["aa", "pgd"]}
    settings = EvaluationSettings.model_validate(content)
    verdicts = Evaluation(digits_model, tiny_split.test, settings, Journal(tmp_path), Silent()).run()
    accuracy = verdicts.groupby("attack", observed=True)["correct"].mean()
    assert accuracy["aa"] <= min(accuracy[list(MEMBERS)])
    assert accuracy["aa"] <= min(accuracy["pgd"], accuracy["mim"], accuracy["cw"]) <= accuracy["noise"]
    assert accuracy["pgd"] < accuracy["natural"]


@pytest.mark.parametrize("count", [2, 3, 5])
def test_shards_done_anywhere_make_the_same_verdicts(
    short: pd.DataFrame, digits_model: nn.Module, tiny_split: ImageSplit, tmp_path: Path, count: int
) -> None:
    merged = tmp_path / "merged"
    for index in reversed(range(count)):
        elsewhere = tmp_path / f"machine{index}"
        part = Evaluation(digits_model, tiny_split.test, SHORT, Journal(elsewhere), Silent()).run(Shard(index, count))
        assert len(part) < len(short)
        if elsewhere.exists():
            shutil.copytree(elsewhere, merged, dirs_exist_ok=True)
    before = sorted(merged.rglob("*.json"))
    gathered = Evaluation(digits_model, tiny_split.test, SHORT, Journal(merged), Silent()).run()
    assert_frame_equal(gathered, short)
    assert sorted(merged.rglob("*.json")) == before, "something was attacked again"


@pytest.mark.parametrize("text", ["", "1", "0/2", "3/2", "a/b", "1/0", "-1/2", "1/2/3", "1/²"])
def test_a_shard_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(RequestError, match="expected i/n with 1 <= i <= n"):
        Shard.parse(text)


def test_autoattack_is_at_most_natural_accuracy(whole: pd.DataFrame) -> None:
    natural = whole.loc[whole["attack"] == "natural", "correct"].to_numpy()[:10]
    for name in ("aa_linf", "aa_l2"):
        robust = whole.loc[whole["attack"] == name, "correct"].to_numpy()
        assert (robust <= natural).all()


class Killed(Exception):
    """Stands for a kill between two batches."""


@pytest.mark.parametrize("survived", [1, 4, 8])
def test_an_interrupted_evaluation_goes_on_to_the_same_verdicts(
    short: pd.DataFrame, digits_model: nn.Module, tiny_split: ImageSplit, tmp_path: Path, survived: int
) -> None:
    class Dying(Silent):
        def on_piece(self, part: str, robust: int, images: int, ends_batch: bool) -> None:
            super().on_piece(part, robust, images, ends_batch)
            if self.pieces == survived:
                raise Killed

    with pytest.raises(Killed):
        Evaluation(digits_model, tiny_split.test, SHORT, Journal(tmp_path), Dying()).run()
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.json")}
    assert len(before) == survived
    again = Evaluation(digits_model, tiny_split.test, SHORT, Journal(tmp_path), Silent()).run()
    assert_frame_equal(again, short)
    assert all(path.stat().st_mtime_ns == time for path, time in before.items()), "finished batches were repeated"


def test_a_finished_evaluation_attacks_nothing(
    short: pd.DataFrame,
    digits_model: nn.Module,
    tiny_split: ImageSplit,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    Evaluation(digits_model, tiny_split.test, SHORT, Journal(tmp_path), Silent()).run()

    def never(*args: Any) -> Any:
        raise AssertionError("computed again")

    monkeypatch.setattr(module, "predictions", never)
    monkeypatch.setattr(digits_model, "forward", never)
    again = Evaluation(digits_model, tiny_split.test, SHORT, Journal(tmp_path), Silent()).run()
    assert_frame_equal(again, short)


@pytest.mark.parametrize("change", [lambda text: text[:20], lambda text: "", lambda text: text.replace("[", "[ 1,", 1)])
def test_a_damaged_journal_entry_is_computed_again_aloud(
    digits_model: nn.Module, tiny_split: ImageSplit, tmp_path: Path, change: Callable[[str], str]
) -> None:
    images = ImageSet(tiny_split.test.images[:6], tiny_split.test.labels[:6])
    attacks = {"first": ATTACKS["pgd20_linf"], "second": ATTACKS["pgd20_linf"]}
    only_pgd = EvaluationSettings.model_validate({"batch_size": 6, "attacks": attacks, "union": list(attacks)})
    whole = Evaluation(digits_model, images, only_pgd, Journal(tmp_path), Silent()).run()
    entry = tmp_path / "first" / "all-00000.json"
    before, said = entry.read_text(), list[str]()
    entry.write_text(change(before))
    assert_frame_equal(
        Evaluation(digits_model, images, only_pgd, Journal(tmp_path, said.append), Silent()).run(), whole
    )
    assert entry.read_text() == before
    assert len(said) == 1 and said[0].startswith(f"{entry}: is damaged") and said[0].endswith("it is computed again")


def test_the_models_mode_and_the_callers_random_state_survive(
    digits_model: nn.Module, tiny_split: ImageSplit, tmp_path: Path
) -> None:
    before = torch.get_rng_state()
    Evaluation(digits_model, tiny_split.test, SHORT, Journal(tmp_path), Silent()).run()
    assert torch.equal(before, torch.get_rng_state())
    assert not digits_model.training
