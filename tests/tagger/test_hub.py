"""Models saved, shared and loaded again, in another process, from strangers."""

import json
import re
import subprocess
import sys
from types import SimpleNamespace

import pytest
import yaml
from huggingface_hub import ModelCard
from safetensors.torch import load_file, save_file

from mner.cli.tagging import tag
from mner.data.formats.predictions import Prediction, prediction_header, write_predictions
from mner.data.tokenizer import PostTokenizer
from mner.errors import CheckpointError
from mner.fusion import TextOnly, VisualAttention
from mner.preprocessing.features import features
from mner.tagger.hub import save_model, scores_of
from mner.tagger.post import Post
from mner.tagger.tagger import Tagger
from tests.fusion.test_strategies import STRATEGIES
from tests.tagging import save_checkpoint

TEXTS = ["Anna visits Old Town", "RT @acme: Dr. Seuss", "nothing here"]


@pytest.fixture(scope="module")
def saved(tmp_path_factory, posts_folder, bert_folder):
    """A text model with context: its tagger, and the folder it was saved to."""
    folder = tmp_path_factory.mktemp("saved")
    path = save_checkpoint(
        folder / "a.ckpt", TextOnly, posts_folder, bert_folder, context=["captions.jsonl"], max_length=64
    )
    tagger = Tagger.from_checkpoint(path, device="cpu")
    tagger.save_pretrained(folder / "model", scores={"test/f1": 0.7412345678, "test/PER/f1": 0.8}, licence="mit")
    return tagger, folder / "model"


@pytest.fixture
def copy(saved, tmp_path):
    for file in saved[1].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


def change(folder, **values):
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps(config | values))


PROGRAM = """
import json, sys, warnings
warnings.simplefilter("ignore")
from mner import Tagger
from mner.tagger.post import Post
texts, image, folders = json.loads(sys.argv[1])
out = {}
for name, folder in folders.items():
    tagger = Tagger.load(folder, device="cpu")
    out[name] = [(t.tags, t.has_image, [e.score for e in t])
                 for t in tagger([Post(text, image=image, context="a cap") for text in texts])]
print(json.dumps(out))
"""


