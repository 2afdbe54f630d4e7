import io
import json
import math
import sys

import numpy as np
import pytest
import torch
from torch.nn.functional import gelu, layer_norm

from mner.errors import CheckpointError, MissingDependencyError
from mner.preprocessing.captions import caption, load_captioner
from mner.preprocessing.virtex import END, START, VirTex, VirTexCaptioner, load_virtex
from tests.preprocessing.released import random_state, virtex_shapes
from tests.preprocessing.test_captions import picture

WORDS, WIDTH, LAYERS = 48, 128, 2
TINY = {"blocks": (1, 2, 1, 1), "width": WIDTH, "layers": LAYERS, "words": WORDS, "cnn_width": 8}
SENTENCES = ["a man rides a red horse", "two dogs play on the grass", "the phone lies on a table", "a cat in a hat"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Weights and vocabulary as they are released, small."""
    from sentencepiece import SentencePieceTrainer

    folder = tmp_path_factory.mktemp("virtex")
    vocabulary = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES * 5), model_writer=vocabulary, vocab_size=WORDS, model_type="bpe",
        character_coverage=1.0, bos_id=-1, eos_id=-1, control_symbols=["[SOS]", "[EOS]", "[MASK]"], minloglevel=2,
    )  # fmt: skip
    (folder / "coco_10k.model").write_bytes(vocabulary.getvalue())
    torch.save({"model": random_state(virtex_shapes(**TINY)), "iteration": 500000}, folder / "virtex.pth")
    return folder


@pytest.fixture(scope="module")
def weights(folder):
    return folder / "virtex.pth"


@pytest.fixture(scope="module")
def captioner(weights):
    return VirTexCaptioner(weights, device="cpu")


@pytest.mark.parametrize(
    ("blocks", "width", "layers", "cnn_width"),
    [
        ((3, 4, 6, 3), 2048, 1, 64), ((3, 4, 6, 3), 1024, 4, 64), ((3, 4, 23, 3), 1024, 1, 64),
        ((3, 4, 6, 3), 1024, 1, 128),
    ],
)
def test_names_and_shapes_are_those_released(blocks, width, layers, cnn_width):
    with torch.device("meta"):
        model = VirTex(blocks, width, layers, 10000, cnn_width=cnn_width)
    found = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    assert found == virtex_shapes(blocks, width, layers, cnn_width=cnn_width, both=False)
    heads = {layer.self_attn.num_heads for layer in model.textual["transformer"].layers}
    assert heads == {width // 64}


def test_sizes_are_read_from_the_file(weights):
    model = load_virtex(weights)
    state = torch.load(weights, weights_only=True)["model"]
    found = model.state_dict()
    assert set(found) == {name for name in state if not name.startswith("backward")}
    assert all(torch.equal(found[name], state[name]) for name in found if "num_batches" not in name)
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_words_in_and_words_out_are_one_tensor(weights):
    model = load_virtex(weights)
    assert model.textual["output"].weight is model.textual["embedding"]["words"].weight


def attention(state, place, queries, keys):
    """Multi-head attention of the Transformer's paper; (t, H) and (s, H) -> (t, H)."""
    parts = zip(state[f"{place}.in_proj_weight"].chunk(3), state[f"{place}.in_proj_bias"].chunk(3), strict=True)
    q, k, v = (
        (rows @ weight.T + bias).view(len(rows), -1, 64).transpose(0, 1)
        for rows, (weight, bias) in zip((queries, keys, keys), parts, strict=True)
    )  # (heads, t or s, 64)
    logits = q @ k.transpose(1, 2) / 8
    if queries is keys:
        logits = logits.masked_fill(torch.ones_like(logits[0]).triu(1).bool(), -math.inf)
    mixed = (logits.softmax(-1) @ v).transpose(0, 1).flatten(1)
    return mixed @ state[f"{place}.out_proj.weight"].T + state[f"{place}.out_proj.bias"]


def by_hand(state, pieces, memory):
    """The paper's decoder, post-norm, for one caption."""

    def norm(place, rows, eps=1e-5):
        return layer_norm(rows, (WIDTH,), state[f"{place}.weight"], state[f"{place}.bias"], eps)

    words, positions = (state[f"textual.embedding.{name}.weight"] for name in ("words", "positions"))
    x = norm("textual.embedding.layer_norm", words[pieces] + positions[: len(pieces)], 1e-8)
    x = x * (torch.tensor(pieces) != 0)[:, None]
    for layer in range(LAYERS):
        place = f"textual.transformer.layers.{layer}"
        x = norm(f"{place}.norm1", x + attention(state, f"{place}.self_attn", x, x))
        x = norm(f"{place}.norm2", x + attention(state, f"{place}.multihead_attn", x, memory))
        inner = gelu(x @ state[f"{place}.linear1.weight"].T + state[f"{place}.linear1.bias"])
        x = norm(f"{place}.norm3", x + inner @ state[f"{place}.linear2.weight"].T + state[f"{place}.linear2.bias"])
    return x @ words.T + state["textual.output.bias"]


def test_the_decoder_is_that_of_the_paper(weights):
    model, state = load_virtex(weights), torch.load(weights, weights_only=True)["model"]
    memory = torch.randn(2, 49, WIDTH, generator=torch.Generator().manual_seed(1))
    pieces = [[1, 5, 9, 0, 17], [1, 30, 30, 8, 41]]
    found = model.decode(torch.tensor(pieces), memory)
    for row in range(2):
        torch.testing.assert_close(found[row], by_hand(state, pieces[row], memory[row]), rtol=1e-4, atol=1e-4)


def test_what_captions_attend_to_is_the_projected_last_map(weights):
    from torchvision.models.feature_extraction import create_feature_extractor
    from torchvision.models.resnet import Bottleneck, ResNet

    model, state = load_virtex(weights), torch.load(weights, weights_only=True)["model"]
    reference = ResNet(Bottleneck, [1, 2, 1, 1], width_per_group=8).eval()
    cnn = {name.removeprefix("visual.cnn."): value for name, value in state.items() if name.startswith("visual")}
    assert not reference.load_state_dict(cnn, strict=False).unexpected_keys
    image = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(2))
    cells = create_feature_extractor(reference, ["layer4"])(image)["layer4"].flatten(2).transpose(1, 2)
    expected = cells @ state["textual.visual_projection.weight"].T + state["textual.visual_projection.bias"]
    assert expected.shape == (2, 49, WIDTH)
    torch.testing.assert_close(model.encode(image), expected, rtol=1e-4, atol=1e-3)


