"""The conformance kit tells authors what to change: one mistake at a time."""

import astropy.units as u
import pytest
import torch

from sunpy_specfit import Model, Operator, Parameter, Prior, Solver
from sunpy_specfit.core.gaussian import BoundGaussian
from sunpy_specfit.core.prior import AmongPixels, BoundPrior, Quadratic
from sunpy_specfit.core.solver import Solution
from sunpy_specfit.core.status import Status
from sunpy_specfit.testing import check_model, check_operator, check_prior, check_solver


class Lorentzian(Model):
    name = "lorentzian"
    linear_parameters = ("amplitude",)
    derived = {"fwhm": "spectral"}
    amplitude = Parameter("data", lower=0)
    center = Parameter("spectral", location=True)
    width = Parameter("spectral", lower=0)

    def evaluate(self, x, amplitude, center, width):
        return amplitude / (1 + ((x - center) / width) ** 2)

    def derive(self, amplitude, center, width):
        return {"fwhm": 2 * width}


def variant(base, **members):
    """A class like another, with some members of its own."""
    return type("Variant", (base,), {"name": "variant", **members})


def evaluate(change):
    """An `evaluate` that does something to the light of the right one."""
    return lambda self, x, amplitude, center, width: change(
        Lorentzian.evaluate(self, x, amplitude, center, width), x, amplitude, center, width
    )


def jacobian(sign):
    def linearize(self, x, amplitude, center, width):
        t = (x - center) / width
        shape = 1 / (1 + t * t)
        slope = 2 * amplitude * shape**2 / width
        return amplitude * shape, {"amplitude": shape, "center": slope * t, "width": sign * slope * t * t}

    return linearize


def test_a_right_model_passes():
    check_model(Lorentzian())
    check_model(variant(Lorentzian, linearize=jacobian(1.0))(), fit=False)


class Forgetful(Lorentzian):
    name = "forgetful"

    def __init__(self, rest):
        self.wavelength = rest


class Converting(Lorentzian):
    name = "converting"

    def __init__(self, rest):
        self.rest = rest + 1


def in_place(self, x, amplitude, center, width):
    x -= center
    return amplitude / (1 + (x / width) ** 2)


MODEL_MISTAKES = {
    "not an instance": (Lorentzian, "pass an instance"),
    "no name": (variant(Lorentzian, name="")(), "give it a class attribute `name`"),
    "argument not stored": (Forgetful(1.0), "does not store its constructor argument 'rest'"),
    "argument converted": (Converting(1.0), "does not store its argument 'rest' as given"),
    "no parameters": (variant(Model, evaluate=lambda self, x: 0 * x)(), "has no parameters"),
    "unknown axis": (variant(Lorentzian, data_axis="wavelength")(), "data_axis is 'wavelength'"),
    "unknown Stokes": (variant(Lorentzian, stokes="IV2")(), "letters I, Q, U, V"),
    "tuple forgotten": (variant(Lorentzian, linear_parameters="amplitude")(), "write a tuple"),
    "unknown linear": (variant(Lorentzian, linear_parameters=("height",))(), r"linear_parameters names \['height'\]"),
    "one name twice": (variant(Lorentzian, derived={"width": "spectral"})(), "both as parameter and as derived"),
    "bad unit": (variant(Lorentzian, width=Parameter("spektral"))(), "unit of 'width', 'spektral', cannot be read"),
    "bad bound": (variant(Lorentzian, width=Parameter("spectral", lower=1 * u.s))(), "lower of 'width' is in s"),
    "missing argument": (
        variant(Lorentzian, evaluate=lambda self, x, amplitude, center: 0 * x)(),
        r"does not take \['width'\]",
    ),
    "argument from nowhere": (
        variant(Lorentzian, evaluate=lambda self, x, amplitude, center, width, depth: 0 * x)(),
        r"asks for \['depth'\]",
    ),
    "raises": (variant(Lorentzian, evaluate=evaluate(lambda light, *_: 1 / 0))(), "fails for one pixel"),
    "number instead of spectrum": (variant(Lorentzian, evaluate=evaluate(lambda light, x, a, *_: a))(), "expected"),
    "precision": (
        variant(Lorentzian, evaluate=evaluate(lambda light, *_: light.double()))(),
        "float32 into torch.float64",
    ),
    "infinite": (variant(Lorentzian, evaluate=evaluate(lambda light, *_: light / 0))(), "not finite"),
    "in place": (variant(Lorentzian, evaluate=in_place)(), "changes x in place"),
    "random": (
        variant(Lorentzian, evaluate=evaluate(lambda light, *_: light + torch.randn_like(light)))(),
        "another answer the second time",
    ),
    "leaves torch": (
        variant(Lorentzian, evaluate=evaluate(lambda light, x, a, c, w: light + c.item() - c.detach() + a.item()))(),
        "automatic differentiation knows nothing of|differs from finite differences",
    ),
    "wrong Jacobian": (variant(Lorentzian, linearize=jacobian(-1.0))(), "linearize: its derivative to 'width' differs"),
    "not linear": (variant(Lorentzian, linear_parameters=("amplitude", "width"))(), "not linear in 'width'"),
    "no location": (variant(Lorentzian, center=Parameter("spectral", default=500.05 * u.nm))(), "location=True"),
    "width as location": (
        variant(Lorentzian, width=Parameter("spectral", location=True))(),
        r"shifting the axis and \['center', 'width'\]",
    ),
    "undeclared quantity": (variant(Lorentzian, derived={})(), "its `derived` declares"),
    "mixed pixels": (
        variant(Lorentzian, derive=lambda self, amplitude, center, width: {"fwhm": width - width.mean()})(),
        "derive mixes pixels in 'fwhm'",
    ),
    "stranger among the starts": (
        variant(Lorentzian, start_values=lambda self, x, data, weight: {"height": data[0]})(),
        "'height', which is no parameter",
    ),
}


