"""The command line, called as a user does: from fit to predictions, and every mistake that should be named."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
import yaml

from mner.cli import main
from mner.data.formats.predictions import read_predictions
from mner.labels import bio_labels
from mner.runtime import slow_bfloat16
from tests.tiny_sets import copy_of, save_small_bert, write_regions, write_twitter

README = Path(__file__).parents[2] / "README.md"
QUIET = ("--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false")
TEXT = ("--model=TextOnly", "--model.text_encoder=bert")
DATA = ("--data=Twitter2017DataModule", "--data.root=data", "--data.batch_size=3")
IMAGES = ("--model.image_encoder=test_resnet", "--model.image_weights=null", "--data.images=images")
SMALL = "--data.image_size=32"


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A user's folder: data, an encoder, and a fusion of their own (the README's)."""
    folder = tmp_path_factory.mktemp("user")
    write_twitter(folder / "data")
    save_small_bert(folder / "bert")
    code = re.search(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL).group(1)
    assert "class GatedFusion" in code
    (folder / "my_fusion.py").write_text(code, encoding="utf-8")
    return folder


@pytest.fixture
def here(work, monkeypatch):
    monkeypatch.chdir(work)
    return work


@pytest.fixture(scope="module")
def fitted(work):
    """The folder of a finished run."""
    before = Path.cwd()
    os.chdir(work)
    try:
        cli = main(
            ["fit", *TEXT, "--model.head_learning_rate=0.05", *DATA, "--data.context=[captions.jsonl]", *QUIET,
             "--trainer.max_epochs=6", "--seed_everything=3", "--trainer.default_root_dir=run"]
        )  # fmt: skip
    finally:
        os.chdir(before)
    assert cli != 2
    return Path(cli.trainer.log_dir)


@pytest.fixture
def best(fitted, here):
    return str(fitted / "checkpoints" / "best.ckpt")


def fails(capsys, *args):
    """The one line that a command ends with."""
    capsys.readouterr()
    assert main(list(args)) == 2
    captured = capsys.readouterr()
    line = captured.err.strip().splitlines()[-1]
    assert line.startswith(f"mner {args[0]}: ")
    assert "Traceback" not in captured.err
    return line


def test_fit_keeps_the_best_checkpoint_and_says_so(work, monkeypatch, capsys):
    monkeypatch.chdir(work)
    cli = main(["fit", *TEXT, *DATA, *QUIET, "--trainer.max_epochs=2", "--trainer.default_root_dir=run1"])
    out = capsys.readouterr().out
    folder = Path(cli.trainer.log_dir) / "checkpoints"
    assert {path.name for path in folder.glob("[!.]*")} == {"best.ckpt", "last.ckpt"}
    assert re.search(r"Best valid F1: \d+\.\d\d", out)
    assert f"Checkpoint: {folder / 'best.ckpt'}" in out
    assert re.search(r"train [0-9a-f]{16}, valid [0-9a-f]{16}", out)
    assert cli.trainer.gradient_clip_val == 1.0
    command = re.search(r"Next: mner (.*)", out).group(1)
    assert main([*command.split(), *QUIET]) != 2, "what it says comes next works"
    assert "SpanF1 and seqeval agree." in capsys.readouterr().out


def scores(table):
    """Lenient and strict precision, recall, F1 by row of the printed table."""
    rows = re.findall(r"^(\w+)((?: +\d+\.\d\d){6})$", table, re.MULTILINE)
    return {name: [float(value) for value in values.split()] for name, values in rows}


def test_validate(best, fitted, capsys):
    capsys.readouterr()
    cli = main(["validate", "--config", str(fitted / "config.yaml"), "--ckpt_path", best, *QUIET])
    out = capsys.readouterr().out
    assert set(scores(out)) == {"PER", "LOC", "ORG", "MISC", "all"}
    assert "lenient" in out
    assert "strict" in out
    stored = torch.load(best, weights_only=True)["callbacks"]
    score = next(state["best_model_score"] for name, state in stored.items() if "BestByF1" in name)
    assert scores(out)["all"][2] == pytest.approx(100 * float(score), abs=0.01)
    assert float(cli.trainer.callback_metrics["val/f1"]) == pytest.approx(float(score))


