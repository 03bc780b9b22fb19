import numpy as np
import pytest
import torch

from sunpy_specfit.numerics.threads import over_pixels


@pytest.fixture
def threads():
    """As many threads as a test wants, and afterwards as many as before."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize("number", [1, 2, 3])
@pytest.mark.parametrize("pixels", [1, 511, 100_000, 98_304])
def test_every_pixel_is_worked_on_once(number, pixels, threads):
    threads(number)
    counted = np.zeros(pixels, int)

    def count(begin, end):
        counted[begin:end] += 1
        return begin

    begins = over_pixels(count, pixels, 512)
    assert (counted == 1).all()
    assert len(begins) == (number if pixels > 512 else 1)
    assert all(begin % 512 == 0 for begin in begins)


def test_what_goes_wrong_in_a_thread_is_raised(threads):
    threads(2)

    def fail(begin, end):
        if begin:
            raise ValueError("in the second part")

    with pytest.raises(ValueError, match="second part"):
        over_pixels(fail, 100_000)
