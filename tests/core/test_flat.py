"""The flat vector: forth and back, its transpose, and its bounds."""

from __future__ import annotations

import pytest
import torch

from sunpy_specfit.core.flat import FlatVector


@pytest.mark.parametrize(
    ("shared", "length"), [((False, False, False), 15), ((False, True, False), 11), ((True, True, True), 3)]
)
def test_a_shared_number_stands_once(shared, length):
    flat_vector = FlatVector(torch.tensor(shared), 5)
    generator = torch.Generator().manual_seed(4)
    flat = torch.randn(length, generator=generator, dtype=torch.float64)
    free = flat_vector.unflatten(flat)
    assert free.shape == (3, 5)
    assert torch.equal(flat_vector.flatten(free), flat)
    for row, one in zip(free, shared, strict=True):
        assert (row.unique().numel() == 1) == one

    maps = torch.randn((3, 5), generator=generator, dtype=torch.float64)
    assert float((free * maps).sum()) == pytest.approx(float(flat @ flat_vector.reduce(maps)))

    limits = torch.tensor([[1.0], [2.0], [3.0]], dtype=torch.float64)
    assert torch.equal(flat_vector.unflatten(flat_vector.spread(limits)), limits.expand(-1, 5))


def test_a_shared_number_starts_from_the_median():
    free = torch.tensor([[1.0, 2.0, 30.0], [4.0, 5.0, 6.0]])
    assert FlatVector(torch.tensor([True, False]), 3).flatten(free).tolist() == [4.0, 5.0, 6.0, 2.0]
