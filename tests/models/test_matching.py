"""Weights from anywhere: every form of a file gives the bits of the network, every wrong one a message."""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from pipeline.core.datasets import DATASETS
from pipeline.core.errors import RequestError
from pipeline.models import ARCHITECTURES, build_model
from pipeline.models.matching import Fit, Misfit, fit, load_into, normalization_of, standardises
from pipeline.models.resnet import CifarResNet
from pipeline.models.weight_files import WeightFile, read_weights
from pipeline.models.wide_resnet import WideResNet

State = dict[str, Tensor]
DIGITS, CIFAR10 = DATASETS["digits"], DATASETS["cifar10"]


def small(seed: int = 1) -> nn.Module:
    """A network whose statistics are no defaults either."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = build_model("small_cnn", "digits")
        model(torch.rand(8, 1, 8, 8))
    return model.eval()


STATE: State = {name: tensor.clone() for name, tensor in small().state_dict().items()}
LAYER = {"mean": torch.full((1, 1, 1), 0.5), "std": torch.full((1, 1, 1), 0.25)}


def named(prefix: str, state: State = STATE) -> State:
    return {f"{prefix}{name}": tensor for name, tensor in state.items()}


FORMS: dict[str, Any] = {
    "alone": STATE,
    **{f"under {key}": {key: STATE, "epoch": 3} for key in ("state_dict", "model", "net", "model_state_dict", "ema")},
    "under ema_state_dict": {"ema_state_dict": STATE, "optimizer": {"state": {0: {"step": torch.ones(1)}}}},
    "under two keys": {"model": {"state_dict": STATE}, "step": torch.tensor(7)},
    "under a key of its own": {"best": STATE, "accuracy": 0.5},
    **{f"behind {prefix}": named(prefix) for prefix in ("module.", "model.", "_orig_mod.", "module._orig_mod.model.")},
    "of torch's averaged model": {**named("module."), "n_averaged": torch.tensor(5)},
    "behind a normalisation": {**named("1."), "0.mean": LAYER["mean"], "0.std": LAYER["std"]},
    "beside mu and sigma": {**STATE, "mu": LAYER["mean"], "sigma": LAYER["std"]},
    "of MadryLab": {
        "model": {
            **{
                f"module.{part}.new_{name}": LAYER[name]
                for part in ("normalizer", "attacker.normalize")
                for name in LAYER
            },
            **named("module.model."),
            **named("module.attacker.model."),
        }
    },
    "with more": {**STATE, "head.weight": torch.ones(3, 3)},
    "in double precision": {name: tensor.double() for name, tensor in STATE.items()},
    "without counters": {name: tensor for name, tensor in STATE.items() if "num_batches" not in name},
    "under other names": {f"tensor{number}": tensor for number, tensor in enumerate(STATE.values())},
}


def loaded(path: Path, content: Any, key: str | None = None) -> tuple[State, list[str], WeightFile]:
    """What a file with this content makes of another network."""
    save_file(content, path) if path.suffix == ".safetensors" else torch.save(content, path)
    model, weights = small(seed=2), read_weights(path, key)
    lines = load_into(model, weights, DIGITS)
    return dict(model.state_dict()), lines, weights


def same(state: State, counters: bool = False) -> bool:
    return all(torch.equal(state[name], STATE[name]) for name in STATE if counters or "num_batches" not in name)


@pytest.mark.parametrize("suffix", ["pt", "pth", "ckpt"])
@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_bits(tmp_path: Path, form: str, suffix: str) -> None:
    state, lines, weights = loaded(tmp_path / f"weights.{suffix}", FORMS[form])
    assert same(state, counters=form not in ("without counters", "under other names"))
    assert 1 <= len(lines) <= 3
    known = normalization_of(weights, 1)
    if "normalisation" in form or "mu" in form or "Madry" in form:
        assert known is not None and (known.mean, known.std) == ([0.5], [0.25])
    else:
        assert known is None


@pytest.mark.parametrize("prefix", ["", "module.", "1."])
def test_safetensors_are_matched_by_name(tmp_path: Path, prefix: str) -> None:
    state, lines, _ = loaded(tmp_path / "weights.safetensors", named(prefix))
    assert same(state, counters=True) and "matched by name" in lines[0] and prefix in lines[0]


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_half_precision_becomes_single(tmp_path: Path, kind: torch.dtype) -> None:
    halves = {name: value.to(kind) if value.is_floating_point() else value for name, value in STATE.items()}
    state, lines, _ = loaded(tmp_path / "weights.pt", halves)
    assert all(torch.equal(state[name], value.to(STATE[name].dtype)) for name, value in halves.items())
    assert "made float32" in lines[0]


def test_names_that_are_the_same_are_taken_as_they_are() -> None:
    """A network of somebody's own may have two names that layouts use for one thing."""
    own = {name: torch.full((2,), float(place)) for place, name in enumerate(("bn1.weight", "norm.weight", "fc.bias"))}
    found = fit(own, weights_of({f"module.{name}": tensor for name, tensor in own.items()}))
    assert isinstance(found, Fit) and found.names == {name: f"module.{name}" for name in own}


