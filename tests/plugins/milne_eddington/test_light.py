"""The light of a Milne-Eddington atmosphere: against independent computations, in its limits, and its derivatives."""

import os
from pathlib import Path

import astropy.units as u
import numpy as np
import pytest
import torch

import sunpy_specfit as specfit
from sunpy_specfit import MilneEddington
from sunpy_specfit.core.observation import Observation
from sunpy_specfit.data import AtomicLine, Level, line, milne_eddington_cube
from sunpy_specfit.data.zeeman import LORENTZ_SPLITTING
from sunpy_specfit.numerics import packed
from sunpy_specfit.numerics.kernel import compiler

PAIR = ["Fe I 6301.5", "Fe I 6302.5"]
USUAL = {
    "field_strength": 1200.0,
    "inclination": 50.0,
    "azimuth": 30.0,
    "velocity": 0.7,
    "doppler_width": 0.03,
    "line_strength": 12.0,
    "damping": 0.3,
    "source_constant": 0.2,
    "source_gradient": 0.7,
}
X = 6300.88 + 0.0215 * np.arange(112)


def atmospheres(**changes):
    """Numbers of some pixels, all of one length."""
    given = {**USUAL, **changes}
    n = max(np.size(v) for v in given.values())
    return {name: torch.as_tensor(np.broadcast_to(np.asarray(v, float), n).copy()) for name, v in given.items()}


def inputs_of(model, x=X):
    class Seen:
        spectral_unit = u.AA
        grid = Observation.from_cube(milne_eddington_cube((2, 2))).grid

    Seen.x = np.asarray(x)
    return model.prepare(Seen)


def light(model=None, x=X, **changes):
    """``(4, n, pixels)`` as numpy."""
    model = model or MilneEddington(PAIR)
    return model.evaluate(torch.as_tensor(x)[:, None], **atmospheres(**changes), **inputs_of(model, x)).numpy()


@pytest.mark.parametrize("lines", [PAIR, ["Fe I 5250.2"], ["Na I D1"], ["Fe I 6173.3"]])
@pytest.mark.parametrize("mu", [1.0, 0.4])
def test_agrees_with_the_inverse_of_the_whole_propagation_matrix(lines, mu):
    rng = np.random.default_rng(3)
    shape = (5, 8)
    truth = {
        "field_strength": np.concatenate([[0.0, 50.0, 3000.0], rng.uniform(0, 4000, 37)]).reshape(shape),
        "inclination": np.concatenate([[0.0, 180.0, 90.0], rng.uniform(0, 180, 37)]).reshape(shape),
        "azimuth": rng.uniform(0, 180, shape),
        "velocity": rng.normal(0, 2, shape),
    }
    cube = milne_eddington_cube(shape, lines=lines, truth=truth, noise=0.0, mu=mu, dtype=np.float64)
    seen = Observation.from_cube(cube, uncertainty=1.0 * u.one)
    x = (seen.x * seen.spectral_unit).to_value(u.AA)
    flat = {name: value.ravel() for name, value in cube.meta["truth"].items()}
    found = light(MilneEddington(lines, mu=mu), x, **flat)
    assert np.abs(found - cube.data.reshape(found.shape)).max() < 1e-9


def test_agrees_with_another_code():
    """Profiles by pyMilne (de la Cruz Rodriguez 2019), whose own Voigt function limits the agreement."""
    folder = os.environ.get("SPECFIT_REFERENCE_DATA")
    if not folder or not (path := Path(folder) / "milne_eddington_reference.npz").exists():
        pytest.skip("SPECFIT_REFERENCE_DATA names no folder with milne_eddington_reference.npz")
    stored = np.load(path)
    numbers = stored["parameters"].reshape(-1, 9).T.copy()
    numbers[1:3] = np.rad2deg(numbers[1:3])
    found = light(x=stored["wavelength_air_A"], **dict(zip(USUAL, numbers, strict=True)))
    expected = np.moveaxis(stored["stokes"].reshape(-1, 4, 112), 0, -1)
    assert np.abs((found - expected) / numbers[7:].sum(0)).max(axis=(1, 2)) == pytest.approx(0, abs=2e-5)


