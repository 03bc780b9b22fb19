"""What may be added to a Milne-Eddington inversion: stray light, macroturbulence, nuisances, mu, and the weights."""

import astropy.units as u
import numpy as np
import pytest
from astropy.nddata import StdDevUncertainty
from ndcube import NDCube

import sunpy_specfit as specfit
from sunpy_specfit import MilneEddington
from sunpy_specfit.data import milne_eddington_cube

PAIR = ["Fe I 6301.5", "Fe I 6302.5"]


def like(cube, data, **changes):
    """The same cube with other data."""
    given = {"wcs": cube.wcs, "unit": cube.unit, "uncertainty": cube.uncertainty, "mask": cube.mask} | changes
    return NDCube(data, **given)


def difference(result, cube, name):
    found = result[name].data - cube.meta["truth"][name]
    return (found + 90) % 180 - 90 if name == "azimuth" else found


def test_stray_light_fills_the_rest_of_the_pixel():
    truth = {
        "field_strength": np.full((6, 6), 1500.0),
        "inclination": np.full((6, 6), 140.0),
        "azimuth": np.full((6, 6), 60.0),
    }
    magnetic = milne_eddington_cube((6, 6), truth=truth, noise=0.0, seed=1, dtype=np.float64)
    quiet = milne_eddington_cube(
        (1, 1), truth={name: np.zeros((1, 1)) for name in truth}, noise=0.0, seed=9, dtype=np.float64
    ).data[0, :, 0, 0]
    data = 0.4 * magnetic.data
    data[0] += 0.6 * quiet[:, None, None]
    data += 3e-4 * np.random.default_rng(0).standard_normal(data.shape)
    seen = like(magnetic, data, uncertainty=StdDevUncertainty(np.full(data.shape, 3e-4)))
    result = specfit.fit(seen, MilneEddington(PAIR, stray_light=quiet))
    assert result.reduced_chi2.data.max() < 1.35
    pull = (result["filling_factor"].data - 0.4) / result["filling_factor"].uncertainty.array
    assert np.abs(pull).max() < 5
    # The field is that of the magnetic part alone; its flux is spread over the pixel.
    along = 1500 * np.cos(np.deg2rad(140))
    assert np.median(result["b_los"].data) == pytest.approx(along, rel=0.02)
    np.testing.assert_allclose(
        result["flux_density"].data, result["filling_factor"].data * result["b_los"].data, rtol=1e-6
    )
    plain = specfit.fit(seen, MilneEddington(PAIR))
    assert np.median(plain.reduced_chi2.data) > 3


def test_local_and_mean_stray_light():
    from sunpy_specfit.core.observation import Observation

    cube = milne_eddington_cube((20, 24), noise=1e-3, seed=5)
    seen = Observation.from_cube(cube, stokes="IQUV")
    around = MilneEddington(PAIR, stray_light="local").prepare(seen)["stray_light"].reshape(112, 20, 24)
    block = cube.data[0, :, 5:10, 6:11].sum((1, 2)) - cube.data[0, :, 7, 8]
    np.testing.assert_allclose(around[:, 7, 8], block / 24, rtol=1e-5)
    everywhere = MilneEddington(PAIR, stray_light="mean").prepare(seen)["stray_light"]
    np.testing.assert_allclose(everywhere[:, 0], cube.data[0].mean((1, 2)), rtol=1e-5)


def test_crosstalk_and_offsets_are_found():
    made = milne_eddington_cube((6, 6), noise=3e-4, seed=4, dtype=np.float64)
    data = made.data.copy()
    for s, (leak, offset) in enumerate([(0.01, 0.002), (-0.02, -0.003), (0.005, 0.001)], 1):
        data[s] += leak * data[0] + offset
    result = specfit.fit(like(made, data), MilneEddington(PAIR, offset=True, crosstalk=True))
    assert result.reduced_chi2.data.max() < 1.35
    for s, leak, offset in (("q", 0.01, 0.002), ("u", -0.02, -0.003), ("v", 0.005, 0.001)):
        for name, truth in ((f"crosstalk_{s}", leak), (f"offset_{s}", offset)):
            pull = (result[name].data - truth) / result[name].uncertainty.array
            assert np.abs(pull).max() < 5
            assert 0.6 < pull.std() < 1.4


@pytest.mark.parametrize("kind", ["offset", "crosstalk"])
def test_offsets_and_crosstalk_are_found_by_themselves_in_data_of_either_sign(kind):
    made = milne_eddington_cube((6, 6), noise=3e-4, seed=4, dtype=np.float64)
    data = made.data.copy()
    amounts = (0.03, -0.02, 0.05)
    for s, amount in enumerate(amounts, 1):
        data[s] += amount if kind == "offset" else amount * data[0]
    data[3] *= -1  # the file's sign: offsets and crosstalk are those of V as the model has it
    model = MilneEddington(PAIR, stokes_sign={"V": -1}, **{kind: True})
    result = specfit.fit(like(made, data), model)
    assert result.reduced_chi2.data.max() < 1.35
    for s, amount in zip("quv", amounts, strict=True):
        error = result[f"{kind}_{s}"]
        assert np.abs((error.data - amount) / error.uncertainty.array).max() < 5


