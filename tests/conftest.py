"""Tiny real parts: a 2-layer BERT with a small vocabulary, a CoNLL folder, drawn images."""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # must be set before transformers is imported
os.environ.setdefault("OMP_NUM_THREADS", "1")  # test processes share the cores

from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from hypothesis import settings
from PIL import Image, ImageDraw
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

# The same examples each time; HYPOTHESIS_PROFILE=search looks for new ones.
settings.register_profile("same", deadline=None, derandomize=True, database=None)
settings.register_profile("search", deadline=None, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))


def pytest_cmdline_main(config: pytest.Config) -> None:
    """With `-n`, a file's tests stay in one process, so that what they share is made once; files in their order."""
    if getattr(config.option, "dist", None) == "load":
        config.option.dist, config.option.loadscopereorder = "loadfile", False


@pytest.fixture(autouse=True)
def _seeded() -> None:
    pl.seed_everything(0, verbose=False)


def write_posts(path: Path, posts: list[tuple[str, list[str], list[str]]]) -> None:
    """Posts as (image id, words, tags) in the Twitter format."""
    blocks = [
        f"IMGID:{image_id}\n" + "".join(f"{word}\t{tag}\n" for word, tag in zip(words, tags, strict=True))
        for image_id, words, tags in posts
    ]
    path.write_text("\n".join(blocks), encoding="utf-8")


WORDS = [
    (["Anna", "visits", "Old", "Town"], ["B-PER", "O", "B-LOC", "I-LOC"]),
    (["RT", "@acme", "opens", "in", "Lagos", "http://t.co/a1b2c3"], ["O", "B-ORG", "O", "O", "B-LOC", "O"]),
    (["nothing", "here"], ["O", "O"]),
    (["Dr", ".", "Seuss", "reads"], ["O", "O", "I-PER", "O"]),
    (["\ufe0f", "Bo", "!"], ["O", "B-PER", "O"]),
    (["The", "Oscars", "are", "on", "tonight", "in", "L.A.", "with", "Jo", "Doe"],
     ["O", "B-MISC", "O", "O", "O", "O", "B-LOC", "O", "B-PER", "I-PER"]),
]  # fmt: skip


@pytest.fixture(scope="session")
def posts_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Twitter-like folder: three splits, images of all posts but two (one missing, one broken), captions."""
    root = tmp_path_factory.mktemp("posts")
    (root / "images").mkdir()
    captions = []
    for number, split in enumerate(("train", "valid", "test")):
        posts = [(f"{number}{row}", words, tags) for row, (words, tags) in enumerate(WORDS)]
        write_posts(root / f"{split}.txt", posts)
        for row, (image_id, words, _) in enumerate(posts):
            captions.append(f'{{"image_id": "{image_id}.jpg", "caption": "a picture of {len(words)} things"}}')
            path = root / "images" / f"{image_id}.jpg"
            if row == 2:
                continue
            if row == 3:
                path.write_bytes(b"no image")
                continue
            image = Image.new("RGB", (80, 60), (40 * row, 90, 200 - 30 * row))
            ImageDraw.Draw(image).ellipse((10, 10, 30 + 5 * row, 40), fill=(200, 30 * row, 10))
            image.save(path)
    (root / "captions.jsonl").write_text("\n".join(captions) + "\n", encoding="utf-8")
    return root


PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz0123456789@.!:/_#"]


def save_bert(folder: Path, config: BertConfig | None = None, layers: int = 2) -> Path:
    """A small BERT with random weights and a vocabulary of letters, as a transformers folder."""
    vocabulary = {piece: index for index, piece in enumerate([*PIECES, *(f"##{piece}" for piece in PIECES[5:])])}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_max_length=128,
    )
    fast.save_pretrained(folder)
    config = config or BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=layers,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=128,
    )
    with torch.random.fork_rng():  # fixtures of a session are made before any seed is set
        torch.manual_seed(0)
        BertModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def bert_folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny BERT as a folder of transformers."""
    return str(save_bert(tmp_path_factory.mktemp("bert")))
