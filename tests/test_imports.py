"""The house: imports go one way, nothing heavy comes before it is needed, and rooms and files stay few and short."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import mner

ROOT = Path(mner.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
# From what all rooms speak to what speaks to all; a room imports from itself and from those before it.
ORDER = (
    *("errors", "labels", "batch", "metrics", "files", "growing_file", "runtime", "html", "nn", "data", "encoders"),
    *("training", "fusion", "preprocessing", "tagger", "analysis", "probing", "curation", "serving", "benchmark"),
    *("testing", "cli", "__main__"),
)
HEAVY = ("detectron2", "matplotlib", "timm", "pandas", "transformers", "pytorch_lightning", "scipy", "torch", "seqeval")


def name(file: Path) -> str:
    return ".".join(("mner", *file.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__")


KNOWN = {name(file) for file in FILES}


def room(module: str) -> str:
    """`mner.data.sources` -> `data`; `mner` -> ``, its version and lazy names, which every file may use."""
    return module.split(".")[1] if "." in module else ""


def imports(file: Path) -> set[str]:
    """Modules of mner that a file imports anywhere: within functions, and for types only."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file} has a relative import"
            # `from mner.data import sources` may name a module
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found & KNOWN


def back(importer: str, imported: str) -> bool:
    """Whether an import runs from a room to a later one."""
    return room(imported) != "" and ORDER.index(room(imported)) > ORDER.index(room(importer))


def circle(graph: dict[str, set[str]]) -> list[str]:
    """Some circle of a graph, or an empty list."""
    done: set[str] = set()

    def walk(node: str, path: list[str]) -> list[str]:
        if node in path:
            return path[path.index(node) :]
        if node in done:
            return []
        for following in sorted(graph.get(node, ())):
            if found := walk(following, [*path, node]):
                return found
        done.add(node)
        return []

    return next((found for node in sorted(graph) if (found := walk(node, []))), [])


@pytest.mark.parametrize("file", [file for file in FILES if file != ROOT / "__init__.py"], ids=name)
def test_imports_go_one_way(file):
    assert room(name(file)) in ORDER, f"{file} is in no room; put it into one, or the room into ORDER"
    wrong = sorted(module for module in imports(file) if back(name(file), module))
    assert not wrong, f"{name(file)} imports {wrong}, which come after it in {ORDER}"


def test_no_circle():
    # A package's own file may name what is in it; what is in it does not use the package.
    graph = {name(file): imports(file) - {name(file)} for file in FILES if file.name != "__init__.py"}
    assert circle(graph) == []


def test_the_rules_find_what_they_forbid(tmp_path):
    file = tmp_path / "wrong.py"
    file.write_text("def f():\n    from mner.fusion import base\n    import mner.encoders.text\n")
    assert imports(file) == {"mner.fusion", "mner.fusion.base", "mner.encoders.text"}
    assert back("mner.data.sources", "mner.encoders.text")
    assert not back("mner.encoders.text", "mner.data.sources")
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == ["a", "b", "c"]
    assert shared_blocks({"a": LINES, "b": ["x = 1", *LINES]}) == [("a", "b", "value_0 = 0")]


def test_rooms_are_few_and_files_are_short():
    loose = [file.stem for file in ROOT.glob("*.py")]
    rooms = {room(name(file)) for file in FILES}
    assert len(loose) <= 12, loose
    assert len(rooms) <= 26, rooms
    long = {name(file): lines for file in FILES if (lines := len(file.read_text(encoding="utf-8").splitlines())) > 350}
    assert not long


LINES = [f"value_{number} = {number}" for number in range(10)]


def shared_blocks(files: dict[str, list[str]], size: int = 10) -> list[tuple[str, str, str]]:
    """Pairs of files with a block of `size` lines in common, and its first line; imports and blank lines are passed."""
    seen: dict[tuple[str, ...], str] = {}
    found = {}
    for file, lines in files.items():
        code = [line.strip() for line in lines if line.strip() and not line.startswith(("import ", "from "))]
        for start in range(len(code) - size + 1):
            block = tuple(code[start : start + size])
            first = seen.setdefault(block, file)
            if first != file:
                found.setdefault((first, file), block[0])
    return [(*pair, line) for pair, line in found.items()]


def test_no_two_files_share_a_block_of_ten_lines():
    assert shared_blocks({name(file): file.read_text(encoding="utf-8").splitlines() for file in FILES}) == []


def loaded_by(code: str) -> set[str]:
    """Which of the heavy packages are loaded once `code` has run in a new process."""
    probe = f"{code}\nimport sys\nprint('loaded', *[name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split()) - {"loaded"}


CONLL = "IMGID:1\nAnna\tB-PER\tB-PER\nsings\tO\tO\n"
MAIN = """
from mner.cli import main
try:
    assert main({arguments!r}) in (0, None)
except SystemExit as end:
    assert not end.code
"""


@pytest.fixture
def files(tmp_path, monkeypatch):
    """A data set and two prediction files in the current folder."""
    monkeypatch.chdir(tmp_path)
    for split in ("train", "valid", "test"):
        (tmp_path / f"{split}.txt").write_text(f"IMGID:{split}\nAnna\tB-PER\nsings\tO\n", encoding="utf-8")
    for system in ("a", "b"):
        (tmp_path / f"{system}.txt").write_text(CONLL, encoding="utf-8")


NO_MODEL = {"torch", "pytorch_lightning", "transformers", "timm", "detectron2", "seqeval"}


@pytest.mark.parametrize(
    "code",
    [
        "import mner; mner.__version__; dir(mner)",
        "import mner.labels",
        "from mner.data import read_conll, read_jsonl; assert len(read_conll('train.txt')) == 1",
        MAIN.format(arguments=["--help"]),
        MAIN.format(arguments=["tag", "--help"]),
        MAIN.format(arguments=["data", "stats", "."]),
        MAIN.format(arguments=["data", "convert", "train.txt", "posts.csv"]),
        "from importlib import import_module\nfrom mner.cli.main import COMMANDS\n"
        "for command, (place, _) in COMMANDS.items():\n"
        "    if command.startswith('data '): import_module(place.partition(':')[0])",
        "import mner.analysis as a; a.score(a.read_predictions('a.txt'))",
        MAIN.format(arguments=["compare", "a.txt", "b.txt", "--resamples", "100"]),
        MAIN.format(arguments=["analyze", "a.txt", "--out", "report"]),
    ],
)
def test_what_needs_no_model_loads_none(files, code):
    assert not loaded_by(code) & NO_MODEL


def test_reading_posts_loads_nothing_heavy_at_all(files):
    assert loaded_by("from mner.data import read_conll; read_conll('train.txt')") == set()


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


@pytest.mark.parametrize("package", ["mner", "mner.data", "mner.analysis", "mner.tagger", "mner.training"])
def test_every_public_name_is_there(package):
    module = __import__(package, fromlist=["__all__"])
    assert module.__all__
    for public in module.__all__:
        assert getattr(module, public) is not None
    assert set(module.__all__) <= set(dir(module))
    with pytest.raises(AttributeError, match="nothing"):
        module.nothing  # noqa: B018
