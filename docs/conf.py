"""Configuration of Sphinx; `nox -s docs` builds the pages."""

import skhep_nn

project = "skhep_nn"
author = "The skhep_nn developers"
copyright = "2026, The skhep_nn developers"  # noqa: A001 (Sphinx asks for this name)
release = skhep_nn.__version__
version = ".".join(release.split(".")[:2])

extensions = [
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "sphinx.ext.viewcode",
]
exclude_patterns = ["_build", "generated/README*"]
templates_path = ["_templates"]
html_theme = "furo"
html_title = "skhep_nn"

myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 3

# The templates list methods themselves; numpydoc would list them a second time.
numpydoc_show_class_members = False
autodoc_typehints = "none"
autosummary_generate = True
