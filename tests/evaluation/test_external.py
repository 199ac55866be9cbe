"""Models from elsewhere: what is read, what is matched, and what is refused with the way out."""

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

from pipeline.core.errors import RequestError
from pipeline.data.images import ImageSplit
from pipeline.evaluation.foreign_weights import check_model, load_into, read_state
from pipeline.models import build_model


def small() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return build_model("small_cnn", "digits").eval()


@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
@pytest.mark.parametrize("wrap", [None, "state_dict", "model"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_state_dict_is_found_wherever_scripts_put_it(
    digits_model: nn.Module, tmp_path: Path, suffix: str, wrap: str | None, prefix: str
) -> None:
    path = tmp_path / f"weights.{suffix}"
    state: Any = {f"{prefix}{name}": tensor for name, tensor in digits_model.state_dict().items()}
    if suffix == "safetensors":
        save_file(state, path)
    else:
        torch.save({wrap: state, "epoch": 3} if wrap else state, path)
    loaded = small()
    assert load_into(loaded, read_state(path), "weights") == "by name"
    assert all(torch.equal(loaded.state_dict()[name], tensor) for name, tensor in digits_model.state_dict().items())


def test_other_names_are_matched_by_order_and_shape(digits_model: nn.Module) -> None:
    state = {f"tensor{number}": tensor for number, tensor in enumerate(digits_model.state_dict().values())}
    loaded = small()
    assert load_into(loaded, state, "weights") == "by order and shape, since names differ"
    images = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(loaded(images), digits_model(images))


def test_the_resnet_that_autoattack_ships_fits_the_projects() -> None:
    package = find_spec("pyautoattack")
    assert package is not None and package.submodule_search_locations
    path = Path(package.submodule_search_locations[0]) / "examples" / "model_test.pt"
    model = build_model("resnet18", "cifar10").eval()
    assert "order and shape" in load_into(model, read_state(path), str(path))
    assert sum(parameter.numel() for parameter in model.parameters()) == 11_173_962
    fresh = build_model("resnet18", "cifar10").state_dict()
    assert all(not torch.equal(tensor, fresh[name]) for name, tensor in model.state_dict().items())


class Code:
    """Something that unpickling would run."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return (print, ("run",))


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (Code(), "holds more than tensors|is damaged"),
        ({"epoch": 3}, "expected a state dict, names with tensors, got dict"),
        ([1, 2], "expected a state dict, names with tensors, got list"),
    ],
)
def test_a_file_without_a_state_dict_is_refused(
    tmp_path: Path, content: Any, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(content, tmp_path / "weights.pt")
    with pytest.raises(RequestError, match=text):
        read_state(tmp_path / "weights.pt")
    assert capsys.readouterr().out == "", "the file's code was run"


@pytest.mark.parametrize("name", ["weights.pt", "weights.safetensors"])
def test_a_damaged_or_missing_file_is_named(digits_model: nn.Module, tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    with pytest.raises(RequestError, match="no such file"):
        read_state(path)
    state = dict(digits_model.state_dict())
    save_file(state, path) if name.endswith("safetensors") else torch.save(state, path)
    path.write_bytes(path.read_bytes()[:900])
    with pytest.raises(RequestError, match="is damaged or no file of tensors"):
        read_state(path)


def test_weights_of_another_network_are_refused(digits_model: nn.Module) -> None:
    state = dict(digits_model.state_dict())
    with pytest.raises(RequestError, match=r"tensor .* has shape .* \(--architecture\)"):
        load_into(small(), {**state, "linear.bias": torch.zeros(7)}, "weights")
    state.pop("linear.bias")
    with pytest.raises(RequestError, match=r"tensors, but the network has .* \(--architecture\)"):
        load_into(small(), state, "weights")


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (lambda tensor: tensor.to(torch.complex64), "torch.complex64 (strided, on cpu)"),
        (lambda tensor: tensor.to_sparse(), "torch.float32 (sparse_coo, on cpu)"),
        (lambda tensor: tensor.to("meta"), "torch.float32 (strided, on meta)"),
    ],
)
def test_tensors_of_another_kind_are_refused(
    digits_model: nn.Module, change: Callable[[Tensor], Tensor], kind: str
) -> None:
    state = dict(digits_model.state_dict())
    with pytest.raises(RequestError, match=f"is {re.escape(kind)}, expected torch.float32"):
        load_into(small(), {**state, "linear.bias": change(state["linear.bias"])}, "weights")


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


def test_a_sound_model_passes(digits_model: nn.Module, tiny_split: ImageSplit) -> None:
    assert check_model(digits_model, tiny_split.test, 10) > 0.5


MODELS: list[tuple[Any, Any, int, str]] = [
    (None, lambda logits: logits.softmax(1), 10, "returns probabilities .* Remove the last softmax"),
    (None, lambda logits: logits[:, :5], 10, r"expected \[24, 10\]: one logit for each of 10 classes"),
    (None, lambda logits: logits.argmax(1), 10, r"expected \[24, 10\]"),
    (None, lambda logits: logits / 0 * 0, 10, "not finite"),
    (lambda images: images + torch.rand_like(images), None, 10, "it is random"),
    (lambda images: (images + 1) / 2, None, 10, r"as \[-1, 1\] \(give --mean 0.5 --std 0.5\)"),
    (lambda images: images / 255, None, 10, r"as \[0, 255\]"),
]


@pytest.mark.parametrize(("before", "after", "classes", "text"), MODELS)
def test_a_model_that_attacks_would_mislead_is_refused(
    digits_model: nn.Module, tiny_split: ImageSplit, before: Any, after: Any, classes: int, text: str
) -> None:
    with pytest.raises(RequestError, match=text):
        check_model(Wrapped(digits_model, before, after).eval(), tiny_split.test, classes)


def test_a_model_in_train_mode_is_refused(tiny_split: ImageSplit) -> None:
    with pytest.raises(RequestError, match=r"train mode.*Call model\.eval\(\) first"):
        check_model(small().train(), tiny_split.test, 10)
