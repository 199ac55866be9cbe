"""A network of one's own with everything that other networks here do not have is mixed, kept, continued and folded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from pipeline.config import Params
from pipeline.core.devices import Backend
from pipeline.core.errors import Interrupted, RequestError
from pipeline.core.ranks import Ranks
from pipeline.data.images import ImageSplit
from pipeline.models.folding import folded
from pipeline.training.distributed import synchronise_batch_norm
from pipeline.training.loop import train
from pipeline.training.run import build_network
from pipeline.training.theory import gradient
from pipeline.training.weights import MovingAverage, copy_weights, own_tensors
from tests.conftest import MakeParams, keep
from tests.running import Recorder, RunExperiment, assert_same, run_experiment
from tests.training.test_loop import StopAfter
from tests.training.test_warm_up import at_epoch, check, of, share

METHOD = "generalist_d_nt_linf"
CPU = torch.device("cpu")


class Awkward(nn.Module):
    """Tied weights, dropout, GroupNorm and LayerNorm beside BatchNorm, weights that are unused or frozen, buffers of
    several types."""

    order: Tensor
    mask: Tensor
    scale: Tensor

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(channels, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Dropout2d(0.1))
        self.second = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.GroupNorm(2, 8), nn.ReLU())
        self.norm, self.inner, self.again = nn.LayerNorm(8), nn.Linear(8, 8), nn.Linear(8, 8)
        self.again.weight = self.inner.weight
        self.unused = nn.Linear(3, 3)
        self.frozen = nn.Parameter(torch.full((8,), 2.0), requires_grad=False)
        self.head = nn.Linear(8, classes)
        self.register_buffer("order", torch.arange(8).flip(0))
        self.register_buffer("mask", torch.arange(8) % 4 != 3)
        self.register_buffer("scale", torch.full((8,), 0.3))

    def forward(self, images: Tensor) -> Tensor:
        features = self.second(self.first(images)).mean((2, 3))[:, self.order] * self.scale * self.frozen
        hidden = self.again(torch.relu(self.inner(self.norm(features)))) * self.mask
        logits: Tensor = self.head(nn.functional.dropout(hidden, 0.2, self.training))
        return logits


PATH = f"{__name__}:Awkward"


def choose(content: dict[str, Any]) -> None:
    content["model"]["architecture"] = PATH


@pytest.fixture
def params(make_params: MakeParams) -> Params:
    """Every learner is `Awkward`."""
    return make_params(choose)


def test_a_mixture_of_awkward_networks_is_what_it_should_be(params: Params, run_method: RunExperiment) -> None:
    trained = run_method(params, METHOD)
    weights = [trained.learner("linf"), trained.learner("natural"), trained.mixture, trained.result.model.state_dict()]
    start = Awkward(1, 10)
    for state in weights:
        assert all(torch.isfinite(value).all() for value in state.values())
        assert torch.equal(state["inner.weight"], state["again.weight"])
        for name in ("order", "mask"):
            assert (
                torch.equal(state[name], start.get_buffer(name)) and state[name].dtype == start.get_buffer(name).dtype
            )
        torch.testing.assert_close(state["scale"], start.scale)
        torch.testing.assert_close(state["frozen"], start.frozen.data)
    torch.testing.assert_close(weights[0]["unused.weight"], weights[1]["unused.weight"])


def test_tied_weights_are_averaged_once_and_constants_stay() -> None:
    first, second = Awkward(1, 10), Awkward(1, 10)
    average = MovingAverage(first, decay=0.9, warmup=False)
    for _ in range(200):
        average.update([(0.25, first), (0.75, second)])
    state, mixed = average.model.state_dict(), 0.25 * first.inner.weight + 0.75 * second.inner.weight
    torch.testing.assert_close(state["inner.weight"], mixed, rtol=1e-5, atol=1e-6)
    assert state["inner.weight"].data_ptr() == state["again.weight"].data_ptr()
    torch.testing.assert_close(state["scale"], first.scale, rtol=1e-6, atol=0)
    copy_weights(average.model, second)
    assert_same(dict(second.state_dict()), dict(state))


def test_dropout_continues_to_the_same_bits_whatever_else_was_drawn(
    params: Params, run_method: RunExperiment, tiny_split: ImageSplit, cpu: Backend, tmp_path: Path
) -> None:
    whole = run_method(params, METHOD)
    torch.manual_seed(7)
    before = torch.get_rng_state()
    for steps in (1, 4):
        with pytest.raises(Interrupted):
            train(params.experiment(METHOD, 1), tiny_split, cpu, tmp_path / "stopped", Recorder(), StopAfter(steps))
    result = train(params.experiment(METHOD, 1), tiny_split, cpu, tmp_path / "stopped", Recorder())
    assert_same(dict(result.model.state_dict()), dict(whole.result.model.state_dict()))
    assert torch.equal(torch.get_rng_state(), before)


def test_dropout_differs_between_steps_and_learners(params: Params, tiny_split: ImageSplit, cpu: Backend) -> None:
    from pipeline.core.streams import drawing

    drawn = []
    for address in (("linf", 1, 0), ("linf", 1, 1), ("natural", 1, 0), ("linf", 1, 0)):
        with drawing(1, "dropout", *address, device=CPU):
            drawn.append(nn.functional.dropout(torch.ones(64)))
    assert torch.equal(drawn[0], drawn[3])
    assert not any(torch.equal(drawn[0], other) for other in drawn[1:3])


def test_a_shared_warm_up_has_the_bits_of_dropout_alone(
    make_params: MakeParams, tiny_split: ImageSplit, cpu: Backend, tmp_path: Path
) -> None:
    params = make_params(choose, at_epoch(METHOD, 3, 1), lambda content: keep(content, ("nt", "at", METHOD)))
    share(of(params), tiny_split, cpu, tmp_path)
    check(of(params), tiny_split, cpu, tmp_path, lambda one: run_experiment(one, tiny_split, cpu, tmp_path / "alone"))


@pytest.mark.parametrize(
    "objective",
    [{"name": "agr", "norm": "linf", "starts_after": 0}, {"name": "part", "norm": "linf", "warmup": 0}],
)
def test_objectives_that_look_into_networks_take_it(
    make_params: MakeParams, run_method: RunExperiment, objective: dict[str, Any]
) -> None:
    params = make_params(choose, lambda raw: raw["methods"]["at"]["learners"]["linf"].update(objective=objective))
    state = run_method(params, "at").result.model.state_dict()
    assert all(torch.isfinite(value).all() for value in state.values())


def test_the_file_of_weights_has_shared_tensors_for_each_name_and_loads() -> None:
    model, other = Awkward(1, 10).to(memory_format=torch.channels_last).eval(), Awkward(1, 10).eval()
    stored = load(save(own_tensors(model)))
    assert torch.equal(stored["inner.weight"], stored["again.weight"])
    other.load_state_dict(stored)
    images = torch.rand(2, 1, 8, 8)
    torch.testing.assert_close(other(images), model(images))
    assert other.again.weight is other.inner.weight


def test_it_is_folded_where_batch_norm_follows_a_convolution_and_nowhere_else() -> None:
    model, images = Awkward(1, 10), torch.rand(5, 1, 8, 8)
    model(images)
    model.eval()
    copy = folded(model)
    assert copy is not model and not any(isinstance(layer, nn.BatchNorm2d) for layer in copy.modules())
    assert any(isinstance(layer, nn.GroupNorm) for layer in copy.modules())
    torch.testing.assert_close(copy(images), model(images))
    with torch.no_grad():
        model.inner.weight.add_(0.1)
    torch.testing.assert_close(copy(images), model(images))


def test_a_gradient_by_all_parameters_is_zero_for_unused_ones() -> None:
    model = Awkward(1, 10)
    found = gradient(model, torch.rand(4, 1, 8, 8), torch.arange(4))
    assert len(found) == sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    assert torch.isfinite(found).all() and found.count_nonzero() > 0


def test_initial_weights_depend_on_the_seed_alone_and_a_bad_network_stops_before_training(
    make_params: MakeParams, params: Params, cpu: Backend
) -> None:
    first, second = (build_network(params.experiment(name, 1), name_of, cpu) for name, name_of in
                     (("nt", "natural"), ("at", "linf")))  # fmt: skip
    assert_same(dict(first.state_dict()), dict(second.state_dict()))
    wrong = make_params(lambda raw: raw["model"].update(architecture="torchvision.models:resnet18"))
    with pytest.raises(RequestError, match=r"'torchvision.models:resnet18' cannot take images of 1 x 8 x 8.*model.fit"):
        build_network(wrong.experiment("nt", 1), "natural", cpu)
    maps = {"name": "part", "norm": "linf"}
    flat = make_params(
        lambda raw: raw["model"].update(architecture=f"{__name__}:Flat"),
        lambda raw: raw["methods"]["at"]["learners"]["linf"].update(objective=maps),
    )
    build_network(flat.experiment("nt", 1), "natural", cpu)
    with pytest.raises(RequestError, match="has no feature maps"):
        build_network(flat.experiment("at", 1), "linf", cpu)


class Flat(nn.Sequential):
    """A network without feature maps."""

    def __init__(self, channels: int, classes: int, height: int, width: int) -> None:
        super().__init__(nn.Flatten(), nn.Linear(channels * height * width, classes))


@pytest.mark.parametrize("layer", [nn.BatchNorm1d(4), nn.BatchNorm2d(4, affine=False)])
def test_layers_whose_statistics_cannot_be_shared_are_refused_on_several_processes(layer: nn.Module) -> None:
    with pytest.raises(RequestError, match=r"'0' of the network would have the statistics of each process's part"):
        synchronise_batch_norm(nn.Sequential(layer), Ranks(0, 2), CPU)
