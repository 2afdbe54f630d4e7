"""Imports go one way, and `import mner` is quick: read from the source, not trusted."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import mner

ROOT = Path(mner.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
# What each part may import of the others; parts that are not named here are commands, which may import all of them.
ALLOWED = {
    "mner": set(),  # the version; its public names are imported when they are used
    "errors": set(),
    "pretrained": set(),
    "labels": {"errors"},
    "data": {"errors", "labels", "pretrained"},
    "encoders": {"errors", "labels", "pretrained"},
    "_crf_kernel": set(),
    "crf": {"errors", "labels", "_crf_kernel"},
    "metrics": {"errors", "labels"},
    "nn": {"errors", "labels", "crf"},
    "fusion": {"errors", "labels", "pretrained", "data", "encoders", "crf", "metrics", "nn"},
}
EVERYWHERE = {"mner"}  # `mner.__version__`
HEAVY = ("detectron2", "matplotlib", "timm", "pandas", "transformers", "pytorch_lightning", "scipy", "torch", "seqeval")


def part(module: str) -> str:
    """`mner.data.batch` -> `data`; `mner` -> `mner`."""
    return module.split(".")[1] if "." in module else "mner"


def imports(file: Path) -> set[str]:
    """Modules of mner that a file imports anywhere, within functions too; not what is there for types only."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    typing_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    found = set()
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file} has a relative import"
            # `from mner.data import batch` may name a module
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return {module for module in found if module.split(".")[0] == "mner"}


def name(file: Path) -> str:
    return ".".join(("mner", *file.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__")


@pytest.mark.parametrize("file", FILES, ids=name)
def test_imports_go_one_way(file):
    own = part(name(file))
    if own not in ALLOWED:
        return
    known = {name(other) for other in FILES}
    used = {part(module) for module in imports(file) if module in known}
    wrong = used - ALLOWED[own] - {own} - EVERYWHERE
    assert not wrong, f"{name(file)} imports {sorted(wrong)}; {own} may import {sorted(ALLOWED[own])}"


def test_the_rule_finds_a_wrong_import(tmp_path):
    file = tmp_path / "wrong.py"
    file.write_text("def f():\n    from mner.fusion import base\n    import mner.encoders.text\n")
    assert {part(module) for module in imports(file)} == {"fusion", "encoders"}
    assert not {"fusion", "encoders"} & ALLOWED["data"]
    assert "data" not in ALLOWED["encoders"]


def test_no_part_is_forgotten():
    """A new file beside the parts is a command, or must be put into the table above."""
    low = {part(name(file)) for file in FILES} & set(ALLOWED)
    assert low == set(ALLOWED)


def loaded_by(code: str) -> set[str]:
    """Which of the heavy packages are loaded once `code` has run in a new process."""
    probe = f"{code}\nimport sys\nprint(*[name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True, timeout=300)
    return set(done.stdout.strip().splitlines()[-1].split()) if done.stdout.strip() else set()


def test_import_mner_is_light():
    assert loaded_by("import mner; mner.__version__; dir(mner)") == set()


@pytest.mark.slow
def test_public_names_load_what_they_need_only():
    """matplotlib is not asked for here: torchmetrics imports it wherever it is installed."""
    rest = {"detectron2", "timm", "pandas", "seqeval"}
    assert not loaded_by("import mner; mner.CRF; mner.labels") & {*rest, "matplotlib", "pytorch_lightning"}
    # A whole text model, built and used, needs none of them.
    code = (
        "import mner; mner.SpanF1; mner.Tagger; mner.encoders\n"
        "from mner.fusion import TextOnly; from mner.data import SampleDataModule\n"
        "TextOnly(SampleDataModule.labels, text_encoder='tiny')"
    )
    assert not loaded_by(code) & rest


def test_every_public_name_is_there():
    for public in mner.__all__:
        assert getattr(mner, public) is not None
    assert set(mner.__all__) <= set(dir(mner))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        mner.nothing  # noqa: B018
