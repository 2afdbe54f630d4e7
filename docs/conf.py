"""Sphinx: Markdown pages by myst-parser, API by autodoc, theme furo. `python -m sphinx -W -q -b html docs OUT`."""

import mner

project = "mner"
copyright = "the mner authors"
version = release = mner.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
exclude_patterns = ["_build"]

myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3

highlight_language = "none"  # blocks without a language are formulas and listings of folders

# Docstrings put code in single backquotes, as Markdown does.
default_role = "code"
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"  # as the Args sections have them, and no others
autodoc_class_signature = "mixed"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_custom_sections = [("Shapes", "notes_style")]

html_theme = "furo"
html_title = f"mner {mner.__version__}"
html_static_path = ["_static"]
html_css_files = ["mner.css"]
html_show_sphinx = False
