"""What comes later must fit the interfaces as they are: one small example of each."""

import astropy.units as u
import numpy as np
import pytest
import torch
from astropy.nddata import StdDevUncertainty
from astropy.wcs import WCS
from ndcube import NDCube

import sunpy_specfit as specfit
from sunpy_specfit import Auxiliary, Model, Operator, Parameter, Prior, Solution, Solver, Status
from sunpy_specfit.core.prior import BoundPrior, Quadratic
from sunpy_specfit.data import gaussian_cube, spectral_wcs

REST = 195.119 * u.AA


def line():
    return specfit.Gaussian(REST) + specfit.Polynomial(0)


def truth(cube, name):
    return cube.meta["truth"][name]


# -- a prior that couples pixels -----------------------------------------------------------------


class Alike(Prior):
    """Pixels that follow each other along the last axis differ little."""

    name = "alike"
    couples_pixels = True

    def __init__(self, quantity, scale):
        self.quantity = quantity
        self.scale = scale

    @property
    def quantities(self):
        return (self.quantity,)

    def bind(self, units, grid):
        return BoundAlike(self.quantity, self.scale.to_value(units[self.quantity]), grid)


class BoundAlike(BoundPrior):
    couples_pixels = True

    def __init__(self, name, scale, grid):
        self.name, self.scale, self.grid = name, scale, grid

    def differences(self, q):
        return q.reshape(*q.shape[:-1], *self.grid.shape).diff(dim=-1) / self.scale

    def energy(self, maps):
        return 0.5 * self.differences(maps[self.name]).square().sum()

    def quadratic(self, maps):
        def product(q):
            return torch.func.vjp(self.differences, q)[1](self.differences(q))[0]

        q = maps[self.name]
        ends = torch.full(self.grid.shape, 2.0, dtype=q.dtype)
        ends[..., 0] = ends[..., -1] = 1.0
        return Quadratic(
            {self.name: product(q)},
            lambda v: {self.name: product(v[self.name])},
            {self.name: (ends / self.scale**2).reshape(q.shape)},
        )


def test_a_spatial_prior_from_outside_on_a_derived_quantity():
    cube = gaussian_cube((4, 12), signal_to_noise=4, seed=3)
    free = specfit.fit(cube, line())
    tight = specfit.fit(cube, line(), priors=Alike("velocity", 0.01 * u.km / u.s))
    loose = specfit.fit(cube, line(), priors=Alike("velocity", 1e5 * u.km / u.s))
    # Without a real prior nothing changes; with a very tight one each row has one velocity.
    sigma = free["velocity"].uncertainty.array
    np.testing.assert_allclose((loose["velocity"].data - free["velocity"].data) / sigma, 0, atol=0.02)
    assert np.all(np.ptp(tight["velocity"].data, axis=1) < 0.5)
    assert np.all(np.ptp(free["velocity"].data, axis=1) > 5)


# -- operators ------------------------------------------------------------------------------------


class Blur(Operator):
    """Mixes pixels: each gives a twentieth of its light to each of its eight neighbours; light outside is repeated."""

    name = "blur"
    mixes_pixels = True

    def apply(self, light, x, shape):
        image = light.reshape(-1, 1, *shape)
        padded = torch.nn.functional.pad(image, (1, 1, 1, 1), mode="replicate")
        kernel = torch.full((1, 1, 3, 3), 0.05, dtype=light.dtype)
        kernel[..., 1, 1] = 0.6
        return torch.nn.functional.conv2d(padded, kernel).reshape(light.shape)


class BinDown(Operator):
    """Wants the model on a grid three times as fine as the data, and averages it down."""

    name = "bin_down"

    def input_axis(self, x):
        step = (x[-1:] - x[:1]) / (x.shape[0] - 1)
        return torch.stack([x - step / 3, x, x + step / 3], dim=1).reshape(-1, x.shape[1])

    def apply(self, light, x, shape):
        return light.reshape(*light.shape[:-2], -1, 3, light.shape[-1]).mean(-2)


class Gain(Operator):
    """An operator that can learn."""

    name = "gain"

    def __init__(self, gain):
        self.gain = gain

    @property
    def weights(self):
        return {"gain": torch.tensor([self.gain])}

    def apply(self, light, x, shape, gain):
        return light * gain.to(light)


def rebuilt(cube, light):
    sigma = cube.uncertainty.array
    noise = np.random.default_rng(11).standard_normal(sigma.shape) * sigma
    return NDCube(light + noise, wcs=cube.wcs, unit=cube.unit, uncertainty=StdDevUncertainty(sigma), meta=cube.meta)


def true_light(cube, x):
    t = {k: v[..., None] for k, v in cube.meta["truth"].items()}
    return t["amplitude"] * np.exp(-0.5 * ((x - t["center"]) / t["width"]) ** 2) + t["background"]


def wavelengths(cube):
    return cube.axis_world_coords_values("em.wl")[0].to_value(u.AA)


