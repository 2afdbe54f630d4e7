import argparse
import json
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from mner.data.formats.context import read_context
from mner.data.formats.feature_store import FeatureWriter
from mner.errors import CheckpointError, DataFormatError, DataNotFoundError
from mner.preprocessing.captions import caption, load_captioner
from mner.preprocessing.updown import UpDown, UpDownCaptioner, load_updown
from mner.preprocessing.vocabulary_file import read_words
from tests.preprocessing.released import random_state, updown_shapes
from tests.preprocessing.test_captions import picture

WORDS = {str(number): word for number, word in enumerate("a man dog rides the red horse on grass UNK".split(), 1)}
TINY = {"words": len(WORDS), "word_width": 8, "width": 12, "regions": 16, "attention": 6}


def regions(seed, count=5):
    return np.random.default_rng(seed).normal(size=(count, 16)).astype(np.float32)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Weights and vocabulary as they are released, small."""
    folder = tmp_path_factory.mktemp("updown")
    torch.save(random_state(updown_shapes(**TINY), seed=3), folder / "model-best.pth")
    infos = {
        "iter": 3000, "epoch": 29, "vocab": WORDS, "best_val_score": np.float64(1.1),
        "opt": argparse.Namespace(caption_model="updown", rnn_size=12, drop_prob_lm=0.5),
        "loader_state_dict": {"train": {"index_list": np.arange(4), "iter_counter": 2}},
    }  # fmt: skip
    (folder / "infos_td-best.pkl").write_bytes(pickle.dumps(infos, protocol=2))
    return folder / "model-best.pth"


@pytest.fixture(scope="module")
def captioner(weights):
    return UpDownCaptioner(weights, device="cpu")


def test_names_and_shapes_are_those_released():
    with torch.device("meta"):
        model = UpDown(9488, 1000, 1000, 2048, 512)
    assert {name: tuple(value.shape) for name, value in model.state_dict().items()} == updown_shapes()


def lstm(state, place, seen, h, c):
    """An LSTM's step as in Hochreiter and Schmidhuber's, with a forget gate; gates in torch's order i, f, g, o."""
    gates = seen @ state[f"{place}.weight_ih"].T + state[f"{place}.bias_ih"]
    i, f, g, o = (gates + h @ state[f"{place}.weight_hh"].T + state[f"{place}.bias_hh"]).chunk(4)
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    return o.sigmoid() * c.tanh(), c


def by_hand(state, some, words):
    """Logits after each of `words` for the regions (r, f) of one image: the formulas at the head of the module."""

    def layer(name, rows):
        return rows @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    v, mean = layer("att_embed.0", some).relu(), layer("fc_embed.0", some.mean(0)).relu()
    h1 = c1 = h2 = c2 = torch.zeros(12)
    found = []
    for word in words:
        seen = torch.cat([h2, mean, state["embed.0.weight"][word].relu()])
        h1, c1 = lstm(state, "core.att_lstm", seen, h1, c1)
        scores = layer("core.attention.alpha_net", torch.tanh(layer("ctx2att", v) + layer("core.attention.h2att", h1)))
        looked = (scores.softmax(0) * v).sum(0)
        h2, c2 = lstm(state, "core.lang_lstm", torch.cat([looked, h1]), h2, c2)
        found.append(layer("logit", h2))
    return torch.stack(found)


def test_a_step_is_that_of_the_paper(weights):
    model, state = load_updown(weights), torch.load(weights, weights_only=True)
    images = [torch.from_numpy(regions(0)), torch.from_numpy(regions(1, 3))]
    padded = torch.full((2, 5, 16), 9.0)
    padded[0], padded[1, :3] = images
    mask = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
    mean, looked_at = model.encode(padded, mask)
    memory = tuple(torch.zeros(2, 12) for _ in range(4))
    words = [[0, 3, 5, 1], [0, 2, 2, 9]]
    for time in range(4):
        logits, memory, attention = model.step(torch.tensor(words)[:, time], mean, looked_at, mask, memory)
        expected = torch.stack([by_hand(state, images[row], words[row])[time] for row in range(2)])
        torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(attention.sum(1), torch.ones(2))
        assert not attention[1, 3:].any()


def test_order_of_regions_and_padding_change_nothing(captioner):
    images = [regions(seed, count) for seed, count in enumerate((5, 2, 7, 5))]
    texts = captioner(images)
    assert len(set(texts)) > 1
    assert texts == [captioner([some])[0] for some in images]
    assert texts == captioner([some[::-1] for some in images])
    assert captioner([]) == []


def test_one_beam_is_greedy_and_never_says_unk(weights):
    captioner = UpDownCaptioner(weights, max_new_tokens=6, num_beams=1, device="cpu")
    state = torch.load(weights, weights_only=True)
    state["logit.bias"][len(WORDS)] += 50  # UNK would always win
    captioner.model.load_state_dict(state)
    images = [regions(seed) for seed in range(5)]
    expected = []
    for some in images:
        words = [0]
        while len(words) <= 6 and (len(words) == 1 or words[-1]):
            words.append(int(by_hand(state, torch.from_numpy(some), words)[-1][:-1].argmax()))
        expected.append(" ".join(WORDS[str(word)] for word in words[1:] if word))
    assert captioner(images) == expected
    assert len(set(expected)) > 1