def test_every_strategy_in_a_fresh_process(tmp_path, posts_folder, bert_folder):
    store = tmp_path / "store"
    options = {"encoder": "test_resnet", "weights": "random", "image_size": 64, "num_workers": 0, "device": "cpu"}
    features(posts_folder / "images", store, **options)
    image = str(posts_folder / "images" / "00.jpg")
    folders, expected = {}, {}
    for cls in STRATEGIES:
        choices = {
            "pixels": {"image_encoder": "test_resnet", "image_weights": None, "images": "images"},
            "stored": {"features": str(store)},
        }
        for kind, choice in choices.items() if cls.uses_image else [("text", {})]:
            name = f"{cls.__name__} {kind}"
            path = save_checkpoint(
                tmp_path / f"{cls.__name__} {kind}.ckpt",
                cls,
                posts_folder,
                bert_folder,
                context=["captions.jsonl"],
                **choice,
            )
            tagger = Tagger.from_checkpoint(path, device="cpu")
            folders[name] = str(tagger.save_pretrained(tmp_path / name))
            import warnings

            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                tagged = tagger([Post(text, image=image, context="a cap") for text in TEXTS])
            assert all(one.has_image == cls.uses_image for one in tagged)
            expected[name] = [[list(one.tags), one.has_image, [e.score for e in one]] for one in tagged]
            folders[f"{name} checkpoint"], expected[f"{name} checkpoint"] = str(path), expected[name]
    assert len({json.dumps(some) for some in expected.values()}) > len(STRATEGIES) / 2  # they do differ
    argument = json.dumps([TEXTS, image, folders])
    done = subprocess.run([sys.executable, "-c", PROGRAM, argument], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found.keys() == expected.keys()
    for name, posts in expected.items():
        for one, other in zip(posts, found[name], strict=True):
            assert one[:2] == other[:2], name
            assert one[2] == pytest.approx(other[2], abs=1e-5), name


def test_what_the_folder_holds(saved, bert_folder):
    tagger, folder = saved
    assert {"README.md", "config.json", "model.safetensors", "tokenizer.json"} <= {
        file.name for file in folder.iterdir()
    }
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    assert config["class"].endswith("TextOnly")
    assert config["scores"] == {"test/f1": 0.741235, "test/PER/f1": 0.8}
    assert "tokenizer" not in config["data"]
    # Places on this machine are nobody's business.
    for name in ("config.json", "README.md"):
        assert bert_folder not in (folder / name).read_text(encoding="utf-8")
    assert load_file(folder / "model.safetensors").keys() == tagger.model.state_dict().keys()
    from transformers import AutoTokenizer

    assert AutoTokenizer.from_pretrained(folder).tokenize("anna") == ["a", "##n", "##n", "##a"]


def test_card(saved):
    tagger, folder = saved
    card = ModelCard.load(folder / "README.md")
    assert card.data.license == "mit"
    assert card.data.library_name == "mner"
    assert card.data.eval_results[0].metric_value == 0.741235
    text = card.text
    for value in tagger.data["fingerprints"].values():
        assert value in text
    for said in ("captions", "74.12", "80.00", "PER, LOC, ORG, MISC", "learning_rate", "from_pretrained", "context="):
        assert said in text
    assert "image=" not in text


def test_card_is_safe_and_says_what_is_not_known(saved, tmp_path):
    tagger, _ = saved
    tagger.model.restored["data"]["name"] = "a|b\n<script>`"
    try:
        tagger.save_pretrained(tmp_path)
    finally:
        tagger.model.restored["data"]["name"] = "Twitter2017DataModule"
    text = (tmp_path / "README.md").read_text(encoding="utf-8")
    header = yaml.safe_load(text.split("---\n")[1])
    assert header["license"] == "unknown"
    assert "None was given. Ask the owner" in text
    assert "None were given." in text
    assert "<script>" not in text.split("---\n", 2)[2]
    assert "| a\\|b &lt;script>' |" in text


def test_what_a_model_came_with_is_kept(saved, tmp_path):
    again = Tagger.from_pretrained(saved[1], device="cpu")
    assert (again.scores, again.licence) == ({"test/f1": 0.741235, "test/PER/f1": 0.8}, "mit")
    assert again.tokenizer.max_length == 64
    again.save_pretrained(tmp_path)
    for name in ("config.json", "README.md"):
        assert (tmp_path / name).read_text(encoding="utf-8") == (saved[1] / name).read_text(encoding="utf-8")
    assert again.data == saved[0].data


def test_load_takes_either(saved, tmp_path, monkeypatch):
    expected = saved[0]("Anna", context="a").tags
    assert Tagger.load(saved[1], device="cpu")("Anna", context="a").tags == expected
    assert Tagger.load(saved[1].parent / "a.ckpt", device="cpu")("Anna", context="a").tags == expected
    posts = tmp_path / "posts.jsonl"
    posts.write_text('{"text": "Anna", "context": "a"}\n')
    assert tag(str(posts), str(saved[1]), str(tmp_path / "out.jsonl"), device="cpu") == 0
    assert json.loads((tmp_path / "out.jsonl").read_text(encoding="utf-8"))["tags"] == list(expected)
    with pytest.raises(CheckpointError, match="No checkpoint at"):
        Tagger.load(tmp_path / "no.ckpt")
    with pytest.raises(CheckpointError, match="no folder here"):
        Tagger.load(tmp_path / "no")


def test_from_the_hub(saved, monkeypatch):
    asked = {}

    def snapshot(name, **options):
        asked.update(options, name=name)
        return str(saved[1])

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    tagger = Tagger.from_pretrained("someone/model", revision="v1", token="secret", device="cpu")
    assert tagger("Anna", context="a").tags == saved[0]("Anna", context="a").tags
    assert (asked["name"], asked["revision"], asked["token"]) == ("someone/model", "v1", "secret")
    assert not any(re.search(r"py|bin|ckpt|\*$", pattern) for pattern in asked["allow_patterns"])  # nothing that runs


@pytest.mark.parametrize("name", ["someone/nothing", "no such/na me", ""])
def test_not_on_the_hub(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match=r"the Hub gives none|config\.json in \."):
        Tagger.from_pretrained(name)


def test_push(saved, monkeypatch):
    seen = {}

    class Api:
        def __init__(self, token):
            seen["token"] = token

        def create_repo(self, name, private, exist_ok):
            seen["repository"] = (name, private, exist_ok)
            return SimpleNamespace(repo_id=f"me/{name}")

        def upload_folder(self, repo_id, folder_path, commit_message, ignore_patterns):
            tagger = Tagger.from_pretrained(folder_path, device="cpu")
            seen["upload"] = (repo_id, commit_message, tagger("Anna", context="a").tags, tagger.licence, tagger.scores)
            return SimpleNamespace(commit_url="https://hub/me/model/commit/1")

    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    url = saved[0].push_to_hub("model", scores={"test/f1": 0.5}, licence="cc-by-4.0", private=True, token="t")
    assert url == "https://hub/me/model/commit/1"
    assert seen["token"] == "t"
    assert seen["repository"] == ("model", True, True)
    repo_id, message, tags, licence, scores = seen["upload"]
    assert repo_id == "me/model"
    assert message.startswith("Model by mner")
    assert tags == saved[0]("Anna", context="a").tags
    assert (licence, scores) == ("cc-by-4.0", {"test/f1": 0.5})


def test_own_class_must_be_imported(copy, tmp_path):
    change(copy, **{"class": "antigravity.Model"})
    with pytest.raises(CheckpointError, match="import its module"):
        Tagger.from_pretrained(copy)
    assert "antigravity" not in sys.modules

    class Own(TextOnly):
        """Of a user."""

    change(copy, **{"class": f"{__name__}.{Own.__qualname__}"})
    with pytest.raises(CheckpointError, match="cannot be imported"):  # a local class is nowhere to be found
        Tagger.from_pretrained(copy)
    sys.modules[__name__].Own = Own
    Own.__qualname__ = "Own"
    change(copy, **{"class": f"{__name__}.Own"})
    assert type(Tagger.from_pretrained(copy, device="cpu").model) is Own


def test_damaged_models(copy):
    def refused(match):
        with pytest.raises(CheckpointError, match=match):
            Tagger.from_pretrained(copy, device="cpu")

    weights, config = (copy / "model.safetensors").read_bytes(), (copy / "config.json").read_bytes()
    for content in (b"", b"no weights", weights[: len(weights) // 2], b"\xff" * 100):
        (copy / "model.safetensors").write_bytes(content)
        refused(r"weights model\.safetensors")
    (copy / "model.safetensors").unlink()
    refused(r"weights model\.safetensors")
    state = load_file_of(weights)
    state.pop("head.bias")
    save_file(state, copy / "model.safetensors")
    refused(r"do not make a model(.|\n)*head\.bias")
    (copy / "model.safetensors").write_bytes(weights)
    for content in (b"", b"{", b"[]", b"\xff", b'{"mner_model": 2}', b"[" * 100_000, b'{"model_type": "bert"}'):
        (copy / "config.json").write_bytes(content)
        refused("mner saved|cannot be read")
    good = json.loads(config)
    for wrong, said in [
        ({"class": "mner.fusion.Nothing"}, "cannot be imported"),
        ({"class": "mner.fusion.base.nn"}, "do not make|Expected a checkpoint of"),
        ({"tokenizer_files": ["../secret"]}, "plain names"),
        ({"tokenizer_files": ["/etc/passwd"]}, "plain names"),
        ({"tokenizer_files": [3]}, "plain names"),
        ({"tokenizer_files": ["no.json"]}, "cannot be read"),
        ({"tokenizer_files": "tokenizer.json"}, "mner saved"),
        ({"hyper_parameters": good["hyper_parameters"] | {"strange": 1}}, "do not make a model"),
        ({"text_config": {"model_type": "nothing"}}, "do not make a model"),
        ({"text_config": 3}, "mner saved"),
        ({"scores": 3}, "mner saved"),
        ({"data": 3}, "it has 3 as data"),
    ]:
        (copy / "config.json").write_text(json.dumps(good | wrong))
        refused(said)


def load_file_of(content):
    from safetensors.torch import load

    return load(content)


def test_model_without_tokeniser(bert_folder, tmp_path):
    model = TextOnly(["O", "B-PER", "I-PER"], text_encoder=bert_folder)
    with pytest.raises(CheckpointError, match="no tokeniser"):
        save_model(model, tmp_path)
    save_model(model, tmp_path, tokenizer=PostTokenizer(bert_folder, max_length=50, replace_urls="URL"))
    tokenizer = Tagger.from_pretrained(tmp_path, device="cpu").tokenizer
    assert (tokenizer.max_length, tokenizer.replace_urls) == (50, "URL")


def test_tokeniser_files_with_strange_names(bert_folder, tmp_path):
    model = VisualAttention(["O", "B-PER", "I-PER"], text_encoder=bert_folder, region_width=3)
    for name in ("config.json", "../a.json"):
        model.restored = {"data": {"tokenizer": {name: "{}"}}}
        with pytest.raises(CheckpointError, match="plain names"):
            save_model(model, tmp_path)


def test_scores_of_a_prediction_file(tmp_path):
    labels = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
    header = prediction_header(model="m", split="valid", data="d", fingerprint=None, labels=labels)
    rows = [(("B-PER", "I-PER", "O"), ("B-PER", "I-PER", "B-LOC")), (("B-LOC", "O", "O"), ("O", "O", "O"))]
    posts = [Prediction(str(n), None, ("a", "b", "c"), gold, pred) for n, (gold, pred) in enumerate(rows)]
    path = tmp_path / "p.jsonl"
    write_predictions(path, header, posts)
    assert scores_of(path) == {
        "valid/precision": 0.5, "valid/recall": 0.5, "valid/f1": 0.5, "valid/LOC/f1": 0.0, "valid/PER/f1": 1.0,
    }  # fmt: skip
    write_predictions(path, header, [Prediction("1", None, ("a",), None, ("O",))])
    with pytest.raises(CheckpointError, match="no gold"):
        scores_of(path)
    write_predictions(path, header, [Prediction("1", None, ("a",), ("O",), ("O",))])
    assert scores_of(path)["valid/f1"] == 0.0