def test_later_words_change_nothing_before_them(weights):
    model = load_virtex(weights)
    memory = torch.randn(1, 49, WIDTH)
    one, other = torch.tensor([[1, 5, 9, 17]]), torch.tensor([[1, 5, 30, 8]])
    torch.testing.assert_close(model.decode(one, memory)[:, :2], model.decode(other, memory)[:, :2])
    assert not torch.allclose(model.decode(one, memory)[:, 2], model.decode(other, memory)[:, 2])


def test_captions_depend_on_the_image_and_not_on_the_batch(weights, monkeypatch):
    captioner = VirTexCaptioner(weights, device="cpu")
    # Beams of random weights can be as near as float32 rounds, which another batch does otherwise.
    captioner.model.double()
    in_float32 = captioner.transform
    monkeypatch.setattr(captioner, "transform", lambda image: in_float32(image).double())
    images = [picture(seed) for seed in range(6)]
    texts = captioner(images)
    assert len(set(texts)) > 1
    assert all(0 < len(text) for text in texts)
    assert texts == [captioner([image])[0] for image in images] == captioner(images)
    assert captioner([]) == []


def test_one_beam_is_greedy_search_with_no_word_twice_in_a_row(weights):
    captioner = VirTexCaptioner(weights, max_new_tokens=7, num_beams=1, device="cpu")
    images = [picture(seed) for seed in range(4)]
    memory = captioner.model.encode(torch.stack([captioner.transform(image) for image in images]))
    expected = []
    for row in range(4):
        pieces = [START]
        while len(pieces) <= 7 and END not in pieces:
            logits = captioner.model.decode(torch.tensor([pieces]), memory[row : row + 1])[0, -1].clone()
            logits[pieces[-1]] = -math.inf
            pieces.append(int(logits.argmax()))
        expected.append(" ".join(captioner.pieces.decode([piece for piece in pieces if piece != END]).split()))
    assert captioner(images) == expected


