"""What stands beside the code says what the code does: version, citation, forms, the workflow."""

from __future__ import annotations

import os
import re
import tomllib
from pathlib import Path

import pytest
import yaml

import mner
from mner.cli.training_parser import BUNDLED

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
CITATION = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
CHANGELOG = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
WORKFLOW = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8"))
FORMS = sorted(path for path in (ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml") if path.stem != "config")


def test_the_version_is_one():
    assert PROJECT["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "mner.__version__"}
    assert "version" in PROJECT["project"]["dynamic"]
    assert CITATION["version"] == mner.__version__
    assert re.fullmatch(r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(rc\d+|\.dev\d+)?", mner.__version__)


def test_the_changelog_has_the_version():
    newest = re.search(r"^## (.*)$", CHANGELOG, re.MULTILINE)[1]
    assert newest.startswith("Unreleased" if "dev" in mner.__version__ else mner.__version__)


def test_the_citation_has_what_its_format_asks_for():
    """Of the schema of cff-version 1.2.0; `cffconvert --validate` reads all of it."""
    assert CITATION["cff-version"] == "1.2.0"
    assert {"message", "title", "authors"} <= set(CITATION)
    assert CITATION["type"] == "software"
    assert CITATION["license"] == PROJECT["project"]["license"]
    for reference in CITATION["references"]:
        assert {"type", "title", "authors"} <= set(reference)


def test_what_the_package_brings_is_declared():
    patterns = PROJECT["tool"]["setuptools"]["package-data"]["mner"]
    package = Path(mner.__file__).parent
    files = {file for pattern in patterns for file in package.glob(pattern)}
    assert set(BUNDLED.values()) <= files
    brought = [path for path in package.rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")]
    assert [path for path in brought if path not in files] == []


def test_the_workflow_tries_each_python_that_is_supported():
    assert PROJECT["project"]["requires-python"] == ">=3.11"
    matrix = WORKFLOW["jobs"]["fast"]["strategy"]["matrix"]
    assert matrix["python"] == ["3.11", "3.12", "3.13"]
    assert matrix["os"] == ["ubuntu-latest", "macos-latest", "windows-latest"]
    assert set(WORKFLOW[True]) == {"push", "pull_request"}  # YAML reads `on` as true
    for job in WORKFLOW["jobs"].values():
        for step in job["steps"]:
            command = step.get("run", "")
            if command.startswith(".ci/"):
                assert os.access(ROOT / command, os.X_OK)


@pytest.mark.parametrize("form", FORMS, ids=lambda path: path.stem)
def test_forms_are_as_github_reads_them(form):
    content = yaml.safe_load(form.read_text(encoding="utf-8"))
    assert set(content) <= {"name", "description", "title", "labels", "assignees", "projects", "type", "body"}
    assert all(isinstance(content[key], str) and content[key] for key in ("name", "description"))
    fields = [part for part in content["body"] if part["type"] != "markdown"]
    assert len({part["id"] for part in fields}) == len(fields) > 0
    for part in fields:
        assert part["type"] in ("input", "textarea", "dropdown", "checkboxes")
        assert part["attributes"]["label"]
        assert set(part) <= {"type", "id", "attributes", "validations"}


def test_texts_for_contributors_name_what_is_there():
    texts = [ROOT / "SECURITY.md", ROOT / "CONTRIBUTING.md", ROOT / ".github/pull_request_template.md"]
    for text in texts:
        for path in re.findall(r"`((?:docs|\.ci|mner|tests|benchmarks)/[\w./-]+)`", text.read_text(encoding="utf-8")):
            assert (ROOT / path).exists(), f"{text.name} names {path}"