def test_mu_may_be_a_map():
    cosines = np.linspace(0.4, 1.0, 36).reshape(6, 6)
    made = milne_eddington_cube((6, 6), noise=0.0, seed=4, dtype=np.float64)
    gradient = made.meta["truth"]["source_gradient"]
    darker = made.meta["truth"] | {"source_gradient": gradient * cosines}
    seen = milne_eddington_cube((6, 6), truth=darker, noise=3e-4, seed=4, dtype=np.float64)
    result = specfit.fit(seen, MilneEddington(PAIR, mu=cosines))
    plain = specfit.fit(seen, MilneEddington(PAIR))
    sigma = result["source_gradient"].uncertainty.array
    assert np.abs((result["source_gradient"].data - gradient) / sigma).max() < 5
    np.testing.assert_allclose(result["source_gradient"].data * cosines, plain["source_gradient"].data, rtol=1e-3)
    with pytest.raises(ValueError, match="mu is a number or a map"):
        specfit.fit(seen, MilneEddington(PAIR, mu=cosines[:3]))


def test_stray_light_may_be_another_in_each_pixel():
    shape = (4, 5)
    truth = {
        name: np.full(shape, v) for name, v in (("field_strength", 1500.0), ("inclination", 40.0), ("azimuth", 60.0))
    }
    magnetic = milne_eddington_cube(shape, truth=truth, noise=0.0, seed=1, dtype=np.float64)
    still = {name: np.zeros(shape) for name in truth}
    quiet = milne_eddington_cube(shape, truth=still, noise=0.0, seed=9, dtype=np.float64).data[0]
    part = np.linspace(0.3, 0.9, 20).reshape(shape)
    data = part * magnetic.data
    data[0] += (1 - part) * quiet
    data += 3e-4 * np.random.default_rng(0).standard_normal(data.shape)
    seen = like(magnetic, data, uncertainty=StdDevUncertainty(np.full(data.shape, 3e-4)))
    result = specfit.fit(seen, MilneEddington(PAIR, stray_light=quiet))
    assert result.reduced_chi2.data.max() < 1.35
    found = result["filling_factor"]
    assert np.abs((found.data - part) / found.uncertainty.array).max() < 5
    with pytest.raises(ValueError, match="stray_light has the shape"):
        specfit.fit(seen, MilneEddington(PAIR, stray_light=quiet[:, :2]))


def test_noise_of_each_stokes_parameter_is_its_weight():
    sigma = np.array([6e-3, 2e-4, 4e-4, 1e-3])[:, None, None, None]
    made = milne_eddington_cube((16, 16), noise=0.0, seed=6, dtype=np.float64)
    data = made.data + sigma * np.random.default_rng(2).standard_normal(made.data.shape)
    seen = like(made, data, uncertainty=StdDevUncertainty(np.broadcast_to(sigma, data.shape)))
    result = specfit.fit(seen, MilneEddington(PAIR))
    assert np.mean(result.reduced_chi2.data < 1.3) > 0.99
    for name in ("field_strength", "inclination", "azimuth", "velocity"):
        pull = difference(result, made, name) / result[name].uncertainty.array
        assert np.mean(np.abs(pull) < 1) == pytest.approx(0.68, abs=0.1), name
    even = like(made, data, uncertainty=StdDevUncertainty(np.full(data.shape, 1e-3)))
    plain = specfit.fit(even, MilneEddington(PAIR))
    errors = [np.median(np.abs(difference(one, made, "azimuth"))) for one in (result, plain)]
    assert errors[0] < 0.9 * errors[1]


def test_how_the_continuum_was_normalised_is_kept():
    cube = milne_eddington_cube((2, 2), seed=5)
    model = MilneEddington(PAIR, normalization="pixel")
    part = specfit.fit(cube, model)
    assert "each pixel's own" in str(part.meta)


def test_macroturbulence_is_found():
    made = milne_eddington_cube((6, 6), noise=0.0, seed=4, dtype=np.float64)
    rest, sigma = 6302.4931, 1.5 / np.sqrt(2) * 6302.4931 / 299792.458
    x = rest + 0.0215 * (np.arange(112) - 56)
    kernel = np.exp(-0.5 * ((x[:, None] - x) / sigma) ** 2)
    data = np.einsum("ij,sjyx->siyx", kernel / kernel.sum(1, keepdims=True), made.data)
    data += 3e-4 * np.random.default_rng(0).standard_normal(data.shape)
    seen = like(made, data, uncertainty=StdDevUncertainty(np.full(data.shape, 3e-4)))
    inner = {"window": [6301.0, 6303.1] * u.AA}  # the kernel above has no light from beyond the ends
    result = specfit.fit(seen, MilneEddington(PAIR, macroturbulence=True), **inner)
    assert np.median(result.reduced_chi2.data) < 1.3
    assert np.median(result["macroturbulence"].data) == pytest.approx(1.5, rel=0.05)
    uneven = np.concatenate([6301 + 0.02 * np.arange(56), 6302.2 + 0.01 * np.arange(56)]) * u.AA
    with pytest.raises(ValueError, match="evenly spaced"):
        specfit.fit(seen, MilneEddington(PAIR, macroturbulence=True), spectral_axis=uneven)
