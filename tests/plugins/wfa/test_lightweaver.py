"""The weak-field approximation against an independent code for polarised transfer, where that is installed."""

import sys
import warnings
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

import sunpy_specfit as specfit

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"

pytestmark = [
    pytest.mark.skipif(find_spec("lightweaver") is None, reason="needs lightweaver"),
    pytest.mark.skipif(not (BENCHMARKS / "weak_field_physics.py").exists(), reason="needs the benchmarks"),
]


@pytest.fixture(scope="module")
def cube():
    """Mg I b2 in FAL-C: two strengths (y), fields towards, away and across at an azimuth of 30 degrees (x)."""
    sys.path.insert(0, str(BENCHMARKS))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of theirs
            import weak_field_physics

            strength, inclination = np.meshgrid([100.0, 300.0], [0.0, 60.0, 135.0, 180.0, 90.0], indexing="ij")
            return weak_field_physics.observe(
                "Mg I 5172.7", np.stack([strength, inclination, np.full_like(strength, 30.0)])
            )
    finally:
        sys.path.remove(str(BENCHMARKS))


def test_field_along_the_line_of_sight_with_its_sign(cube):
    """Both signs of B_los within 5 per cent, though nothing of the synthesis is ours."""
    result = specfit.fit(cube, specfit.WeakField("Mg I 5172.7"))
    true = cube.meta["truth"]["b_los"][:, :4]
    np.testing.assert_allclose(result["b_los"].data[:, :4], true, rtol=0.05)


def test_azimuth_counts_from_q_towards_u(cube):
    """Where nothing rotates the plane of polarisation, that is for fields across the line of sight, it is exact."""
    result = specfit.fit(cube, specfit.WeakField("Mg I 5172.7"))
    np.testing.assert_allclose(result["azimuth"].data[:, 4], 30.0, atol=0.5)
    np.testing.assert_allclose(result["b_los"].data[:, 4], 0.0, atol=1.0)


def test_opposite_sign_of_v_is_the_opposite_field(cube):
    """The comparison can fail: with the other convention it does."""
    result = specfit.fit(cube, specfit.WeakField("Mg I 5172.7", stokes_sign={"V": -1}))
    true = cube.meta["truth"]["b_los"][:, :4]
    np.testing.assert_allclose(result["b_los"].data[:, :4], -true, rtol=0.05)