def test_test_reports_per_type_both_modes_and_seqeval(best, fitted, capsys):
    capsys.readouterr()
    cli = main(["test", "--config", str(fitted / "config.yaml"), "--ckpt_path", best, *QUIET])
    out = capsys.readouterr().out
    table = scores(out)
    metrics = cli.trainer.callback_metrics
    assert set(table) == {"PER", "LOC", "ORG", "MISC", "all"}
    for name, row in table.items():
        keys = [f"test/{mode}{'' if name == 'all' else name + '/'}" for mode in ("", "strict/")]
        logged = [100 * float(metrics[key + part]) for key in keys for part in ("precision", "recall", "f1")]
        assert row == pytest.approx(logged, abs=0.006)
    assert table["all"][2] > 0
    micro = re.search(r"micro avg +([\d.]+) +([\d.]+) +([\d.]+)", out)
    assert [100 * float(value) for value in micro.groups()] == pytest.approx(table["all"][:3], abs=0.01)
    assert "SpanF1 and seqeval agree." in out


def test_test_takes_the_model_from_the_checkpoint(best, fitted, capsys):
    main(["test", "--config", str(fitted / "config.yaml"), "--ckpt_path", best, *QUIET])
    expected = scores(capsys.readouterr().out)
    cli = main(["test", "--ckpt_path", best, *DATA, "--data.context=[captions.jsonl]", *QUIET])
    assert scores(capsys.readouterr().out) == expected
    assert cli.model.hparams["head_learning_rate"] == 0.05


def test_a_checkpoint_does_not_say_where_the_data_are(best, capsys):
    line = fails(capsys, "test", "--ckpt_path", best, *QUIET)
    assert "--data Twitter2017DataModule --data.root" in line


def test_an_untrained_model_is_told(here, caplog):
    main(["validate", *TEXT, *DATA, *QUIET])
    assert "No --ckpt_path was given" in caplog.text


def test_posts_without_gold_cannot_be_scored(best, work, tmp_path, capsys):
    root = copy_of(work / "data", tmp_path / "data")
    (root / "test.txt").unlink()
    (root / "test.jsonl").write_text('{"id": "x", "image_id": "2000", "tokens": ["Anna", "sings"]}\n')
    data = (DATA[0], f"--data.root={root}")
    assert "Expected gold tags" in fails(capsys, "test", f"--ckpt_path={best}", *data, *QUIET)
    main(["predict", f"--ckpt_path={best}", *data, *QUIET, f"--output={tmp_path / 'out.jsonl'}"])
    (post,) = read_predictions(tmp_path / "out.jsonl").posts
    assert post.gold is None
    assert post.words == ("Anna", "sings")


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true"])
def test_half_precision(here, precision):
    """The store's float16, the model's bfloat16 and the CRF's float32 meet."""
    model = ("--model=VisualAttention", "--model.text_encoder=bert", "--data.features=regions")
    cli = main(["fit", *model, *DATA, *QUIET, f"--trainer.precision={precision}", "--trainer.fast_dev_run=true"])
    assert cli.trainer.callback_metrics["train/loss"].isfinite()


def test_half_precision_that_is_slower_is_told(here, monkeypatch, caplog):
    args = ["fit", *TEXT, *DATA, *QUIET, "--trainer.fast_dev_run=true", "--trainer.precision=bf16-mixed"]
    for slow in (True, False):
        caplog.clear()
        monkeypatch.setattr("mner.cli.lightning.slow_bfloat16", lambda device, slow=slow: slow)
        main(args)
        assert ("no instructions for bfloat16" in caplog.text) is slow
    monkeypatch.undo()
    monkeypatch.chdir(here)
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    assert slow_bfloat16(torch.device("cpu"))
    assert not slow_bfloat16(torch.device("meta"))


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["cp932", "ascii"])
def test_standard_output_of_other_encodings(here, tmp_path, encoding):
    """Training with its progress bar, and posts with letters that the encoding lacks."""
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    args = ["fit", *TEXT, *DATA, "--trainer.accelerator=cpu", "--trainer.max_epochs=1"]
    for command in ([*args, f"--trainer.default_root_dir={tmp_path}"], ["data", "stats", "data"]):
        run = [sys.executable, "-m", "mner", *command]
        done = subprocess.run(run, capture_output=True, env=environment, check=False)
        assert done.returncode == 0, done.stderr.decode(encoding, "replace")


