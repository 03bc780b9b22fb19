"""Every built-in method passes the kit that plugins are held against. A new method adds one line here."""

import astropy.units as u
import numpy as np
import pytest
import torch
from astropy.nddata import StdDevUncertainty
from astropy.wcs import WCS
from ndcube import NDCube

import sunpy_specfit as specfit
from sunpy_specfit import Parameter
from sunpy_specfit.core import registry
from sunpy_specfit.core.gaussian import BoundGaussian
from sunpy_specfit.data import milne_eddington_cube, weak_field_cube
from sunpy_specfit.testing import check_model, check_operator, check_prior, check_solver


def lorentzian(x, amplitude, center, width):
    return amplitude / (1 + ((x - center) / width) ** 2)


LORENTZIAN = {
    "amplitude": Parameter("data", lower=0),
    "center": Parameter("spectral", location=True),
    "width": Parameter("spectral", lower=0),
}

UNITS = {"velocity": u.km / u.s, "width": u.AA}
UNITS_OF_WIDTH = {"width": u.AA}
POSITIVE = {"width": torch.linspace(0.5, 4, 42, dtype=torch.float64).sin() + 1.5}
SCAN = ["time", "space", "space"]
VECTOR = {
    "units": {"dem": u.Unit("cm-5 K-1")},
    "maps": {"dem": torch.linspace(0.5, 60, 126, dtype=torch.float64).sin().reshape(3, 42) + 1.5},
    "beside": [
        BoundGaussian(
            "dem",
            torch.tensor([0.2, 0.5, -0.1], dtype=torch.float64),
            torch.tensor([[1.0, 0.4, 0.1], [0.4, 0.9, 0.3], [0.1, 0.3, 0.8]], dtype=torch.float64),
            logarithm=True,
        )
    ],
}

T = np.geomspace(5e5, 2e7, 33) * u.K
RESPONSES = {
    name: 1e-26 * np.exp(-(np.log(T.value / peak) ** 2)) * u.Unit("DN cm5 / (s pix)")
    for name, peak in (("cool", 1e6), ("warm", 3e6), ("hot", 9e6))
}
DEM = specfit.DEM(RESPONSES, T, T[::4])
LINEAR_DEM = specfit.DEM(RESPONSES, T, T[::4], form="linear")
ISOTHERMAL = specfit.Isothermal(RESPONSES, T)


def images(model):
    """A cube of channels that a model can be evaluated on."""
    rng = np.random.default_rng(1)
    sky = WCS(naxis=2)
    sky.wcs.ctype = ["HPLN-TAN", "HPLT-TAN"]
    sky.wcs.set()
    cubes = {
        name: NDCube(100 + rng.random((4, 5)), wcs=sky, unit="DN / s", uncertainty=StdDevUncertainty(np.ones((4, 5))))
        for name in RESPONSES
    }
    return model.gather(cubes)[0]


