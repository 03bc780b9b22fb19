import numpy as np
import pytest

pytest.importorskip("numba")

import numba

from sunpy_specfit.numerics.row_products import PIXELS, multiply


@numba.njit
def product(matrix, source, which, target, places):
    """What other loops call, called from here."""
    multiply(matrix, source, which, target, places)


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_product_is_that_of_numpy_for_any_number_of_rows(kind):
    random = np.random.default_rng(1)
    for rows in range(14):
        matrix = random.standard_normal((rows, 5)).astype(kind)
        source = random.standard_normal((9, 3 * PIXELS)).astype(kind)
        which, places = random.permutation(9)[:5], random.permutation(20)[:rows]
        target = np.full((20, 3 * PIXELS), 7.0, kind)
        product(matrix, source, which, target, places)
        np.testing.assert_allclose(target[places], matrix @ source[which], rtol=1e-5, atol=1e-5)
        np.testing.assert_array_equal(np.delete(target, places, 0), 7.0)
