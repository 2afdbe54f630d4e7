"""How far image and text of a post match: CLIP's and SigLIP's numbers, the file, and going on."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from mner.data.examples import Example
from mner.data.formats.relations import read_relations
from mner.errors import CheckpointError, DataFormatError, DataNotFoundError
from mner.preprocessing import relations as module
from mner.preprocessing.relations import ImageTextMatching, PostImages, relations

WORDS = "a man woman dog cat in on the suit car street phone photo of playing red blue white".split()
TINY = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
POSITIONS = 8


def picture(seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((40, 30))


def save(model, processor, folder):
    """Random weights large enough that images and texts differ."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.5)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


def tokenizer():
    from transformers import BertTokenizer

    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    return BertTokenizer(vocab={word: number for number, word in enumerate(vocabulary)}, model_max_length=512)


def clip(folder):
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor

    sizes = {"vocab_size": 5 + len(WORDS), "max_position_embeddings": POSITIONS}
    text = {**TINY, **sizes, "bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 0}
    config = CLIPConfig(text_config=text, vision_config={**TINY, "image_size": 32, "patch_size": 16}, projection_dim=12)
    images = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    save(CLIPModel(config), CLIPProcessor(images, tokenizer()), folder)


def siglip(folder):
    from transformers import SiglipConfig, SiglipImageProcessor, SiglipModel, SiglipProcessor

    text = {**TINY, "vocab_size": 5 + len(WORDS), "max_position_embeddings": POSITIONS, "pad_token_id": 0}
    config = SiglipConfig(text_config=text, vision_config={**TINY, "image_size": 32, "patch_size": 16})
    model = SiglipModel(config)
    with torch.no_grad():
        model.logit_scale.fill_(1.0)
        model.logit_bias.fill_(-0.5)
    save(model, SiglipProcessor(SiglipImageProcessor(size={"height": 32, "width": 32}), tokenizer()), folder)


BUILDERS = {"clip": clip, "siglip": siglip}


@pytest.fixture(scope="module", params=BUILDERS)
def folder(request, tmp_path_factory):
    torch.manual_seed(1)
    made = tmp_path_factory.mktemp(request.param)
    BUILDERS[request.param](made)
    return str(made)


@pytest.fixture
def posts(tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    for seed in range(6):
        picture(seed).save(images / f"{seed}.png")
    (images / "broken.jpg").write_text("no image")
    rows = [("1", ["0"], "a man"), ("2", ["1.png"], "the red car"), ("3", ["2", "3"], "dog"), ("4", ["0.png"], "cat"),
            ("5", ["broken"], "a"), ("6", ["gone"], "a"), ("7", [], "a")]  # fmt: skip
    lines = [
        {"id": key, "image_ids": ids, "tokens": text.split(), "label": ["O"] * len(text.split())}
        for key, ids, text in rows
    ]
    path = tmp_path / "posts.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


@torch.no_grad()
def test_values_are_those_of_the_model(folder):
    match = ImageTextMatching(folder, "cpu")
    images, texts = [picture(seed) for seed in range(4)], ["a man", "the red car", "dog", "cat in the street"]
    found = match(images, [[text] for text in texts])
    for image, text, value in zip(images, texts, found, strict=True):
        options = {"padding": "max_length", "max_length": POSITIONS} if hasattr(match.model, "logit_bias") else {}
        inputs = match.processor(text=[text], images=[image], return_tensors="pt", **options)
        said = match.model(**inputs)
        if hasattr(match.model, "logit_bias"):
            expected = said.logits_per_image.sigmoid().item()
        else:
            expected = min(1.0, max(0.0, 2.5 * (said.logits_per_image / match.model.logit_scale.exp()).item()))
        assert value == pytest.approx(expected, abs=1e-5)
    assert len({round(value, 4) for value in found}) > 1
    assert all(0 <= value <= 1 for value in found)
    assert match([], []) == []


def test_batches_change_nothing_and_texts_of_an_image_have_a_mean(folder):
    match = ImageTextMatching(folder, "cpu")
    one, two = picture(1), picture(2)
    a, b, c = (match([image], [[text]])[0] for image, text in ((one, "a man"), (one, "dog in the car"), (two, "cat")))
    assert match([one, two], [["a man", "dog in the car"], ["cat"]]) == pytest.approx([(a + b) / 2, c], abs=1e-5)


def test_texts_are_cut_where_positions_end(folder):
    match = ImageTextMatching(folder, "cpu")
    long = ["red " * 40 + "cat", "red " * 40 + "dog"]
    assert match([picture(1)], [long[:1]]) == match([picture(1)], [long[1:]])


def test_a_file_that_the_data_module_reads(folder, posts, tmp_path, capsys):
    out = tmp_path / "relations.jsonl"
    relations(posts, posts.parent / "images", out, folder, batch_size=2, device="cpu", num_workers=0)
    found = read_relations(out)
    match = ImageTextMatching(folder, "cpu")
    expected = match([picture(seed) for seed in range(4)], [["a man", "cat"], ["the red car"], ["dog"], ["dog"]])
    assert found == pytest.approx(dict(zip("0123", expected, strict=True)), abs=1e-4)
    told = " ".join(capsys.readouterr().err.split())
    assert "4 images done" in told
    assert "2 of 6 images could not be read (not an image 1, missing 1): broken, gone" in told


def test_it_goes_on_where_it_stopped(posts, tmp_path, monkeypatch):
    """What compares is taken from the test here."""
    seen = []

    def matching(model, device):
        return lambda images, texts: [seen.append(some) or len(some) / 7 for some in texts]

    monkeypatch.setattr(module, "ImageTextMatching", matching)
    arguments = (posts, posts.parent / "images", tmp_path / "relations.jsonl", "m")
    relations(*arguments, num_workers=0)
    whole = arguments[2].read_bytes()
    assert seen == [["a man", "cat"], ["the red car"], ["dog"], ["dog"]]
    for kept, again in ((len(whole), 0), (len(whole) - 5, 1), (whole.index(b"\n") + 1, 3)):
        seen.clear()
        arguments[2].write_bytes(whole[:kept])
        relations(*arguments, num_workers=0)
        assert arguments[2].read_bytes() == whole
        assert len(seen) == again
    with pytest.raises(DataFormatError, match="model 'm', now 'n'"):
        relations(*arguments[:3], "n", num_workers=0)


def test_what_is_missing_is_said_in_one_line(posts, tmp_path, bert_folder):
    images, out = posts.parent / "images", tmp_path / "out.jsonl"
    for given, name in (((), "--images"), ((images,), "--out"), ((images, out), "--model")):
        with pytest.raises(DataNotFoundError, match=f"Expected {name}, but got none"):
            relations(posts, *given)
    with pytest.raises(CheckpointError, match="cannot be used as an image-text model"):
        relations(posts, images, out, str(tmp_path / "no model"))
    with pytest.raises(CheckpointError, match="compares images with texts, such as a CLIP, but got a BertModel"):
        relations(posts, images, out, str(bert_folder))
    posts.write_text('{"id": "7", "image_id": null, "tokens": ["a"], "label": ["O"]}\n', encoding="utf-8")
    with pytest.raises(DataNotFoundError, match=r"None of the posts in .* has an image"):
        relations(posts, images, out, "m")


def test_a_model_without_weights_is_refused(tmp_path):
    clip(tmp_path)
    from safetensors.torch import load_file, save_file

    file = tmp_path / "model.safetensors"
    weights = {name: value for name, value in load_file(file).items() if name != "visual_projection.weight"}
    save_file(weights, file, {"format": "pt"})
    with pytest.raises(CheckpointError, match=r"lacks 1 weights \(visual_projection.weight"):
        ImageTextMatching(str(tmp_path), "cpu")


def test_images_of_posts_only(posts):
    images = posts.parent / "images"
    found = PostImages(
        images, [Example("1", "0", ("a",)), Example("2", "0.png", ("b", "c")), Example("3", None, ("d",))]
    )
    assert list(found) == ["0"]
    assert found.texts == {"0": ["a", "b c"]}
    assert found.load("0")[0].size == (40, 30)
