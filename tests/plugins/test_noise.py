"""CountNoise: the variance it states, the units it takes, and that weights from the model leave no bias."""

import astropy.units as u
import numpy as np
import pytest
import torch
from astropy.nddata import StdDevUncertainty
from ndcube import NDCube

import sunpy_specfit as specfit
from sunpy_specfit import CountNoise, Status
from sunpy_specfit.data import gaussian_cube, spectral_wcs

REST = 1335.708 * u.AA


def line():
    return specfit.Gaussian(REST) + specfit.Polynomial(0)


def light(intensity, x, width=0.06, background=0.0):
    amplitude = np.asarray(intensity) / (np.sqrt(2 * np.pi) * width)
    return amplitude[..., None] * np.exp(-0.5 * ((x - REST.value) / width) ** 2) + background


def axis(n=32, step=0.026):
    return REST.value + step * (np.arange(n) - (n - 1) / 2)


def detector(truth, gain, read, seed):
    """What a detector of ``gain`` photons per DN reads out: photons are counted, then the read noise is added."""
    rng = np.random.default_rng(seed)
    return rng.poisson(truth * gain) / gain + read * rng.standard_normal(truth.shape)


def cube_of(data, unit=u.DN):
    return NDCube(data, wcs=spectral_wcs(data.shape[:2], axis(data.shape[-1]) * u.AA), unit=unit)


# -- the formula ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("noise", "counts", "variance"),
    [
        (CountNoise(4, 3.1), 100.0, 100 / 4 + 3.1**2),  # IRIS, far ultraviolet
        (CountNoise(18, 1.2), 90.0, 90 / 18 + 1.2**2),  # IRIS, near ultraviolet
        (CountNoise(4 * u.ph / u.DN, 3.1 * u.DN), 0.0, 3.1**2),
        (CountNoise(4, 3.1), -50.0, 3.1**2),  # below zero there is the read noise alone
        (CountNoise(1), 20.0, 20.0),
        (CountNoise(2), 0.1, 0.05),
        (CountNoise(2), 0.0, 0.025),  # and without one the noise of a tenth of a photon
        (CountNoise(2), -3.0, 0.025),
        (CountNoise(2, 0.001), 0.0, 0.025),
    ],
)
def test_the_variance(noise, counts, variance):
    found = noise.variance(torch.tensor([counts], dtype=torch.float64))
    assert found.dtype == torch.float64
    assert found.item() == pytest.approx(variance, rel=1e-12)


def test_the_variance_is_that_of_what_a_detector_reads_out():
    levels = np.array([5.0, 20.0, 100.0])
    read = detector(np.repeat(levels[:, None], 40000, 1), 4, 3.1, seed=5)
    stated = CountNoise(4, 3.1).variance(torch.as_tensor(levels)).numpy()
    np.testing.assert_allclose(read.var(axis=1), stated, rtol=0.03)


def test_the_light_is_not_changed():
    counts = torch.tensor([-1.0, 5.0])
    CountNoise(4, 3.1).variance(counts)
    assert counts.tolist() == [-1.0, 5.0]


def test_it_is_printed_as_it_was_made():
    assert repr(CountNoise(4, 3.1)) == "CountNoise(4, 3.1)"
    assert CountNoise(4, 3.1).arguments() == {"photons_per_dn": 4, "read_noise": 3.1}


# -- arguments -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((0,), ValueError, "photons_per_dn must be finite and above zero, found 0"),
        ((-4,), ValueError, "photons_per_dn must be finite and above zero, found -4"),
        ((np.nan,), ValueError, "above zero, found nan"),
        ((np.inf,), ValueError, "finite"),
        ((4, -1), ValueError, "read_noise must be finite and not negative, found -1"),
        ((4, np.nan), ValueError, "read_noise must be finite"),
        ((4, np.inf), ValueError, "read_noise must be finite"),
        (("4",), TypeError, "photons_per_dn is one number or a Quantity, found '4'"),
        ((None,), TypeError, "photons_per_dn is one number"),
        (([4, 18],), TypeError, "photons_per_dn is one number"),
        ((4, [1, 2] * u.DN), TypeError, "read_noise is one number"),
        ((4 + 1j,), TypeError, "photons_per_dn is one number"),
    ],
)
def test_arguments_that_make_no_sense(arguments, error, message):
    with pytest.raises(error, match=message):
        CountNoise(*arguments)


