"""Sparse against its definition, and maps of few wavelets found back."""

import sys

import astropy.units as u
import numpy as np
import pytest
import torch

import sunpy_specfit as specfit
from sunpy_specfit.core.grid import Grid
from sunpy_specfit.data import gaussian_cube, spectral_wcs

KMS = u.km / u.s
LINE = Grid((8,), ("space",))
IMAGE = Grid((9, 12), ("space", "space"))


def bound(prior, grid=IMAGE, unit=KMS):
    return prior.bind({"velocity": unit}, grid)


def test_details_count_in_scales():
    prior = specfit.Sparse("velocity", scale=500 * u.m / u.s, wavelet="haar", levels=1, softness=1e-9)
    q = torch.tensor([1.0, 3.0, 0.0, 0.0, 2.0, 2.0, 5.0, 4.0], dtype=torch.float64)
    energy = float(bound(prior, LINE).energy({"velocity": q}))
    assert energy == pytest.approx((1 + 0.5) / 0.5, rel=1e-6)


def test_a_detail_counts_by_the_size_of_its_structure_at_any_level():
    prior = specfit.Sparse("velocity", scale=1 * KMS, wavelet="haar", softness=1e-9)
    for width in (1, 2, 4):
        structure = torch.zeros(8, dtype=torch.float64)
        structure[:width], structure[width : 2 * width] = 3.0, -3.0
        assert float(bound(prior, LINE).energy({"velocity": structure})) == pytest.approx(3.0)


def test_a_flat_map_and_a_ramp_are_free():
    ramp = torch.linspace(-3, 8, 108, dtype=torch.float64)
    assert float(bound(specfit.Sparse("velocity", scale=1 * KMS)).energy({"velocity": ramp})) < 1e-12


def test_the_majoriser_lies_above_and_touches():
    prior = bound(specfit.Sparse("velocity", scale=1 * KMS))
    generator = torch.Generator().manual_seed(0)
    here, there = (torch.randn(108, generator=generator, dtype=torch.float64) for _ in range(2))
    quadratic = prior.quadratic({"velocity": here})
    for step in (1e-3, 0.1, 1.0, 10.0):
        move = step * there
        above = (
            prior.energy({"velocity": here})
            + (quadratic.gradient["velocity"] * move).sum()
            + 0.5 * (quadratic.matvec({"velocity": move})["velocity"] * move).sum()
        )
        assert float(above) >= float(prior.energy({"velocity": here + move})) - 1e-12


def test_proximal_shrinks_coefficients_by_step_over_scale():
    prior = bound(specfit.Sparse("velocity", scale=2.0 * KMS, softness=1e-9))
    q = torch.randn(108, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = prior.proximal({"velocity": q}, {"velocity": torch.tensor(0.8)})["velocity"]
    before, after = prior.transform.forward(q), prior.transform.forward(found)
    detail = prior.transform.detail
    pull = 0.8 / (2.0 * prior.transform.extent.sqrt())
    expected = before.sign() * (before.abs() - pull).clamp_min(0.0)
    torch.testing.assert_close(after[detail], expected[detail], atol=1e-8, rtol=0)
    torch.testing.assert_close(after[~detail], before[~detail])
    assert (after[detail].abs() < 1e-8).any()


def test_rows_of_a_vector_are_maps_with_a_step_each():
    prior = bound(specfit.Sparse("velocity", scale=1 * KMS))
    q = torch.randn(3, 108, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    steps = torch.tensor([[0.1], [1.0], [10.0]], dtype=torch.float64)
    together = prior.proximal({"velocity": q}, {"velocity": steps})["velocity"]
    for row, step, found in zip(q, steps, together, strict=True):
        torch.testing.assert_close(prior.proximal({"velocity": row}, {"velocity": step[0]})["velocity"], found)
    alone = sum(float(prior.energy({"velocity": row})) for row in q)
    assert float(prior.energy({"velocity": q})) == pytest.approx(alone)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: specfit.Sparse("velocity", 3 * KMS), TypeError, "by keyword"),
        (lambda: specfit.Sparse("velocity", softness=0), ValueError, "softness"),
        (lambda: specfit.Sparse("velocity", levels=0), ValueError, "levels"),
        (lambda: bound(specfit.Sparse("velocity", scale=1 * KMS, wavelet="db400")), ValueError, "no discrete wavelet"),
        (lambda: bound(specfit.Sparse("velocity", scale=1 * KMS, wavelet="bior2.2")), ValueError, "not an orthogonal"),
        (lambda: bound(specfit.Sparse("velocity", scale=1 * KMS, wavelet="dmey")), ValueError, "not an orthogonal"),
        (lambda: bound(specfit.Sparse("velocity", scale=1 * u.s)), u.UnitConversionError, "km"),
        (
            lambda: bound(specfit.Sparse("velocity", scale=1 * KMS), Grid((3, 4), ("space", "space"))),
            ValueError,
            "too small for 'db4'",
        ),
    ],
)
def test_what_cannot_be_is_told(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_without_pywavelets_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "pywt", None)
    with pytest.raises(ImportError, match=r"sunpy_specfit\[wavelets\]"):
        bound(specfit.Sparse("velocity", scale=1 * KMS))