class Standardising(nn.Module):
    """A network of somebody's own whose weights all lie below `net`, beside its constants and a table of indices."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(1, 1, 1, 1))
        self.register_buffer("std", torch.ones(1, 1, 1, 1))
        self.net = small()
        self.net.register_buffer("index", torch.zeros(3, dtype=torch.long))


@pytest.mark.parametrize("prefix", ["", "module."])
def test_constants_and_indices_beside_the_weights_are_taken_too(tmp_path: Path, prefix: str) -> None:
    constants = {"mean": torch.full((1, 1, 1, 1), 0.5), "std": torch.full((1, 1, 1, 1), 0.25)}
    content = {**named("net."), **constants, "net.index": torch.tensor([3, 1, 2])}
    torch.save(named(prefix, content), tmp_path / "weights.pt")
    model = Standardising()
    load_into(model, read_weights(tmp_path / "weights.pt", None), DIGITS)
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in content.items())


class Leaderboard(nn.Module):
    """A network as leaderboards define it: with constants and a stage that is not run in its state."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mu", torch.zeros(1, 1, 1, 1))
        self.register_buffer("sigma", torch.ones(1, 1, 1, 1))
        self.sub_block1 = nn.Conv2d(1, 1, 1)
        self.conv1, self.fc = nn.Conv2d(1, 2, 3), nn.Linear(2, 10)


@pytest.mark.parametrize("lacks", ["", "mu|sigma", "sub_block1"])
def test_a_network_with_constants_of_its_own_takes_those_of_the_file(tmp_path: Path, lacks: str) -> None:
    source, model = Leaderboard(), Leaderboard()
    source.get_buffer("mu").fill_(0.5)
    state = {f"module.{k}": v for k, v in source.state_dict().items() if not (lacks and re.search(lacks, k))}
    torch.save(state, tmp_path / "weights.pt")
    lines = load_into(model, read_weights(tmp_path / "weights.pt"), DIGITS)
    assert "left out" not in "".join(lines)
    assert standardises(model) and torch.equal(model.conv1.weight, source.conv1.weight)
    assert float(model.get_buffer("mu").sum()) == (0 if "mu" in lacks else 0.5)
    assert torch.equal(model.sub_block1.weight, source.sub_block1.weight) == (lacks != "sub_block1")


def test_what_was_taken_and_left_is_said(tmp_path: Path) -> None:
    content = {"model": FORMS["of MadryLab"]["model"], "ema": {**STATE}}
    _, lines, _ = loaded(tmp_path / "weights.pt", content)
    assert lines[0] == "state dict: model; also there: ema"
    assert lines[1] == "17 tensors matched by name, 'module.model.' in front of each"
    assert lines[2].startswith("left out: module.attacker.model.convolutions.0.weight, ") and "more" in lines[2]
    assert same(loaded(tmp_path / "weights.pt", content, key="ema")[0])


