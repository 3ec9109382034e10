"""How the documentation is built: ``sphinx-build -W docs build/docs``."""

from importlib.metadata import version as version_of

project = "anomalib-stfpm"
author = "The anomalib-stfpm authors"
version = release = version_of(project)
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
html_theme = "furo"
html_title = f"{project} {version}"

autodoc_default_options = {"members": True, "show-inheritance": True, "member-order": "bysource"}
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
napoleon_google_docstring = True
napoleon_numpy_docstring = False

myst_heading_anchors = 3
