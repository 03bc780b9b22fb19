import threading

import numpy as np
import pytest
import torch

from sunpy_specfit.numerics.threads import copied, in_pieces, over_pixels, side_by_side


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


@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize("pixels", [0, 1, 40_000, 65_536])
def test_pieces_cover_every_pixel_once(number, pixels, threads):
    threads(number)
    counted, sizes = np.zeros(pixels, int), []

    def count(part):
        counted[part] += 1
        sizes.append(part.stop - part.start)

    in_pieces(count, pixels)
    assert (counted == 1).all()
    assert max(sizes, default=0) <= 2**14


def test_a_copy_is_one(threads):
    threads(2)
    numbers = np.arange(120_000.0).reshape(2, 60_000)[:, ::2]
    found = copied(numbers)
    np.testing.assert_array_equal(found, numbers)
    assert found.flags.c_contiguous
    assert not np.shares_memory(found, numbers)


@pytest.mark.parametrize("number", [1, 2, 3])
def test_parts_are_worked_on_with_one_thread_each_and_in_order(number, threads):
    threads(number)
    together = threading.Barrier(min(number, 2), timeout=30)

    def work(part):
        together.wait()  # never passed unless as many are at work at the same time
        return part, torch.get_num_threads()

    assert side_by_side(work, range(6)) == [(part, 1) for part in range(6)]
    assert torch.get_num_threads() == number


def test_of_no_parts_nothing_is_found(threads):
    threads(2)
    assert side_by_side(lambda part: part, []) == []


def test_derivatives_are_taken_in_threads_where_they_are_outside(threads):
    threads(2)
    with torch.no_grad():
        assert side_by_side(lambda part: torch.is_grad_enabled(), range(2)) == [False, False]
    assert side_by_side(lambda part: torch.is_grad_enabled(), range(2)) == [True, True]


def test_what_goes_wrong_with_a_part_is_raised_and_threads_are_set_back(threads):
    threads(2)

    def fail(part):
        raise ValueError(f"in part {part}")

    with pytest.raises(ValueError, match="in part 0"):
        side_by_side(fail, range(4))
    assert torch.get_num_threads() == 2


def test_parts_are_worked_on_in_the_caller_s_mode(threads):
    threads(2)
    with torch.inference_mode():
        assert side_by_side(lambda part: torch.is_inference_mode_enabled(), range(4)) == [True] * 4
    with torch.no_grad():
        assert side_by_side(lambda part: torch.is_grad_enabled(), range(4)) == [False] * 4
    assert (
        side_by_side(lambda part: (torch.is_grad_enabled(), torch.is_inference_mode_enabled()), [0, 1])
        == [(True, False)] * 2
    )
