"""Streams are addressed: independent of each other, and of what was drawn before."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.streams import stream, stream_seed

Address = st.lists(st.one_of(st.integers(0, 10**6), st.text("abcdefghij", min_size=1, max_size=5)), max_size=4)


@given(seed=st.integers(0, 2**31), first=Address, second=Address)
def test_different_addresses_have_different_seeds(seed: int, first: list[int | str], second: list[int | str]) -> None:
    same = [str(part) for part in first] == [str(part) for part in second]
    assert (stream_seed(seed, *first) == stream_seed(seed, *second)) == same
    assert 0 <= stream_seed(seed, *first) < 2**63


def test_the_same_address_gives_the_same_bits() -> None:
    drawn = [torch.rand(5, generator=stream(1, "attack", "linf", 3, 17)) for _ in range(2)]
    assert torch.equal(*drawn)
    assert not torch.equal(drawn[0], torch.rand(5, generator=stream(2, "attack", "linf", 3, 17)))


def test_seeds_are_the_same_on_every_machine() -> None:
    assert stream_seed(1, "order", 1) == 4959920001976601321