@pytest.mark.parametrize(("model", "sentence"), MODEL_MISTAKES.values(), ids=MODEL_MISTAKES)
def test_a_mistake_in_a_model_is_told(model, sentence):
    with pytest.raises(AssertionError, match=sentence):
        check_model(model, fit=False)


def test_parameters_that_the_light_cannot_tell_apart_are_told():
    class Twofold(Model):
        name = "twofold"
        bright = Parameter("data")
        faint = Parameter("data")

        def evaluate(self, x, bright, faint):
            return bright + faint + 0 * x

    with pytest.raises(AssertionError, match="was fitted|within five sigma"):
        check_model(Twofold())


def test_a_wrong_kind_is_sent_to_its_own_check():
    with pytest.raises(AssertionError, match="use check_operator"):
        check_model(Transmission(0.5))


def test_truth_that_names_nothing_is_told():
    with pytest.raises(AssertionError, match="truth names"):
        check_model(Lorentzian(), truth={"height": (1, 2) * u.DN}, fit=False)


# -- operators -------------------------------------------------------------------------------------


class Transmission(Operator):
    name = "transmission"

    def __init__(self, factor):
        self.factor = factor

    def apply(self, light, x, shape):
        return self.factor * light


class Learned(Transmission):
    name = "learned"

    @property
    def weights(self):
        return {"kernel": torch.tensor([0.25, 0.75], dtype=torch.float64)}

    def apply(self, light, x, shape, kernel):
        return kernel[0] * light + kernel[1] * light.roll(1, -2)


class Neighbour(Transmission):
    name = "neighbour"
    mixes_pixels = True

    def apply(self, light, x, shape):
        scene = light.reshape(*light.shape[:-1], *shape)
        return (scene + scene.roll(1, -1)).reshape(light.shape)


class Widened(Transmission):
    name = "widened"

    def input_axis(self, x):
        return torch.cat([2 * x[:1] - x[1:2], x, 2 * x[-1:] - x[-2:-1]])

    def apply(self, light, x, shape):
        return light[..., :-2, :] + light[..., 1:-1, :] + light[..., 2:, :]


@pytest.mark.parametrize("cls", [Transmission, Learned, Neighbour, Widened])
def test_a_right_operator_passes(cls):
    check_operator(cls(0.5))


def application(function):
    return lambda self, light, x, shape: function(light, x)


OPERATOR_MISTAKES = {
    "offset": (variant(Transmission, apply=application(lambda light, x: light + 1)), "is not linear"),
    "shape": (
        variant(Transmission, apply=application(lambda light, x: light[..., 1:, :])),
        "spectral axis and the pixels",
    ),
    "in place": (variant(Transmission, apply=application(lambda light, x: light.mul_(2))), "changes light in place"),
    "precision": (variant(Transmission, apply=application(lambda light, x: light.double())), "float32 light into"),
    "mixes": (variant(Transmission, apply=application(lambda light, x: light.cumsum(-1))), "mixes_pixels = True"),
    "batch": (variant(Transmission, apply=application(lambda light, x: light.cumsum(0))), "in a batch"),
    "adjoint": (variant(Learned, adjoint=lambda self, light, x, shape, kernel: light), "not the transpose"),
    "axis": (variant(Transmission, input_axis=lambda self, x: x[:, 0]), r"tensor \(n_in, 1\)"),
    "order": (variant(Transmission, input_axis=lambda self, x: (100 * x).cos()), "not sorted"),
    "own weights": (
        variant(Learned, apply=lambda self, light, x, shape, kernel: self.weights["kernel"][0].to(light) * light),
        "with respect to its weights 'kernel'",
    ),
}


