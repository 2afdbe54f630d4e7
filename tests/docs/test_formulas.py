"""Formulas of the pages: TeX to MathML while they are built, and a formula that cannot be set stops the build."""

import importlib.util
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import pytest

pytest.importorskip("sphinx")
from docutils import nodes
from sphinx.errors import ExtensionError

from mner.html import STYLE

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def conf():
    spec = importlib.util.spec_from_file_location("docs_conf", DOCS / "conf.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def written(conf, node):
    translator = SimpleNamespace(body=[])
    with pytest.raises(nodes.SkipNode):
        conf.write_formula(translator, node)
    (html,) = translator.body
    return html


def shape(html):
    """The tags of MathML from the outside in, each with those below it."""

    def below(element):
        tag = element.tag.rpartition("}")[2]
        return f"{tag}({','.join(map(below, element))})" if len(element) else tag

    return below(ElementTree.fromstring(html.replace("&ApplyFunction;", "")))


def test_the_index_of_an_accented_letter_stands_beside_it(conf):
    assert shape(written(conf, nodes.math("", r"\hat{v}_t"))) == "math(msub(mrow(mover(mi,mo),mrow),mi))"


@pytest.mark.parametrize(("tex", "spaces"), [(r"s_t \tanh(x)", 1), (r"w^\top \tanh(x)", 1), (r"\tanh(x)", 0)])
def test_a_function_keeps_its_distance_from_what_is_before(conf, tex, spaces):
    assert written(conf, nodes.math("", tex)).count("<mspace") == spaces


def test_a_formula_of_its_own_can_be_scrolled(conf):
    html = written(conf, nodes.math_block("", "a = b"))
    assert html.startswith('<div class="formula"><math')
    assert 'display="block"' in html


def test_a_command_that_nobody_knows_stops_the_build_and_is_named(conf):
    node = nodes.math("", r"\nonsense x")
    node.source, node.line = "page.md", 7
    with pytest.raises(ExtensionError, match=r"page\.md:7: the formula \\nonsense x cannot be set: .*nonsense"):
        conf.write_formula(SimpleNamespace(body=[]), node)


def test_pages_load_nothing_from_elsewhere():
    style = (DOCS / "_static/mner.css").read_text(encoding="utf-8")
    assert "http" not in style + STYLE
    assert STYLE.strip()
    assert (DOCS / "_static/fonts/STIXTwoMath.woff2").read_bytes()[:4] == b"wOF2"
    assert 'url("fonts/STIXTwoMath.woff2")' in style