def few_wavelets(shape=(28, 29), seed=0):
    """A map that is flat but for a patch, and light of constant spectrum in noise of 1 a pixel."""
    from astropy.nddata import StdDevUncertainty
    from ndcube import NDCube

    y, x = np.mgrid[: shape[0], : shape[1]]
    truth = 10.0 + 30.0 * np.exp(-0.5 * ((x - 11) ** 2 + (y - 15) ** 2) / 2.0**2)
    sigma = np.full((*shape, 4), 2.0)
    data = truth[..., None] + sigma * np.random.default_rng(seed).standard_normal(sigma.shape)
    wcs = spectral_wcs(shape, np.arange(1, 5) * u.AA)
    return NDCube(data, wcs=wcs, unit=u.DN, uncertainty=StdDevUncertainty(sigma)), truth


def rmse(result, truth):
    return float(np.sqrt(np.mean((result["c0"].data - truth) ** 2)))


def test_a_lonely_structure_is_found_better_than_by_smoothing():
    cube, truth = few_wavelets()
    model = specfit.Polynomial(0)

    def best(prior):
        return min(
            rmse(specfit.fit(cube, model, prior("c0", scale=s * u.DN)), truth) for s in (0.15, 0.3, 0.6, 1.2, 2.4)
        )

    sparse = best(specfit.Sparse)
    assert sparse < 0.9 * best(specfit.Smooth)
    assert sparse < 0.6 * rmse(specfit.fit(cube, model), truth)


def test_a_scale_chosen_from_the_data_helps():
    cube, truth = few_wavelets()
    result = specfit.fit(cube, specfit.Polynomial(0), specfit.Sparse("c0"))
    entry = result.meta["prior_scales"]["sparse:c0"]
    assert entry["unit"] == "DN"
    assert 0.01 < entry["scale"] < 3
    assert rmse(result, truth) < 0.6 * rmse(specfit.fit(cube, specfit.Polynomial(0)), truth)


def test_a_part_of_the_map_needs_no_other_scale():
    cube, truth = few_wavelets((48, 24))
    prior = specfit.Sparse("c0", scale=0.4 * u.DN)
    whole = specfit.fit(cube, specfit.Polynomial(0), prior)
    part = specfit.fit(cube[:32], specfit.Polynomial(0), prior)
    of_part = np.sqrt(np.mean((whole["c0"].data - truth)[:32] ** 2))
    assert rmse(part, truth[:32]) == pytest.approx(of_part, rel=0.1)


def test_gaps_are_filled_and_errors_are_finite():
    cube, truth = few_wavelets()
    mask = np.zeros(cube.data.shape, bool)
    mask[5, 22] = True
    result = specfit.fit(cube, specfit.Polynomial(0), specfit.Sparse("c0", scale=0.3 * u.DN), mask=mask)
    assert abs(result["c0"].data[5, 22] - truth[5, 22]) < 1.0
    sigma = result["c0"].uncertainty.array
    assert np.isfinite(sigma).all()
    assert np.median(sigma) < 0.6


def test_a_slit_has_wavelets_along_it_and_a_derived_quantity_will_do():
    cube = gaussian_cube((1, 40), signal_to_noise=5)
    model = specfit.Gaussian(195.119 * u.AA) + specfit.Polynomial(0)
    result = specfit.fit(cube, model, specfit.Sparse("velocity", scale=3 * KMS))
    assert result.meta["solver"] == "ProximalGradient()"
    assert np.std(result["velocity"].data) < np.std(specfit.fit(cube, model)["velocity"].data)
