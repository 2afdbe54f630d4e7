"""The word-level encoder: what a word's vector depends on, and that it does wherever BERT does."""

import json
import warnings

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModel

from mner.data import Twitter2017DataModule
from mner.data.batching import Collate
from mner.data.dataset import MNERDataset
from mner.data.examples import Example
from mner.data.tokenizer import PostTokenizer
from mner.data.vocabulary import build_vocabulary, count_words
from mner.encoders.lora import Adapters
from mner.encoders.text import TextEncoder
from mner.encoders.vocabulary_folder import write_folder
from mner.encoders.word_level import UNKNOWN, WordLevelConfig, WordLevelModel
from mner.errors import CheckpointError
from mner.fusion import (
    CharacterImage,
    CorrelationFusion,
    CrossModalEncoder,
    FusionModule,
    RelationPropagation,
    TextOnly,
    TransformerAttention,
    TwoStream,
    VisualPrefix,
)
from mner.labels import bio_labels
from mner.tagger.onnx import TOLERANCE, export_onnx
from mner.tagger.post import Post
from mner.tagger.tagger import Tagger
from tests.fusion.test_strategies import STRATEGIES

from ..conftest import WORDS

LABELS = bio_labels(["PER", "LOC", "ORG", "MISC"])
QUIET = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
KNOWN = ["visits", "in", "nothing", "here", "a", "of"]
"""Words of the vocabulary that a post below has; all in lower case."""


def examples(posts, context=()):
    return [Example(str(row), None, tuple(words), ("O",) * len(words), context) for row, words in enumerate(posts)]


POSTS = examples([words for words, _ in WORDS] + [KNOWN * 2])


def save(folder, **sizes):
    """A folder as `mner vocabulary` makes it, without a file of vectors."""
    sizes = {"lstm_width": 6, "character_width": 8, **sizes}
    return str(write_folder(folder, build_vocabulary(count_words(POSTS), width=10), {}, **sizes))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save(tmp_path_factory.mktemp("words") / "made")


def batch_of(folder, posts):
    dataset = MNERDataset(posts, LABELS, PostTokenizer(folder))
    return Collate(0)([dataset[row] for row in range(len(posts))])


KINDS = [
    {"characters": "cnn"},
    {"characters": "bilstm", "lstm_layers": 2},
    {"characters": None},
    {"characters": "bilstm", "lstm_layers": 0},
]
each_kind = pytest.mark.parametrize("sizes", KINDS, ids=lambda sizes: "-".join(map(str, sizes.values())))


@each_kind
@pytest.mark.parametrize("context", [(), ("a town of nothing , somewhere",)])
def test_a_batch_of_one_equals_a_batch_of_many_and_padding_changes_nothing(tmp_path, sizes, context):
    made = save(tmp_path / "made", **sizes)
    encoder = TextEncoder(made).eval()
    posts = examples([post.words for post in POSTS], context)
    batch = batch_of(made, posts)
    together = encoder.words(batch)
    assert together.shape == (len(posts), 12, encoder.width)
    for row, post in enumerate(posts):
        alone = encoder.words(batch_of(made, [post]))[0]
        torch.testing.assert_close(together[row, : len(post.words)], alone)
    padded = {**batch, "token_ids": torch.where(batch["token_mask"], batch["token_ids"], 5)}
    assert torch.equal(encoder.words(padded), together)


@each_kind
def test_a_word_depends_on_its_characters_also_where_it_is_unknown(tmp_path, sizes):
    made = save(tmp_path / "made", **sizes)
    encoder = TextEncoder(made).eval()
    for one, other in (("Zorb", "Zorp"), ("anna", "Anna")):  # two unknown words; one of the vocabulary in two cases
        posts = examples([["visits", one], ["visits", other]])
        batch = batch_of(made, posts)
        assert torch.equal(batch["token_ids"][0], batch["token_ids"][1])
        assert (batch["token_ids"][0, 2] == UNKNOWN) == (one == "Zorb")
        first, second = encoder.words(batch)[:, 1]
        assert torch.equal(first, second) == (sizes["characters"] is None)


@each_kind
def test_ids_alone_do_for_words_of_the_vocabulary(tmp_path, sizes):
    made = save(tmp_path / "made", **sizes)
    encoder = TextEncoder(made).eval()
    batch = batch_of(made, examples([KNOWN]))
    states = encoder.model(batch["token_ids"]).last_hidden_state
    torch.testing.assert_close(states[:, 1:-1], encoder.words(batch))
    if sizes["characters"]:  # and so the words of a context have characters
        encoder.model.character_table.zero_()
        assert not torch.allclose(encoder.model(batch["token_ids"]).last_hidden_state[:, 1:-1], encoder.words(batch))