# Method, and what the check needs to know beside it.
MODELS = [
    # Fewer data than unknowns, which a start says nothing of; recovery is tested with the methods themselves.
    (DEM, {"cube": images(DEM), "fit": False}),
    (LINEAR_DEM, {"cube": images(LINEAR_DEM), "fit": False}),
    (ISOTHERMAL, {"cube": images(ISOTHERMAL), "fit": False}),
    (specfit.Gaussian(195.119 * u.AA), {}),
    (specfit.Polynomial(0), {}),
    (specfit.Polynomial(2), {}),
    (specfit.Voigt(500 * u.nm), {}),
    (specfit.ExternalModel(lorentzian, LORENTZIAN), {}),
    (specfit.ExternalModel(lorentzian, LORENTZIAN, vectorized=True, linear=["amplitude"]), {}),
    (specfit.Gaussian(195.119 * u.AA) + specfit.Polynomial(1), {}),
    (specfit.WeakField("Mg I 5172.7"), {"cube": weak_field_cube((8, 8), dtype=np.float64)}),
    (
        specfit.WeakField("Fe I 6302.5", linear="both", offset=True, crosstalk=True, stokes_sign={"U": -1}),
        {"cube": weak_field_cube((8, 8), line="Fe I 6302.5", n_wavelengths=29, dtype=np.float64), "fit": False},
    ),
    (
        specfit.WeakField("Fe I 6302.5", linear=None, crosstalk=True),
        {"cube": weak_field_cube((8, 8), line="Fe I 6302.5", n_wavelengths=29, dtype=np.float64), "fit": False},
    ),
    (specfit.MilneEddington(["Fe I 6301.5", "Fe I 6302.5"]), {"cube": milne_eddington_cube((8, 8), dtype=np.float64)}),
    (specfit.Gaussian(195.119 * u.AA, label="a") + specfit.Gaussian(195.179 * u.AA, label="b"), {}),
]
OPERATORS = []
PRIORS = [
    (specfit.Smooth("velocity", scale=0.7 * u.km / u.s), {}),
    (specfit.Smooth("velocity", "width", scale={"velocity": 3 * u.km / u.s, "width": 0.2}, order=2), {"units": UNITS}),
    (
        specfit.Smooth("velocity", "width", scale={"velocity": 3 * u.km / u.s, "width": 0.2}, order=1.5),
        {"units": UNITS},
    ),
    (specfit.Smooth("velocity", scale=2.0, axes="time", order=1.5), {"shape": (8, 6, 7), "kinds": SCAN}),
    (specfit.Smooth("velocity", scale=2.0, order=1.5), {"shape": (1, 9)}),
    (specfit.Smooth("width", scale=0.3, order=1.5, logarithm=True), {"units": UNITS_OF_WIDTH, "maps": POSITIVE}),
    (specfit.Smooth("width", scale=0.3, logarithm=True), {"units": UNITS_OF_WIDTH, "maps": POSITIVE}),
    (specfit.Smooth("velocity", scale=2.0, axes=("space", "time")), {"shape": (3, 4, 5), "kinds": SCAN}),
    (specfit.Smooth("velocity", scale=2.0, axes="time", order=2), {"shape": (4, 3, 5), "kinds": SCAN}),
    (specfit.TotalVariation("velocity", scale=0.7 * u.km / u.s), {}),
    (specfit.TotalVariation("velocity", scale=0.7, axes="all"), {"shape": (3, 4, 5), "kinds": SCAN}),
    (
        specfit.TotalVariation("velocity", "width", scale={"velocity": 3 * u.km / u.s, "width": 0.2}, joint=True),
        {"units": UNITS},
    ),
    (
        specfit.TotalVariation("width", scale=0.3, logarithm=True, joint=True),
        {"units": UNITS_OF_WIDTH, "maps": POSITIVE},
    ),
    (specfit.Sparse("velocity", scale=0.7 * u.km / u.s), {}),
    (specfit.Sparse("velocity", "width", scale={"velocity": 3 * u.km / u.s, "width": 0.2}), {"units": UNITS}),
    (specfit.Sparse("velocity", scale=0.7, wavelet="haar", axes="all"), {"shape": (3, 4, 5), "kinds": SCAN}),
    (specfit.Sparse("velocity", scale=0.7, wavelet="sym3", levels=1, axes="time"), {"shape": (37,), "kinds": ["time"]}),
    (specfit.Ridge("width", 2.1 * u.AA, scale=30 * u.mAA), {"units": UNITS}),
    (specfit.Ridge("width", np.linspace(1, 3, 42).reshape(6, 7), scale=np.full((6, 7), 0.3)), {"units": UNITS}),
    (specfit.Hinge("width", lower=1.9 * u.AA, upper=2.5 * u.AA, scale=10 * u.mAA), {"units": UNITS}),
    (specfit.Penalty("width", torch.distributions.Gamma(3.0, 1.0), unit=u.AA), {"units": UNITS}),
    (specfit.Penalty("width", torch.distributions.StudentT(3.0, 2.0, 0.4)), {"units": UNITS}),
    (specfit.Penalty(("velocity", "width"), lambda v, w: torch.cosh(v - w)), {"units": UNITS}),
    (specfit.Correlated("dem", length=2.5), VECTOR),
    (specfit.Correlated("dem", length=2.5, order=1), VECTOR),
    (specfit.Correlated("dem", length=1.5, axes="time"), VECTOR | {"shape": (6, 7, 1), "kinds": SCAN}),
]
SOLVERS = [
    (specfit.ClosedForm(), {}),
    (specfit.LevenbergMarquardt(), {}),
    (specfit.GaussNewton(), {}),
    (specfit.Adam(), {}),
    (specfit.LBFGS(), {}),
    (specfit.ProximalGradient(), {}),
]
# They learn from data or solve for a vector with a prior of full covariance, which the kit's problems have not: these
# tests hold them against dense matrices instead (tests/plugins/dem, tests/plugins/solvers/test_data_space*.py).
ELSEWHERE = {"temperature_prior", "data_space", "data_space_map"}
METHODS = {"model": MODELS, "operator": OPERATORS, "prior": PRIORS, "solver": SOLVERS}


def name(value):
    """What a test is called: no addresses in it, or workers of a parallel run would not agree."""
    return type(value).__name__ if not isinstance(value, dict) else ""


@pytest.mark.parametrize(("model", "options"), MODELS, ids=name)
def test_model(model, options):
    check_model(model, **options)


@pytest.mark.parametrize(("operator", "options"), OPERATORS, ids=name)
def test_operator(operator, options):
    check_operator(operator, **options)


@pytest.mark.parametrize(("prior", "options"), PRIORS, ids=name)
def test_prior(prior, options):
    check_prior(prior, **options)


@pytest.mark.parametrize(("solver", "options"), SOLVERS, ids=name)
def test_solver(solver, options):
    check_solver(solver, **options)


@pytest.mark.parametrize("kind", METHODS)
def test_no_method_is_left_out(kind):
    """Whatever this package registers stands in a list above."""
    checked = {
        name for method, _ in METHODS[kind] for name in [c.name for c in getattr(method, "components", [method])]
    }
    table = registry.list_plugins()
    built_in = table[(table["distribution"] == "sunpy_specfit") & (table["kind"] == kind)]
    assert set(built_in["name"]) <= checked | ELSEWHERE