@pytest.mark.parametrize("number", [4, 4.0, np.float32(4), np.int64(4), np.array(4.0)])
def test_numbers_of_any_kind(number):
    assert CountNoise(number, 1).variance(torch.tensor([8.0])).item() == pytest.approx(3.0)


@pytest.mark.parametrize(
    ("photons_per_dn", "read_noise", "unit"),
    [
        (4, 3.1, u.DN),
        (4, 3.1, u.erg / u.s),  # plain numbers are per unit of the data, whatever that is
        (4 * u.ph / u.DN, 3.1 * u.DN, u.DN),
        (4 * u.electron / u.DN, 3.1 * u.DN, u.DN),
        (4000 * u.ph / (1000 * u.DN), 0.0031 * (1000 * u.DN), u.DN),
        (4 * u.ph / u.DN, 3.1 * u.DN, u.ct),
        (4 * u.ph / u.adu, 3.1 * u.adu, u.DN),
        (4 * u.ph / u.DN, 3.1 * u.DN, u.dimensionless_unscaled),
        (4 * u.ph / u.DN, 3.1, u.DN),
        (4 * u.one, 3.1 * u.ph, u.ph),
    ],
)
def test_units_become_numbers_in_that_of_the_data(photons_per_dn, read_noise, unit):
    found = CountNoise(photons_per_dn, read_noise).in_unit(unit)
    assert found.variance(torch.tensor([100.0], dtype=torch.float64)).item() == pytest.approx(25 + 3.1**2)


def test_units_that_do_not_convert():
    per_second = gaussian_cube((2, 3)).data
    cube = NDCube(per_second, wcs=gaussian_cube((2, 3)).wcs, unit=u.DN / u.s)
    model = specfit.Gaussian(195.119 * u.AA) + specfit.Polynomial(0)
    message = "photons_per_dn is in ph / DN, which for data in DN / s does not convert to .*plain number"
    with pytest.raises(u.UnitConversionError, match=message):
        specfit.fit(cube, model, uncertainty=CountNoise(4 * u.ph / u.DN))
    with pytest.raises(u.UnitConversionError, match="photons_per_dn is in kg"):
        CountNoise(4 * u.kg).in_unit(u.DN)
    with pytest.raises(u.UnitConversionError, match="read_noise is in Angstrom"):
        CountNoise(4, 3 * u.AA).in_unit(u.DN)


# -- fits ----------------------------------------------------------------------------------------


def test_other_units_of_the_same_data_give_the_same_maps():
    truth = light(np.full((5, 6), 60.0), axis(), background=3.0)
    data = detector(truth, 4, 1.0, seed=1)
    plain = specfit.fit(cube_of(data), line(), uncertainty=CountNoise(4, 1.0))
    thousands = specfit.fit(
        cube_of(data / 1000, 1000 * u.DN), line(), uncertainty=CountNoise(4 * u.ph / u.DN, 1 * u.DN)
    )
    sigma = plain["velocity"].uncertainty.array
    assert np.all(np.isfinite(sigma))
    assert np.max(np.abs(thousands["velocity"].data - plain["velocity"].data) / sigma) < 1e-3
    np.testing.assert_allclose(thousands["velocity"].uncertainty.array, sigma, rtol=1e-3)
    assert plain.meta["noise"] == ["noise model"]


def test_it_overrides_the_uncertainty_of_the_cube():
    truth = light(np.full((4, 4), 60.0), axis(), background=3.0)
    cube = cube_of(detector(truth, 4, 1.0, seed=2))
    wrong = NDCube(
        cube.data, wcs=cube.wcs, unit=cube.unit, uncertainty=StdDevUncertainty(np.full(cube.data.shape, 100.0))
    )
    expected = specfit.fit(cube, line(), uncertainty=CountNoise(4, 1.0))
    found = specfit.fit(wrong, line(), uncertainty=CountNoise(4, 1.0))
    np.testing.assert_array_equal(found["velocity"].data, expected["velocity"].data)
    np.testing.assert_array_equal(found["velocity"].uncertainty.array, expected["velocity"].uncertainty.array)


