"""Batches larger than memory: the same logits and gradients, in pieces."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from pipeline.attacks.pgd import PGD
from pipeline.data.images import ImageSplit
from pipeline.evaluation import pieces
from pipeline.evaluation.pieces import InPieces, fitting

CUDA = torch.device("cuda")


class Counting(nn.Module):
    """Remembers how many images it was given at once."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.sizes = model, list[int]()

    def forward(self, images: Tensor) -> Tensor:
        self.sizes.append(len(images))
        logits: Tensor = self.model(images)
        return logits


@pytest.mark.parametrize(("limit", "sizes"), [(24, {24}), (10, {10, 4}), (1, {1})])
def test_an_attack_finds_the_same_in_pieces(
    digits_model: nn.Module, tiny_split: ImageSplit, limit: int, sizes: set[int]
) -> None:
    images, labels = tiny_split.test.batch(torch.arange(24))
    attack = PGD(norm="l2", epsilon=0.5, step_size=0.2, steps=3)
    counting = Counting(digits_model)
    whole = attack.perturb(digits_model, images, labels, torch.Generator().manual_seed(1))
    found = attack.perturb(InPieces(counting, limit).eval(), images, labels, torch.Generator().manual_seed(1))
    torch.testing.assert_close(found, whole, rtol=0, atol=1e-5)
    assert set(counting.sizes) == sizes
    with torch.no_grad():
        torch.testing.assert_close(InPieces(digits_model, limit)(images), digits_model(images), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("batch", "limit"), [(70, None), (71, 70), (1000, 70)])
def test_what_fits_is_not_cut(
    monkeypatch: pytest.MonkeyPatch, digits_model: nn.Module, batch: int, limit: int | None
) -> None:
    """A device with 10,000 bytes free, 100 for each image."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (10_000, 20_000))
    monkeypatch.setattr(pieces, "_peak_bytes", lambda model, shape, size, device: 5_000 + 100 * size)
    found = fitting(digits_model, (1, 8, 8), batch, CUDA)
    assert found is digits_model if limit is None else isinstance(found, InPieces) and found.limit == limit


def test_the_host_pages(digits_model: nn.Module) -> None:
    assert fitting(digits_model, (1, 8, 8), 10**9, torch.device("cpu")) is digits_model
