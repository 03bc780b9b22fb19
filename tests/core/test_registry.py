"""Plugins: real distributions in real interpreters, then every way to fail in this one."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from sunpy_specfit.core import registry
from sunpy_specfit.core.hooks import hookimpl
from sunpy_specfit.core.loading import check_class
from sunpy_specfit.core.model import Model
from sunpy_specfit.core.noise import Noise
from sunpy_specfit.core.parameter import Parameter
from sunpy_specfit.core.prior import Prior
from sunpy_specfit.core.registry import Registry
from sunpy_specfit.core.warnings import SpecfitPluginWarning

DISTRIBUTIONS = Path(__file__).parents[1] / "plugins_dist"


# -- distributions, installed by pip --------------------------------------------------------------


@pytest.fixture(scope="module")
def install(tmp_path_factory):
    """A function that installs one of the distributions and returns the folder it went to."""
    installed = {}

    def install(name):
        if name not in installed:
            # Building writes into the source tree, so it gets a copy.
            source = shutil.copytree(DISTRIBUTIONS / name, tmp_path_factory.mktemp("source") / name)
            installed[name] = tmp_path_factory.mktemp("site") / name
            options = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--target", str(installed[name])]
            done = subprocess.run([sys.executable, "-m", "pip", "install", *options, str(source)], capture_output=True)
            assert done.returncode == 0, done.stderr.decode()
        return installed[name]

    return install


@pytest.fixture(scope="module")
def ask(install):
    """A function that runs code beside installed distributions; returns what it put into ``answer``, and warnings."""

    def ask(code, *names, fails=False, **environment):
        script = (
            "import json, warnings\n"
            "from sunpy_specfit.core.warnings import SpecfitPluginWarning\n"
            "answer = {}\n"
            "with warnings.catch_warnings(record=True) as caught:\n"
            "    warnings.simplefilter('always', SpecfitPluginWarning)\n"
            "    from sunpy_specfit.core import registry\n"
            + "".join(f"    {line}\n" for line in code.splitlines())
            + "answer['warnings'] = [str(w.message) for w in caught if w.category is SpecfitPluginWarning]\n"
            "print('\\n' + json.dumps(answer))\n"
        )
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("SUNPY_SPECFIT_")}
        path = [str(install(name)) for name in names] + [p for p in [os.environ.get("PYTHONPATH")] if p]
        environment = {**inherited, **environment, "PYTHONPATH": os.pathsep.join(path)}
        done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
        if fails:
            assert done.returncode != 0, "an error was expected"
            return done.stderr
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    return ask


TABLE = "answer['table'] = {r['name']: dict(zip(r.keys(), map(str, r.values()))) for r in registry.list_plugins()}\n"
GET = (
    "def get(kind, name):\n"
    "    try:\n"
    "        return registry.get(kind, name).__module__\n"
    "    except KeyError as error:\n"
    "        return error.args[0]\n"
)


def test_a_plugin_is_used_by_its_name(ask):
    code = TABLE + GET + (
        "answer['module'] = get('model', 'lorentzian')\n"
        "answer['qualified'] = get('model', 'Specfit_Lorentzian:lorentzian')\n"
        "answer['misspelt'] = get('model', 'lorenzian')\n"
        "answer['origin'] = registry.origin(registry.get('model', 'lorentzian'))\n"
        "answer['available'] = registry.available('model')\n"
    )  # fmt: skip
    answer = ask(code, "good")
    assert answer["warnings"] == []
    assert answer["module"] == answer["qualified"] == "specfit_lorentzian"
    assert "did you mean 'lorentzian'?" in answer["misspelt"]
    assert answer["origin"] == ["specfit-lorentzian", "1.0"]
    assert {"lorentzian", "gaussian"} <= set(answer["available"])
    assert answer["table"]["lorentzian"] == {
        "name": "lorentzian",
        "kind": "model",
        "distribution": "specfit-lorentzian",
        "version": "1.0",
        "status": "available",
        "reason": "",
    }
    assert answer["table"]["gaussian"]["distribution"] == "sunpy_specfit"


def test_a_plugin_passes_the_kit_and_fits(ask):
    code = (
        "from sunpy_specfit import fit\n"
        "from sunpy_specfit.data import gaussian_cube\n"
        "from sunpy_specfit.testing import check_model\n"
        "check_model(registry.get('model', 'lorentzian')())\n"
        "result = fit(gaussian_cube((2, 3)), 'lorentzian')\n"
        "answer['names'] = list(result)\n"
        "answer['shape'] = result['fwhm'].data.shape\n"
        "answer['plugins'] = result.meta['plugins']\n"
    )
    answer = ask(code, "good")
    assert answer["names"] == ["amplitude", "center", "width", "fwhm", "intensity"]
    assert answer["shape"] == [2, 3]
    assert answer["plugins"]["lorentzian"] == "specfit-lorentzian 1.0"


BROKEN = {
    "absent": "No module named 'specfit_broken.absent'",
    "abstract": "Unfinished is abstract: write its 'evaluate'",
    "bad_import": "No module named 'a_package_that_nobody_has'",
    "clash": "'gaussian' is built in, so this one is called 'specfit-broken:gaussian'",
    "exits": "usage: exits.py FILE",
    "healthy": "not a class: return the class itself",
    "misspelt": "unknown hook 'specfit_plugin'",
    "no_classes": "returned 42 where a list of classes is expected",
    "no_hook": "decorated with `sunpy_specfit.hookimpl`",
    "raises": "no licence file found",
}


@pytest.fixture(scope="module")
def broken(ask):
    code = GET + (
        "registry.available('model')\n"
        "registry.available('model')\n"
        "answer['rows'] = [list(map(str, row)) for row in registry.list_plugins()]\n"
        "answer['flat'] = get('model', 'flat')\n"
        "answer['gaussian'] = get('model', 'gaussian')\n"
        "answer['newcomer'] = get('model', 'specfit-broken:gaussian')\n"
        "answer['unfinished'] = get('model', 'unfinished')\n"
        "answer['lorentzian'] = get('model', 'lorentzian')\n"
        "answer['available'] = registry.available('model')\n"
    )
    return ask(code, "broken", "good")


@pytest.mark.parametrize(("plugin", "reason"), BROKEN.items())
def test_a_broken_plugin_costs_one_warning(broken, plugin, reason):
    warned = [w for w in broken["warnings"] if w.startswith(f"plugin {plugin!r} of specfit-broken 0.3: ")]
    assert len(warned) == 1
    assert reason in warned[0]


def test_the_table_has_a_reason_for_every_failure(broken):
    assert len(broken["warnings"]) == len(BROKEN)
    rows = {row[0]: row for row in broken["rows"] if row[2] == "specfit-broken" and row[4] == "failed"}
    assert set(rows) == (set(BROKEN) - {"clash", "abstract"}) | {"unfinished"}
    for name, row in rows.items():
        assert row[3] == "0.3"
        assert BROKEN[name if name != "unfinished" else "abstract"] in row[5]


def test_all_else_works_beside_a_broken_plugin(broken):
    assert broken["flat"] == "specfit_broken.healthy"
    assert broken["lorentzian"] == "specfit_lorentzian"
    assert broken["gaussian"].startswith("sunpy_specfit.")
    assert "could not be loaded: Unfinished is abstract" in broken["unfinished"]


def test_the_name_of_a_built_in_cannot_be_taken(broken):
    assert broken["newcomer"] == "specfit_broken.clash"
    assert "gaussian" in broken["available"]
    assert "specfit-broken:gaussian" in broken["available"]
    assert [row[2:5] for row in broken["rows"] if row[:2] == ["gaussian", "model"]] == [
        ["sunpy_specfit", next(row[3] for row in broken["rows"] if row[2] == "sunpy_specfit"), "available"],
        ["specfit-broken", "0.3", "renamed"],
    ]


def test_strict_lets_the_error_through(ask):
    complaint = ask("registry.available('model')", "broken", fails=True, SUNPY_SPECFIT_STRICT_PLUGINS="1")
    assert "ModuleNotFoundError: No module named 'specfit_broken.absent'" in complaint
    assert "raised by plugin 'absent' of specfit-broken 0.3" in complaint


def test_a_selection_leaves_the_other_plugins_alone(ask):
    code = TABLE + "answer['available'] = registry.available('model')\n"
    selected = ask(code, "broken", "good", SUNPY_SPECFIT_PLUGINS="specfit_lorentzian, healthi")
    assert len(selected["warnings"]) == 1
    assert "no plugin is called 'healthi'; did you mean 'healthy'?" in selected["warnings"][0]
    assert {"gaussian", "lorentzian"} <= set(selected["available"])
    assert selected["table"]["raises"]["status"] == "skipped"

    none = ask(code, "broken", "good", SUNPY_SPECFIT_PLUGINS="", SUNPY_SPECFIT_STRICT_PLUGINS="1")
    assert none["warnings"] == []
    assert "gaussian" in none["available"]
    assert "lorentzian" not in none["available"]


def test_two_third_parties_that_claim_one_name(ask):
    code = GET + (
        "answer['bare'] = get('model', 'lorentzian')\n"
        "answer['good'] = get('model', 'specfit-lorentzian:lorentzian')\n"
        "answer['rival'] = get('model', 'specfit-rival:lorentzian')\n"
        "answer['available'] = [n for n in registry.available('model') if 'lorentzian' in n]\n"
        "answer['rows'] = [list(map(str, r)) for r in registry.list_plugins() if r['name'] == 'lorentzian']\n"
    )
    answer = ask(code, "rival", "good")
    assert answer["warnings"] == []
    assert "specfit-lorentzian 1.0 and by specfit-rival 2.0" in answer["bare"]
    assert "'specfit-lorentzian:lorentzian' or 'specfit-rival:lorentzian'" in answer["bare"]
    assert (answer["good"], answer["rival"]) == ("specfit_lorentzian", "specfit_rival")
    assert answer["available"] == ["specfit-lorentzian:lorentzian", "specfit-rival:lorentzian"]
    assert [row[4] for row in answer["rows"]] == ["conflict", "conflict"]
    assert "specfit-rival 2.0: write 'specfit-lorentzian:lorentzian'" in answer["rows"][0][5]


# -- in this interpreter ---------------------------------------------------------------------------


class ReadNoise(Noise):
    name = "read_noise"

    def variance(self, light):
        return light * 0 + 9.0


def entry_point(answer, *, distribution="specfit-other", version="1.0", name="other"):
    """An entry point as `importlib.metadata` finds it, whose plugin answers as told."""

    def specfit_plugins():
        if isinstance(answer, BaseException):
            raise answer
        return answer() if callable(answer) and not isinstance(answer, type) else answer

    plugin = SimpleNamespace(specfit_plugins=hookimpl(specfit_plugins))
    return SimpleNamespace(name=name, dist=SimpleNamespace(name=distribution, version=version), load=lambda: plugin)


BUILTIN = entry_point([ReadNoise], distribution="sunpy-specfit", name="builtin")


def other_noise(name):
    return type("OtherNoise", (ReadNoise,), {"name": name, "__module__": "another_package.noises"})


def test_nothing_is_loaded_before_the_first_look_up():
    def explode():
        raise AssertionError("loaded too early")

    point = SimpleNamespace(name="lazy", dist=SimpleNamespace(name="lazy", version="1"), load=explode)
    found = Registry([BUILTIN, point])
    with pytest.warns(SpecfitPluginWarning, match=r"plugin 'lazy' of lazy 1: AssertionError: loaded too early"):
        assert found.available("noise") == ["read_noise"]


def test_a_plugin_that_asks_while_it_is_loaded_is_told_so():
    points = [BUILTIN, entry_point(lambda: found.get("noise", "read_noise"))]
    found = Registry(points)
    with pytest.warns(SpecfitPluginWarning, match="asked for registered names while it was being loaded"):
        assert found.available("noise") == ["read_noise"]


def test_a_plugin_answers_for_itself_only():
    def specfit_plugins():
        yield
        return []

    wrapping = entry_point([], name="a")
    wrapping.load = lambda: SimpleNamespace(specfit_plugins=hookimpl(wrapper=True)(specfit_plugins))
    found = Registry([BUILTIN, wrapping, entry_point([other_noise("later")], name="b")])
    with pytest.warns(SpecfitPluginWarning, match="plugin 'a' .* does not implement the hook"):
        assert found.available("noise") == ["later", "read_noise"]


def test_interrupts_are_not_swallowed():
    found = Registry([BUILTIN, entry_point(KeyboardInterrupt())])
    with pytest.raises(KeyboardInterrupt):
        found.available("noise")


def test_the_registry_is_whole_when_its_warning_is_made_an_error():
    found = Registry([BUILTIN, entry_point(ValueError("first")), entry_point([other_noise("late")], name="z")])
    with pytest.raises(SpecfitPluginWarning, match="first"):
        found.available("noise")
    assert found.available("noise") == ["late", "read_noise"]


def test_damaged_metadata_harm_nobody():
    damaged = entry_point([other_noise("damaged")])
    damaged.dist = None
    found = Registry([damaged, BUILTIN])
    assert found.origin(found.get("noise", "damaged")) == ("unknown", "")


def test_a_plugin_cannot_return_what_belongs_to_others():
    found = Registry([BUILTIN, entry_point([ReadNoise])])
    with pytest.warns(SpecfitPluginWarning, match="ReadNoise belongs to sunpy-specfit 1.0 already"):
        assert found.available("noise") == ["read_noise"]
    assert found.origin(ReadNoise) == ("sunpy-specfit", "1.0")


def test_a_distribution_has_each_name_once():
    found = Registry([BUILTIN, entry_point([other_noise("twice"), other_noise("twice")])])
    with pytest.warns(SpecfitPluginWarning, match="has the name of another noise of its distribution, 'twice'"):
        assert found.available("noise") == ["read_noise", "twice"]


def test_the_same_name_in_another_kind_is_no_conflict():
    class Namesake(Model):
        name = "read_noise"
        level = Parameter("data")

        def evaluate(self, x, level):
            return level + 0 * x

    found = Registry([BUILTIN, entry_point([Namesake])])
    assert found.get("model", "read_noise") is Namesake
    assert found.get("noise", "read_noise") is ReadNoise
    with pytest.raises(KeyError, match="no prior is called 'read_noise'; there is a noise of that name"):
        found.get("prior", "read_noise")


def test_without_installation_the_way_out_is_named():
    with pytest.warns(SpecfitPluginWarning, match=r"not installed.*pip install -e \."):
        assert Registry([]).available("model") == []


def test_unknown_kinds_and_empty_tables():
    found = Registry([BUILTIN])
    with pytest.raises(KeyError, match="did you mean 'model'"):
        found.get("models", "gaussian")
    with pytest.warns(SpecfitPluginWarning, match="not installed"):
        table = Registry([]).list_plugins()
    assert len(table) == 0
    assert table.colnames == ["name", "kind", "distribution", "version", "status", "reason"]


@pytest.mark.parametrize("name", ["", "Read Noise", "readNoise", "9lives", "a:b", None, 3])
def test_names_are_lower_case_identifiers(name):
    with pytest.raises(ValueError, match="give it a class attribute `name`"):
        check_class(other_noise(name))


@pytest.mark.parametrize(
    ("cls", "message"),
    [
        (other_noise("auto"), "means something else here"),
        (int, "should derive from one of Model, Operator, Prior, Solver, Noise, Disambiguator; it derives from 0"),
        (type("Both", (ReadNoise, Model), {"name": "both"}), "derives from 2 of them"),
        (type("Half", (Prior,), {"name": "half"}), "Half is abstract: write its 'bind' and its 'quantities'"),
        (ReadNoise(), "not a class: return the class itself"),
    ],
)
def test_what_cannot_be_used_says_what_to_change(cls, message):
    with pytest.raises((TypeError, ValueError), match=message):
        check_class(cls)


def test_registration_by_hand():
    found = Registry([BUILTIN])
    first, second = other_noise("mine"), other_noise("mine")
    found.register(first)
    assert found.register(second) is second, "running a notebook's cell twice replaces the class"
    assert found.get("noise", "mine") is second
    with found.registered(other_noise("passing")):
        assert found.available("noise") == ["mine", "passing", "read_noise"]
    assert found.available("noise") == ["mine", "read_noise"]
    with pytest.warns(SpecfitPluginWarning, match="called 'runtime:read_noise'"):
        found.register(other_noise("read_noise"))
    assert found.get("noise", "read_noise") is ReadNoise
    with pytest.raises(TypeError, match="not a class"):
        found.register(ReadNoise())


def test_the_origin_of_a_class_that_nobody_registered():
    assert Registry([BUILTIN]).origin(other_noise("x")) == ("another_package", "")
    assert Registry([BUILTIN]).origin(np.ndarray) == ("numpy", np.__version__)


def test_the_built_in_methods_come_in_by_the_common_door():
    table = registry.list_plugins()
    built_in = table[table["distribution"] == "sunpy_specfit"]
    assert set(built_in["status"]) == {"available"}
    assert {"gaussian", "polynomial", "voigt"} <= set(built_in["name"][built_in["kind"] == "model"])