def test_bad_samples_count_for_nothing():
    truth = light(np.full((4, 5), 80.0), axis(), background=5.0)
    data = detector(truth, 4, 1.0, seed=3)
    clean = specfit.fit(cube_of(data), line(), uncertainty=CountNoise(4, 1.0))
    data[1, 2, 10] = np.nan
    mask = np.zeros(data.shape, bool)
    mask[2, 3, 11] = True
    data[2, 3, 11] = -200  # how IRIS writes what is missing
    result = specfit.fit(cube_of(data), line(), uncertainty=CountNoise(4, 1.0), mask=mask)
    assert result.status.data[1, 2] & int(Status.BAD_DATA)
    assert not result.status.data[2, 3] & int(Status.BAD_DATA)
    assert result.dof.data[1, 2] == result.dof.data[2, 3] == 27
    others = np.ones((4, 5), bool)
    others[1, 2] = others[2, 3] = False
    distance = np.abs(result["velocity"].data - clean["velocity"].data) / clean["velocity"].uncertainty.array
    assert distance[others].max() < 1e-3
    assert distance[~others].max() < 3


def maximum_likelihood(data, shape, gain):
    """The amplitude of a line of known place and width for Poisson counts: what nothing unbiased is better than."""
    return data.sum(-1) / shape.sum()


@pytest.mark.parametrize("photons", [5, 20, 100])
def test_the_intensity_of_weak_lines_is_without_bias(photons):
    """A line of ``photons`` at its peak and no background at all: where naive weights fail worst.

    Place and width are known here, so that the intensity is the one free number, whose best estimate can be written
    down: all counts over the area of the profile.
    """
    gain, n = 4.0, 60
    shape = np.exp(-0.5 * ((axis() - REST.value) / 0.06) ** 2)
    data = detector(np.broadcast_to(photons / gain * shape, (n, n, 32)), gain, 0.0, seed=photons)
    model = specfit.Gaussian(REST).fix(center=REST, width=0.06 * u.AA)
    result = specfit.fit(cube_of(data), model, uncertainty=CountNoise(gain))
    best = maximum_likelihood(data, shape, gain)
    true = photons / gain
    spread = best.std() / n
    assert abs(best.mean() - true) < 4 * spread
    assert abs(result["amplitude"].data.mean() - true) < 4 * spread
    assert np.abs(result["amplitude"].data - best).max() < 1.5 * best.std()
    # The errors are those of the counts.
    pull = (result["amplitude"].data - true) / result["amplitude"].uncertainty.array
    assert 0.93 < pull.std() < 1.1
    # Weights from the data take every downward fluctuation for a precise measurement.
    naive = np.sqrt(np.maximum(data * gain, 1)) / gain * u.DN
    biased = specfit.fit(cube_of(data), model, uncertainty=naive)
    assert true - biased["amplitude"].data.mean() > 20 * spread


@pytest.mark.parametrize("photons", [5, 20, 100])
def test_errors_and_misfit_on_a_background_of_half_a_photon_are_those_of_the_counts(photons):
    gain, n = 4.0, 30
    rng = np.random.default_rng(photons)
    velocity = rng.uniform(-15, 15, (n, n, 1))
    center = REST.value * (1 + velocity / 299792.458)
    truth = (0.5 + photons * np.exp(-0.5 * ((axis() - center) / 0.06) ** 2)) / gain
    result = specfit.fit(cube_of(detector(truth, gain, 0.0, seed=photons)), line(), uncertainty=CountNoise(gain))

    def pulls(name, true):
        return (result[name].data - true) / result[name].uncertainty.array

    assert result.reduced_chi2.data.mean() == pytest.approx(1, abs=0.05)
    found = pulls("velocity", velocity[..., 0])
    assert abs(np.median(found)) < 0.15
    assert 0.9 < np.ptp(np.percentile(found, [16, 84])) / 2 < 1.25
    assert 0.9 < np.ptp(np.percentile(pulls("c0", 0.5 / gain), [16, 84])) / 2 < 1.2


def test_a_fit_with_count_noise_is_saved_with_what_it_was_made_from(tmp_path):
    truth = light(np.full((2, 3), 80.0), axis(), background=5.0)
    result = specfit.fit(cube_of(detector(truth, 4, 1.0, seed=4)), line(), uncertainty=CountNoise(4, 1.0))
    result.save(tmp_path / "lines.asdf")
    loaded = specfit.FitResult.load(tmp_path / "lines.asdf")
    assert loaded.meta["noise"] == ["noise model"]
    np.testing.assert_array_equal(loaded.chi2.data, result.chi2.data)
