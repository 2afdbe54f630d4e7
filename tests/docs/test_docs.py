"""The documentation does what it says: its modules are trained, its commands exist, its examples run."""

import importlib
import inspect
import json
import pkgutil
import re
import shlex
import sys
from doctest import DocTestParser, DocTestRunner, testmod
from pathlib import Path

import pytest
import torch

import mner
import mner.analysis
import mner.data
import mner.fusion
import mner.tagger
from mner.benchmark.paper import TABLE_1
from mner.cli.main import COMMANDS, LIGHTNING, POSITIONAL, main
from mner.fusion import TextOnly
from mner.labels import bio_labels

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def blocks(page, language):
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


FUSIONS = {
    re.search(r"^class (\w+)", code, re.MULTILINE)[1]: code for code in blocks(ROOT / "docs/fusion.md", "python")
}
"""Every Python block of docs/fusion.md, by the strategy that it defines."""


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return str(tmp_path_factory.mktemp("cache"))


@pytest.fixture
def own_folder(tmp_path, monkeypatch, cache):
    """A folder of the user's, with my_fusion.py in it after the call."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MNER_CACHE", cache)
    monkeypatch.syspath_prepend("")
    sys.modules.pop("my_fusion", None)

    def write(code):
        (tmp_path / "my_fusion.py").write_text(code, encoding="utf-8")
        importlib.invalidate_caches()

    yield write
    sys.modules.pop("my_fusion", None)


def arguments(name, uses_image=True):
    image = ["--model.image_encoder", "test_resnet", "--model.image_weights", "null"]
    image += ["--model.freeze_image_encoder", "false", "--data.images", "images", "--data.image_size", "32"]
    return [
        "fit", "--model", f"my_fusion.{name}", "--data", "SampleDataModule", "--data.train", "60",
        *(image if uses_image else []),
        "--trainer.max_epochs", "1", "--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false",
        "--trainer.enable_model_summary", "false",
    ]  # fmt: skip


def test_the_readme_shows_the_same_fusion():
    assert FUSIONS["GatedFusion"] in blocks(ROOT / "README.md", "python")
    assert next(iter(FUSIONS)) == "GatedFusion"


def test_gated_fusion_trains_from_a_users_own_folder(own_folder, tmp_path, capsys):
    own_folder(FUSIONS["GatedFusion"])
    main(arguments("GatedFusion"))
    assert "Best valid F1" in capsys.readouterr().out
    (run,) = (tmp_path / "lightning_logs").iterdir()
    # The config that was saved is all that later commands need beside the checkpoint.
    saved = ["--config", str(run / "config.yaml"), "--ckpt_path", str(run / "checkpoints" / "best.ckpt")]
    main(["predict", *saved, "--split", "valid", "--output", "out.jsonl"])
    header, *posts = (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(header)["model"] == "my_fusion.GatedFusion"
    assert len(posts) == 120
    main(["test", *saved])
    assert "SpanF1 and seqeval agree." in capsys.readouterr().out


@pytest.mark.parametrize("name", [name for name in FUSIONS if name != "GatedFusion"])
def test_every_module_of_the_fusion_page_trains(own_folder, capsys, name):
    code = FUSIONS[name]
    own_folder(code)
    cli = main([*arguments(name, "uses_image = False" not in code), "--trainer.limit_train_batches", "1",
                "--trainer.limit_val_batches", "1", "--trainer.logger", "false"])  # fmt: skip
    assert type(cli.model).__name__ == name
    assert cli.trainer.global_step == 1


@every_page
def test_python_blocks_are_python(page):
    for code in blocks(page, "python"):
        compile(code, str(page), "exec")


STRATEGY_PAGES = sorted((ROOT / "docs/strategies").glob("[!i]*.md"))


@pytest.mark.parametrize("page", STRATEGY_PAGES, ids=lambda page: page.stem)
def test_blocks_that_start_from_torch_run(page):
    """On the pages of strategies these are complete; others go on from a model and a batch."""
    for code in blocks(page, "python"):
        if code.startswith("import torch\n"):
            exec(compile(code, str(page), "exec"), {"__name__": "docs"})


def command_lines(page):
    """What pages tell the reader to type: `mner …` in bash blocks, continued lines joined, and in backquotes."""
    text = page.read_text(encoding="utf-8")
    code = "\n".join(re.findall(r"^```(?:bash)?\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)).replace("\\\n", " ")
    found = [line.partition("#")[0] for line in re.split(r"\n|&&|\|\s", code) if line.strip().startswith("mner ")]
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)
    return found + re.findall(r"`(mner [^`]+)`", prose)


def command_of(line):
    words = shlex.split(line)[1:]
    return next((name for name in (*COMMANDS, *LIGHTNING) if words[: len(name.split())] == name.split()), None)


LINES = sorted({" ".join(line.split()) for page in PAGES for line in command_lines(page)} - {"mner COMMAND --help"})


@pytest.mark.parametrize("line", LINES)
def test_commands_in_the_pages_exist(line):
    command = command_of(line)
    assert command is not None, f"there is no such command: {line}"
    if command in LIGHTNING or "…" in line:
        return
    options = {word.partition("=")[0][2:] for word in line.split() if word.startswith("--")} - {"help"}
    module, _, name = COMMANDS[command][0].partition(":")
    parameters = inspect.signature(getattr(importlib.import_module(module), name)).parameters
    assert options <= set(parameters), f"{command} has no option {options - set(parameters)}"
    required = {key for key, parameter in parameters.items() if parameter.default is parameter.empty}
    if command not in POSITIONAL and options:
        assert required <= options, f"{command} needs {required - options} too"


@pytest.mark.parametrize(
    "line",
    [line for line in LINES if command_of(line) in LIGHTNING and "--" in line and not {"…", "$", "<"} & set(line)],
)
def test_options_of_training_commands_are_understood(line, own_folder, tmp_path):
    inputs = [code for code in blocks(ROOT / "docs/inputs.md", "python") if "PlacedRegions" in code]
    own_folder("\n\n".join([FUSIONS["GatedFusion"], *inputs[:1], blocks(ROOT / "docs/data.md", "python")[-1]]))
    (module,) = (code for code in blocks(ROOT / "docs/path.md", "python") if "MyDataModule" in code)
    (tmp_path / "my_data.py").write_text(module, encoding="utf-8")
    words = shlex.split(line)[1:]
    # Files of a run that the reader has made by then.
    config, checkpoint = tmp_path / "config.yaml", tmp_path / "best.ckpt"
    config.write_text("model: {class_path: TextOnly}\ndata: {class_path: SampleDataModule}\n", encoding="utf-8")
    model = TextOnly(bio_labels(["PER"]))
    content = {"state_dict": model.state_dict()}
    model.on_save_checkpoint(content)
    torch.save(content, checkpoint)
    made = {".yaml": config, ".ckpt": checkpoint}
    words = [str(ROOT / word) if (ROOT / word).is_file() else word for word in words]
    own = {word for word in words if re.fullmatch(r"\S*/version_\d/\S*\.(yaml|ckpt)|\w+\.yaml", word)}
    words = [str(made[Path(word).suffix]) if word in own else word for word in words]
    try:
        code = main(words if any(word.endswith(".help") for word in words) else [*words, "--print_config"])
    except SystemExit as end:
        code = end.code
    assert code == 0


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_every_command(command, capsys):
    with pytest.raises(SystemExit) as end:
        main([*command.split(), "--help"])
    assert end.value.code == 0
    text = capsys.readouterr().out
    assert "usage: mner" in text
    assert text.isascii()  # whatever the locale can write


def test_the_page_of_commands_names_each():
    text = (ROOT / "docs/cli.md").read_text(encoding="utf-8")
    assert [command for command in (*LIGHTNING, *COMMANDS) if f"mner {command}" not in text] == []


API = "\n".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "docs/api").iterdir()))


def in_the_api(module, name):
    """Whether the API pages have a name, alone or with all of its module."""
    whole = rf":: {module}\n +:members:\n( +:imported-members:\n)?"
    return re.search(rf":: .*\b{name}$|^ +:members: .*\b{name}\b|{whole}", API, re.MULTILINE) is not None


@pytest.mark.parametrize(
    "module", [mner, mner.fusion, mner.data, mner.analysis, mner.tagger], ids=lambda it: it.__name__
)
def test_public_names_are_in_the_api_pages(module):
    names = [name for name in module.__all__ if not name.startswith("__")]
    modules = {name for name in names if inspect.ismodule(getattr(module, name))}
    assert len(names) > 3
    assert [name for name in names if name not in modules and not in_the_api(module.__name__, name)] == []
    assert [name for name in modules if f"mner.{name}" not in API] == []


def test_what_pages_import_is_in_the_api_pages():
    code = "\n".join(block for page in PAGES for block in blocks(page, "python"))
    found = re.findall(r"^from (mner[\w.]*) import (.+)$", code, re.MULTILINE)
    imported = {(module, name.split(" as ")[0].strip()) for module, names in found for name in names.split(",")}
    assert len(imported) > 10
    assert [f"{module}.{name}" for module, name in sorted(imported) if not in_the_api(module, name)] == []


PAPER_ROWS = {
    "text_only": {"BERT, Exp 1.1": "exp1.1", "VisualBERT, Exp 1.2": "exp1.2", "BERT + captions, Exp 4.1": "exp4.1",
                  "VisualBERT + captions, Exp 4.2": "exp4.2"},
    "concatenation": {"BERT, text only, Exp 1.1": "exp1.1", "BERT + CM, Exp 2.1": "exp2.1"},
    "visual_attention": {"BERT, text only, Exp 1.1": "exp1.1", "BERT + VAM, Exp 2.2": "exp2.2"},
    "co_attention": {"BERT, text only, Exp 1.1": "exp1.1", "BERT + CAM, Exp 2.3": "exp2.3"},
    "transformer_attention": {"VisualBERT, text only, Exp 1.2": "exp1.2", "VisualBERT + TAM, Exp 3.1": "exp3.1"},
    "unified_multimodal_transformer": {"BERT, text only, Exp 1.1": "exp1.1", "Yu et al. 2020": "yu2020"},
}  # fmt: skip


def section(page, heading):
    return re.search(rf"^## {heading}\n(.*?)(?=^## |\Z)", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)[1]


@pytest.mark.parametrize("page", [ROOT / f"docs/strategies/{stem}.md" for stem in PAPER_ROWS], ids=lambda it: it.stem)
def test_scores_on_the_pages_of_strategies_are_the_papers_and_ours(page):
    rows = re.findall(r"^\| (.+?) \| (\d.+?) \| (\d.+?) \|$", section(page, "Scores"), re.MULTILINE)
    papers = {label: (first, second) for label, first, second in rows if not label.startswith("`")}
    assert papers == {
        label: tuple(f"{TABLE_1[data][key].f1:.2f}" for data in ("Twitter2015", "Twitter2017"))
        for label, key in PAPER_ROWS[page.stem].items()
    }
    measured = section(ROOT / "docs/benchmarks.md", "The image is used")
    ours = {label.strip("`"): f"{first} {second}" for label, first, second in rows if label.startswith("`")}
    assert {"TextOnly"} < set(ours) or (page.stem == "text_only" and set(ours) == {"TextOnly"})
    for name, numbers in ours.items():
        row = re.search(rf"^\| {name}\b.*$", measured, re.MULTILINE)[0]
        assert re.findall(r"\d+\.\d+", numbers) == re.findall(r"\d+\.\d+", row), f"docs/benchmarks.md has {row}"


def modules_with_examples():
    names = [info.name for info in pkgutil.walk_packages(mner.__path__, "mner.")]
    files = {name: Path(mner.__path__[0], *name.split(".")[1:]) for name in names}
    sources = {name: path / "__init__.py" if path.is_dir() else path.with_suffix(".py") for name, path in files.items()}
    return [name for name, source in sources.items() if ">>> " in source.read_text(encoding="utf-8")]


@pytest.mark.parametrize("name", modules_with_examples())
def test_examples_in_docstrings_run(name):
    failed, tried = testmod(importlib.import_module(name))
    assert tried > 0
    assert failed == 0


def test_examples_are_where_readers_look_for_them():
    """The layer, the metric, labels, readers, and each strategy's maths have an example, which the test above runs."""
    names = {"mner.nn.crf", "mner.metrics", "mner.labels", "mner.data.word_splitter", "mner.tagger.post"}
    names |= {"mner.data.formats.conll"}
    names |= {f"mner.fusion.{page.stem}" for page in STRATEGY_PAGES}
    assert names - set(modules_with_examples()) == set()


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "pycon")], ids=lambda page: page.stem)
def test_examples_in_pages_run(page):
    for block in blocks(page, "pycon"):
        example = DocTestParser().get_doctest(block, {}, page.name, str(page), 0)
        assert example.examples
        assert DocTestRunner().run(example).failed == 0


def test_all_examples_in_pages_are_in_blocks_that_run():
    assert sum(page.read_text(encoding="utf-8").count(">>> ") for page in PAGES) == sum(
        block.count(">>> ") for page in PAGES for block in blocks(page, "pycon")
    )