def test_without_a_field_there_is_no_polarisation():
    found = light(field_strength=0.0, inclination=[10.0, 90.0])
    assert np.abs(found[1:]).max() < 1e-15
    np.testing.assert_allclose(found[0, :, 0], found[0, :, 1], atol=1e-15)


@pytest.mark.parametrize("name", PAIR)
@pytest.mark.parametrize("b_los", [50.0, -50.0])
def test_weak_fields_agree_with_the_weak_field_approximation(name, b_los):
    truth = {
        "field_strength": np.full((1, 1), 50.0),
        "inclination": np.full((1, 1), 0.0 if b_los > 0 else 180.0),
        "azimuth": np.zeros((1, 1)),
    }
    x = (line(name).air.to_value(u.AA) + 0.0107 * np.arange(-40, 41)) * u.AA
    cube = milne_eddington_cube((1, 1), lines=[name], wavelength=x, truth=truth, noise=0.0, dtype=np.float64)
    result = specfit.fit(cube, specfit.WeakField(name), uncertainty=1e-4 * u.one)
    assert result["b_los"].data[0, 0] == pytest.approx(b_los, rel=0.01)


def test_signs():
    """V of a field towards the observer is positive in the blue; Q of one along +Q is negative at the centre."""
    x = 6302.4931 + np.linspace(-0.3, 0.3, 61)
    one = MilneEddington("Fe I 6302.5")
    i, _, _, v = light(one, x, field_strength=300.0, inclination=0.0, velocity=0.0)[..., 0]
    assert v[:30].max() > 0.05
    assert v[31:].min() < -0.05
    _, q, u_, _ = light(one, x, field_strength=300.0, inclination=90.0, azimuth=[0.0, 45.0], velocity=0.0)[:, 30].T[0]
    assert q < -0.005
    assert i.argmin() == 30
    assert light(one, x, field_strength=300.0, inclination=90.0, azimuth=45.0, velocity=0.0)[2, 30, 0] < -0.005
    assert light(one, x, velocity=5.0, field_strength=0.0)[0, :, 0].argmin() > 35  # away from us is red


def test_inclinations_mirrored_at_ninety_degrees_change_the_sign_of_v():
    """And of U in the frame of the field, which is magneto-optical alone."""
    up, down = light(inclination=[50.0, 130.0], azimuth=0.0).transpose(2, 0, 1)
    np.testing.assert_allclose(up[:2], down[:2], atol=1e-12)
    np.testing.assert_allclose(up[2:], -down[2:], atol=1e-12)


@pytest.mark.parametrize("turn", [22.5, 45.0, 90.0, 180.0])
def test_azimuth_turns_q_and_u(turn):
    before, after = light(azimuth=[30.0, 30.0 + turn]).transpose(2, 0, 1)
    c, s = np.cos(2 * np.deg2rad(turn)), np.sin(2 * np.deg2rad(turn))
    np.testing.assert_allclose(after[1], c * before[1] - s * before[2], atol=1e-14)
    np.testing.assert_allclose(after[2], s * before[1] + c * before[2], atol=1e-14)
    np.testing.assert_allclose(after[[0, 3]], before[[0, 3]], atol=1e-14)


def test_angles_beyond_their_bounds_have_the_light_of_those_inside():
    """What `beyond` promises the solvers."""
    same = light(inclination=[50.0, -50.0, 310.0], azimuth=[30.0, 210.0, -150.0])
    np.testing.assert_allclose(same[..., 0], same[..., 1], atol=1e-13)
    np.testing.assert_allclose(same[..., 0], same[..., 2], atol=1e-13)
    # A negative field strength is the opposite field.
    opposite = light(field_strength=[1200.0, -1200.0], inclination=[50.0, 130.0])
    np.testing.assert_allclose(opposite[..., 0], opposite[..., 1], atol=1e-13)


