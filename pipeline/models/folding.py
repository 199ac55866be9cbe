"""Networks with BatchNorm folded into their convolutions: the same function, in eval mode, in fewer passes over memory.

BatchNorm with running statistics is affine, so that a convolution can carry it. Attacks are crafted on such a copy;
training's own forward passes and every verdict stay on the network as it is.
"""

from __future__ import annotations

import logging
from collections import Counter
from copy import deepcopy
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights
from typing_extensions import override

log = logging.getLogger(__name__)


class _Recorder(fx.Tracer):
    """Records which layers a network calls; refuses what may differ from call to call: weights that are put in
    for one call (`functional_call`), tensors that the forward pass makes (noise).
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self._weights = {id(parameter) for parameter in model.parameters()}
        self._buffers = {id(buffer) for buffer in model.buffers()}

    @override
    def call_module(self, m: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
        if any(id(parameter) not in self._weights for parameter in m.parameters(recurse=False)):
            raise ValueError("its weights are others in every call")
        return super().call_module(m, forward, args, kwargs)

    @override
    def create_arg(self, a: Any) -> Any:
        if isinstance(a, torch.Tensor) and not isinstance(a, nn.Parameter) and id(a) not in self._buffers:
            raise ValueError("it makes tensors of its own, which may be others in every call")
        return super().create_arg(a)


class FoldedCopy:
    """A copy of a network in which the BatchNorm right after a convolution is part of it.

    Layers that nothing is folded into are the network's own, not copies.

    Args:
        model: In eval mode, on its device.

    Raises:
        Exception: whatever recording raises where the forward pass depends on values, replaces weights or is random.
    """

    def __init__(self, model: nn.Module) -> None:
        self._parts = list(model.modules())[1:]
        graph = _Recorder(model).trace(model)
        self.network = fx.GraphModule(model, graph)
        self.folds: list[tuple[nn.Conv2d, nn.Conv2d, nn.BatchNorm2d]] = []
        calls = Counter(node.target for node in graph.nodes)
        for node in list(graph.nodes):
            convolution, norm = self._pair(node, calls)
            if convolution is None or norm is None:
                continue
            before = node.args[0]
            joined = deepcopy(convolution).requires_grad_(False)
            joined.bias = nn.Parameter(torch.zeros_like(joined.weight[:, 0, 0, 0]), requires_grad=False)
            self.folds.append((joined, convolution, norm))
            self.network.set_submodule(before.target, joined)
            node.replace_all_uses_with(before)
            graph.erase_node(node)
        self.network.delete_all_unused_submodules()
        self.network.recompile()
        if model._compiled_call_impl is not None:
            self.network.compile()

    def _pair(self, node: fx.Node, calls: Counter[Any]) -> tuple[nn.Conv2d, nn.BatchNorm2d] | tuple[None, None]:
        """The convolution and the BatchNorm that reads it, where `node` is one, and nothing else reads it."""
        if node.op != "call_module" or not isinstance(node.args[0], fx.Node) or node.args[0].op != "call_module":
            return None, None
        norm, before = self.network.get_submodule(str(node.target)), node.args[0]
        convolution = self.network.get_submodule(str(before.target))
        foldable = type(norm) is nn.BatchNorm2d and norm.track_running_stats and type(convolution) is nn.Conv2d
        alone = len(before.users) == 1 and calls[node.target] == calls[before.target] == 1
        return (convolution, norm) if foldable and alone else (None, None)  # type: ignore[return-value]

    @torch.no_grad()
    def refresh(self) -> None:
        """Take over the network's present weights and statistics."""
        for joined, convolution, norm in self.folds:
            assert norm.running_mean is not None and norm.running_var is not None and joined.bias is not None
            weight, bias = fuse_conv_bn_weights(
                convolution.weight,
                convolution.bias,
                norm.running_mean,
                norm.running_var,
                norm.eps,
                norm.weight,
                norm.bias,
            )
            joined.weight.copy_(weight)
            joined.bias.copy_(bias)

    def belongs_to(self, model: nn.Module) -> bool:
        """Whether layers, device and precision are still the network's: a layer may be replaced, as by a new head."""
        parts = list(model.modules())[1:]
        if list(map(id, parts)) != list(map(id, self._parts)):
            return False
        weights = [(pair[0].weight, pair[1].weight) for pair in self.folds]
        return all(own.device == other.device and own.dtype == other.dtype for own, other in weights)


_copies: WeakKeyDictionary[nn.Module, FoldedCopy | None] = WeakKeyDictionary()


def folded(model: nn.Module) -> nn.Module:
    """A network that computes what `model` computes in eval mode, to rounding, with its weights as they are now.

    The copy is made at the first call for a network and kept; later calls take over weights and statistics.

    Args:
        model: In eval mode. Attributes other than layers, weights and buffers must no longer change.

    Returns:
        `model` itself where nothing can be folded: its forward pass depends on values or replaces weights or is
        random, layers have hooks, or no BatchNorm follows a convolution.
    """
    layers = list(model.modules())
    if not any(isinstance(layer, nn.BatchNorm2d) for layer in layers):
        return model
    if any(layer._forward_hooks or layer._forward_pre_hooks for layer in layers):
        return model
    copy = _copies.get(model)
    if model not in _copies or (copy is not None and not copy.belongs_to(model)):
        copy = _copies[model] = _fold(model)
    if copy is None:
        return model
    copy.refresh()
    return copy.network


def _fold(model: nn.Module) -> FoldedCopy | None:
    try:
        copy = FoldedCopy(model)
    except Exception as error:  # recording runs the network's own code on stand-ins: anything may come of it
        log.warning(
            "attacks see %s as it is, its BatchNorm not folded, which is slower: %s", type(model).__name__, error
        )
        return None
    return copy if copy.folds else None
