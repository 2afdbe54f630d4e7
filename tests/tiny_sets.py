"""Tiny data sets in each layout, written from the posts of `conftest`, and what goes with them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from PIL import Image
from transformers import AutoTokenizer, BertConfig, LxmertConfig, LxmertModel, VisualBertConfig, VisualBertModel

from mner.data.formats.feature_writer import FeatureWriter
from mner.data.formats.images import ImageFolder
from mner.encoders.detectors import RandomDetector
from tests.conftest import WORDS, save_bert, write_posts

# What tests give Lightning's Trainer that keep nothing.
QUIET = {
    "accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False,
    "enable_checkpointing": False,
}  # fmt: skip

SPLITS = ("train", "valid", "test")
WIDTH = 24
COLOURS = [(200, 30, 30), (30, 200, 30), (30, 30, 200), (200, 200, 30), (30, 200, 200), (120, 120, 120)]


def posts_of(split: str, count: int = len(WORDS), other: str = "MISC") -> list[tuple[str, list[str], list[str]]]:
    """As many posts as wanted, under ids of the split's own; `other` names the fourth entity type."""
    number = SPLITS.index(split)
    chosen = [WORDS[row % len(WORDS)] for row in range(count)]
    return [
        (f"{number}{row:03d}", words, [tag.replace("MISC", other) for tag in tags])
        for row, (words, tags) in enumerate(chosen)
    ]


def write_images(folder: Path, ids: list[str]) -> None:
    """An image for each id; the third is missing, the fourth is no image."""
    folder.mkdir(parents=True, exist_ok=True)
    for row, image_id in enumerate(ids):
        path = folder / f"{image_id}.jpg"
        if row == 3:
            path.write_bytes(b"no image")
        elif row != 2:
            Image.new("RGB", (48, 40), COLOURS[row % len(COLOURS)]).save(path)


def write_twitter(root: Path, other: str = "MISC", count: int = len(WORDS)) -> Path:
    """`train.txt` …, `images/`, `captions.jsonl`, and a store of detected regions in `regions/`."""
    root.mkdir(parents=True, exist_ok=True)
    captions = []
    for split in SPLITS:
        posts = posts_of(split, count, other)
        write_posts(root / f"{split}.txt", posts)
        write_images(root / "images", [image_id for image_id, _, _ in posts])
        captions += [{"image_id": f"{image_id}.jpg", "caption": f"{len(words)} things"} for image_id, words, _ in posts]
    write_lines(root / "captions.jsonl", captions)
    write_regions(root / "regions", [root / "images"])
    return root


def write_snapchat(root: Path) -> Path:
    """`texts/dev.json`, `images/dev/`, `captions/dev_image_captions.json` …, and `regions/`."""
    for folder in ("texts", "captions"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for split in SPLITS:
        name = "dev" if split == "valid" else split
        posts = posts_of(split)
        write_lines(
            root / "texts" / f"{name}.json",
            [{"id": id_, "image_id": f"{id_}.jpg", "tokens": words, "label": tags} for id_, words, tags in posts],
        )
        write_lines(
            root / "captions" / f"{name}_image_captions.json",
            [{"id": id_, "image_id": f"{id_}.jpg", "caption": f"{len(words)} things"} for id_, words, _ in posts],
        )
        write_images(root / "images" / name, [id_ for id_, _, _ in posts])
    write_regions(root / "regions", [root / "images" / name for name in ("train", "dev", "test")])
    return root


def write_regions(
    path: Path, folders: list[Path], width: int = WIDTH, encoder: str = "random", sizes: bool = True
) -> None:
    """A store with three random regions for each readable image; without sizes, as before they were kept."""
    detector = RandomDetector(top_k=3, width=width)
    options = {"kind": "regions", "encoder": encoder, "width": width, "classes": detector.classes, "sizes": sizes}
    with FeatureWriter(path, **options) as writer:
        for folder in folders:
            files = ImageFolder(folder)
            for key in files:
                image, reason = files.load(key)
                if image is None:
                    writer.broken[key] = reason
                    continue
                (found,) = detector.detect([image])
                arrays = ([part.numpy()] for part in (found.features, found.boxes, found.scores))
                writer.append([key], *arrays, [found.names], [image.size] if sizes else None)
        writer.finish()


def write_lines(path: Path, records: list[dict]) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


def save_visual_bert(folder: Path, tokenizer: str) -> Path:
    """A 1-layer VisualBERT without a tokeniser, as the authors' uploads to the Hub are."""
    torch.manual_seed(0)
    config = VisualBertConfig(
        vocab_size=len(AutoTokenizer.from_pretrained(tokenizer)),
        hidden_size=32,
        visual_embedding_dim=WIDTH,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=48,
        max_position_embeddings=128,
        pad_token_id=0,
    )
    VisualBertModel(config).save_pretrained(folder)
    return folder


def save_lxmert(folder: Path, tokenizer: str) -> Path:
    """An LXMERT of a layer each, with a tokeniser, as the authors' upload has one."""
    torch.manual_seed(0)
    texts = AutoTokenizer.from_pretrained(tokenizer)
    config = LxmertConfig(
        vocab_size=len(texts),
        hidden_size=32,
        num_attention_heads=2,
        intermediate_size=48,
        l_layers=1,
        r_layers=1,
        x_layers=1,
        visual_feat_dim=2048,
        max_position_embeddings=128,
    )
    LxmertModel(config).save_pretrained(folder)
    texts.save_pretrained(folder)
    return folder


def save_small_bert(folder: Path, dropout: float = 0.1, layers: int = 1) -> Path:
    """Of one layer: fast enough to be trained many times."""
    return save_bert(
        folder,
        BertConfig(
            vocab_size=83,
            hidden_size=32,
            num_hidden_layers=layers,
            num_attention_heads=2,
            intermediate_size=48,
            max_position_embeddings=128,
            hidden_dropout_prob=dropout,
            attention_probs_dropout_prob=dropout,
        ),
    )


def copy_of(root: Path, target: Path) -> Path:
    """A copy to spoil."""
    shutil.copytree(root, target)
    return target
