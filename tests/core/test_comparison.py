"""One component or two: a map of the better model."""

import astropy.units as u
import numpy as np
import pytest
from astropy.nddata import StdDevUncertainty
from ndcube import NDCube

import sunpy_specfit as specfit
from sunpy_specfit.data import gaussian_cube

REST = 195.119 * u.AA


def one():
    return specfit.Gaussian(REST) + specfit.Polynomial(0)


def two():
    return (
        specfit.Gaussian(REST, label="slow")
        + specfit.Gaussian(REST, label="fast").bound(center=(195.15, 195.35) * u.AA)
        + specfit.Polynomial(0)
    )


@pytest.fixture(scope="module")
def flows():
    """The right half has an upflowing second component, 180 km/s from rest and 0.4 times as bright."""
    cube = gaussian_cube((20, 30), signal_to_noise=40, seed=3)
    x = cube.axis_world_coords_values("em.wl")[0].to_value(u.AA)
    truth = cube.meta["truth"]
    second = 0.4 * truth["amplitude"][..., None] * np.exp(-0.5 * ((x - 195.119 * (1 + 180 / 299792.458)) / 0.03) ** 2)
    second[:, :15] = 0
    seen = NDCube(cube.data + second, wcs=cube.wcs, unit=cube.unit, uncertainty=cube.uncertainty)
    return seen, specfit.fit(seen, one()), specfit.fit(seen, two())


def test_bic_finds_the_second_component_where_it_is(flows):
    comparison = specfit.compare({"one": flows[1], "two": flows[2]})
    best = comparison.best.data
    assert np.mean(best[:, 15:] == 1) > 0.98
    # By BIC three more numbers must gain 3 ln 32 = 10.4 in chi-squared: chance does so in about one pixel of sixty.
    assert np.mean(best[:, :15] == 1) < 0.05
    assert comparison.best.unit == u.dimensionless_unscaled
    assert comparison.best.wcs.pixel_n_dim == 2
    assert np.all(comparison.margin.data >= 0)


def test_the_criteria_are_what_they_say(flows):
    _, first, second = flows
    bic, aic = specfit.compare([first, second]), specfit.compare([first, second], "aic")
    np.testing.assert_allclose(bic.values["0"].data, first.chi2.data + 4 * np.log(32))
    np.testing.assert_allclose(aic.values["1"].data, second.chi2.data + 2 * 7)
    strict = specfit.compare([first, second], margin=1e9)
    assert np.all(strict.best.data == 0)
    assert "BIC: 0" in repr(bic)


def test_pixels_without_a_fit_are_masked(flows):
    cube = flows[0]
    mask = np.zeros(cube.data.shape, bool)
    mask[3, 4] = True
    mask[5, 6, 6:] = True  # six samples: enough for one line, not for two
    first, second = (specfit.fit(cube, model, mask=mask) for model in (one(), two()))
    comparison = specfit.compare([first, second])
    assert comparison.best.data[3, 4] == -1
    assert comparison.best.mask[3, 4]
    assert np.isnan(comparison.values["0"].data[3, 4])
    assert comparison.best.data[5, 6] == 0
    assert not comparison.best.mask[5, 6]
    assert np.isnan(comparison.margin.data[5, 6])


def test_what_cannot_be_compared_is_refused(flows):
    cube, first, second = flows
    with pytest.raises(ValueError, match="at least two results, found 1"):
        specfit.compare([first])
    with pytest.raises(ValueError, match="found one"):
        specfit.compare(first)
    with pytest.raises(ValueError, match="'bic', 'aic'; found 'dic'"):
        specfit.compare([first, second], "dic")
    with pytest.raises(ValueError, match="differ in shape"):
        specfit.compare([first, second[2:5]])
    with pytest.raises(ValueError, match="other samples"):
        specfit.compare([first, specfit.fit(cube, two(), window=[195.0, 195.3] * u.AA)])
    with pytest.raises(ValueError, match="used priors"):
        specfit.compare([first, specfit.fit(cube, two(), priors=specfit.Ridge("slow.velocity", scale=9 * u.km / u.s))])
    with pytest.raises(TypeError, match="found NDCube"):
        specfit.compare([first, cube])


def test_noise_too_small_makes_the_richer_model_win(flows):
    # The docstring's warning, seen.
    cube = flows[0]
    small = NDCube(cube.data, wcs=cube.wcs, unit=cube.unit, uncertainty=StdDevUncertainty(cube.uncertainty.array / 3))
    comparison = specfit.compare([specfit.fit(small, one()), specfit.fit(small, two())])
    assert np.mean(comparison.best.data[:, :15] == 1) > 0.4


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"loss": "student_t"}, "had loss='student_t', the first 'gaussian'"),
        ({"uncertainty": lambda cube: 2 * cube.uncertainty.array * cube.unit}, "used other uncertainties"),
        ({"uncertainty": lambda cube: specfit.CountNoise(1)}, "used another noise model"),
        ({"data": 2}, "used another cube"),
        ({"window": [195.0, 195.3] * u.AA}, "other samples"),
    ],
)
@pytest.mark.parametrize("through_a_file", [False, True])
def test_fits_that_differ_in_more_than_the_model(change, match, through_a_file, tmp_path):
    def fitted(data=1, **options):
        cube = gaussian_cube((3, 4), seed=data)
        options = {key: value(cube) if callable(value) else value for key, value in options.items()}
        result = specfit.fit(cube, specfit.Gaussian(195.119 * u.AA), **options)
        if through_a_file:
            result.save(tmp_path / "one.asdf")
            result = specfit.FitResult.load(tmp_path / "one.asdf")
        return result

    if through_a_file and "data" in change:
        pytest.skip("a file does not know the data")
    if through_a_file:
        match = match.replace("another noise model", "other uncertainties")
    with pytest.raises(ValueError, match=match):
        specfit.compare([fitted(), fitted(**change)])
    same = gaussian_cube((3, 4), seed=1).uncertainty.array * gaussian_cube((3, 4), seed=1).unit
    if not through_a_file:
        assert specfit.compare([fitted(), fitted(uncertainty=same)])