@pytest.mark.parametrize(
    ("key", "text"),
    [
        (None, "several state dicts, 'last', 'best'; say which"),
        ("x", "no state dict at 'x', and no name begins so; there are"),
    ],
)
def test_several_state_dicts_need_a_key(tmp_path: Path, key: str | None, text: str) -> None:
    with pytest.raises(RequestError, match=text):
        loaded(tmp_path / "weights.pt", {"last": STATE, "best": STATE}, key)


def test_several_networks_in_one_state_dict_need_a_prefix(tmp_path: Path) -> None:
    average = {name: tensor + 1 for name, tensor in STATE.items()}
    content = {"state_dict": {**named("model."), **named("ema_model.", average)}}
    with pytest.raises(RequestError, match="holds several networks, 'model', 'ema_model'; say which is meant"):
        loaded(tmp_path / "weights.ckpt", content)
    assert same(loaded(tmp_path / "weights.ckpt", content, key="model")[0])
    taken, lines, _ = loaded(tmp_path / "weights.ckpt", content, key="ema_model")
    assert torch.equal(taken["linear.bias"], STATE["linear.bias"] + 1) and lines[0].startswith("state dict: ema_model")
    assert same(loaded(tmp_path / "weights.ckpt", {**named("a."), **named("b.")})[0]), "the same twice is no question"


def trades(name: str, blocks: int) -> str:
    """TRADES' name of a tensor of our WRN, which Carmon, Wang, Sehwag and others have taken over."""
    if match := re.fullmatch(r"last_stage\.(\d+)\.(.+)", name):
        stage, block = divmod(int(match[1]), blocks)
        return f"block{stage + 1}.layer.{block}.{match[2].replace('projection', 'convShortcut')}"
    return name.replace("bn.", "bn1.").replace("linear.", "fc.")


def cifar(name: str, blocks: int) -> str:
    """The name that a tensor of our ResNet has in most code for CIFAR."""
    if match := re.fullmatch(r"last_stage\.(\d+)\.(.+)", name):
        stage, block = divmod(int(match[1]), blocks)
        return f"layer{stage + 1}.{block}.{match[2]}"
    return name


def torchvision(name: str, blocks: int) -> str:
    return cifar(name, blocks).replace("shortcut", "downsample").replace("linear.", "fc.")


LAYOUTS: dict[str, tuple[Callable[[], nn.Module], Callable[[str, int], str], int]] = {
    "TRADES": (lambda: WideResNet(3, 10, blocks=4, widen=1), trades, 4),
    "more than ten blocks": (lambda: WideResNet(3, 10, blocks=11, widen=1), trades, 11),
    "ResNet": (lambda: CifarResNet(3, 10, (2, 2, 2, 2), (8, 8, 8, 8)), cifar, 2),
    "torchvision": (lambda: CifarResNet(3, 10, (2, 2, 2, 2), (4, 8, 16, 32)), torchvision, 2),
}


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_other_layouts_give_the_same_bits(tmp_path: Path, layout: str, suffix: str) -> None:
    make, rename, blocks = LAYOUTS[layout]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        source, target, images = make().train(), make().eval(), torch.rand(4, 3, 16, 16)
        source(images)
    state = {f"module.{rename(name, blocks)}": tensor for name, tensor in source.state_dict().items()}
    if layout == "TRADES":  # a stage that is defined and never run
        state |= {
            name.replace("block1", "sub_block1"): torch.rand_like(state[name].float())
            for name in state
            if "block1" in name
        }
    path = tmp_path / f"weights.{suffix}"
    save_file(state, path) if suffix == "safetensors" else torch.save({"state_dict": state}, path)
    lines = load_into(target, read_weights(path), CIFAR10)
    assert "names of its layout" in "".join(lines) and ("sub_block1" in "".join(lines)) == (layout == "TRADES")
    assert torch.equal(target(images), source.eval()(images))