def test_words_seen_once_become_unknown_in_training_only(tmp_path):
    made = save(tmp_path / "made", characters=None, lstm_layers=0, dropout=0.0, singleton_dropout=0.5)
    encoder = TextEncoder(made)
    batch = batch_of(made, examples([["lagos", "here", "nowhere"] * 60]))  # once, three times and never in training
    once, often, never = encoder.model.embedding(torch.tensor([batch["token_ids"][0, 1:4].tolist()]))[0]
    assert torch.equal(never, encoder.model.embedding.weight[UNKNOWN])
    assert torch.equal(encoder.eval().words(batch), torch.stack([once, often, never] * 60)[None])
    words = encoder.train().words(batch)[0].view(60, 3, -1)
    unknown = (words[:, 0] == never).all(-1)
    assert 15 <= unknown.sum() <= 45
    assert (words[~unknown, 0] == once).all()
    assert (words[:, 1] == often).all()
    assert (words[:, 2] == never).all()


def test_an_unknown_word_keeps_its_characters(tmp_path):
    made = save(tmp_path / "made", lstm_layers=0, dropout=0.0, singleton_dropout=1.0)
    encoder = TextEncoder(made).train()
    one, other = encoder.words(batch_of(made, examples([["lagos", "oscars"]])))[0]
    assert torch.equal(one[:10], other[:10])
    assert torch.equal(one[:10], encoder.model.embedding.weight[UNKNOWN])
    assert not torch.allclose(one[10:], other[10:])


@each_kind
def test_every_parameter_learns_and_a_frozen_table_does_not(tmp_path, sizes):
    made = save(tmp_path / "made", **sizes)
    frozen = save(tmp_path / "frozen", freeze_words=True, **sizes)
    for name, expected in ((made, set()), (frozen, {"model.embedding.weight"})):
        for encoder in (TextEncoder(name), TextEncoder(TextEncoder(name).config)):
            encoder.words(batch_of(made, POSTS)).square().sum().backward()
            without = {name for name, some in encoder.named_parameters() if some.grad is None or not some.grad.any()}
            assert without == expected
            assert {name for name, some in encoder.named_parameters() if not some.requires_grad} == expected


@each_kind
def test_bf16_autocast(tmp_path, sizes):
    made = save(tmp_path / "made", **sizes)
    encoder = TextEncoder(made).eval()
    batch = batch_of(made, POSTS)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = encoder.words(batch)
        encoder.train().words(batch).sum().backward()
    torch.testing.assert_close(rounded.float(), encoder.eval().words(batch), rtol=0.05, atol=0.05)


def test_what_is_saved_is_loaded(tmp_path, folder):
    encoder = TextEncoder(folder).eval()
    batch = batch_of(folder, POSTS)
    encoder.model.save_pretrained(tmp_path)
    again = TextEncoder(str(tmp_path)).eval()
    assert torch.equal(again.words(batch), encoder.words(batch))
    theirs = AutoModel.from_pretrained(tmp_path)
    assert isinstance(theirs, WordLevelModel)
    found = theirs(batch["token_ids"]).last_hidden_state
    assert torch.equal(found, encoder.model(batch["token_ids"]).last_hidden_state)
    config = encoder.config
    assert AutoConfig.for_model(**config).to_dict() == config
    assert json.loads(json.dumps(config)) == {**config, "id2label": {str(k): v for k, v in config["id2label"].items()}}


def test_the_folder_brings_the_tables_and_the_seed_the_rest(folder):
    made = []
    for seed in (1, 1, 2):
        pl.seed_everything(seed, verbose=False)
        made.append(TextEncoder(folder).model.state_dict())
    table = load_file(f"{folder}/model.safetensors")
    for name, value in made[0].items():
        assert torch.equal(value, made[1][name])
        assert torch.equal(value, made[2][name]) == (name in table)
    theirs = AutoModel.from_pretrained(folder).state_dict()
    assert all(torch.equal(theirs[name], value) for name, value in table.items())
    # Trained vectors are much longer than transformers' start of 0.02, and so is PyTorch's own.
    assert theirs["recurrent.forward_layers.0.weight_hh_l0"].std() > 0.1