def test_an_operator_that_mixes_pixels():
    cube = gaussian_cube((6, 7), signal_to_noise=200, seed=5)
    light = true_light(cube, wavelengths(cube))
    padded = np.pad(light, ((1, 1), (1, 1), (0, 0)), mode="edge")
    blurred = 0.55 * light + 0.05 * sum(padded[i : i + 6, j : j + 7] for i in range(3) for j in range(3))
    seen = rebuilt(cube, blurred)
    through = specfit.fit(seen, line() | Blur(), priors=Alike("velocity", 100 * u.km / u.s))
    past = specfit.fit(seen, line())
    assert through.reduced_chi2.data.mean() < 1.5 < past.reduced_chi2.data.mean()
    error = {
        name: np.std(r["velocity"].data - truth(cube, "velocity")) for name, r in (("through", through), ("past", past))
    }
    assert error["through"] < 0.5 * error["past"]


def test_an_operator_that_wants_another_spectral_grid():
    cube = gaussian_cube((3, 4), signal_to_noise=2000, seed=6)
    x = wavelengths(cube)
    step = x[1] - x[0]
    fine = sum(true_light(cube, x + d * step) for d in (-1 / 3, 0, 1 / 3)) / 3
    seen = rebuilt(cube, fine)
    with_binning = specfit.fit(seen, line() | BinDown())
    without = specfit.fit(seen, line())
    np.testing.assert_allclose(with_binning["width"].data, truth(cube, "width"), rtol=5e-3)
    # Three samples a step apart by a third add two 27ths of its square to the variance.
    np.testing.assert_allclose(without["width"].data ** 2 - truth(cube, "width") ** 2, 2 / 27 * step**2, rtol=0.5)
    assert with_binning.model().data.shape == cube.data.shape


def test_an_operator_that_learns(tmp_path):
    cube = gaussian_cube((4, 5), signal_to_noise=100, seed=7)
    amplitude = truth(cube, "amplitude") * u.Unit("erg / (cm2 s sr Angstrom)")
    seen = rebuilt(cube, 0.5 * true_light(cube, wavelengths(cube)))
    operator = Gain(1.0)
    model = (specfit.Gaussian(REST).fix(amplitude=amplitude) + specfit.Polynomial(0)) | operator
    result = specfit.fit(seen, model, solver="lbfgs")
    assert operator.gain == 1.0
    assert result.reduced_chi2.data.mean() < 1.5
    learned = result.meta["operator_weights"]
    assert float(np.ravel(learned[0][0]["gain"])[0]) == pytest.approx(0.5, abs=0.02)
    # What was learned goes where the result goes: into its light, its parts and its file.
    assert np.std(result.residual().data / seen.uncertainty.array) < 1.3
    np.testing.assert_allclose(result[1:3, 2].model().data, result.model().data[1:3, 2])
    result.save(tmp_path / "result.asdf")
    again = specfit.FitResult.load(tmp_path / "result.asdf", model=model)
    np.testing.assert_allclose(again.model().data, result.model().data)


# -- a solver that searches in another space ------------------------------------------------------


class TinyField(Solver):
    """The maps are what a small network says at each place; the search is over its weights."""

    name = "tiny_field"

    def solve(self, problem, start):
        generator = torch.Generator().manual_seed(problem.seed)
        axes = [torch.linspace(-1, 1, n, dtype=problem.dtype) for n in problem.grid.shape]
        places = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).reshape(-1, len(axes))
        features = torch.cat(
            [torch.sin(places @ (3 * torch.randn(2, 24, generator=generator, dtype=problem.dtype))), places], 1
        )
        weights = torch.zeros(features.shape[1], problem.n_free, dtype=problem.dtype, requires_grad=True)
        center = start[0].mean(-1, keepdim=True)
        spread = start[0].std(-1, keepdim=True).clamp_min(1e-3)

        def maps():
            return torch.maximum(center + spread * (features @ weights).T, problem.lower)

        optimiser = torch.optim.Adam([weights], lr=0.03)
        for _ in range(300):
            optimiser.zero_grad()
            problem.loss(maps()).backward()
            optimiser.step()
        free = maps().detach()
        status = torch.full((problem.n_pixels,), int(Status.CONVERGED), dtype=torch.int32)
        return Solution(free=free, status=status)


def test_a_solver_that_searches_among_network_weights():
    cube = gaussian_cube((10, 10), signal_to_noise=5, seed=8)
    y, x = np.mgrid[-1:1:10j, -1:1:10j]
    smooth = cube.meta["truth"]
    smooth["velocity"] = 20 * np.sin(2 * x + y)
    smooth["center"] = REST.value * (1 + smooth["velocity"] / 299792.458)
    smooth["amplitude"], smooth["width"] = np.full((10, 10), 1000.0), np.full((10, 10), 0.035)
    seen = rebuilt(cube, true_light(cube, wavelengths(cube)))
    field = specfit.fit(seen, line(), solver=TinyField(), dtype="float64")
    pixels = specfit.fit(seen, line())
    rms = [np.std(r["velocity"].data - smooth["velocity"]) for r in (field, pixels)]
    assert rms[0] < 0.9 * rms[1]


# -- models with inputs of their own --------------------------------------------------------------


