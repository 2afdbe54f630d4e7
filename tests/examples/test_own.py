"""A stranger's fusion, text encoder and format: each a short file outside of the package, trained and tagged with."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from mner import Tagger
from mner.cli import main
from mner.data import PostsDataModule
from mner.encoders.own_model import is_import_path, own_model
from mner.errors import CheckpointError, DataFormatError, DataNotFoundError
from mner.tagger.hub import load_model

OWN = Path(__file__).parents[2] / "examples" / "own"
PLAIN = [
    *("--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"),
    *("--trainer.enable_model_summary", "false", "--seed_everything", "1"),
]


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder of posts with slashes; the files of `examples/own` can be imported."""
    monkeypatch.syspath_prepend(str(OWN))
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "mine"
    folder.mkdir()
    for split, size in (("train", 120), ("dev", 30)):
        draw = random.Random(split)
        names, places = ("Anna", "Ben", "Cleo"), ("Lagos", "Kano", "Jos")
        rows = [f"{draw.choice(names)}/B-PER visits/O {draw.choice(places)}/B-LOC {i}/O" for i in range(size)]
        (folder / f"{split}.slash").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return tmp_path


def checkpoint(folder):
    (found,) = folder.rglob("best.ckpt")
    return found


SLASHES = ["--data", "PostsDataModule", "--data.root", "mine", "--data.format", "slash_format.read_slashes"]


def test_files_are_short():
    files = sorted(OWN.glob("*.py"))
    assert [file.stem for file in files] == ["gated_fusion", "slash_format", "table_encoder"]
    assert all(len(file.read_text(encoding="utf-8").splitlines()) <= 20 for file in files)


def test_an_encoder_and_a_format_of_ones_own_train_and_tag(here, capsys):
    model = ["--model", "TextOnly", "--model.text_encoder", "table_encoder.Table", "--model.learning_rate", "5e-3"]
    main(["fit", *model, *SLASHES, "--data.tokenizer", "tiny", "--trainer.max_epochs", "6", *PLAIN])
    (here / "posts.jsonl").write_text('{"id": "1", "text": "Ben visits Kano again"}\n', encoding="utf-8")
    main(["tag", "posts.jsonl", "--checkpoint", str(checkpoint(here)), "--output", "out.jsonl", "--device", "cpu"])
    tagged = json.loads((here / "out.jsonl").read_text(encoding="utf-8"))
    assert [(entity["text"], entity["type"]) for entity in tagged["entities"]] == [("Ben", "PER"), ("Kano", "LOC")]
    # And it is shared: the class comes from its module, which has to be imported before.
    tagger = Tagger.from_checkpoint(checkpoint(here), device="cpu")
    tagger.save_pretrained(here / "shared")
    again = Tagger.from_pretrained(here / "shared", device="cpu")
    assert again("Ben visits Kano again") == tagger("Ben visits Kano again")
    config = json.loads((here / "shared" / "config.json").read_text(encoding="utf-8"))
    config["text_config"]["mner_class"] = "this_would_run.Anything"
    (here / "shared" / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(CheckpointError, match="import its module"):
        load_model(here / "shared")


@pytest.mark.slow
def test_a_fusion_of_ones_own_trains_and_tags(here, capsys):
    main([
        *("fit", "--model", "gated_fusion.GatedFusion", "--model.image_encoder", "test_resnet"),
        *("--model.image_weights", "null", "--model.freeze_image_encoder", "false", "--model.learning_rate", "2e-3"),
        *("--data", "SampleDataModule", "--data.root", str(here / "sample"), "--data.images", "images"),
        *("--data.image_size", "32", "--data.batch_size", "16", "--trainer.max_epochs", "6", *PLAIN),
    ])  # fmt: skip
    tagger = Tagger.from_checkpoint(checkpoint(here), device="cpu")
    assert type(tagger.model).__name__ == "GatedFusion"
    post = json.loads('{"id": "1", "text": "so proud of Quillon today"}')
    assert tagger(post["text"]).text == post["text"]
    assert "Best valid F1" in capsys.readouterr().out


def test_types_come_from_the_training_split(here):
    data = PostsDataModule("mine", format="slash_format.read_slashes")
    assert data.labels == ["O", "B-LOC", "I-LOC", "B-PER", "I-PER"]
    assert data.split_names() == ["train", "valid"]
    assert len(data.examples("valid")) == 30
    assert PostsDataModule("mine", types=["PER", "LOC"], format="slash_format.read_slashes").labels[1] == "B-PER"
    with pytest.raises(DataNotFoundError, match=r"No test split in mine: found \['train', 'valid'\]"):
        data.examples("test")


@pytest.mark.parametrize(
    ("format", "line", "message"),
    [
        ("slash_format.read_slashes", "Anna B-PER", r"train.slash:1: found 'Anna B-PER'; expected words with"),
        ("slash_format.nothing", "Anna/B-PER", "the format 'slash_format.nothing'.*my_module.read_x"),
        ("no_such_module.read", "Anna/B-PER", "the format 'no_such_module.read'"),
        ("anything", "Anna/B-PER", "expected one of spacy, parquet"),
        ("builtins.list", "Anna/B-PER", "found str from list; expected a list of mner.data.Example"),
        ("slash_format.read_slashes", "Anna/O", "no entity in any post"),
    ],
)
def test_what_is_wrong_is_said(here, format, line, message):
    (here / "mine" / "train.slash").write_text(line + "\n", encoding="utf-8")
    with pytest.raises(DataFormatError, match=message):
        PostsDataModule("mine", format=format)


def test_an_encoder_is_a_class_of_a_transformers_model(here):
    assert is_import_path("table_encoder.Table")
    assert not is_import_path("sentence-transformers/all-MiniLM-L6-v2")
    assert own_model("table_encoder.Table", {"hidden_size": 16}).config.hidden_size == 16
    for path, message in (("table_encoder.Nothing", "cannot be imported"), ("os.path", "Expected a subclass")):
        with pytest.raises(CheckpointError, match=message):
            own_model(path)