def outline(architecture: str) -> State:
    with torch.device("meta"):
        return dict(build_model(architecture, "cifar10").state_dict())


def weights_of(state: State) -> WeightFile:
    return WeightFile("weights.pt", state, "", (), is_ordered=True)


ROBUSTBENCH: dict[str, tuple[str, Callable[[str], str]]] = {
    "Carmon2019Unlabeled": ("wrn28_10", lambda name: f"module.{trades(name, 4)}"),
    "Zhang2019Theoretically": ("wrn34_10", lambda name: trades(name, 5)),
    "Sehwag2021Proxy_R18": ("resnet18", lambda name: f"module.{cifar(name, 2)}"),
    "Rice2020Overfitting (l2)": ("preact_resnet18", lambda name: name),
}


@pytest.mark.parametrize("entry", ROBUSTBENCH)
def test_robustbench_layouts_fit_the_network_of_their_paper(entry: str) -> None:
    architecture, rename = ROBUSTBENCH[entry]
    own = outline(architecture)
    found = fit(own, weights_of({rename(name): tensor for name, tensor in own.items()}))
    assert isinstance(found, Fit)
    assert found.names == {name: rename(name) for name in own if "num_batches" not in name}


def deepmind(name: str) -> str:
    """DeepMind's name of a tensor of our WRN-28-10: Gowal, Rebuffi, Wang2023."""
    if match := re.fullmatch(r"last_stage\.(\d+)\.(bn|conv|projection)(\d?)\.(.+)", name):
        stage, block = divmod(int(match[1]), 4)
        kind = {"bn": "batchnorm_", "conv": "conv_", "projection": "shortcut"}[match[2]]
        return f"layer.{stage}.block.{block}.{kind}{int(match[3]) - 1 if match[3] else ''}.{match[4]}"
    return name.replace("conv1", "init_conv").replace("bn.", "batchnorm.").replace("linear.", "logits.")


def test_the_same_shapes_with_another_function_are_refused() -> None:
    own = outline("wrn28_10")
    theirs = {deepmind(name): tensor for name, tensor in own.items()}
    found = fit(own, weights_of(theirs))
    assert isinstance(found, Misfit) and "DeepMind's layout" in found.reason
    assert isinstance(fit(theirs, weights_of(theirs)), Fit), "their own network takes them"


def test_a_network_without_the_last_batch_norm_is_no_preact_resnet18() -> None:
    """Wong2020Fast and Andriushchenko2020Understanding, which also project what is not activated."""
    own = outline("preact_resnet18")
    found = fit(own, weights_of({name: tensor for name, tensor in own.items() if not name.startswith("bn.")}))
    assert isinstance(found, Misfit) and "lacks 4 of the network's" in found.reason and "bn.weight" in found.reason


@pytest.mark.parametrize("architecture", [name for name in ARCHITECTURES if name not in ("resnet50", "wrn50_2")])
def test_every_network_fits_itself(architecture: str) -> None:
    own = outline(architecture)
    assert isinstance(fit(own, weights_of(own)), Fit)


def test_torchvisions_weights_fit_the_network_of_imagenet() -> None:
    with torch.device("meta"):
        own = dict(build_model("resnet50", "imagenet").state_dict())
    found = fit(own, weights_of({name.removeprefix("network."): tensor for name, tensor in own.items()}))
    assert isinstance(found, Fit) and found.how == "by name"


def test_the_resnet_that_autoattack_ships_fits_the_projects() -> None:
    package = find_spec("pyautoattack")
    assert package is not None and package.submodule_search_locations
    path = Path(package.submodule_search_locations[0]) / "examples" / "model_test.pt"
    model = build_model("resnet18", "cifar10").eval()
    (line,) = load_into(model, read_weights(path), CIFAR10)
    assert line == "102 tensors matched by the names of its layout"
    assert sum(parameter.numel() for parameter in model.parameters()) == 11_173_962
    with pytest.raises(RequestError, match="it fits resnet18 for 3 channels and 10 classes, the data has 1 and 10"):
        load_into(small(), read_weights(path), DIGITS)