def test_weights_that_do_not_fit_are_refused(tmp_path):
    for number, (change, match) in enumerate(
        [
            ({"vocab_size": 5}, "another shape"),
            ({"characters": "lstm"}, "bilstm or none"),
            ({"character_width": 7, "characters": "bilstm"}, "even"),
            ({"lstm_layers": -1}, "at least"),
            ({"dropout": 1.0}, "below 1"),
        ]
    ):
        made = save(tmp_path / str(number))
        path = tmp_path / str(number) / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **change}), encoding="utf-8")
        with pytest.raises(CheckpointError, match=match):
            TextEncoder(made)
    full = tmp_path / "full"
    TextEncoder(save(tmp_path / "made")).model.save_pretrained(full)
    path = full / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), "lstm_layers": 2}), encoding="utf-8")
    with pytest.raises(CheckpointError, match="missing"):
        TextEncoder(str(full))
    (full / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        TextEncoder(str(full))


def test_lora_and_regions_inside_the_encoder_are_refused_by_name(folder):
    with pytest.raises(ValueError, match=r"word-level.*LoRA"):
        TextEncoder(folder).adapt(Adapters(rank=2))
    with pytest.raises(ValueError, match="mner-word-level"):
        TransformerAttention(LABELS, text_encoder=folder, region_width=4)


# They read regions with word pieces or inside its layers, of which this encoder has none; CharacterImage does not train
# its text encoder.
WITHIN = (TransformerAttention, RelationPropagation, CrossModalEncoder, TwoStream, VisualPrefix, CorrelationFusion)
LEFT_OUT = (*WITHIN, CharacterImage)


@pytest.mark.parametrize("cls", [cls for cls in STRATEGIES if cls not in LEFT_OUT])
def test_every_strategy_learns_with_it(folder, cls):
    options = {"region_width": 12} if cls.uses_image else {}
    generator = np.random.default_rng(0)
    regions = {f"{row}": generator.normal(size=(3, 12)).astype(np.float32) for row in range(3)}
    dataset = MNERDataset(POSTS, LABELS, PostTokenizer(folder), regions=regions)
    batch = Collate(0, region_width=12)([dataset[row] for row in range(len(POSTS))])
    module = cls(LABELS, text_encoder=folder, hidden_size=8, **options)
    sum(module.losses(batch).values()).backward()
    assert [name for name, some in module.text_encoder.named_parameters() if some.grad is None] == []
    module.eval()
    alone = Collate(0, region_width=12)([dataset[0]])
    torch.testing.assert_close(module.emissions(batch)[:1, :4], module.emissions(alone), atol=1e-5, rtol=1e-4)


def trained(root, folder, path, epochs, resume=None, **options):
    pl.seed_everything(0, verbose=False)
    data = Twitter2017DataModule(str(root), text_encoder=folder, batch_size=2, context=["captions.jsonl"])
    model = TextOnly(data.labels, text_encoder=folder, learning_rate=0.02, **options)
    checkpoint = pl.callbacks.ModelCheckpoint(path, filename="a", monitor=None, save_last=True)
    trainer = pl.Trainer(max_epochs=epochs, callbacks=[checkpoint], **QUIET)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(model, data, ckpt_path=resume)
    return model, path / "last.ckpt", trainer


def test_train_resume_tag_share(tmp_path, posts_folder):
    made = save(tmp_path / "made", characters="bilstm", dropout=0.1, lstm_width=32, character_width=16)
    model, path, trainer = trained(posts_folder, made, tmp_path / "run", 20, dropout=0.0)
    assert trainer.callback_metrics["val/f1"] > 0.5, "valid has the same words as training"
    (tmp_path / "made").rename(tmp_path / "gone")  # a checkpoint needs nothing but itself
    loaded = FusionModule.load_from_checkpoint(path)
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in loaded.state_dict().items())
    tagger = Tagger.from_checkpoint(path, device="cpu")
    posts = [Post(words=words) for words, _ in WORDS] + [Post("Anna visits Lagos"), Post("a " * 900 + "Lagos")]
    found = tagger(posts)
    assert sum(len(post) for post in found) > 3
    tagger.save_pretrained(tmp_path / "shared")
    shared = Tagger.load(tmp_path / "shared", device="cpu")
    assert [post.tags for post in shared(posts)] == [post.tags for post in found]
    (tmp_path / "gone").rename(tmp_path / "made")
    more, _, trainer = trained(posts_folder, made, tmp_path / "more", 21, resume=path)
    assert trainer.global_step == 21 * 3
    assert not torch.equal(more.text_encoder.model.embedding.weight, model.text_encoder.model.embedding.weight)


@pytest.mark.slow
@pytest.mark.parametrize("sizes", KINDS[:3], ids=lambda sizes: str(sizes["characters"]))
def test_it_can_be_exported(tmp_path, posts_folder, sizes):
    pytest.importorskip("onnxscript", reason="the extra `onnx` is not installed")
    made = save(tmp_path / "made", **sizes)
    _, path, _ = trained(posts_folder, made, tmp_path / "run", 2)
    tagger = Tagger.from_checkpoint(path, device="cpu")
    assert export_onnx(tagger, tmp_path / "out") <= TOLERANCE
    exported = Tagger.from_onnx(tmp_path / "out")
    posts = [Post(words=words) for words, _ in WORDS] + [Post("Zorb visits Lagos", context="a town")]
    assert [post.tags for post in exported(posts)] == [post.tags for post in tagger(posts)]


def test_sizes_as_they_are_said():
    assert WordLevelConfig(embedding_width=50, characters="cnn", lstm_width=7).hidden_size == 14
    assert WordLevelConfig(embedding_width=50, characters=None, lstm_layers=0).hidden_size == 50