class Scaled(Model):
    """A copy of each pixel's own profile, scaled: the profile is an input, not a parameter."""

    name = "scaled"
    linear_parameters = ("factor",)
    factor = Parameter(u.dimensionless_unscaled, default=1.0)
    profile = Auxiliary("data")

    def prepare(self, observation):
        return {"profile": observation.block(slice(0, observation.grid.size)).data}

    def evaluate(self, x, factor, *, profile):
        return factor * profile


def test_a_model_that_takes_per_pixel_inputs_from_the_data():
    cube = gaussian_cube((3, 5), seed=9)
    result = specfit.fit(cube, Scaled(), chunks=4)
    np.testing.assert_allclose(result["factor"].data, 1.0, atol=1e-6)
    part = specfit.fit(cube[1:2], Scaled())
    np.testing.assert_allclose(result["factor"].uncertainty.array[1:2], part["factor"].uncertainty.array, rtol=1e-6)


class Bins(Model):
    """A vector parameter seen through channels: I = R · dem."""

    name = "bins"
    data_axis = "channel"
    linear_parameters = ("dem",)

    def __init__(self, response):
        self.response = response

    def declare(self):
        return {"dem": Parameter("data", shape=(len(self.response[0]),), default=1.0)}

    def evaluate(self, x, dem):
        return torch.as_tensor(self.response, dtype=dem.dtype) @ dem


def test_a_vector_parameter_and_data_that_are_channels():
    rng = np.random.default_rng(4)
    response = np.eye(6, 3) + 0.2 * rng.random((6, 3))
    dem = rng.uniform(1, 3, (4, 5, 3))
    wcs = WCS(naxis=3)
    wcs.wcs.ctype = "HPLN-TAN", "HPLT-TAN", "CHANNEL"
    wcs.wcs.cunit = "arcsec", "arcsec", ""
    wcs.wcs.cdelt = 1, 1, 1
    data = np.einsum("ck,yxk->cyx", response, dem)
    cube = NDCube(
        data + 1e-3 * rng.standard_normal(data.shape),
        wcs=wcs,
        unit=u.DN,
        uncertainty=StdDevUncertainty(np.full(data.shape, 1e-3)),
    )
    result = specfit.fit(cube, Bins(response.tolist()))
    found = np.asarray(result["dem"].data)
    assert found.shape == (3, 4, 5)
    pull = (found - np.moveaxis(dem, -1, 0)) / result["dem"].uncertainty.array
    assert 0.7 < pull.std() < 1.3


# -- two windows of one raster --------------------------------------------------------------------


def two_windows():
    rng = np.random.default_rng(2)
    velocity = rng.normal(0, 15, (4, 6))
    cubes = []
    for rest, snr in ((195.119, 5.0), (202.044, 30.0)):
        x = rest + 0.0223 * (np.arange(24) - 11.5)
        light = 100 * np.exp(-0.5 * ((x - rest * (1 + velocity[..., None] / 299792.458)) / 0.03) ** 2) + 10
        sigma = np.full(light.shape, 100 / snr)
        noisy = light + sigma * rng.standard_normal(light.shape)
        cubes.append(NDCube(noisy, wcs=spectral_wcs((4, 6), x * u.AA), unit=u.DN, uncertainty=StdDevUncertainty(sigma)))
    return cubes, velocity


def test_two_windows_fitted_jointly_with_one_velocity():
    cubes, velocity = two_windows()
    weak = specfit.Gaussian(195.119 * u.AA, label="weak")
    strong = specfit.Gaussian(202.044 * u.AA, label="strong")
    alone = specfit.fit(cubes[0], weak + specfit.Polynomial(0))
    joint = specfit.fit(
        cubes,
        [
            weak.tie("center", "strong.center", factor=195.119 / 202.044)
            + specfit.Polynomial(0, label="weak background"),
            strong + specfit.Polynomial(0, label="strong background"),
        ],
    )
    np.testing.assert_allclose(joint["weak.velocity"].data, joint["strong.velocity"].data, atol=1e-6)
    np.testing.assert_allclose(
        joint["weak.velocity"].uncertainty.array, joint["strong.velocity"].uncertainty.array, rtol=1e-3
    )
    error = [np.std(r.data - velocity) for r in (joint["weak.velocity"], alone["velocity"])]
    assert error[0] < 0.4 * error[1]
    light = joint.model()
    assert [m.data.shape for m in light] == [c.data.shape for c in cubes]


# -- one value for all pixels ---------------------------------------------------------------------


def test_one_value_shared_by_all_pixels():
    cubes, _ = two_windows()
    model = specfit.Gaussian(195.119 * u.AA).share("width") + specfit.Polynomial(0)
    shared = specfit.fit(cubes[0], model)
    own = specfit.fit(cubes[0], specfit.Gaussian(195.119 * u.AA) + specfit.Polynomial(0))
    assert np.ptp(shared["width"].data) == 0
    assert abs(shared["width"].data.flat[0] - 0.03) < 0.3 * np.std(own["width"].data)
    with pytest.raises(ValueError, match="use solver='gauss_newton'"):
        specfit.fit(cubes[0], model, solver="levenberg_marquardt")
