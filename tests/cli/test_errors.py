"""What a user can cause is one line and an exit code, whichever command it is; a fault in code keeps its traceback."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch

import mner
from mner.cli import main
from mner.cli.errors import explain, guarded
from mner.cli.main import COMMANDS, LIGHTNING
from mner.cli.training_parser import BUNDLED, given_configs
from mner.errors import DataFormatError
from mner.fusion import FusionModule
from mner.runtime import pick_device
from tests.tiny_sets import save_small_bert, write_twitter

QUIET = ("--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false")
MODEL = ("--model=TextOnly", "--model.text_encoder=bert")
FIT = (*MODEL, "--data=Twitter2017DataModule", "--data.root=data", *QUIET, "--trainer.max_epochs=1")


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    folder = tmp_path_factory.mktemp("user")
    write_twitter(folder / "data")
    save_small_bert(folder / "bert")
    return folder


@pytest.fixture
def here(work, monkeypatch):
    monkeypatch.chdir(work)
    return work


@pytest.fixture
def checkpoint(here):
    """A model of text alone, without context."""
    place = here / "best.ckpt"
    if not place.exists():
        cli = main(["fit", *FIT, "--trainer.logger=false", "--checkpoint.dirpath=kept"])
        Path(cli.trainer.checkpoint_callback.best_model_path).rename(place)
    return str(place)


def line(capsys, *args, code=2):
    """The line that a command ends with, and nothing like a traceback before it."""
    capsys.readouterr()
    assert main(list(args)) == code
    said = capsys.readouterr().err
    assert "Traceback" not in said
    last = said.strip().splitlines()[-1]
    assert last.startswith(f"mner {args[0]}")
    return last


# What the system says


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EISDIR, errno.ENOTDIR])
def test_what_the_system_refuses_names_the_file(number, capsys):
    def refuse():
        raise OSError(number, os.strerror(number), "out/file.txt")

    assert guarded("caption", refuse) == 2
    assert capsys.readouterr().err == f"mner caption: {os.strerror(number)}: out/file.txt\n"


def test_a_file_of_the_package_that_is_gone_is_a_fault_of_ours():
    assert explain(FileNotFoundError(errno.ENOENT, "gone", str(Path(mner.__file__).parent / "encoders/tiny"))) is None


def test_outputs_that_cannot_be(here, checkpoint, capsys):
    posts = here / "posts.jsonl"
    posts.write_text('{"text": "Anna sings"}\n', encoding="utf-8")
    (here / "a_file").write_text("x")
    tag = ["tag", str(posts), "--checkpoint", checkpoint, "--output"]
    assert "data is a folder" in line(capsys, *tag, "data")
    assert "a_file" in line(capsys, *tag, "a_file/below.jsonl")
    show = ["show", str(posts), "--checkpoint", checkpoint, "--output"]
    assert "data" in line(capsys, *show, "data")
    assert "a_file" in line(capsys, "fit", *FIT, "--trainer.default_root_dir=a_file/below")
    assert "data" in line(capsys, "predict", "--ckpt_path", checkpoint, *FIT[2:4], *QUIET, "--output=data")


def test_the_standard_output_gets_the_predictions_and_the_page_and_nothing_else(here, checkpoint, capsys):
    predict = ["predict", "--ckpt_path", checkpoint, *FIT[2:4], "--trainer.accelerator=cpu", "--split=valid"]
    main([*predict, "--output=predictions.jsonl"])
    capsys.readouterr()
    main([*predict, "--output=-"])
    assert capsys.readouterr().out == (here / "predictions.jsonl").read_text(encoding="utf-8")
    posts = here / "shown.jsonl"
    posts.write_text('{"text": "Anna sings"}\n', encoding="utf-8")
    assert main(["show", str(posts), "--checkpoint", checkpoint, "--output", "-"]) == 0
    page = capsys.readouterr().out
    assert page.startswith("<!")
    assert "sings" in page
    assert not (here / "-").exists()


def test_one_writer_says_so(capsys):
    def locked():
        raise BlockingIOError("Another process is writing to out; wait for it, or name another folder")

    assert guarded("features", locked) == 2
    assert capsys.readouterr().err.startswith("mner features: Another process is writing")


# Devices, sizes, names


def test_devices_that_are_not_there(here, checkpoint, capsys):
    said = line(capsys, "tag", "-", "--checkpoint", checkpoint, "--device", "xyz")
    assert "such as 'auto' or 'cpu', but got 'xyz'" in said
    features = ["features", "--images=data/images", "--out=store", "--weights=random", "--encoder=test_resnet"]
    assert "'xyz'" in line(capsys, *features, "--device=xyz")
    assert str(pick_device("cpu")) == "cpu"
    if not torch.cuda.is_available():
        assert "'cuda'" in line(capsys, *features, "--device=cuda")
        assert "gpu" in line(capsys, "fit", *FIT, "--trainer.accelerator=gpu")
    assert "tpux" in line(capsys, "fit", *FIT, "--trainer.accelerator=tpux")


def test_sizes_and_names(here, checkpoint, capsys):
    assert "batch_size" in line(capsys, "fit", *FIT, "--data.batch_size=0")
    features = ["features", "--images=data/images", "--out=store", "--weights=random"]
    assert "did you mean" in line(capsys, *features, "--encoder=restnet18")
    assert "batch_size" in line(capsys, *features, "--encoder=test_resnet", "--batch_size=0")
    assert "image" in line(capsys, "probe", checkpoint, "data")
    posts = here / "one.jsonl"
    posts.write_text('{"text": "Anna sings"}\n', encoding="utf-8")
    assert "batch_size" in line(capsys, "tag", str(posts), "--checkpoint", checkpoint, "--batch_size=0")
    assert "captioner" in line(capsys, "tag", str(posts), "--checkpoint", checkpoint, "--captioner=some/model")


def test_a_callback_that_watches_what_is_not_there(here, capsys):
    stopping = ("--trainer.callbacks+=EarlyStopping", "--trainer.callbacks.monitor=val/f2")
    said = line(capsys, "fit", *FIT, "--trainer.logger=false", *stopping)
    assert "val/f2" in said
    assert "val/f1" in said, "it names what is there"


def test_memory(capsys):
    assert "smaller batch_size" in explain(MemoryError())
    assert "smaller batch_size" in explain(RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: …"))
    assert "smaller batch_size" in explain(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"))


def test_what_a_worker_process_raised_is_told_as_if_here():
    text = "Caught DataFormatError in DataLoader worker process 0.\nOriginal Traceback (most …):\n  File …\n"
    error = RuntimeError(f"{text}mner.errors.DataFormatError: a.txt:3: found X; expected Y.")
    assert explain(error) == str(DataFormatError("a.txt", 3, "X", "Y"))


def test_a_locale_that_has_no_such_letter():
    said = explain(UnicodeEncodeError("ascii", "é.txt", 0, 1, "ordinal not in range(128)"))
    assert "PYTHONUTF8=1" in said
    assert explain(UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogates not allowed")) is None


# Configs


def test_a_config_is_utf_8_whatever_the_locale_says(here, tmp_path, capsys):
    (tmp_path / "bad.yaml").write_bytes("model: TextOnly\n# Zürich\n".encode("latin-1"))
    assert main(["fit", "--config", str(tmp_path / "bad.yaml")]) == 2
    assert "bad.yaml:2: found the byte 0xfc, which is not UTF-8" in capsys.readouterr().err
    (tmp_path / "good.yaml").write_bytes("\ufeffmodle: 1  # Zürich 北京\n".encode())
    assert main(["fit", "--config", str(tmp_path / "good.yaml")]) == 2
    assert "there is no option 'modle'" in capsys.readouterr().err


def test_a_config_from_a_pipe_is_read_once(here, tmp_path):
    config = {
        "model": {"class_path": "TextOnly", "init_args": {"text_encoder": "bert"}},
        "data": {"class_path": "Twitter2017DataModule", "init_args": {"root": "data"}},
        "trainer": {"fast_dev_run": True, "accelerator": "cpu", "logger": False},
    }
    for form in (["--config", "PIPE"], ["--config=PIPE"], ["-c", "PIPE"]):
        pipe = tmp_path / f"pipe{len(form[0])}"
        os.mkfifo(pipe)
        writer = threading.Thread(target=pipe.write_text, args=(json.dumps(config, indent=1),))
        writer.start()
        cli = main(["fit", *[word.replace("PIPE", str(pipe)) for word in form]])
        writer.join()
        assert cli.trainer.fast_dev_run


def test_the_quick_starts_config_comes_with_the_package(here, tmp_path, monkeypatch, capsys):
    ours = BUNDLED["quickstart"]
    assert ours.read_bytes() == (Path(__file__).parents[2] / "examples/quickstart.yaml").read_bytes()
    for form in (["--config", "quickstart"], ["--config=quickstart"], ["-c", "quickstart"]):
        assert str(ours) in given_configs(["fit", *form])[-1]
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        main(["fit", "--config", "quickstart", "--print_config"])
    assert not end.value.code
    assert "SampleDataModule" in capsys.readouterr().out
    (tmp_path / "quickstart").write_text("modle: 1\n", encoding="utf-8")  # the user's own comes first
    assert main(["fit", "--config", "quickstart"]) == 2
    assert "there is no option 'modle'" in capsys.readouterr().err


# Ctrl-C and pipes


class Interrupted(pl.Callback):
    """Ctrl-C in the second epoch."""

    def on_train_epoch_start(self, trainer, pl_module):
        if trainer.current_epoch == 1:
            raise KeyboardInterrupt


def test_an_interrupted_training_says_how_to_go_on(here, tmp_path, capsys):
    deaf = signal.getsignal(signal.SIGINT)
    args = ["fit", *FIT[:-1], "--trainer.max_epochs=2", f"--trainer.default_root_dir={tmp_path}"]
    said = line(capsys, *args, f"--trainer.callbacks={__name__}.Interrupted", code=130)
    assert signal.getsignal(signal.SIGINT) is deaf, "Ctrl-C works again"
    config, last = re.search(r"mner fit --config (\S+) --ckpt_path (\S+) goes on", said).groups()
    again = main(["fit", "--config", config, "--ckpt_path", last, "--trainer.callbacks=null"])
    assert again.trainer.current_epoch == 2


@pytest.mark.parametrize("command", [*COMMANDS, *LIGHTNING])
def test_ctrl_c_ends_every_command_with_a_line(command, monkeypatch, capsys):
    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(sys.modules["mner.cli.main"], "_run", stop)
    monkeypatch.setattr("mner.cli.lightning.run", stop)
    assert main(command.split()) == 130
    assert re.fullmatch(rf"mner {command}: stopped(; .+)?\n", capsys.readouterr().err)


def test_a_reader_that_goes_away(tmp_path):
    """As `head -1` does, with an output longer than a pipe holds."""
    code = "import sys; from mner.cli.errors import guarded; sys.exit(guarded('x', lambda: print('long\\n' * 100_000)))"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait() == 1


# Faults of code


def test_a_fault_of_ours_keeps_its_traceback_and_says_where_to_report(here, monkeypatch):
    def faulty(self, *args):
        return {}["no such key"]

    monkeypatch.setattr(FusionModule, "emissions", faulty)
    monkeypatch.setattr("mner.cli.errors._is_ours", lambda error: True)  # the line above is of a test's file
    with pytest.raises(KeyError) as caught:
        main(["fit", *FIT, "--trainer.fast_dev_run=true"])
    assert mner.__version__ in caught.value.__notes__[0]
    assert "report" in caught.value.__notes__[0]


def test_whose_fault():
    def own():
        return {}["no such key"]

    with pytest.raises(KeyError) as caught:
        guarded("fit", own)
    assert not hasattr(caught.value, "__notes__"), "of a user's own code"
    with pytest.raises(TypeError) as caught:
        guarded("fit", lambda: re.compile(3))  # this file took part too
    assert not hasattr(caught.value, "__notes__")


def test_packages_may_lie_outside_the_environment(tmp_path, monkeypatch):
    """`pip install --user`, the system's packages in a virtual environment, Debian's dist-packages."""
    place = tmp_path / "dist-packages"
    (place / "jsonargparse").mkdir(parents=True)
    code = "def wrap():\n    raise ValueError('types') from ValueError('a wrong size')\n"
    (place / "jsonargparse" / "wrapping.py").write_text(code, encoding="utf-8")
    found = {}
    exec(compile(code, str(place / "jsonargparse" / "wrapping.py"), "exec"), found)
    with pytest.raises(ValueError, match="types") as caught:
        found["wrap"]()
    caught.value.__cause__ = DataFormatError("posts.txt", 3, "two columns", "one")
    assert explain(caught.value) is None, "a user's own code"
    monkeypatch.syspath_prepend(place)
    assert explain(caught.value) == str(caught.value.__cause__)


# What was mistyped

SAMPLE = ("--data", "SampleDataModule")
MISTYPED = [
    (("fit", "--model", "CoAtention", *SAMPLE), "CoAttention"),
    (("fit", "--model", "mner.fusion.CoAtention", *SAMPLE), "CoAttention"),
    (("fit", "--model", "TextOnly", "--data", "SampleDatModule"), "SampleDataModule"),
    (("fit", "--model", "TextOnly", "--model.learningrate", "1", *SAMPLE), "learning_rate"),
    (("fit", "--model", "TextOnly", *SAMPLE, "--data.batchsize", "3"), "batch_size"),
    (("fit", "--model", "TextOnly", *SAMPLE, "--trainer.precisoin", "32"), "--trainer.precision"),
    (("fit", "--model", "TextOnly", *SAMPLE, "--trainer.callbacks+=EarlyStoping"), "EarlyStopping"),
    (("fit", "--model", "TextOnly", *SAMPLE, "--trainer.precision", "bf16mixed"), "bf16-mixed"),
    (("predict", "--model", "TextOnly", *SAMPLE, "--split", "tets"), "test"),
    (("tag", "x", "--formt", "conll"), "--format"),
    (("tag", "x", "--format", "conl"), "conll"),
    (("tga", "x"), "tag"),
    (("data", "stat"), "data stats"),
]


@pytest.mark.parametrize(("args", "meant"), MISTYPED, ids=[meant for _, meant in MISTYPED])
def test_the_nearest_right_one_is_named(args, meant, capsys):
    assert f"did you mean {meant}" in line(capsys, *args)


@pytest.mark.parametrize(
    ("content", "meant"),
    [
        ("modle: {class_path: TextOnly}", "model"),
        ("model: {class_path: TextOnly, init_args: {learningrate: 3}}", "learning_rate"),
        ("model: {class_path: TextOnly}\ntrainer: {max_epoch: 3}", "trainer.max_epochs"),
        ("model: {class_path: mner.fusion.CoAtention}", "CoAttention"),
    ],
)
def test_also_in_a_config(content, meant, tmp_path, capsys):
    file = tmp_path / "config.yaml"
    file.write_text(f"{content}\ndata: {{class_path: SampleDataModule}}\n", encoding="utf-8")
    assert f"did you mean {meant}" in line(capsys, "fit", "--config", str(file))


def test_values_of_another_kind_and_missing_ones(capsys):
    said = line(capsys, "fit", "--model", "TextOnly", *SAMPLE, "--trainer.max_epochs", "x")
    assert "--trainer.max_epochs: got x, expected a whole number" in said
    assert "missing: --data, --model" in line(capsys, "fit")
    assert "missing: input" in line(capsys, "tag")
    assert "--batch_size: got many, expected a whole number" in line(capsys, "tag", "x", "--batch_size", "many")
    assert "nowhere.yaml" in line(capsys, "fit", "--config", "nowhere.yaml")


def test_arguments_by_place_that_were_named(capsys):
    assert "missing: input; it is given by its place, without --input" in line(capsys, "tag", "--input", "posts.txt")


def test_help_of_training_begins_with_model_and_data_and_ends_with_the_trainer(capsys):
    with pytest.raises(SystemExit):
        main(["fit", "--help"])
    shown = capsys.readouterr().out
    assert shown.startswith("usage: mner fit (--config FILE | --model CLASS --data CLASS) [options]\n\n")
    titles = re.findall(r"^(\S.*):$", shown, re.MULTILINE)
    assert titles[1].startswith("the model")
    assert titles[2].startswith("the data")
    assert titles[-1] == "Lightning's Trainer"
    assert shown.index("--trainer.max_epochs") > shown.index("--checkpoint.monitor") > shown.index("--ckpt_path")
