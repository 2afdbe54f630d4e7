"""Every config of `examples/` is run on tiny parts, and its checkpoint tags; each system has one for each data set."""

from __future__ import annotations

import inspect
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import warnings
from importlib import import_module
from pathlib import Path

import pytest
import yaml

from mner.cli.main import COMMANDS, LIGHTNING, POSITIONAL, main
from mner.data import MNERDataModule
from mner.fusion import FusionModule
from mner.tagger.tagger import Tagger
from tests.tagger.test_onnx import REFUSED
from tests.tiny_sets import save_lxmert, save_small_bert, save_visual_bert, write_lines, write_snapchat, write_twitter

EXAMPLES = Path(__file__).parents[2] / "examples"
CONFIGS = sorted(EXAMPLES.glob("**/*.yaml"))
DATA_SETS = ("snapchat", "twitter2015", "twitter2017")
TABLE_1 = {
    "exp1.1_bert_crf": ("TextOnly", "bert-base-uncased", None),
    "exp1.2_visualbert_crf": ("TextOnly", "uclanlp/visualbert-nlvr2-coco-pre", None),
    "exp2.1_bert_cm_crf": ("Concatenation", "bert-base-uncased", "images"),
    "exp2.2_bert_vam_crf": ("VisualAttention", "bert-base-uncased", "images"),
    "exp2.3_bert_cam_crf": ("CoAttention", "bert-base-uncased", "images"),
    "exp3.1_visualbert_tam_crf": ("TransformerAttention", "uclanlp/visualbert-nlvr2-coco-pre", "features"),
    "exp4.1_bert_crf_captions": ("TextOnly", "bert-base-uncased", "context"),
    "exp4.2_visualbert_crf_captions": ("TextOnly", "uclanlp/visualbert-nlvr2-coco-pre", "context"),
    "yu2020_umt": ("UnifiedMultimodalTransformer", "bert-base-cased", "images"),
}
CITED = {
    "moon2018_modality_attention": ("ModalityAttention", "vocabulary/words", "images"),
    "lu2018_visual_attention": ("VisualAttention", "vocabulary/bilstm_lstm", "images"),
    "zhang2018_co_attention": ("CoAttention", "vocabulary/cnn_lstm", "images"),
    "arshad2019_visually_aided_attention": ("VisuallyAidedAttention", "vocabulary/cnn", "images"),
    "asgari2020_cwi": ("CharacterWordImage", "vocabulary/words", "images"),
    "asgari2020_cwi_bert": ("TransformerAttention", "bert-base-uncased", "images"),
    "zheng2020_agban": ("ObjectAware", "vocabulary/bilstm_lstm", "features"),
    "wu2020_ocsga": ("GuidingObjects", "vocabulary/bilstm_lstm", "features"),
    "sun2020_riva": ("RelationInference", "bert-base-uncased", "images"),
    "sun2021_rpbert_soft": ("RelationPropagation", "bert-base-uncased", "images"),
    "sun2021_rpbert_hard": ("RelationPropagation", "bert-base-uncased", "images"),
    "sun2021_rpbert_none": ("RelationPropagation", "bert-base-uncased", "images"),
    "lu2019_vilbert": ("TwoStream", "bert-base-uncased", "features"),
    "tan2019_lxmert": ("CrossModalEncoder", "unc-nlp/lxmert-base-uncased", "features"),
}
"""Systems that the paper cites; those on word vectors name a folder in the data set's."""
EXPORTED = ("asgari2020_cwi", "lu2018_visual_attention", "zhang2018_co_attention")
"""One on each kind of word vectors (the fourth kind is of a strategy that is refused)."""

RECIPES = EXAMPLES / "recipes"

every = pytest.mark.parametrize("path", CONFIGS, ids=lambda path: str(path.relative_to(EXAMPLES).with_suffix("")))