class Code:
    """Something that unpickling would run."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return (print, ("run",))


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (Code(), "holds more than tensors"),
        ({**STATE, "args": Code()}, r"holds more than tensors .*print.*Save its state dict alone"),
        ({"epoch": 3}, "expected a state dict, names with tensors, got dict"),
        ([1, 2], "expected a state dict, names with tensors, got list"),
        (named("x.", {"mean": torch.zeros(1), "std": torch.ones(1)}), "has 0 tensors, the network 17"),
        ({k: v for k, v in STATE.items() if k != "linear.bias"}, "lacks 1 of the network's 17 tensors: linear.bias;"),
        ({**STATE, "linear.bias": torch.zeros(7)}, r"'linear.bias' has shape \[7\], but the network's 'linear.bias'"),
        ({**STATE, "linear.bias": STATE["linear.bias"].int()}, "is torch.int32 .*, expected torch.float32"),
        ({**STATE, "linear.bias": STATE["linear.bias"].to(torch.complex64)}, "is torch.complex64 .*expected"),
        ({**STATE, "linear.bias": STATE["linear.bias"].to_sparse()}, "sparse_coo, on cpu"),
        (dict(build_model("resnet18_width16", "digits").state_dict()), r"; it fits resnet18_width16 \(architecture\)"),
        (
            {**STATE, "linear.weight": torch.ones(7, 128), "linear.bias": torch.ones(7)},
            "it fits small_cnn for 1 channels and 7 classes, the data has 1 and 10",
        ),
    ],
)
def test_what_does_not_fit_is_told_in_one_message(
    tmp_path: Path, content: Any, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(RequestError, match=text):
        loaded(tmp_path / "weights.pt", content)
    assert capsys.readouterr().out == "", "the file's code was run"


def test_unknown_names_without_an_order_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"\.safetensors keeps no order"):
        loaded(tmp_path / "weights.safetensors", FORMS["under other names"])


def test_another_kind_of_tensor_in_its_place_is_no_match() -> None:
    shuffled = {
        name.replace("running_mean", "x").replace("bias", "running_mean"): value for name, value in STATE.items()
    }
    renamed = {name.replace("norms", "n").replace("convolutions", "c"): value for name, value in shuffled.items()}
    assert isinstance(fit(STATE, weights_of(renamed)), Misfit)


@pytest.mark.parametrize(
    ("layers", "text"),
    [
        (
            {"a.mean": torch.tensor(0.5), "a.std": torch.ones(1), "b.mean": torch.ones(1), "b.std": torch.ones(1)},
            "differ",
        ),
        ({"mean": torch.tensor([125.3]), "std": torch.tensor([63.0])}, r"none for images of 1 channels in \[0, 1\]"),
        ({"mean": torch.tensor([0.5]), "std": torch.tensor([0.0])}, "none for images"),
        ({"mean": torch.full((3,), 0.5), "std": torch.full((3,), 0.5)}, "none for images of 1 channels"),
    ],
)
def test_a_normalisation_that_is_none_for_the_images_is_refused(layers: State, text: str) -> None:
    with pytest.raises(RequestError, match=text):
        normalization_of(weights_of({**STATE, **layers}), 1)


@pytest.mark.parametrize("name", ["weights.pt", "weights.safetensors"])
def test_a_damaged_or_missing_file_is_named(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    with pytest.raises(RequestError, match="no such file"):
        read_weights(path)
    save_file(STATE, path) if name.endswith("safetensors") else torch.save(STATE, path)
    path.write_bytes(path.read_bytes()[:900])
    with pytest.raises(RequestError, match="is damaged or no file of tensors"):
        read_weights(path)
