"""Every config of `examples/` is run on tiny parts; each row of the paper's Table 1 has one for each data set."""

from __future__ import annotations

import inspect
import re
import shlex
import shutil
from importlib import import_module
from pathlib import Path

import pytest
import yaml

from mner.cli.main import COMMANDS, LIGHTNING, main
from mner.data import MNERDataModule
from mner.fusion import FusionModule
from tests.tiny_sets import save_small_bert, save_visual_bert, write_lines, write_snapchat, write_twitter

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
every = pytest.mark.parametrize("path", CONFIGS, ids=lambda path: str(path.relative_to(EXAMPLES).with_suffix("")))


def read(path: Path) -> dict:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


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
    return root


@pytest.mark.slow
@every
def test_config_runs(path, folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    monkeypatch.setenv("MNER_CACHE", str(folder / "cache"))
    config = read(path)
    model, data = config["model"]["init_args"], config["data"]["init_args"]
    arguments = ["--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false"]
    arguments += ["--trainer.enable_model_summary=false", "--data.batch_size=3", "--data.num_workers=0"]
    if model["text_encoder"] != "tiny":
        arguments += [f"--model.text_encoder={'visualbert' if 'visualbert' in model['text_encoder'] else 'bert'}"]
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
    cli = main(["fit", "--config", str(path), *arguments, "--trainer.fast_dev_run=true"])
    assert cli != 2, capsys.readouterr().err
    assert type(cli.model).__name__ == config["model"]["class_path"]
    assert cli.trainer.global_step == 1
    assert cli.trainer.callback_metrics["train/loss"].isfinite()
    assert "val/f1" in cli.trainer.callback_metrics
    batch = next(iter(cli.datamodule.train_dataloader()))
    assert ("image" in batch) == ("images" in data)
    assert ("regions" in batch) == ("features" in data)
    assert bool(batch["segment_ids"].any()) == ("context" in data)


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


@every
def test_nothing_is_named_that_is_not_there(path):
    """Each option is one of its class, so that a config says what it does (jsonargparse checks it when run)."""
    config = read(path)
    known = {"seed_everything", "model", "data", "trainer", "checkpoint"}
    assert set(config) <= known
    for part, base, module in (("model", FusionModule, "mner.fusion"), ("data", MNERDataModule, "mner.data")):
        cls = getattr(import_module(module), config[part]["class_path"])
        assert issubclass(cls, base)
        accepted = {name for parent in cls.__mro__ if parent.__module__.startswith("mner.")
                    for name in inspect.signature(parent.__init__).parameters}  # fmt: skip
        assert set(config[part]["init_args"]) <= accepted


@every
def test_commands_in_comments_exist(path):
    comments = re.findall(r"^# (?:First[^:]*: )?(mner .*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    config = read(path)
    made = "features" in config["data"]["init_args"] or "captions.jsonl" in str(config["data"]["init_args"])
    assert not made or comments, "a config that needs a command first must name it"
    for comment in comments:
        command, *arguments = shlex.split(comment)[1:]
        if command in LIGHTNING:
            assert (EXAMPLES.parent / arguments[arguments.index("--config") + 1]).is_file()
            continue
        module, _, name = COMMANDS[command][0].partition(":")
        parameters = inspect.signature(getattr(import_module(module), name)).parameters
        options = {argument[2:] for argument in arguments if argument.startswith("--")}
        assert options <= set(parameters)
        needed = {name for name, parameter in parameters.items() if parameter.default is parameter.empty}
        assert needed <= options
        out = arguments[arguments.index("--out") + 1]
        root, inputs = config["data"]["init_args"]["root"], config["data"]["init_args"]
        named = inputs.get("features") or inputs["context"][0]
        assert out == f"{root}/{named}"
