"""Configuration of the documentation: sphinx-build docs docs/_build/html."""

import os
from importlib.metadata import version as installed_version

project = "sunpy_specfit"
author = "The sunpy_specfit developers"
copyright = f"2026, {author}"
release = installed_version("sunpy_specfit")
version = release.split("+")[0]

extensions = [
    "sphinx.ext.doctest",
    "sphinx.ext.intersphinx",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx_automodapi.automodapi",
    "sphinx_automodapi.smart_resolver",
    "sphinx_changelog",
    "sphinx_copybutton",
    "sphinx_design",
    "sphinx_gallery.gen_gallery",
]
default_role = "py:obj"
exclude_patterns = ["_build", "examples"]

# Without a network the other projects' inventories cannot be read; DOCS_OFFLINE=1 builds without links to them.
intersphinx_mapping = (
    {}
    if os.environ.get("DOCS_OFFLINE")
    else {
        "python": ("https://docs.python.org/3", None),
        "numpy": ("https://numpy.org/doc/stable", None),
        "scipy": ("https://docs.scipy.org/doc/scipy", None),
        "matplotlib": ("https://matplotlib.org/stable", None),
        "astropy": ("https://docs.astropy.org/en/stable", None),
        "sunpy": ("https://docs.sunpy.org/en/stable", None),
        "ndcube": ("https://docs.sunpy.org/projects/ndcube/en/stable", None),
        "torch": ("https://docs.pytorch.org/docs/stable", None),
        "asdf": ("https://www.asdf-format.org/projects/asdf/en/stable", None),
    }
)

# Attributes belong to their class's text; automodapi lists them as objects already.
napoleon_use_ivar = True
napoleon_google_docstring = False
automodapi_toctreedirnm = "api"
automodsumm_inherited_members = True

sphinx_gallery_conf = {
    "examples_dirs": "examples",
    "gallery_dirs": "gallery",
    # Examples that need a file of the reader's own are shown, not run.
    "filename_pattern": "fit_eis|fit_weak_field|fit_milne_eddington|fit_dem",
    "abort_on_example_error": True,
    "remove_config_comments": True,
}

html_theme = "sunpy"
html_title = project
html_static_path = ["_static"]


def shorten_inherited(app, what, name, obj, options, lines):
    """Python's own texts on whole numbers, which Status inherits, are not written for Sphinx."""
    if ".Status." in name and name.rpartition(".")[2] in dir(int):
        del lines[1:]


def setup(app):
    app.connect("autodoc-process-docstring", shorten_inherited)
