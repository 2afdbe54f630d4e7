"""Every strategy as an ONNX graph with the same label scores, and taggers that run it."""

import json
import random
import subprocess
import sys
import warnings
from importlib.metadata import version

import numpy as np
import pytest
import torch
from PIL import Image

from mner.cli import main
from mner.cli.tagging import export
from mner.errors import CheckpointError, DataNotFoundError, MissingDependencyError, MNERError
from mner.fusion import Concatenation, CrossViewAlignment, FusionModule, TextOnly, TransformerAttention
from mner.preprocessing.features import features
from mner.tagger.engines import Exported, installed
from mner.tagger.onnx import TOLERANCE, export_onnx
from mner.tagger.post import Post
from mner.tagger.tagger import Tagger
from tests.conftest import save_bert
from tests.fusion.test_strategies import STRATEGIES
from tests.tagging import save_checkpoint

ENGINES = ["onnx", *(["openvino"] if installed("openvino") else [])]
TEXTS = ["Anna visits Old Town", "RT @acme: Dr. Seuss " * 3, "x", "nothing " * 200]


@pytest.fixture(scope="module")
def store(tmp_path_factory, posts_folder):
    store = tmp_path_factory.mktemp("export") / "store"
    features(posts_folder / "images", store, "test_resnet", "random", image_size=64, num_workers=0, device="cpu")
    return str(store)


@pytest.fixture(scope="module")
def one_layer(tmp_path_factory):
    """For the test of every strategy: their encoders are traced alike, and that takes as long as there are layers."""
    return str(save_bert(tmp_path_factory.mktemp("bert1"), layers=1))


def agree(tagger, folder, **post):
    """The exported model tags as the model does, whatever the posts and their images."""
    for engine in ENGINES:
        check_agree(tagger, Tagger(Exported(folder, engine), device="cpu"), post)


def check_agree(tagger, exported, post):
    assert isinstance(exported.model, Exported)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for chosen in (TEXTS, TEXTS[2:3]):
            posts = [Post(text, **(post if place % 2 == 0 else {})) for place, text in enumerate(chosen)]
            for one, other in zip(tagger(posts), exported(posts), strict=True):
                assert one.tags == other.tags
                assert one.has_image == other.has_image
                np.testing.assert_allclose([e.score for e in one], [e.score for e in other], atol=1e-4)


REFUSED = {
    "CrossModalEncoder": "needs boxes",
    "TwoStream": "needs boxes",
    "GuidingObjects": "needs object_names",
    "RetrievalExperts": "own `posterior`",
    "VisuallyAidedAttention": "cannot be exported",
}


@pytest.mark.slow
@pytest.mark.parametrize("cls", STRATEGIES, ids=lambda cls: cls.__name__)
def test_every_strategy(cls, tmp_path, posts_folder, one_layer, store):
    options = {"features": store} if cls.uses_image else {}
    options |= {"graph_layers": 2} if cls.__name__ == "MultimodalGraph" else {}  # of six, traced alike
    path = save_checkpoint(tmp_path / "a.ckpt", cls, posts_folder, one_layer, context=["captions.jsonl"], **options)
    tagger = Tagger.from_checkpoint(path, device="cpu")
    if cls.__name__ in REFUSED:
        with pytest.raises(CheckpointError, match=REFUSED[cls.__name__]):
            export_onnx(tagger, tmp_path / "out")
        return
    assert export_onnx(tagger, tmp_path / "out") <= TOLERANCE
    agree(tagger, tmp_path / "out", image=Image.new("RGB", (80, 60), (200, 40, 10)), context="a picture")


def test_with_its_image_encoder(tmp_path, posts_folder, bert_folder):
    options = {"image_encoder": "test_resnet", "image_weights": None, "images": "images"}
    path = save_checkpoint(tmp_path / "a.ckpt", Concatenation, posts_folder, bert_folder, **options)
    tagger = Tagger.from_checkpoint(path, device="cpu")
    assert export_onnx(tagger, tmp_path / "out") <= TOLERANCE
    assert "image" in Exported(tmp_path / "out").inputs
    agree(tagger, tmp_path / "out", image=Image.new("RGB", (80, 60), (200, 40, 10)))


