"""Sphinx: Markdown pages by myst-parser, API by autodoc, theme furo. `python -m sphinx -W -q -b html docs OUT`."""

import re

from docutils.nodes import SkipNode
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.errors import ExtensionError

import mner

project = "mner"
copyright = "the mner authors"
version = release = mner.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
exclude_patterns = ["_build"]

myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 3

highlight_language = "none"  # blocks without a language are listings of folders and what is printed

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
pygments_dark_style = "monokai"  # the theme's own underlines names of modules and classes
html_title = f"mner {mner.__version__}"
html_static_path = ["_static", "../mner/page.css"]  # the second is also that of what `mner show` writes
html_css_files = ["page.css", "mner.css"]
html_show_sphinx = False
html_math_renderer = "mathml"


def as_docutils_reads(tex):
    """Mends what docutils sets badly: the index of an accented letter goes below it, functions touch what is before."""
    tex = re.sub(r"\\(hat|bar|tilde)\{(\w)\}(?=[_^])", r"{\\\1{\2}{}}", tex)
    return re.sub(r"(?<=[\w}])(?<!quad)(?<!cdot)(?<!circ)\s*(?=\\(?:operatorname|tanh|exp|log)\b)", r"\\,", tex)


def write_formula(translator, node):
    """TeX becomes MathML, which browsers set themselves: pages need no script. The font is in `_static`."""
    block = node.tagname == "math_block"
    try:
        formula = tex2mathml(as_docutils_reads(node.astext()), as_block=block)
    except MathError as error:
        place = f"{node.source}:{node.line}"
        raise ExtensionError(f"{place}: the formula {node.astext()} cannot be set: {error}") from error
    translator.body.append(f'<div class="formula">{formula}</div>' if block else formula)
    raise SkipNode


def setup(app):
    app.add_html_math_renderer("mathml", (write_formula, None), (write_formula, None))
