"""Every built-in method passes the kit that plugins are held against. A new method adds one line here."""

import astropy.units as u
import pytest

import sunpy_specfit as specfit
from sunpy_specfit import Parameter
from sunpy_specfit.core import registry
from sunpy_specfit.testing import check_model, check_operator, check_prior, check_solver


def lorentzian(x, amplitude, center, width):
    return amplitude / (1 + ((x - center) / width) ** 2)


LORENTZIAN = {
    "amplitude": Parameter("data", lower=0),
    "center": Parameter("spectral", location=True),
    "width": Parameter("spectral", lower=0),
}

# Method, and what the check needs to know beside it.
MODELS = [
    (specfit.Gaussian(195.119 * u.AA), {}),
    (specfit.Polynomial(0), {}),
    (specfit.Polynomial(2), {}),
    (specfit.Voigt(500 * u.nm), {}),
    (specfit.ExternalModel(lorentzian, LORENTZIAN), {}),
    (specfit.ExternalModel(lorentzian, LORENTZIAN, vectorized=True, linear=["amplitude"]), {}),
    (specfit.Gaussian(195.119 * u.AA) + specfit.Polynomial(1), {}),
    (specfit.Gaussian(195.119 * u.AA, label="a") + specfit.Gaussian(195.179 * u.AA, label="b"), {}),
]
OPERATORS = []
PRIORS = []
SOLVERS = [
    (specfit.LevenbergMarquardt(), {}),
]
METHODS = {"model": MODELS, "operator": OPERATORS, "prior": PRIORS, "solver": SOLVERS}


@pytest.mark.parametrize(("model", "options"), MODELS, ids=lambda value: repr(value)[:60])
def test_model(model, options):
    check_model(model, **options)


@pytest.mark.parametrize(("operator", "options"), OPERATORS, ids=lambda value: repr(value)[:60])
def test_operator(operator, options):
    check_operator(operator, **options)


@pytest.mark.parametrize(("prior", "options"), PRIORS, ids=lambda value: repr(value)[:60])
def test_prior(prior, options):
    check_prior(prior, **options)


@pytest.mark.parametrize(("solver", "options"), SOLVERS, ids=lambda value: repr(value)[:60])
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
    assert set(built_in["name"]) <= checked