def test_images_are_seen_as_published(captioner):
    """The shorter side becomes 256, of which the middle 224 are cut out."""
    pixels = np.zeros((512, 640, 3), np.uint8)
    pixels[32:480, 96:544] = 255  # what is kept, in full
    from PIL import Image

    seen = captioner.transform(Image.fromarray(pixels))
    assert seen.shape == (3, 224, 224)
    white = (1 - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])
    torch.testing.assert_close(seen[:, 2:-2, 2:-2], white.view(3, 1, 1).expand(3, 220, 220))


def test_the_command_makes_a_context_source_and_goes_on(folder, weights, tmp_path, capsys):
    images, out = tmp_path / "images", tmp_path / "captions.jsonl"
    images.mkdir()
    for seed in range(3):
        picture(seed).save(images / f"{seed}.png")
    (images / "broken.jpg").write_text("no image")
    options = {"model": f"virtex:{weights}", "num_beams": 2, "max_new_tokens": 5, "device": "cpu", "num_workers": 0}
    caption(images, out, **options, batch_size=2)
    whole = out.read_bytes()
    lines = [json.loads(line) for line in whole.splitlines()]
    captioner = load_captioner(f"virtex:{weights}", 5, 2, device="cpu")
    assert [line["caption"] for line in lines] == captioner([picture(seed) for seed in range(3)])
    assert "1 of 4 images could not be read (not an image 1): broken.jpg" in capsys.readouterr().err
    out.write_bytes(whole[:-9])
    caption(images, out, **options, vocabulary=None)
    assert out.read_bytes() == whole


def test_files_that_do_not_fit_are_refused(folder, weights, tmp_path, monkeypatch):
    state = torch.load(weights, weights_only=True)["model"]
    words, bias = "textual.output.weight", "textual.output.bias"

    def saved(name, content):
        torch.save(content, tmp_path / name)
        return tmp_path / name

    alone = saved("alone.pth", state)
    with pytest.raises(CheckpointError, match=r"Expected one vocabulary .* beside .*, but found none"):
        VirTexCaptioner(alone)
    short = saved("short.pth", random_state(virtex_shapes(**{**TINY, "words": 40})))
    with pytest.raises(CheckpointError, match=r"coco_10k.model has 48 word pieces, but .* was trained with 40"):
        VirTexCaptioner(short, folder / "coco_10k.model")
    untied = saved("untied.pth", {**state, words: state[words] + 1})
    with pytest.raises(CheckpointError, match=r"textual.output.weight differs"):
        load_virtex(untied)
    cnn = saved("cnn.pth", {name: value for name, value in state.items() if "visual" in name})
    with pytest.raises(CheckpointError, match=r"holds no captioner of VirTex: it lacks textual.embedding.words"):
        load_virtex(cnn)
    less = saved("less.pth", {name: value for name, value in state.items() if name != bias})
    with pytest.raises(CheckpointError, match=r"1 missing: textual.output.bias"):
        load_virtex(less)
    with pytest.raises(ValueError, match="`max_new_tokens` of 30 at most"):
        VirTexCaptioner(weights, max_new_tokens=31)
    with pytest.raises(CheckpointError, match="is no model of SentencePiece"):
        VirTexCaptioner(weights, weights)
    with pytest.raises(ValueError, match="takes no prompt"):
        load_captioner(f"virtex:{weights}", prompt="a photo of")
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    with pytest.raises(MissingDependencyError, match=r"pip install mner\[captions\]"):
        VirTexCaptioner(weights)