def test_strong_fields_split_the_line_completely():
    """Across the line of sight three lines stand at the shifts of a triplet, along it two."""
    x = 6302.4931 + np.linspace(-0.4, 0.4, 801)
    one, split = MilneEddington("Fe I 6302.5"), LORENTZ_SPLITTING * 6302.4931**2 * 3000.0 * 2.49
    narrow = {"field_strength": 3000.0, "doppler_width": 0.015, "damping": 0.05, "line_strength": 5.0, "velocity": 0.0}
    for inclination, places in ((90.0, (-split, 0.0, split)), (0.0, (-split, split))):
        i = light(one, x, inclination=inclination, **narrow)[0, :, 0]
        dips = x[1:-1][(i[1:-1] < i[:-2]) & (i[1:-1] < i[2:])] - 6302.4931
        np.testing.assert_allclose(dips, places, atol=2e-3)


def test_strengths_are_in_the_ratio_of_gf_and_widths_scale_if_asked():
    weak = {"field_strength": 0.0, "line_strength": 1e-4, "damping": 1e-4, "velocity": 0.0}
    x = np.concatenate([6301.4995 + np.linspace(-0.1, 0.1, 41), 6302.4931 + np.linspace(-0.1, 0.1, 41)])
    depth = (USUAL["source_constant"] + USUAL["source_gradient"] - light(x=x, **weak)[0, :, 0]) / 0.7
    assert depth[20] == pytest.approx(1e-4, rel=2e-3)  # H(0, 0) = 1
    assert depth[61] / depth[20] == pytest.approx(10 ** (-1.160 + 0.718), rel=1e-3)
    iron = line("Fe I 6302.5")
    far = AtomicLine("Fe I far", air=12604.9862 * u.AA, lower=iron.lower, upper=iron.upper, log_gf=iron.log_gf)
    x = np.concatenate([6302.4931 + np.linspace(-0.3, 0.3, 61), 12604.9862 + np.linspace(-0.3, 0.3, 61)])
    for scaled, ratio in ((False, 1.0), (True, 2.0)):
        dip = 0.9 - light(MilneEddington([iron, far], scale_width=scaled), x, **weak)[0, :, 0]
        widths = [(part**2).sum() / part.max() ** 2 for part in (dip[:61], dip[61:])]
        assert widths[1] / widths[0] == pytest.approx(ratio, rel=0.02)


OPTIONS = [
    {},
    {"mu": 0.6, "scale_width": True, "stokes_sign": {"V": -1, "U": -1}, "stokes_reference": 20 * u.deg},
    {"stray_light": np.linspace(0.8, 0.9, 112)},
    {"macroturbulence": True},
    {"part": "first", "macroturbulence": True},
    {"offset": True, "crosstalk": True},
    {"stray_light": np.linspace(0.8, 0.9, 112), "macroturbulence": True, "offset": True, "crosstalk": True},
]
MORE = {"filling_factor": 0.6, "macroturbulence": 1.2}


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: "-".join(options) or "plain")
@pytest.mark.parametrize("strength", [0.0, 300.0, 3000.0])
def test_derivatives_agree_with_automatic_differentiation(options, strength):
    model = MilneEddington(PAIR, **options)
    changes = {name: MORE.get(name, 0.01) for name in model.parameters if name not in USUAL}
    values = atmospheres(field_strength=strength, inclination=[20.0, 95.0, 170.0], **changes)
    auxiliary, x = inputs_of(model), torch.as_tensor(X)[:, None]
    found, columns = model.linearize(x, **values, **auxiliary)
    torch.testing.assert_close(found, model.evaluate(x, **values, **auxiliary), rtol=0, atol=1e-12)
    assert set(columns) == set(model.parameters)
    for name, value in values.items():
        _, expected = torch.func.jvp(
            lambda v, name=name: model.evaluate(x, **{**values, name: v}, **auxiliary),
            (value,),
            (torch.ones_like(value),),
        )
        error = (columns[name] - expected).abs().max() / expected.abs().max().clamp_min(1e-30)
        assert error < 1e-6 or expected.abs().max() < 1e-12, name