@pytest.mark.parametrize(("cls", "sentence"), OPERATOR_MISTAKES.values(), ids=OPERATOR_MISTAKES)
def test_a_mistake_in_an_operator_is_told(cls, sentence):
    with pytest.raises(AssertionError, match=sentence):
        check_operator(cls(0.5))


# -- priors ----------------------------------------------------------------------------------------


class Bound(BoundPrior):
    couples_pixels = True

    def __init__(self, shape):
        self.shape = shape

    def energy(self, maps):
        return 0.5 * maps["velocity"].reshape(self.shape).diff(dim=-1).square().sum()

    def quadratic(self, maps):
        def matvec(v):
            return {"velocity": torch.func.grad(lambda m: self.energy({"velocity": m}))(v["velocity"])}

        diagonal = torch.full(self.shape, 2.0, dtype=torch.float64)
        diagonal[..., 0] = diagonal[..., -1] = 1.0
        return Quadratic(matvec(maps), matvec, {"velocity": diagonal.reshape(-1)})


class Alone(BoundPrior):
    def __init__(self, shape):
        self.shape = shape

    def energy(self, maps):
        return 0.5 * maps["velocity"] ** 2


def prior(bound, couples_pixels=True):
    class Made(Prior):
        name = "made"
        quantities = ("velocity",)

        def bind(self, units, grid):
            return bound(grid.shape)

    Made.couples_pixels = couples_pixels
    return Made()


def quadratic(**changes):
    """A `quadratic` with something wrong."""

    def made(self, maps):
        right = Bound.quadratic(self, maps)
        parts = {name: getattr(right, name) for name in ("gradient", "matvec", "diagonal", "add_product")}
        return Quadratic(**{**parts, **{name: change(parts[name]) for name, change in changes.items()}})

    return made


def product(function):
    return lambda matvec: lambda v: {name: function(value) for name, value in matvec(v).items()}


def proximal(self, maps, step, factor=1.0):
    """The closed form for `Bound`: (1 + step · curvature)⁻¹ times the map."""
    q = maps["velocity"]
    difference = torch.eye(self.shape[-1], dtype=torch.float64).diff(dim=0)
    matrix = (
        torch.eye(self.shape[-1], dtype=torch.float64) + factor * step["velocity"].double() * difference.T @ difference
    )
    return {"velocity": torch.linalg.solve(matrix, q.double().reshape(self.shape).T).T.reshape(-1).to(q)}


def test_a_right_prior_passes():
    check_prior(prior(Bound))
    check_prior(prior(variant(Bound, proximal=proximal)))
    check_prior(prior(Alone, couples_pixels=False), units={"velocity": u.km / u.s})


PRIOR_MISTAKES = {
    "energy of the map": (
        prior(variant(Alone, energy=lambda self, maps: maps["velocity"].square().sum()), False),
        "one number a pixel",
    ),
    "couples": (
        prior(variant(Alone, energy=lambda self, maps: maps["velocity"] * maps["velocity"].mean()), False),
        "depends on another|finite differences",
    ),
    "contradiction": (prior(Bound, False), "couples_pixels is False and that of what bind returns True"),
    "detached": (
        prior(variant(Alone, energy=lambda self, maps: maps["velocity"].detach() ** 2), False),
        "by automatic differentiation gives a slope of 0",
    ),
    "root": (
        prior(
            variant(Bound, energy=lambda self, maps: Bound.energy(self, maps).sqrt(), quadratic=lambda self, maps: None)
        ),
        "not finite at a flat map",
    ),
    "precision": (
        prior(variant(Alone, energy=lambda self, maps: maps["velocity"].double() ** 2), False),
        "float32 maps into torch.float64",
    ),
    "gradient": (
        prior(variant(Bound, quadratic=quadratic(gradient=lambda g: {n: -v for n, v in g.items()}))),
        "its gradient for 'velocity' differs",
    ),
    "asymmetric": (prior(variant(Bound, quadratic=quadratic(matvec=product(lambda v: v.cumsum(0))))), "not symmetric"),
    "negative": (prior(variant(Bound, quadratic=quadratic(matvec=product(lambda v: -v)))), "must never be negative"),
    "added": (
        prior(
            variant(
                Bound, quadratic=quadratic(add_product=lambda _: lambda v, out: out["velocity"].add_(v["velocity"]))
            )
        ),
        "does not add what its matvec gives",
    ),
    "diagonal": (
        prior(variant(Bound, quadratic=quadratic(diagonal=lambda d: {n: 2 * v for n, v in d.items()}))),
        "its diagonal for 'velocity'",
    ),
    "proximal": (
        prior(variant(Bound, proximal=lambda self, maps, step: proximal(self, maps, step, 1.1))),
        "others nearby are lower",
    ),
    "proximal's precision": (
        prior(variant(Bound, proximal=lambda self, m, s: {n: v.double() for n, v in proximal(self, m, s).items()})),
        "changes the precision",
    ),
    "proximal's names": (
        prior(variant(Bound, proximal=lambda self, maps, step: {"speed": proximal(self, maps, step)["velocity"]})),
        "names and shapes",
    ),
}