def test_stored_features_take_the_place_of_the_image_encoder(here, tmp_path):
    """What the configs with an image encoder say of `mner features`."""
    store = ["--encoder=test_resnet", "--weights=random", "--num_workers=0", f"--out={tmp_path / 'grid'}"]
    main(["features", "--images=data/images", *store])
    config = README.parent / "examples" / "configs" / "twitter2017" / "exp2.2_bert_vam_crf.yaml"
    instead = ["--model.image_encoder=null", "--data.images=null", f"--data.features={tmp_path / 'grid'}"]
    mine = ["--model.text_encoder=bert", "--data.root=data", *QUIET, "--trainer.fast_dev_run=true"]
    cli = main(["fit", f"--config={config}", *instead, *mine])
    assert cli.model.region_width == cli.datamodule.store.width
    assert cli.model.image_encoder is None


def test_other_text_settings_than_in_training_are_told(best, caplog):
    main(["test", f"--ckpt_path={best}", *DATA, "--data.replace_urls=URL", *QUIET])
    assert "context: the checkpoint was trained with ['captions'], now it is []" in caplog.text
    assert "replace_urls: the checkpoint was trained with None, now it is 'URL'" in caplog.text


def test_another_class_than_the_checkpoints_is_refused(best, capsys):
    model = ("--model=VisualAttention", *IMAGES, "--model.text_encoder=bert")
    assert "written by mner.fusion.TextOnly" in fails(capsys, "test", f"--ckpt_path={best}", *model, *DATA, *QUIET)


def test_other_arguments_than_the_checkpoints_are_told(best, caplog):
    cli = main(["test", f"--ckpt_path={best}", *TEXT, "--model.constrain=false", *DATA, *QUIET])
    assert "model.constrain: False, where the checkpoint was made with True" in caplog.text
    assert not cli.model.hparams["constrain"]


def test_other_labels_than_the_checkpoints_are_refused(best, work, capsys):
    if not (work / "other").exists():
        write_twitter(work / "other", other="OTHER")
    data = ("--data=Twitter2015DataModule", "--data.root=other")
    line = fails(capsys, "test", f"--ckpt_path={best}", *data, *QUIET)
    assert "'MISC'" in line
    assert "'OTHER'" in line


def test_predict_to_the_standard_output_and_over_no_file_of_others(best, fitted, work, capsysbinary):
    args = ["predict", "--config", str(fitted / "config.yaml"), f"--ckpt_path={best}", "--split=valid", *QUIET]
    main([*args, "--output=file.jsonl"])
    capsysbinary.readouterr()
    main([*args, "--output=-"])
    assert capsysbinary.readouterr().out == (work / "file.jsonl").read_bytes()
    assert not (work / "-").exists()
    for content in ("my notes", '{"id": "1", "tokens": ["a"]}\n'):
        (work / "mine.jsonl").write_text(content)
        assert main([*args, "--output=mine.jsonl"]) == 2
        assert (work / "mine.jsonl").read_text() == content
    before = Path(best).read_bytes()
    assert main([*args, f"--output={best}"]) == 2
    assert Path(best).read_bytes() == before


def test_predict_writes_a_file_that_can_be_read(best, fitted, work, capsys):
    args = ["--config", str(fitted / "config.yaml"), f"--ckpt_path={best}", "--output=out.jsonl", "--split=valid"]
    cli = main(["predict", *args, *QUIET, "--seed_everything=9"])
    assert "6 posts of valid written to out.jsonl" in capsys.readouterr().out
    found = read_predictions("out.jsonl")
    header = found.header
    assert header["model"] == "mner.fusion.TextOnly"
    assert header["checkpoint"] == "best.ckpt"
    assert (header["split"], header["data"]) == ("valid", "Twitter2017DataModule")
    assert header["fingerprint"] == cli.datamodule.fingerprints["valid"]
    assert header["labels"] == bio_labels(["PER", "LOC", "ORG", "MISC"])
    assert header["seed"] == 3, "the seed of the training run"
    assert header["context"] == ["captions"]
    assert header["versions"]["torch"] == str(torch.__version__)
    assert header["versions"]["mner"]
    assert [post.id for post in found.posts] == [f"100{row}" for row in range(6)], "the order of the file"
    assert [post.words for post in found.posts] == [post.words for post in cli.datamodule.datasets["valid"].examples]
    entities = [entity for post in found.posts for entity in post.entities]
    assert entities
    assert all(0 < entity.score <= 1 for entity in entities)
    assert all(post.gold is not None for post in found.posts)


