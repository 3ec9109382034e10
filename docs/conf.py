"""How the documentation is built: ``sphinx-build -W docs build/docs``.

The build runs the notebooks, which takes a few minutes. The next build runs only those that have changed.
``-D nb_execution_mode=off`` runs none.
"""

import os
import shutil
import sys
from importlib.metadata import version as version_of
from pathlib import Path

project = "anomalib-stfpm"
author = "The anomalib-stfpm authors"
version = release = version_of(project)
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
html_theme = "furo"
html_title = f"{project} {version}"
html_static_path = ["_static"]
html_css_files = ["pages.css"]
html_show_copyright = False
html_show_sourcelink = False

autodoc_default_options = {"members": True, "show-inheritance": True, "member-order": "bysource"}
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_custom_sections = ["Reference", "Shape"]

myst_heading_anchors = 3

nb_execution_mode = "cache"
nb_execution_in_temp = True
nb_execution_raise_on_error = True
nb_execution_timeout = 600
nb_merge_streams = True
nb_render_markdown_format = "gfm"  # with tables
nb_output_stderr = "remove"  # warnings of imported libraries
# The notebooks call anomalib-stfpm, which is next to this Python.
os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])

# Sphinx only reads files in its own folder.
_docs = Path(__file__).parent
shutil.copytree(_docs.parent / "notebooks", _docs / "notebooks", dirs_exist_ok=True)
