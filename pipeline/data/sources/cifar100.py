"""CIFAR-100 (Krizhevsky, 2009), the fine labels."""

from __future__ import annotations

from torchvision.datasets import CIFAR100

from pipeline.data.sources import Source, cifar10


def source() -> Source:
    """The batches in Python's format."""
    return cifar10.source(CIFAR100)