def test_macroturbulence_is_a_convolution_with_a_gaussian():
    x = 6302.4931 + 0.0215 * np.arange(-60, 61)
    one = MilneEddington("Fe I 6302.5", macroturbulence=True)
    fine = 6302.4931 + 0.0215 / 8 * np.arange(-800, 801)
    sharp = light(MilneEddington("Fe I 6302.5"), fine)[..., 0]
    for speed in (0.3, 1.0, 3.0):
        sigma = speed / np.sqrt(2) * 6302.4931 / 299792.458
        kernel = np.exp(-0.5 * ((x[:, None] - fine) / sigma) ** 2)
        expected = sharp @ (kernel / kernel.sum(1, keepdims=True)).T
        found = light(one, x, macroturbulence=speed)[..., 0]
        assert np.abs(found - expected)[:, 10:-10].max() < 2e-3, speed


def test_lines_that_cannot_be_computed_are_refused():
    with pytest.raises(ValueError, match="needs a line"):
        MilneEddington([])
    with pytest.raises(KeyError, match="Fe I"):
        MilneEddington("Fe I 6302.9")
    with pytest.raises(ValueError, match="blend"):
        MilneEddington("He I 10830.34")
    assert len(MilneEddington(["He I 10830.25", "He I 10830.34"]).parameters) == 9
    bare = AtomicLine("Fe I 8468.4", air=8468.4059 * u.AA, g_eff=2.5, G=6.25)
    with pytest.raises(ValueError, match="levels"):
        MilneEddington(bare)
    lonely = AtomicLine("X", air=6303 * u.AA, lower=Level.from_term("5P1"), upper=Level.from_term("5D0"))
    with pytest.raises(ValueError, match="log_gf"):
        MilneEddington(["Fe I 6302.5", lonely])
    for none in ([6302.5], 6302.5, None, ["Fe I 6301.5", None]):
        with pytest.raises(TypeError, match="AtomicLine"):
            MilneEddington(none)
    with pytest.raises(ValueError, match="Fe I 6302.5 is given twice"):
        MilneEddington(["Fe I 6302.5", "fe i 6302"])
    for options, words in (
        ({"mu": 0.0}, "cosine"),
        ({"stray_light": "global"}, "'local'"),
        ({"stokes_sign": {"I": -1}}, "stokes_sign"),
        ({"normalization": "whatever"}, "normalization"),
    ):
        with pytest.raises(ValueError, match=words):
            MilneEddington(PAIR, **options)
    with pytest.raises(u.UnitConversionError, match="angle"):
        MilneEddington(PAIR, stokes_reference=3 * u.AA)


needs_compiler = pytest.mark.skipif(compiler() is None, reason="needs a C++ compiler")
MANY = {
    "field_strength": np.concatenate([[0.0, 5000.0], np.linspace(10, 3000, 68)]),
    "inclination": np.linspace(0, 180, 70),
    "azimuth": np.linspace(-20, 200, 70),
    "velocity": np.linspace(-4, 4, 70),
    "damping": np.linspace(0.0, 2.0, 70),
}


@needs_compiler
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "options",
    [{}, {"mu": 0.6, "scale_width": True}, {"stokes_reference": 20 * u.deg, "stokes_sign": {"V": -1}, "offset": True}],
)
def test_compiled_light_and_derivatives_are_those_of_the_plain_code(dtype, options):
    plain, model = MilneEddington(PAIR, compiled=False, **options), MilneEddington(PAIR, compiled=True, **options)
    middle = X.mean()
    values = atmospheres(**MANY, **{f"offset_{s}": 0.01 for s in "quv" if "offset" in options})
    values = {name: value.to(dtype) for name, value in values.items()}
    x, lights, derivatives = torch.as_tensor(X - middle)[:, None].to(dtype), [], []
    for one in (plain, model):
        inputs = inputs_of(one)
        inputs = {name: v.to(dtype) for name, v in {**inputs, "rest": inputs["rest"] - middle}.items()}
        lights += [one.evaluate(x, **values, **inputs), one.linearize(x, **values, **inputs)[0]]
        derivatives.append(one.linearize(x, **values, **inputs)[1])
    round_off = 50 * torch.finfo(dtype).eps
    for found in lights[1:]:
        torch.testing.assert_close(found, lights[0], rtol=0, atol=round_off)
    assert set(derivatives[0]) == set(derivatives[1]) == set(model.parameters)
    for name, column in derivatives[0].items():
        torch.testing.assert_close(derivatives[1][name], column, rtol=0, atol=round_off * float(column.abs().max()))