def test_visual_bert(tmp_path, posts_folder, bert_folder, store):
    from transformers import AutoTokenizer, VisualBertConfig, VisualBertModel

    folder = tmp_path / "visual"
    tokenizer = AutoTokenizer.from_pretrained(bert_folder)
    tokenizer.save_pretrained(folder)
    config = VisualBertConfig(
        vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=128, visual_embedding_dim=96,
    )  # fmt: skip
    VisualBertModel(config).save_pretrained(folder)
    path = save_checkpoint(tmp_path / "a.ckpt", TransformerAttention, posts_folder, str(folder), features=store)
    tagger = Tagger.from_checkpoint(path, device="cpu")
    assert export_onnx(tagger, tmp_path / "out") <= TOLERANCE
    agree(tagger, tmp_path / "out", image=Image.new("RGB", (80, 60), (200, 40, 10)))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("cls", "options"), [(TransformerAttention, {"start_layer": 1}), (CrossViewAlignment, {"view": "post"})]
)
def test_with_options_that_change_the_graph(cls, options, tmp_path, posts_folder, bert_folder, store):
    options = {**options, **({"features": store} if cls.uses_image else {"context": ["captions.jsonl"]})}
    path = save_checkpoint(tmp_path / "a.ckpt", cls, posts_folder, bert_folder, **options)
    tagger = Tagger.from_checkpoint(path, device="cpu")
    assert export_onnx(tagger, tmp_path / "out") <= TOLERANCE
    agree(tagger, tmp_path / "out", image=Image.new("RGB", (80, 60), (200, 40, 10)), context="a picture")


@pytest.fixture(scope="module")
def text(tmp_path_factory, posts_folder, bert_folder):
    folder = tmp_path_factory.mktemp("text")
    path = save_checkpoint(folder / "a.ckpt", TextOnly, posts_folder, bert_folder)
    assert main(["export", str(path), str(folder / "out")]) == 0
    return path, folder / "out"


@pytest.fixture
def copy(text, tmp_path):
    for file in text[1].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


def test_no_weights_of_pytorch_are_needed(text):
    assert {file.name for file in text[1].iterdir()} >= {
        "model.onnx",
        "crf.safetensors",
        "config.json",
        "tokenizer.json",
    }
    assert not (text[1] / "model.safetensors").exists()
    with pytest.raises(CheckpointError, match=r"weights model\.safetensors"):
        Tagger.from_pretrained(text[1])


def test_constraints_are_kept(text, copy):
    assert np.isinf(Exported(copy).crf.edges).any()
    config = json.loads((copy / "config.json").read_text())
    config["hyper_parameters"]["constrain"] = False
    (copy / "config.json").write_text(json.dumps(config))
    assert not np.isinf(Exported(copy).crf.edges).any()