def test_resume_goes_on_in_the_same_folder(work, fitted, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(work)
    args = ["fit", *TEXT, *DATA, *QUIET, f"--trainer.default_root_dir={tmp_path}"]
    first = main([*args, "--trainer.max_epochs=2"])
    last = Path(first.trainer.log_dir) / "checkpoints" / "last.ckpt"
    steps = torch.load(last, weights_only=True)["global_step"]
    cli = main([*args, "--trainer.max_epochs=3", f"--ckpt_path={last}"])
    assert cli.trainer.current_epoch == 3
    assert steps == 4, "the last epoch is kept, whether it was the best or not"
    assert cli.trainer.global_step == 6
    assert torch.load(last, weights_only=True)["epoch"] == 2, "the same file goes on"
    assert {path.name for path in last.parent.glob("[!.]*")} <= {"best.ckpt", "best-v1.ckpt", "last.ckpt"}
    assert str(last.parent) in capsys.readouterr().out


class StopEarly(pl.Callback):
    """An interruption after the second epoch."""

    def on_train_epoch_end(self, trainer, pl_module):
        trainer.should_stop = trainer.current_epoch == 1


def test_resumed_training_equals_training_without_a_break(here, tmp_path):
    save_small_bert(tmp_path / "bert", dropout=0.0)  # dropout would draw other numbers
    model = ("--model=TextOnly", f"--model.text_encoder={tmp_path / 'bert'}", "--model.dropout=0")
    args = ["fit", *model, *DATA, *QUIET, "--trainer.max_epochs=4", "--model.learning_rate=1e-3"]
    whole = main([*args, f"--trainer.default_root_dir={tmp_path / 'whole'}"])
    args += [f"--trainer.default_root_dir={tmp_path / 'broken'}"]
    broken = main([*args, f"--trainer.callbacks={__name__}.StopEarly"])
    assert broken.trainer.current_epoch == 2
    last = Path(broken.trainer.log_dir) / "checkpoints" / "last.ckpt"
    resumed = main([*args, f"--ckpt_path={last}"])
    assert whole.trainer.global_step == resumed.trainer.global_step
    torch.testing.assert_close(resumed.model.state_dict(), whole.model.state_dict(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["mner.fusion.TextOnly", "TextOnly"])
def test_class_names_short_and_long(here, name):
    cli = main(["fit", f"--model={name}", *TEXT[1:], *DATA, *QUIET, "--trainer.fast_dev_run=true"])
    assert type(cli.model).__name__ == "TextOnly"


def test_a_fusion_of_ones_own(here, tmp_path, capsys):
    """README's eight lines, in the current folder, from fit to test."""
    model = ("--model=my_fusion.GatedFusion", "--model.text_encoder=bert", *IMAGES, SMALL)
    args = [*model, *DATA, *QUIET, "--trainer.max_epochs=1", f"--trainer.default_root_dir={tmp_path}"]
    cli = main(["fit", *args])
    best = cli.trainer.checkpoint_callback.best_model_path
    tested = main(["test", f"--ckpt_path={best}", *DATA, "--data.images=images", SMALL, *QUIET])
    assert type(tested.model).__module__ == "my_fusion"
    assert "SpanF1 and seqeval agree." in capsys.readouterr().out


@pytest.mark.slow
def test_the_script_sees_the_current_folder(here):
    """In a process of its own, in which nothing has put the current folder on the path."""
    model = ["--model=my_fusion.GatedFusion", "--model.text_encoder=bert", *IMAGES, SMALL]
    done = subprocess.run(
        [sys.executable, "-P", "-m", "mner", "fit", *model, *DATA, *QUIET, "--trainer.fast_dev_run=true"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    said = done.stderr + done.stdout
    noise = (
        "litlogger",
        "LeafSpec",
        "num_workers",
        "eval mode",
        "estimate number",
        "TPU",
        "deprecat",
        "args parameter",
    )
    assert [word for word in noise if word in said] == []
    wrong = subprocess.run(
        [sys.executable, "-m", "mner", "fit", *TEXT, "--data=Twitter2017DataModule", "--data.root=nowhere"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert wrong.returncode == 2
    assert wrong.stderr.splitlines()[-1].startswith("mner fit: Expected a folder with posts, but there is none at ")


def test_a_class_of_ones_own_is_found_with_a_config_in_another_folder(tmp_path, monkeypatch, capsys):
    """While a config is read, the current folder is that of the config."""
    (tmp_path / "own_posts.py").write_text(
        "from mner.data import MNERDataModule\n\n\nclass Own(MNERDataModule):\n    types = ('PER',)\n", encoding="utf-8"
    )
    (tmp_path / "run").mkdir()
    (tmp_path / "run/config.yaml").write_text(
        "model: {class_path: TextOnly}\ndata: {class_path: own_posts.Own, init_args: {root: data}}\n", encoding="utf-8"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    with pytest.raises(SystemExit) as end:
        main(["test", "--config", "run/config.yaml", "--print_config"])
    assert end.value.code == 0
    assert "own_posts.Own" in capsys.readouterr().out


def test_print_config(here, capsys):
    with pytest.raises(SystemExit) as exit_:
        main(["fit", *TEXT, *DATA, "--data.train_fraction=0.5", "--print_config"])
    assert exit_.value.code in (0, None)
    config = yaml.safe_load(capsys.readouterr().out)
    assert config["model"]["class_path"] == "mner.fusion.TextOnly"
    assert config["data"]["init_args"]["train_fraction"] == 0.5
    assert config["trainer"]["gradient_clip_val"] == 1.0
    assert "labels" not in config["model"]["init_args"]


def test_the_saved_config_repeats_the_run_and_test_leaves_it_alone(best, fitted, work, tmp_path):
    saved = fitted / "config.yaml"
    before = saved.read_bytes()
    config = yaml.safe_load(before)
    assert config["model"]["init_args"]["head_learning_rate"] == 0.05
    main(["fit", "--config", str(saved), f"--trainer.default_root_dir={tmp_path}", "--trainer.fast_dev_run=true"])
    folders = {path for path in work.rglob("version_*")}
    for command in ("validate", "test", "predict"):
        main([command, "--config", str(saved), f"--ckpt_path={best}", "--trainer.default_root_dir", str(fitted)])
    assert saved.read_bytes() == before
    assert {path for path in work.rglob("version_*")} == folders, "evaluation leaves no folder behind"


@pytest.mark.parametrize(
    ("argument", "source"),
    [
        ("--data.text_encoder=other", "model.text_encoder"),
        ("--data.init_args.image_encoder=resnet18", "model.image_encoder"),
        ("--model.labels=[O,B-X,I-X]", "the data module"),
        ("--model.region_width=7", "the stored features"),
    ],
)
def test_a_value_for_a_linked_argument_is_not_dropped(here, capsys, argument, source):
    line = fails(capsys, "fit", *TEXT, *DATA, argument, *QUIET, "--trainer.fast_dev_run=true")
    assert f"always comes from {source}" in line


@pytest.mark.parametrize("nested", [False, True])
def test_nor_in_a_config_file(here, capsys, tmp_path, nested):
    part = {"class_path": "Twitter2017DataModule", "init_args": {"root": "data", "text_encoder": "other"}}
    if nested:
        (tmp_path / "data.yaml").write_text(yaml.safe_dump(part))
    config = {"model": {"class_path": "TextOnly"}, "data": "data.yaml" if nested else part}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    line = fails(capsys, "fit", f"--config={tmp_path / 'config.yaml'}")
    assert "data.text_encoder was given" in line


def test_data_that_are_not_there(here, capsys):
    line = fails(capsys, "fit", *TEXT, DATA[0], "--data.root=nowhere", *QUIET)
    assert str(here / "nowhere") in line


def test_a_bad_tag_is_named_with_file_and_line(here, capsys, tmp_path):
    root = copy_of(here / "data", tmp_path / "data")
    text = (root / "train.txt").read_text(encoding="utf-8").replace("Lagos\tB-LOC", "Lagos\tLOC")
    (root / "train.txt").write_text(text, encoding="utf-8")
    number = text.split("\n").index("Lagos\tLOC") + 1
    line = fails(capsys, "fit", *TEXT, DATA[0], f"--data.root={root}", *QUIET)
    assert f"train.txt:{number}: found" in line


def test_entity_types_of_another_data_set(here, capsys):
    line = fails(capsys, "fit", *TEXT, "--data=Twitter2015DataModule", "--data.root=data", *QUIET)
    assert "['B-MISC']" in line
    assert "OTHER" in line


def test_an_encoder_that_is_not_there(here, capsys):
    assert "./nowhere" in fails(capsys, "fit", "--model=TextOnly", "--model.text_encoder=./nowhere", *DATA, *QUIET)
    line = fails(capsys, "fit", "--model=TextOnly", "--model.text_encoder=nobody/nothing", *DATA, *QUIET)
    assert "transformers model at 'nobody/nothing'" in line


def test_a_checkpoint_that_is_not_there(here, capsys):
    assert "No checkpoint at 'gone.ckpt'" in fails(capsys, "test", *TEXT, *DATA, "--ckpt_path=gone.ckpt")
    assert "No checkpoint at 'gone.ckpt'" in fails(capsys, "test", *DATA, "--ckpt_path=gone.ckpt")


def test_a_strategy_that_uses_images_gets_some(here, capsys):
    """Peers train on text alone then and say nothing."""
    model = ("--model=VisualAttention", "--model.text_encoder=bert")
    encoder = IMAGES[:2]
    line = fails(capsys, "fit", *model, *encoder, *DATA, *QUIET)
    assert "VisualAttention uses images, but Twitter2017DataModule has none" in line
    line = fails(capsys, "fit", *model, *DATA, *QUIET)
    assert "neither `image_encoder`" in line
    line = fails(capsys, "fit", *model, *DATA, "--data.images=images", *QUIET)
    assert "Got images='images' without `image_encoder`" in line
    line = fails(capsys, "fit", *model, *encoder, *DATA, "--data.features=regions", *QUIET)
    assert "stored features beside image_encoder='test_resnet'" in line
    line = fails(capsys, "fit", *model, *encoder, *DATA, "--data.images=nowhere", *QUIET)
    assert "No images at" in line


def test_a_strategy_that_uses_none_says_so(here, capsys, caplog):
    main(["fit", *TEXT, *DATA, "--data.features=regions", *QUIET, "--trainer.fast_dev_run=true"])
    assert "TextOnly uses no images, so features of the data module is of no use" in caplog.text
    assert "uses no image" in fails(capsys, "fit", *TEXT, *IMAGES, *DATA, *QUIET)


def test_stored_features_that_do_not_fit_are_refused_before_anything_runs(here, capsys, tmp_path):
    model = ("--model=VisualAttention", "--model.text_encoder=bert")
    args = [*model, *DATA, "--data.features=regions", *QUIET, "--trainer.max_epochs=1"]
    best = main(["fit", *args, f"--trainer.default_root_dir={tmp_path}"]).trainer.checkpoint_callback.best_model_path
    write_regions(tmp_path / "wider", [here / "data" / "images"], width=30)
    write_regions(tmp_path / "other", [here / "data" / "images"], encoder="another detector")
    assert main(["test", f"--ckpt_path={best}", *DATA, "--data.features=regions", *QUIET]) != 2
    line = fails(capsys, "test", f"--ckpt_path={best}", *DATA, f"--data.features={tmp_path / 'wider'}", *QUIET)
    assert "width" in line
    assert "30" in line
    line = fails(capsys, "test", f"--ckpt_path={best}", *DATA, f"--data.features={tmp_path / 'other'}", *QUIET)
    assert "another detector" in line
    line = fails(capsys, "test", f"--ckpt_path={best}", *DATA, *QUIET)
    assert "VisualAttention uses images" in line


def test_an_interrupted_extraction_is_no_store(here, capsys, tmp_path):
    root = copy_of(here / "data", tmp_path / "data")
    shutil.rmtree(root / "regions")
    model = ("--model=VisualAttention", "--model.text_encoder=bert", DATA[0], f"--data.root={root}")
    assert "No stored features at" in fails(capsys, "fit", *model, "--data.features=regions", *QUIET)


def test_unknown_commands_and_help(capsys):
    assert main(["train"]) == 2
    assert "no command 'train'" in capsys.readouterr().err
    assert main([]) == 0
    assert "fit" in capsys.readouterr().out
    assert main(["--version"]) == 0


def test_a_users_own_error_keeps_its_traceback(here, tmp_path, monkeypatch):
    code = (
        "from mner.fusion import TextOnly\nclass Faulty(TextOnly):\n    def fuse(self, *args):\n        return int('x')"
    )
    (tmp_path / "faulty_fusion.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    args = ["fit", "--model=faulty_fusion.Faulty", "--model.text_encoder=bert", *DATA, *QUIET]
    with pytest.raises(ValueError, match="invalid literal"):
        main([*args, "--trainer.fast_dev_run=true"])


def test_configs_name_every_callback_of_the_library():
    """In a process of its own: jsonargparse finds a short name only where its class was imported."""
    script = """
import mner.cli.lightning
from pytorch_lightning.callbacks import Callback
def below(cls):
    return {cls.__name__}.union(*map(below, cls.__subclasses__()))
found = below(Callback)
import mner.training
ours = [getattr(mner.training, name) for name in mner.training.__all__]
print(sorted({one.__name__ for one in ours if issubclass(one, Callback)} - found), len(ours))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    missing, _, count = done.stdout.strip().rpartition(" ")
    assert (missing, int(count) > 10) == ("[]", True)