class Joined(BoundPrior):
    """Makes ½ zᵀ (1 + A) z of a vector's Gaussian ½ zᵀ z."""

    couples_pixels = True
    wrong: dict = {}

    def __init__(self, shape):
        self.shape, self.gaussian = shape, None
        step = torch.eye(42, dtype=torch.float64).diff(dim=0)
        self.matrix = step.T @ step

    def beside(self, priors, quantity):
        new = type(self)(self.shape)
        new.gaussian = next(prior for prior, _ in priors if isinstance(prior, BoundGaussian))
        return new

    def energy(self, maps):
        z = self.gaussian.white(maps)
        return 0.5 * (z * (z @ self.matrix.to(z))).sum()

    @property
    def among_pixels(self):
        root = torch.linalg.cholesky(self.matrix + torch.eye(42, dtype=torch.float64))

        def noise(like, generator):
            return torch.randn(like.shape, generator=generator, dtype=like.dtype) @ root.T

        right = {
            "product": lambda z: z @ self.matrix,
            "diagonal": self.matrix.diagonal(),
            "eigenvalues": torch.linalg.eigvalsh(self.matrix),
            "noise": noise,
        }
        return AmongPixels(**(right | self.wrong))


GAUSSIAN = BoundGaussian("dem", torch.zeros(2, dtype=torch.float64), torch.eye(2, dtype=torch.float64), logarithm=True)
AMONG_MISTAKES = {
    "energy": ({"product": lambda z: 2 * z}, "where its energy is"),
    "diagonal": ({"diagonal": torch.ones(42, dtype=torch.float64)}, "diagonal is not that of its product"),
    "eigenvalues": ({"eigenvalues": torch.full((42,), -2.0, dtype=torch.float64)}, "not positive definite"),
    "noise": (
        {"noise": lambda like, generator: torch.randn(like.shape, generator=generator).to(like)},
        "its noise has",
    ),
}


def _joined(wrong):
    maps = {"dem": torch.linspace(1, 9, 84, dtype=torch.float64).sin().reshape(2, 42) + 2}
    check_prior(prior(variant(Joined, wrong=wrong)), units={"dem": u.K}, maps=maps, beside=[GAUSSIAN])


def test_what_joins_the_pixels_of_a_gaussian_prior_passes():
    _joined({})


@pytest.mark.parametrize(("wrong", "sentence"), AMONG_MISTAKES.values(), ids=AMONG_MISTAKES)
def test_mistakes_in_what_joins_pixels_are_named(wrong, sentence):
    with pytest.raises(AssertionError, match=sentence):
        _joined(wrong)


@pytest.mark.parametrize(("made", "sentence"), PRIOR_MISTAKES.values(), ids=PRIOR_MISTAKES)
def test_a_mistake_in_a_prior_is_told(made, sentence):
    with pytest.raises(AssertionError, match=sentence):
        check_prior(made)


# -- solvers ---------------------------------------------------------------------------------------


class Idle(Solver):
    """Answers with its start."""

    name = "idle"
    whole_map = False

    def accepts(self, problem):
        return "idle cannot couple pixels, use another one" if problem.couples_pixels else None

    def solve(self, problem, start):
        status = torch.full((start.shape[-1],), int(Status.CONVERGED), dtype=torch.int32)
        return Solution(free=start[0] + 1.0, status=status)


SOLVER_MISTAKES = {
    "wrong minimum": (Idle, "sigma from the minimum"),
    "no reason": (variant(Idle, accepts=lambda self, problem: "no"), "a sentence"),
    "refuses all": (
        variant(Idle, accepts=lambda self, problem: "it does not like this problem"),
        "refuses every problem",
    ),
    "raises": (variant(Idle, solve=lambda self, problem, start: 1 / 0), "ZeroDivisionError"),
    "no status": (
        variant(
            Idle,
            solve=lambda self, problem, start: Solution(start[0], torch.zeros(start.shape[-1], dtype=torch.int32)),
        ),
        "without CONVERGED",
    ),
}


@pytest.mark.parametrize(("cls", "sentence"), SOLVER_MISTAKES.values(), ids=SOLVER_MISTAKES)
def test_a_mistake_in_a_solver_is_told(cls, sentence):
    with pytest.raises(AssertionError, match=sentence):
        check_solver(cls())