def read(path: Path) -> dict:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def commands(path: Path) -> list[list[str]]:
    """The commands in the comments of a config, as arguments of `main`."""
    comments = re.findall(r"^# (?:First[^:]*: )?(mner .*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return [shlex.split(comment)[1:] for comment in comments]


def is_vocabulary(encoder: str) -> bool:
    return "/vocabulary/" in encoder


@pytest.fixture(scope="module")
def folder(tmp_path_factory, bert_folder):
    """A working folder in which the configs find `data/<set>` where they say."""
    root = tmp_path_factory.mktemp("work")
    write_twitter(root / "data" / "twitter2015", other="OTHER")
    write_twitter(root / "data" / "twitter2017")
    write_snapchat(root / "data" / "snapchat")
    for store in root.glob("data/*/regions"):
        for name in ("pyramid", "crops"):
            shutil.copytree(store, store.with_name(name))
    for data in (root / "data").iterdir():
        images = [path.name for path in data.glob("images/**/*.*")]
        for name in ("text", "image"):
            lines = [{"image_id": image, "text": f"found by {name}"} for image in images]
            write_lines(data / f"retrieved_by_{name}.jsonl", lines)
    save_small_bert(root / "bert")
    save_small_bert(root / "deep", layers=2)
    save_visual_bert(root / "visualbert", bert_folder)
    save_lxmert(root / "lxmert", bert_folder)
    (root / "glove.twitter.27B.200d.txt").write_text("in 0.1 0.2 0.3 0.4\nvisits 0.3 -0.2 0.1 0\n", encoding="utf-8")
    return root


@pytest.fixture
def at_work(folder, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.setenv("MNER_CACHE", str(folder / "cache"))
    return folder


def parts_of(config: dict) -> list[dict]:
    """The data sets of a config: one, or those that are trained on together."""
    data = config["data"]
    return list(data["init_args"]["data"].values()) if data["class_path"] == "JointDataModule" else [data]


def small_parts(config: dict) -> list[str]:
    """Options that put tiny parts in place of those that a config names."""
    model, data = config["model"]["init_args"], config["data"]["init_args"]
    arguments = ["--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false"]
    arguments += ["--trainer.enable_model_summary=false", "--data.num_workers=0"]
    arguments += ["--data.batch_size=3"] if len(parts_of(config)) == 1 else []
    if model["text_encoder"] != "tiny" and not is_vocabulary(model["text_encoder"]):
        kind = next((kind for kind in ("visualbert", "lxmert") if kind in model["text_encoder"]), "bert")
        arguments += [f"--model.text_encoder={kind}"]
    if "start_layer" in model:
        arguments += ["--model.text_encoder=deep", "--model.start_layer=1"]
    if "tokenizer" in data:
        arguments += ["--data.tokenizer=bert"]
    if "image_encoder" in model:
        arguments += ["--model.image_encoder=test_resnet", "--model.image_weights=null", "--data.image_size=32"]
    if config["data"]["class_path"] == "SampleDataModule":
        arguments += ["--data.train=30"]
    if "devices" in config["trainer"]:  # tests of several processes are elsewhere
        arguments += ["--trainer.devices=1", "--trainer.num_nodes=1", "--trainer.strategy=auto"]
    return arguments


def fit(path: Path, *more: str):
    """Train a config for a step, after the vocabulary or the teacher that it asks for, if it does and none is there."""
    config = read(path)
    for technique in config["trainer"].get("callbacks", []):
        teacher = Path(technique.get("init_args", {}).get("teacher", "."))
        if not teacher.exists():
            fit(RECIPES / "text.yaml").trainer.save_checkpoint(teacher)
    if is_vocabulary(encoder := config["model"]["init_args"]["text_encoder"]) and not Path(encoder).exists():
        (command,) = (command for command in commands(path) if command[0] == "vocabulary")
        assert main(command) == 0
    return main(["fit", "--config", str(path), *small_parts(config), "--trainer.fast_dev_run=true", *more])


def tag(checkpoint: Path, images: Path) -> list[dict]:
    """What `mner tag` says of two posts, the first with an image."""
    (checkpoint.parent / "posts.jsonl").write_text(
        json.dumps({"text": "Anna visits Lagos", "image": next(images.glob("**/*.jpg")).name}) + "\n"
        + json.dumps({"text": "nothing here"}) + "\n", encoding="utf-8"
    )  # fmt: skip
    out = checkpoint.with_suffix(".jsonl")
    arguments = ["--checkpoint", str(checkpoint), "--output", str(out), "--device=cpu", "--batch_size=2"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # nobody told a caption
        assert main(["tag", str(checkpoint.parent / "posts.jsonl"), "--images", str(images), *arguments]) == 0
    return [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]


def exports(checkpoint: Path, strategy: str) -> None:
    """What `mner export` makes of a checkpoint tags as it does, unless its strategy has inputs that a graph has not."""
    out = checkpoint.with_suffix(".onnx")
    done = main(["export", str(checkpoint), str(out)])
    assert (done == 2) == (strategy in REFUSED)
    if not done:
        posts = ["Anna visits Lagos", "nothing here"]
        one, other = Tagger.from_checkpoint(checkpoint, device="cpu"), Tagger.from_onnx(out)
        assert [post.tags for post in other(posts)] == [post.tags for post in one(posts)]


@pytest.mark.slow
@every
def test_config_runs_and_its_checkpoint_tags(path, at_work, tmp_path, capsys):
    config = read(path)
    data = config["data"]["init_args"]
    cli = fit(path)
    assert cli != 2, capsys.readouterr().err
    assert type(cli.model).__name__ == config["model"]["class_path"]
    assert cli.trainer.global_step == 1
    assert cli.trainer.callback_metrics["train/loss"].isfinite()
    assert "val/f1" in cli.trainer.callback_metrics
    batch = next(iter(cli.datamodule.train_dataloader()))
    assert ("image" in batch) == ("images" in data)
    assert ("regions" in batch) == ("features" in data)
    assert bool(batch["segment_ids"].any()) == ("context" in data)
    cli.trainer.save_checkpoint(tmp_path / "model.ckpt")
    images = at_work / "data" / (path.parent.name if path.parent.name in DATA_SETS else "twitter2017") / "images"
    found = tag(tmp_path / "model.ckpt", images)
    assert [len(post["tags"]) for post in found] == [3, 2]
    # tests/tagger/test_onnx.py exports every strategy on BERT; here each kind of vocabulary is once, of one data set.
    if path.parent.name == "twitter2017" and path.stem in EXPORTED:
        exports(tmp_path / "model.ckpt", type(cli.model).__name__)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options", "field"),
    [
        ("sun2020_riva", ["--model.relation_weight=1", "--data.relations=relations.tsv"], "relation"),
        ("sun2021_rpbert_soft", ["--model.relation_weight=0.05", "--data.relations=relations.tsv"], "relation"),
        ("wu2020_ocsga", ["--data.features=null", "--data.context=[tags.jsonl]"], "object_names"),
        ("lu2018_visual_attention", ["--model.text_encoder=bert", "--model.learning_rate=5e-5"], "token_ids"),
    ],
)
def test_what_comments_and_pages_offer_instead(name, options, field, at_work):
    root = at_work / "data" / "twitter2017"
    (root / "relations.tsv").write_text("0000\t0.8\n0001\t0.1\n", encoding="utf-8")
    write_lines(root / "tags.jsonl", [{"image_id": image_id, "text": "dog, old car"} for image_id in ("0000", "1000")])
    cli = fit(EXAMPLES / "configs" / "twitter2017" / f"{name}.yaml", *options)
    assert cli.trainer.callback_metrics["train/loss"].isfinite()
    assert field in next(iter(cli.datamodule.train_dataloader()))


@pytest.mark.parametrize("data_set", DATA_SETS)
def test_each_row_of_table_1_has_a_config(data_set):
    folder = EXAMPLES / "configs" / data_set
    assert {path.stem for path in folder.glob("*.yaml")} >= set(TABLE_1)
    for row, (model, encoder, inputs) in TABLE_1.items():
        config = read(folder / f"{row}.yaml")
        options = config["data"]["init_args"]
        assert config["model"]["class_path"] == model
        assert config["model"]["init_args"]["text_encoder"] == encoder
        assert config["data"]["class_path"].lower() == f"{data_set}datamodule"
        assert {key for key in ("images", "features", "context") if key in options} == ({inputs} if inputs else set())
        # The recipe of section 5.1
        arguments = config["model"]["init_args"]
        assert (arguments["learning_rate"], arguments["weight_decay"], arguments["dropout"]) == (5e-5, 0.01, 0.1)
        assert (options["batch_size"], config["trainer"]["gradient_clip_val"]) == (32, 1.0)


@pytest.mark.parametrize("data_set", DATA_SETS)
def test_each_cited_system_has_a_config(data_set):
    folder = EXAMPLES / "configs" / data_set
    assert {path.stem for path in folder.glob("*.yaml")} >= set(CITED)
    for system, (model, encoder, inputs) in CITED.items():
        config = read(folder / f"{system}.yaml")
        options = config["data"]["init_args"]
        assert config["model"]["class_path"] == model
        expected = f"data/{data_set}/{encoder}" if is_vocabulary(f"/{encoder}") else encoder
        assert config["model"]["init_args"]["text_encoder"] == expected
        assert {key for key in ("images", "features", "context") if key in options} == {inputs}
    kinds = {read(folder / f"{system}.yaml")["model"]["init_args"].get("propagation") for system in CITED}
    assert kinds == {None, "soft", "hard", "none"}


@pytest.mark.parametrize("name", [*TABLE_1, *CITED])  # of later systems, some have settings for each data set
def test_a_system_is_the_same_on_each_data_set(name):
    found = []
    for data_set in DATA_SETS:
        config = read(EXAMPLES / "configs" / data_set / f"{name}.yaml")
        encoder = config["model"]["init_args"]["text_encoder"].replace(data_set, "SET")
        batch_size = config["data"]["init_args"]["batch_size"]
        config["model"]["init_args"]["text_encoder"] = encoder
        found.append((config["model"], batch_size, config["seed_everything"]))
    assert found[0] == found[1] == found[2]


@every
def test_nothing_is_named_that_is_not_there(path):
    """Each option is one of its class, so that a config says what it does (jsonargparse checks it when run)."""
    config = read(path)
    known = {"seed_everything", "model", "data", "trainer", "checkpoint"}
    assert set(config) <= known
    named = [(part, MNERDataModule, "mner.data") for part in parts_of(config)]
    for part, base, module in ((config["model"], FusionModule, "mner.fusion"), *named):
        cls = getattr(import_module(module), part["class_path"])
        assert issubclass(cls, base)
        accepted = {name for parent in cls.__mro__ if parent.__module__.startswith("mner.")
                    for name in inspect.signature(parent.__init__).parameters}  # fmt: skip
        assert set(part["init_args"]) <= accepted


@every
def test_commands_in_comments_exist(path):
    config = read(path)
    inputs, encoder = config["data"]["init_args"], config["model"]["init_args"]["text_encoder"]
    named = [inputs["features"]] if "features" in inputs else []
    named += [name for name in inputs.get("context", []) if name == "captions.jsonl"]
    made = {f"{inputs['root']}/{name}" for name in named} | ({encoder} if is_vocabulary(encoder) else set())
    outs = set()
    for command, *arguments in commands(path):
        if command in LIGHTNING:
            config_file = arguments[arguments.index("--config") + 1]
            assert config_file == "quickstart" or (EXAMPLES.parent / config_file).is_file()
            continue
        module, _, name = COMMANDS[command][0].partition(":")
        parameters = inspect.signature(getattr(import_module(module), name)).parameters
        options = {argument[2:] for argument in arguments if argument.startswith("--")}
        assert options <= set(parameters)
        needed = {name for name, parameter in parameters.items() if parameter.default is parameter.empty}
        assert needed <= options or (command in POSITIONAL and len(needed) == 1 and not arguments[0].startswith("-"))
        outs.add(arguments[arguments.index("--out") + 1])
    assert outs == made, "what needs a command first is named with it, and nothing else is"


def test_recipes_differ_from_each_other_where_they_say_so():
    found = {path.stem: read(path) for path in RECIPES.glob("*.yaml")}
    large = {"xlm_roberta_large", "bertweet_large", "deberta_v3_large"}
    assert set(found) == {"text", "captions", "joint", "distilled"} | large
    for name, config in found.items():
        text = (RECIPES / f"{name}.yaml").read_text(encoding="utf-8")
        trainer = config["trainer"]
        assert f"recipes/{name}.yaml" in text
        assert trainer["logger"]["init_args"]["save_dir"] == f"recipe_{name}"
        first, *more = trainer["callbacks"]
        assert first == {"class_path": "AdversarialTraining", "init_args": {"norm": 1.0}}
        assert [one["class_path"] for one in more] == (["Distillation"] if name == "distilled" else [])
        for part in parts_of(config):
            posts = part["init_args"]["batch_size"] * trainer.get("accumulate_grad_batches", 1)
            assert (posts, trainer["max_epochs"]) == (32, 6)
        assert ("NOT RUN HERE" in text) == (name.endswith("_large")) == (trainer.get("accelerator") == "gpu")
    assert found["captions"]["model"] == found["distilled"]["model"] == found["text"]["model"]
    assert found["distilled"]["data"] == found["text"]["data"]
    assert found["joint"]["data"]["init_args"]["data"]["twitter2017"] == found["text"]["data"]
    assert found["captions"]["data"]["init_args"].pop("context") == ["captions.jsonl"]
    assert found["captions"]["data"] == found["text"]["data"]


def run_script(name: str, tmp_path: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A recipe's script, with `mner` and `python` as they are here."""
    tools = tmp_path / "bin"
    tools.mkdir()
    for command, module in (("mner", "-m mner"), ("python", "")):
        (tools / command).write_text(f'#!/bin/sh\nexec "{sys.executable}" {module} "$@"\n', encoding="utf-8")
        (tools / command).chmod(0o755)
    given = os.environ | {"PATH": f"{tools}{os.pathsep}{os.environ['PATH']}", **environment}
    given["PYTHONPATH"] = os.pathsep.join([str(EXAMPLES.parent), os.environ.get("PYTHONPATH", "")])
    options = [*small_parts(read(RECIPES / "text.yaml")), "--trainer.max_epochs=1", "--trainer.limit_train_batches=1"]
    command = ["sh", str(RECIPES / name), str(tmp_path / "out"), *arguments, *options]
    return subprocess.run(command, env=given, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_seeds_of_a_recipe_become_one_scored_checkpoint(at_work, tmp_path):
    done = run_script("ensemble.sh", tmp_path, SEEDS="0 1", SPLIT="test")
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("Best valid F1") == 2
    assert "2 models as one" in done.stdout
    assert type(Tagger.from_checkpoint(tmp_path / "out" / "ensemble.ckpt", device="cpu")).__name__ == "Tagger"
    assert "strict" in done.stdout.partition("2 models as one")[2]


@pytest.mark.slow
def test_a_small_model_learns_from_a_larger_one(at_work, tmp_path):
    done = run_script("distilled.sh", tmp_path, "deep", POSTS="data/twitter2015/train.txt")
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("Best valid F1") == 2
    teacher, student = (read(tmp_path / "out" / name / "version_0" / "config.yaml") for name in ("teacher", "student"))
    assert teacher["model"]["init_args"]["text_encoder"] == "deep"
    assert student["model"]["init_args"]["text_encoder"] == "bert"
    technique = student["trainer"]["callbacks"][-1]["init_args"]
    assert technique["teacher"] == str(tmp_path / "out" / "teacher" / "version_0" / "checkpoints" / "best.ckpt")