def test_damaged_exports(copy):
    def refused(match):
        with pytest.raises(CheckpointError, match=match):
            Tagger.from_onnx(copy)

    graph = (copy / "model.onnx").read_bytes()
    for content in (b"", b"no graph", graph[: len(graph) // 2]):
        (copy / "model.onnx").write_bytes(content)
        refused(r"model\.onnx")
    (copy / "model.onnx").unlink()
    refused(r"model\.onnx")
    (copy / "model.onnx").write_bytes(graph)
    (copy / "crf.safetensors").write_bytes(b"nothing")
    refused(r"crf\.safetensors")
    (copy / "crf.safetensors").unlink()
    refused(r"crf\.safetensors")


def test_other_folders_are_refused(text, tmp_path):
    Tagger.from_checkpoint(text[0], device="cpu").save_pretrained(tmp_path / "model")
    with pytest.raises(CheckpointError, match="`mner export` wrote"):
        Tagger.from_onnx(tmp_path / "model")
    with pytest.raises(CheckpointError, match="PyTorch"):
        export_onnx(Tagger.from_onnx(text[1]), tmp_path / "again")
    (tmp_path / "file").write_text("")
    with pytest.raises(DataNotFoundError, match="is a file"):
        export(str(text[0]), tmp_path / "file")


def test_strategies_that_cannot_be_exported_say_why(text, tmp_path):
    tagger = Tagger.from_checkpoint(text[0], device="cpu")

    class OwnDecoding(TextOnly):
        def decode(self, emissions, batch):
            return super().decode(emissions, batch)

    class ReadsWords(TextOnly):
        def emissions(self, batch):
            return super().emissions(batch) * len(batch["words"])

    class Nowhere(TextOnly):
        def emissions(self, batch):
            scores = super().emissions(batch)
            return scores + (1 if not torch.compiler.is_compiling() else 0)

    for cls, said in (
        (OwnDecoding, "its own `decode`"),
        (ReadsWords, "cannot be exported.*words"),
        (Nowhere, "differ by 1 "),
    ):
        tagger.model.__class__ = cls
        with pytest.raises(CheckpointError, match=said):
            export_onnx(tagger, tmp_path)
    assert isinstance(tagger.model, FusionModule)


def test_missing_onnx_is_named(text, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(MissingDependencyError, match=r"onnxscript.*mner\[onnx\]"):
        export_onnx(Tagger.from_checkpoint(text[0], device="cpu"), tmp_path)


ALONE = """
import json, sys
from mner.tagger.tagger import Tagger
folder, names = sys.argv[1:]
posts = json.load(sys.stdin)
tagger = Tagger.from_onnx(folder, names=names, batch_size=7)
found = [[post.tags, [[one.text, one.type, one.score] for one in post]] for post in tagger(posts)]
heavy = {"torch", "pytorch_lightning", "torchmetrics", "timm", "torchvision", "scipy"}
json.dump([found, sorted(heavy & set(sys.modules))], sys.stdout)
"""


@pytest.mark.skipif(
    tuple(map(int, version("transformers").split(".")[:2])) < (5, 18), reason="its tokenisers import torch themselves"
)
def test_an_exported_model_of_text_needs_no_torch(text, tmp_path):
    """It takes most of the time to start. Tags are those of the torch engine: of short posts, windows, with names."""
    drawn = random.Random(0)
    words = [*"Anna visits Old Town RT @acme : Dr. Seuss #x http://t.co/a naïve 東京 ゐ \ufe0f".split(), "nothing"]
    posts = [" ".join(drawn.choices(words, k=drawn.randint(1, 40))) for _ in range(30)]
    posts += [" ".join(drawn.choices(words, k=400)), "", "x"]
    names = tmp_path / "names.tsv"
    names.write_text("Old Town\talways\tLOC\nSeuss\tnever\t*\n")
    command = [sys.executable, "-c", ALONE, str(text[1]), str(names)]
    done = subprocess.run(command, input=json.dumps(posts), capture_output=True, text=True, check=True)
    found, heavy = json.loads(done.stdout)
    assert heavy == []
    expected = Tagger.from_checkpoint(text[0], device="cpu", names=str(names))(posts)
    assert any(len(post.tags) > 300 and set(post.tags) != {"O"} for post in expected)
    for (tags, entities), post in zip(found, expected, strict=True):
        assert tags == list(post.tags)
        assert [one[:2] for one in entities] == [[one.text, one.type] for one in post]
        np.testing.assert_allclose([one[2] for one in entities], [one.score for one in post], atol=1e-4)


def test_what_a_graph_has_not_is_refused(text):
    for options, said in (
        ({"label_set": "news"}, "no label set"),
        ({"neighbours": "store"}, "model in PyTorch for its neighbours"),
    ):
        with pytest.raises(MNERError, match=said):
            Tagger.from_onnx(text[1], **options)
    with pytest.raises(MNERError, match="runs on the processor"):
        Tagger(Exported(text[1]), device="cuda")


def test_the_command_takes_an_exported_folder(text, tmp_path):
    posts = tmp_path / "posts.txt"
    posts.write_text("Anna visits Old Town\nRT @acme: Dr. Seuss\n")
    for checkpoint, out in ((text[0], "torch.jsonl"), (text[1], "onnx.jsonl")):
        assert main(["tag", str(posts), "--checkpoint", str(checkpoint), "--output", str(tmp_path / out)]) == 0
    one, other = ([json.loads(line) for line in (tmp_path / out).open()] for out in ("torch.jsonl", "onnx.jsonl"))
    assert len(one) == 2
    assert [post["tags"] for post in one] == [post["tags"] for post in other]
