"""Models from elsewhere, from their files to verdicts, and what is refused with the way out."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from pandas.testing import assert_frame_equal
from torch import Tensor, nn
from torchvision.models import shufflenet_v2_x0_5

from pipeline.config import Params, parse_params
from pipeline.core.datasets import DATASETS
from pipeline.core.errors import RequestError
from pipeline.core.files import read_record
from pipeline.data.images import ImageSet, load_split
from pipeline.evaluation.foreign_weights import check_model
from pipeline.experiments.foreign import ExternalModel, _building, attack_external
from pipeline.models import build_model
from pipeline.models.normalization import Normalized
from pipeline.provenance.code import Code
from stages import evaluate_weights
from tests.conftest import MakeParams


@pytest.fixture(scope="module")
def images(prepared_digits: Path, tiny_content: dict[str, Any]) -> ImageSet:
    """All 360 test images of digits."""
    data = parse_params(tiny_content).data.model_copy(update={"test_images": None})
    return load_split(prepared_digits, data).test


class Wrapped(nn.Module):
    """A network with something before or after it."""

    def __init__(self, network: nn.Module, before: Any = None, after: Any = None) -> None:
        super().__init__()
        self.network = network
        self._before = before or (lambda images: images)
        self._after = after or (lambda logits: logits)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self._after(self.network(self._before(images)))
        return logits


def test_a_sound_model_passes(digits_model: nn.Module, images: ImageSet) -> None:
    assert check_model(digits_model, images, 10) > 0.5


def shrunk(images: Tensor) -> Tensor:
    return images / 255


MODELS: list[tuple[Any, Any, int, str]] = [
    (None, lambda logits: logits.softmax(1), 10, "the model gives probabilities .* remove the last softmax"),
    (None, lambda logits: logits[:, :5], 10, r"expected \[256, 10\]: a logit for each of 10 classes"),
    (None, lambda logits: logits.argmax(1), 10, r"expected \[256, 10\]"),
    (None, lambda logits: logits / 0 * 0, 10, "not finite"),
    (lambda images: images + torch.rand_like(images), None, 10, "it is random"),
    (lambda images: (images + 1) / 2, None, 10, r"as \[-1, 1\] \(give --mean 0.5 --std 0.5\)"),
    (shrunk, None, 10, r"as \[0, 255\] .*all the same: --any-scale"),
]


@pytest.mark.parametrize(("before", "after", "classes", "text"), MODELS)
def test_a_model_that_attacks_would_mislead_is_refused(
    digits_model: nn.Module, images: ImageSet, before: Any, after: Any, classes: int, text: str
) -> None:
    with pytest.raises(RequestError, match=text):
        check_model(Wrapped(digits_model, before, after).eval(), images, classes)


def test_a_model_in_train_mode_is_refused(images: ImageSet) -> None:
    with pytest.raises(RequestError, match=r"train mode.*Call model\.eval\(\) first"):
        check_model(build_model("small_cnn", "digits").train(), images, 10)


def test_another_scale_must_be_better_by_more_than_chance(digits_model: nn.Module, images: ImageSet) -> None:
    model = Wrapped(digits_model, shrunk).eval()
    assert check_model(model, images.subset(torch.arange(10)), 10) < 0.5, "ten images tell nothing"
    with pytest.raises(RequestError, match="attacks work in"):
        check_model(model, images.subset(torch.arange(40)), 10)


def test_the_scale_can_be_overruled(
    digits_model: nn.Module, images: ImageSet, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check_model(Wrapped(digits_model, shrunk).eval(), images, 10, any_scale=True) < 0.5
    assert "--any-scale: the model is right on" in capsys.readouterr().out


@pytest.fixture
def params(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prepared_digits: Path, make_params: MakeParams) -> Params:
    """Two quick attacks on digits, prepared in the folder of the test."""
    shutil.copytree(prepared_digits, tmp_path / "data/prepared/digits")
    monkeypatch.chdir(tmp_path)
    budget = {"norm": "linf", "epsilon": "20/255"}
    pgd = {"name": "pgd", **budget, "step_size": "5/255", "steps": 2}
    square = {"name": "autoattack", "members": ["square"], "queries": 10, **budget}

    def change(raw: dict[str, Any]) -> None:
        raw["evaluation"]["attacks"] |= {"pgd20_linf": pgd, "aa_linf": square}

    return make_params(change)


ATTACKED = ["pgd20_linf", "aa_linf"]


def attacked(params: Params, content: Any, **options: Any) -> pd.DataFrame:
    """The verdicts of a file with this content."""
    torch.save(content, "weights.pt")
    model = ExternalModel(Path("weights.pt"), "small_cnn", **options)
    attack_external(params, model, ATTACKED, None, Path("out"))
    return pd.read_parquet("out/verdicts.parquet")


def test_forms_of_one_network_have_the_same_verdicts(
    params: Params, digits_model: nn.Module, capsys: pytest.CaptureFixture[str]
) -> None:
    state = digits_model.state_dict()
    layer = {"mean": torch.tensor([0.1]), "std": torch.tensor([0.9])}
    alone = attacked(params, state, mean=[float(layer["mean"])], std=[float(layer["std"])])
    madry = {f"module.{part}.new_{key}": layer[key] for part in ("normalizer", "attacker.normalize") for key in layer}
    copies = {f"module.{part}{name}": state[name] for part in ("model.", "attacker.model.") for name in state}
    assert_frame_equal(attacked(params, {"model": {**madry, **copies}, "epoch": 3}), alone)
    said = capsys.readouterr().out
    assert "normalisation, from --mean and --std: mean [0.10000000149011612]" in said
    assert "'module.model.' in front of each" in said and "normalisation, from a layer in the file" in said
    wrapped = {f"1.{name}": tensor for name, tensor in state.items()} | {f"0.{key}": layer[key] for key in layer}
    assert_frame_equal(attacked(params, {"ema": wrapped}), alone)
    model = Normalized(digits_model, [float(layer["mean"])], [float(layer["std"])])
    split = load_split(Path("data/prepared/digits"), params.data)
    images, labels = split.test.batch(torch.arange(len(split.test)))
    natural = alone[alone["attack"] == "natural"]
    assert natural["predicted"].tolist() == model(images).argmax(1).tolist() and len(natural) == len(labels)


def test_other_settings_of_the_same_file_take_no_verdicts_of_the_former(
    params: Params, digits_model: nn.Module
) -> None:
    first = attacked(params, digits_model.state_dict())
    darker = attacked(params, digits_model.state_dict(), mean=[0.5], std=[1.0])
    assert first["predicted"].tolist() != darker["predicted"].tolist()
    assert_frame_equal(attacked(params, digits_model.state_dict()), first)
    assert len(list(Path("out/journal").iterdir())) == 2


def test_networks_from_elsewhere_take_weights_too(params: Params, digits_model: nn.Module) -> None:
    first = attacked(params, digits_model.state_dict())
    torch.save({"ema": digits_model.state_dict()}, "weights.pt")
    model = ExternalModel(Path("weights.pt"), "pipeline.models.small_cnn:SmallCNN")
    attack_external(params, model, ATTACKED, None, Path("own"))
    assert_frame_equal(pd.read_parquet("own/verdicts.parquet"), first)
    code = Code.from_json(json.loads(Path("own/evaluation_code.json").read_text()))
    assert "pipeline.models.small_cnn:SmallCNN" in code.objects


def test_functions_of_torchvision_are_told_the_number_of_classes(params: Params) -> None:
    path = "torchvision.models:shufflenet_v2_x0_5"
    torch.save(shufflenet_v2_x0_5(num_classes=10).state_dict(), "weights.pt")
    model, _ = ExternalModel(Path("weights.pt"), path).load(DATASETS["cifar10"], _building(params, path))
    assert model.eval()(torch.zeros(1, 3, 32, 32)).shape == (1, 10)


def test_verdicts_know_the_code_that_gave_them(params: Params, digits_model: nn.Module) -> None:
    attacked(params, digits_model.state_dict())
    record = read_record(Path("out/metrics.json"))
    code = Code.from_json(json.loads(Path("out/evaluation_code.json").read_text()))
    assert record["evaluation_code"] == code.digest and record["git_commit"] and record["torch"]
    reached = ("pipeline.models.matching:fit", "pipeline.models.small_cnn:SmallCNN", "pipeline.attacks.pgd:PGD.perturb")
    assert set(reached) <= code.objects.keys() and "pipeline.models.resnet:resnet18" not in code.objects


CLAIMS = {
    "dataset": "digits",
    "architecture": "a small CNN",
    "eps": "20/255",
    "clean_acc": "100",
    "autoattack_acc": "0",
}


def test_claims_are_held_against_what_is_measured(
    params: Params, digits_model: nn.Module, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(digits_model.state_dict(), "weights.pt")
    Path("claims.json").write_text(json.dumps(CLAIMS))
    model = ExternalModel(Path("weights.pt"), "small_cnn")
    metrics = attack_external(params, model, ATTACKED, None, Path("out"), claims=Path("claims.json"))
    natural, robust = json.loads(Path("out/claims.json").read_text())
    assert natural["measured"] == metrics["natural"] and natural["claimed"] == 1 and natural["images"] == 24
    assert robust["what"].startswith("aa_linf, not the standard ensemble") and not robust["agrees"]
    assert "claimed 0.00%, outside the 95% interval" in capsys.readouterr().out


WRONG_CLAIMS = [
    ("no JSON", "is not JSON"),
    (json.dumps([1]), "is no RobustBench model_info: the whole"),
    (json.dumps(CLAIMS | {"clean_acc": "many"}), "clean_acc"),
    (json.dumps(CLAIMS | {"dataset": "cifar10"}), "is about 'cifar10', params.yaml has the data set 'digits'"),
]


@pytest.mark.parametrize(("content", "text"), [*WRONG_CLAIMS, (None, "cannot be read")])
def test_wrong_claims_are_refused_before_anything_is_attacked(
    params: Params, digits_model: nn.Module, content: str | None, text: str
) -> None:
    if content is not None:
        Path("claims.json").write_text(content)
    model = ExternalModel(Path("weights.pt"), "small_cnn")
    with pytest.raises(RequestError, match=text):
        attack_external(params, model, ATTACKED, None, Path("out"), claims=Path("claims.json"))
    assert not Path("out").exists()


def test_the_command_has_all_of_it(
    params: Params, raw: dict[str, Any], digits_model: nn.Module, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("params.yaml").write_text(json.dumps(raw))
    Path("claims.json").write_text(json.dumps(CLAIMS))
    torch.save({"last": digits_model.state_dict(), "best": digits_model.state_dict()}, "weights.pt")
    options = ["--key", "best", "--any-scale", "--claims", "claims.json", "--attacks", ""]
    assert evaluate_weights.main(["weights.pt", *options]) == 0
    said = capsys.readouterr().out
    assert "state dict: best; also there: last" in said and "evaluated weights.pt: natural" in said
    assert "AutoAttack at 0.078431: claimed 0.00%, not measured (it was not run)" in said