@pytest.fixture
def store(tmp_path):
    with FeatureWriter(
        tmp_path / "store", kind="regions", encoder="vg", width=16, classes=["dog"], dtype="float32"
    ) as writer:
        some = [regions(0), regions(1, 3), regions(2, 0)]
        boxes, scores = [np.zeros((len(each), 4)) for each in some], [np.ones(len(each)) for each in some]
        writer.append(["a.jpg", "b.jpg", "none.jpg"], some, boxes, scores, [["dog"] * len(each) for each in some])
        writer.finish({"c.jpg": "empty"})
    return tmp_path / "store"


def test_the_command_describes_stored_regions_and_goes_on(store, weights, tmp_path, capsys):
    out = tmp_path / "captions.jsonl"
    caption(store, out, f"updown:{weights}", device="cpu")
    told = " ".join(capsys.readouterr().err.split())
    assert "2 of 4 images could not be read (no regions 1, empty 1): none.jpg, c.jpg" in told
    texts = read_context(out)
    assert [texts["a"], texts["b"]] == UpDownCaptioner(weights, device="cpu")([regions(0), regions(1, 3)])
    whole = out.read_bytes()
    out.write_bytes(whole[: whole.index(b"\n") + 5])
    caption(store, out, f"updown:{weights}", device="cpu")
    assert out.read_bytes() == whole
    assert json.loads((tmp_path / "captions.jsonl.mner.json").read_text())["facts"]["max_new_tokens"] == 20


def test_features_of_elsewhere_become_a_store_as_the_page_says(weights, tmp_path, monkeypatch):
    page = (Path(__file__).parents[2] / "docs" / "texts_from_images.md").read_text(encoding="utf-8")
    (code,) = (code for code in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "cocobu_att" in code)
    monkeypatch.chdir(tmp_path)
    Path("cocobu_att").mkdir()
    for name, count in (("17", 5), ("4", 3)):
        np.savez_compressed(Path("cocobu_att") / name, feat=regions(int(name), count))
    exec(compile(code.replace("width=2048", "width=16"), "page", "exec"), {})
    caption(Path("regions"), Path("out.jsonl"), f"updown:{weights}", device="cpu")
    texts = read_context("out.jsonl")
    expected = UpDownCaptioner(weights, device="cpu")([regions(17), regions(4, 3)])
    assert [texts["17"], texts["4"]] == expected


def test_what_does_not_fit_is_refused(store, weights, tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    picture(0).save(images / "0.png")
    with pytest.raises(DataNotFoundError, match=r"No stored features at .* `mner features"):
        caption(images, tmp_path / "out.jsonl", f"updown:{weights}")
    with pytest.raises(CheckpointError, match="describes stored regions"):
        load_captioner(f"updown:{weights}")
    with pytest.raises(ValueError, match="takes no prompt"):
        caption(store, tmp_path / "a.jsonl", f"updown:{weights}", prompt="a photo of")
    torch.save(random_state(updown_shapes(**{**TINY, "regions": 20})), weights.with_name("other.pth"))
    with pytest.raises(DataFormatError, match=r"features of width 16 .*; expected width 20"):
        caption(store, tmp_path / "b.jsonl", f"updown:{weights.with_name('other.pth')}", device="cpu")
    torch.save({"embed.0.weight": torch.zeros(3, 3)}, tmp_path / "less.pth")
    with pytest.raises(CheckpointError, match=r"it lacks att_embed.0.weight"):
        load_updown(tmp_path / "less.pth")


def test_the_vocabulary_comes_from_either_file(weights, tmp_path):
    file = tmp_path / "cocotalk.json"
    file.write_text(json.dumps({"ix_to_word": WORDS, "images": []}))
    expected = {int(number): word for number, word in WORDS.items()}
    assert read_words(file) == read_words(weights.with_name("infos_td-best.pkl")) == expected
    images = [regions(0)]
    assert UpDownCaptioner(weights, file, device="cpu")(images) == UpDownCaptioner(weights, device="cpu")(images)
    file.write_text(json.dumps({"ix_to_word": {"1": "a"}}))
    with pytest.raises(CheckpointError, match=r"cocotalk.json has 1 words, but .* was trained with 10"):
        UpDownCaptioner(weights, file)
    for content in ("[]", '{"ix_to_word": {"2": "a"}}', "{"):
        file.write_text(content)
        with pytest.raises(CheckpointError, match="expected words by number"):
            read_words(file)
    with pytest.raises(CheckpointError, match=r"infos_….pkl .* no such file"):
        UpDownCaptioner(weights, tmp_path / "nowhere.pkl")


class Harmful:
    def __reduce__(self):
        return print, ("this must not run",)


def test_a_pickle_runs_nothing(tmp_path, capsys):
    file = tmp_path / "infos.pkl"
    file.write_bytes(pickle.dumps({"vocab": {"1": "a"}, "opt": Harmful(), "more": [Harmful(), {Harmful}]}))
    assert read_words(file) == {1: "a"}
    assert capsys.readouterr().out == ""
