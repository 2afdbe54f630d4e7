"""`mner init`: what it finds is said, and the config that it writes trains."""

from __future__ import annotations

import json

import pytest
from PIL import Image

from mner.cli import main
from mner.data.examples import Example
from mner.data.formats.posts import write_posts

QUIET = ["--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]
TRY = [*QUIET, "--model.text_encoder=tiny", "--trainer.max_epochs=1", "--trainer.logger=false"]
TRY += ["--checkpoint.dirpath=c"]
POSTS = [
    Example(f"p{n}", f"i{n}", ("Ana", "is", "in", "the", f"house{n * 71}"), ("B-PER", "O", "O", "O", "O"))
    for n in range(20)
]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    return tmp_path / "mine"


def test_an_export_with_images_and_captions(folder, capsys):
    write_posts(folder / "project-1.json", [*POSTS, Example("u", None, ("no", "gold"))], "label_studio")
    (folder / "images").mkdir()
    for number in range(19):
        Image.new("RGB", (40, 30), (number * 10, 90, 120)).save(folder / "images" / f"i{number}.png")
    lines = [json.dumps({"image_id": f"i{n}", "caption": "a house"}) + "\n" for n in range(20)]
    (folder / "captions.jsonl").write_text("".join(lines))
    assert main(["init", "mine"]) == 0
    said = capsys.readouterr().out
    for line in (
        "posts: 21 posts, read as label_studio, tags IOB2, 1 without gold", "types: PER (20)", "script: English",
        "images: 19 of 21 posts have one in images", "context: captions.jsonl", "mner fit --config config.yaml",
    ):  # fmt: skip
        assert line in said
    small = ["--model.image_encoder=test_resnet", "--model.image_weights=null", "--data.image_size=32"]
    main(["fit", "--config=config.yaml", *TRY, *small])
    assert "VisualAttention" in (folder.parent / "config.yaml").read_text()
    assert (folder.parent / "c" / "best.ckpt").is_file()


def test_splits_of_text_alone_with_options(folder, capsys):
    for split, posts in (("train", POSTS[:15]), ("dev", POSTS[15:])):
        rows = [{"text": " ".join(post.words), "label": [[0, 3, "A"], [0, 6, "B"]]} for post in posts]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(["init", "mine", "--reading.overlaps=outer", "--out=own.yaml"]) == 0
    assert "15 spans that overlap: the inner or shorter left out" in capsys.readouterr().out
    main(["fit", "--config=own.yaml", *TRY])
    assert (folder.parent / "c" / "best.ckpt").is_file()
    assert main(["init", "mine", "--reading.overlaps=outer", "--out=own.yaml"]) == 0  # its own file is written again


def test_what_is_not_its_own_stays(folder, capsys):
    write_posts(folder / "train.jsonl", POSTS, "json_lines")
    (folder.parent / "config.yaml").write_text("mine: true\n")
    assert main(["init", "mine"]) == 2
    assert "config.yaml" in capsys.readouterr().err
    assert (folder.parent / "config.yaml").read_text() == "mine: true\n"
    (folder / "train.jsonl").write_text('{"id": "1", "tokens": ["a"]}\n')
    assert main(["init", "mine", "--out=b.yaml"]) == 2
    assert "no entity in any post" in capsys.readouterr().err


@pytest.mark.parametrize(("word", "encoder"), [("北京大学", "bert-base-chinese"), ("Привет", "xlm-roberta-base")])
def test_encoder_by_script(folder, word, encoder):
    write_posts(folder / "train.jsonl", [Example("1", None, (word,), ("B-X",))], "json_lines")
    assert main(["init", "mine"]) == 0
    assert f"text_encoder: {encoder} " in (folder.parent / "config.yaml").read_text()