@needs_compiler
def test_compiled_code_takes_pixels_with_wavelengths_and_mu_of_their_own():
    values, shifted = atmospheres(**MANY), torch.as_tensor(X)[:, None] + torch.linspace(-0.01, 0.01, 70)
    inputs = {**inputs_of(MilneEddington(PAIR, compiled=True)), "mu": torch.linspace(0.2, 1, 70).double()}
    found = MilneEddington(PAIR).evaluate(shifted, **values, **inputs)
    expected = MilneEddington(PAIR).evaluate(shifted, **values, **{**inputs, "compiled": torch.zeros(1)})
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


@needs_compiler
def test_whoever_differentiates_gets_the_plain_code():
    model, values = MilneEddington(PAIR, compiled=True), atmospheres(**MANY)
    auxiliary, x = inputs_of(model), torch.as_tensor(X)[:, None]

    def of_velocity(velocity):
        return model.evaluate(x, **{**values, "velocity": velocity}, **auxiliary)

    velocity, ones = values["velocity"], torch.ones(70, dtype=torch.float64)
    expected = model.linearize(x, **values, **auxiliary)[1]["velocity"]
    light, forward = torch.func.jvp(of_velocity, (velocity,), (ones,))
    torch.testing.assert_close(light, of_velocity(velocity), rtol=0, atol=1e-12)
    torch.testing.assert_close(forward, expected, rtol=0, atol=1e-9)
    with torch.autograd.forward_ad.dual_level():
        dual = of_velocity(torch.autograd.forward_ad.make_dual(velocity, ones))
        torch.testing.assert_close(torch.autograd.forward_ad.unpack_dual(dual).tangent, expected, rtol=0, atol=1e-9)
    wanted = velocity.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(of_velocity(wanted).sum(), wanted)
    torch.testing.assert_close(gradient, expected.sum((0, 1)), rtol=0, atol=1e-8)
    batched = torch.vmap(of_velocity)(torch.stack([velocity, velocity + 1]))
    torch.testing.assert_close(batched[0], light, rtol=0, atol=1e-12)


@needs_compiler
@pytest.mark.parametrize("pixels", [3, 70])
def test_normal_equations_without_a_jacobian_are_those_with_one(pixels):
    model = MilneEddington(PAIR, mu=0.8, compiled=True)
    values = {name: value[-pixels:] for name, value in atmospheres(**MANY).items()}
    auxiliary, x = inputs_of(model), torch.as_tensor(X)[:, None]
    found, columns = model.linearize(x, **values, **{**auxiliary, "compiled": torch.zeros(1)})
    generator = torch.Generator().manual_seed(0)
    data = found + 0.01 * torch.randn(found.shape, generator=generator, dtype=torch.float64)
    weight = torch.rand(found.shape, generator=generator, dtype=torch.float64)
    flat = [columns[name].reshape(-1, pixels) for name in model.parameters]
    expected = packed.normal_equations(flat, weight.reshape(-1, pixels), (data - found).reshape(-1, pixels))
    chi2, matrix, vector = model.normal_equations(x, data, weight, **values, **auxiliary)
    torch.testing.assert_close(matrix, expected[0], rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(vector, expected[1], rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(chi2, expected[2], rtol=1e-9, atol=1e-12)
    assert model.normal_equations(x, data, weight, **values, **{**auxiliary, "compiled": torch.zeros(1)}) is None
