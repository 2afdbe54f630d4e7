"""What lies between the encoder's layers and the words: by hand, in every place where a checkpoint is loaded."""

from __future__ import annotations

import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from mner.data import SampleDataModule
from mner.data.tokenizer import PostTokenizer
from mner.encoders.characters import characters_to_ids
from mner.encoders.text import TextEncoder
from mner.encoders.word_parts import LayerMix, WordReader, WordVectors
from mner.errors import CheckpointError
from mner.fusion import (
    CharacterImage,
    FusionModule,
    RelationPropagation,
    TextOnly,
    TransformerAttention,
    TwoStream,
)
from mner.tagger.onnx import TOLERANCE, export_onnx
from mner.tagger.tagger import Tagger
from mner.training import (
    AveragedWeights,
    LayerwiseLearningRates,
    LoRA,
    ScalarMix,
    Trainer,
    WordBiLSTM,
    WordCharacters,
    WordPieceMean,
)
from mner.training.checkpoint import read_checkpoint
from tests.fusion.samples import build, sample

QUIET = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False}
ALL = (ScalarMix, WordBiLSTM, WordPieceMean, WordCharacters)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("word_vectors") / "sample"
    SampleDataModule(str(root), train=16).prepare_data()
    return str(root)


def fit(root, *callbacks, max_steps=2, ckpt_path=None, module=None, **model):
    """A strategy trained with callbacks: (module, trainer)."""
    pl.seed_everything(0, verbose=False)
    data = SampleDataModule(root, train=16, batch_size=4)
    if module is None:
        module = TextOnly(data.labels, **{"learning_rate": 1e-2, **model})
    trainer = Trainer(
        max_steps=max_steps, limit_val_batches=1, enable_checkpointing=False, num_sanity_val_steps=0,
        callbacks=list(callbacks), **QUIET,
    )  # fmt: skip
    trainer.fit(module, datamodule=data, ckpt_path=ckpt_path)
    return module, trainer


def test_the_mix_of_layers():
    states = [torch.randn(2, 3, 4, dtype=torch.float64) for _ in range(3)]
    mix = LayerMix(3).double()
    torch.testing.assert_close(mix(states), sum(states) / 3, msg="the mean at first")
    with torch.no_grad():
        mix.scores.copy_(torch.tensor([0.0, 1.0, 3.0]).log().clamp(min=-1e9))
        mix.scale.fill_(2)
    torch.testing.assert_close(mix(states), 2 * (0.25 * states[1] + 0.75 * states[2]))
    with pytest.raises(ValueError, match="Expected 3 layers to mix, embeddings included, but got 2"):
        mix(states[:2])


def test_an_encoder_mixes_what_transformers_calls_its_hidden_states():
    encoder = TextEncoder("tiny").eval()
    ids = torch.randint(5, 50, (2, 6))
    mask, segments = torch.ones_like(ids, dtype=torch.bool), torch.zeros_like(ids)
    last = encoder(ids, mask, segments)
    hidden = encoder.model(ids, attention_mask=mask.long(), output_hidden_states=True).hidden_states
    encoder.make_words(WordVectors(mix=True))
    torch.testing.assert_close(encoder(ids, mask, segments), torch.stack(hidden).mean(0))
    with torch.no_grad():
        encoder.parts["mix"].scores[-1] = 100.0
    torch.testing.assert_close(encoder(ids, mask, segments), last)


def test_the_reader_is_a_packed_lstm():
    reader = WordReader(5, 3, layers=2)
    packed = nn.LSTM(5, 3, num_layers=2, bidirectional=True, batch_first=True)
    state = {}
    for level in range(2):
        parts = (("", reader.recurrent.forward_layers), ("_reverse", reader.recurrent.backward_layers))
        for suffix, layers in parts:
            state |= {f"{name[:-1]}{level}{suffix}": value for name, value in layers[level].state_dict().items()}
    packed.load_state_dict(state)
    words, lengths = torch.randn(3, 4, 5), torch.tensor([4, 1, 3])
    mask = torch.arange(4) < lengths[:, None]
    together = pack_padded_sequence(words, lengths, batch_first=True, enforce_sorted=False)
    read, _ = pad_packed_sequence(packed(together)[0], batch_first=True)
    torch.testing.assert_close(reader(words, mask)[mask], reader.projection(read)[mask])
    with torch.autocast("cpu", torch.bfloat16):
        assert reader.recurrent(words.bfloat16(), mask).dtype == torch.float32


@torch.no_grad()
def test_nothing_changes_unless_asked():
    module, batch = build(TextOnly), sample()
    assert not module.text_encoder.parts
    assert not any("parts" in name for name in module.state_dict())
    assert "mner_word_vectors" not in module.text_encoder.config
    assert module.pretrained == [module.text_encoder]
    words = torch.randn(2, 3, 4)
    assert module.text_encoder.read(words, batch) is words


@pytest.mark.parametrize("kind", ["cnn", "bilstm"])
def test_checkpoints_load_everywhere(root, tmp_path, kind):
    characters = WordCharacters(width=6, kind=kind)
    module, trainer = fit(root, ScalarMix(), WordBiLSTM(hidden=6, layers=2), WordPieceMean(), characters)
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    batch = next(iter(trainer.datamodule.val_dataloader()))
    expected = module.eval().emissions(batch)
    loaded = FusionModule.load_from_checkpoint(tmp_path / "a.ckpt")
    assert torch.equal(loaded.emissions(batch), expected)
    assert loaded.text_encoder.word_vectors == WordVectors(True, 6, 2, True, 6, kind)
    tagger = Tagger.from_checkpoint(tmp_path / "a.ckpt", device="cpu")
    tagger.save_pretrained(tmp_path / "shared")
    shared = Tagger.load(tmp_path / "shared", device="cpu")
    torch.testing.assert_close(shared.model.emissions(batch), expected)
    assert export_onnx(tagger, tmp_path / "onnx") <= TOLERANCE
    text = "Anna visits Old Town"
    assert Tagger.from_onnx(tmp_path / "onnx")(text).tags == tagger(text).tags == shared(text).tags
    tested = Trainer(**QUIET).test(loaded, trainer.datamodule, verbose=False)
    assert "test/f1" in tested[0]


def test_a_run_goes_on_as_if_nobody_had_stopped_it(root, tmp_path):
    class Save(pl.Callback):
        def on_train_batch_end(self, trainer, *args):
            if trainer.global_step == 2:
                trainer.save_checkpoint(tmp_path / "half.ckpt")

    techniques = [ScalarMix(), WordBiLSTM(hidden=4), WordCharacters(width=4)]
    whole, _ = fit(root, *techniques, Save(), max_steps=4)
    again, _ = fit(root, *techniques, max_steps=4, ckpt_path=tmp_path / "half.ckpt")
    for name, value in whole.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name
    with pytest.raises(CheckpointError, match=r"word vectors of .*'hidden': 4.* but the model has .*'hidden': 0"):
        fit(root, ScalarMix(), max_steps=4, ckpt_path=tmp_path / "half.ckpt")
    with pytest.raises(CheckpointError, match="but the model has first pieces alone"):
        fit(root, max_steps=4, ckpt_path=tmp_path / "half.ckpt")
    loaded = FusionModule.load_from_checkpoint(tmp_path / "half.ckpt")
    with pytest.raises(CheckpointError, match=r"'hidden': 5.*as the WordBiLSTM callback says, but the model has"):
        fit(root, WordBiLSTM(hidden=5), module=loaded)


def test_rates(root):
    rates = {"learning_rate": 1e-4, "head_learning_rate": 1e-2}
    techniques = [LayerwiseLearningRates(decay=0.5), *(made() for made in ALL)]
    module, trainer = fit(root, *techniques, **rates)
    found = {id(p): group["initial_lr"] for group in trainer.optimizers[0].param_groups for p in group["params"]}
    encoder = module.text_encoder
    assert {round(found[id(parameter)], 8) for parameter in encoder.parts.parameters()} == {1e-3}
    assert max(found[id(parameter)] for parameter in encoder.model.parameters()) == pytest.approx(1e-4)
    assert len(found) == len(list(module.parameters()))
    assert encoder.parts["mix"].scores.abs().max() > 0, "they learn"


@pytest.mark.parametrize("order", [1, -1])
def test_averages_hold_them_in_either_order(root, order):
    module, _ = fit(root, *[AveragedWeights(0.5), WordBiLSTM(hidden=4), LoRA(rank=2)][::order])
    assert "reader" in module.text_encoder.parts
    assert module.text_encoder.adapters is not None


@pytest.mark.parametrize(
    ("cls", "callback"),
    [
        *((strategy, ScalarMix) for strategy in (TwoStream, TransformerAttention)),
        *((CharacterImage, made) for made in (WordBiLSTM, WordPieceMean, WordCharacters)),
    ],
)
def test_strategies_that_have_no_use_for_them(cls, callback):
    module = build(cls)
    technique = callback()
    technique.setup(pl.Trainer(**QUIET), module, "fit")
    technique.on_fit_start(pl.Trainer(**QUIET), module)
    module.emissions(sample(needs=cls.needs))
    with pytest.raises(ValueError, match=f"but {cls.__name__} runs the encoder's layers in its own way"):
        technique.on_before_backward(pl.Trainer(**QUIET), module, None)


def means_by_hand(states, batch):
    """Each word's mean, its pieces counted by the tokeniser: words of a post are beside each other behind [CLS]."""
    tokenizer = PostTokenizer("tiny")
    found = []
    for row, words in zip(states, batch["words"], strict=True):
        counts = tokenizer.piece_counts(words)
        places = [1 + sum(counts[:place]) for place in range(len(words))]
        found += [row[start : start + count].mean(0) for start, count in zip(places, counts, strict=True)]
    return torch.stack(found)


@torch.no_grad()
def test_a_word_is_the_mean_of_what_transformers_gives_for_its_pieces():
    encoder, batch = TextEncoder("tiny").eval(), sample()
    mask = batch["word_mask"]
    assert max(PostTokenizer("tiny").piece_counts(batch["words"][0])) > 2
    states = encoder.model(
        batch["token_ids"], attention_mask=batch["token_mask"].long(), token_type_ids=batch["segment_ids"]
    ).last_hidden_state
    encoder.make_words(WordVectors(mean=True))
    torch.testing.assert_close(encoder.words(batch)[mask], means_by_hand(states, batch))
    with torch.autocast("cpu", torch.bfloat16):
        close = encoder.pool(states.bfloat16(), batch)[mask]
    torch.testing.assert_close(close.float(), means_by_hand(states, batch), atol=0.02, rtol=0.02)
    del batch["word_ends"]
    with pytest.raises(ValueError, match="needs `word_ends` in the batch, which has none"):
        encoder.words(batch)


@torch.no_grad()
@pytest.mark.parametrize("cls", [TransformerAttention, RelationPropagation])
def test_means_of_pieces_that_have_seen_the_image(cls):
    module, batch, seen = build(cls), sample(needs=cls.needs), []
    module.text_encoder.model.register_forward_hook(lambda *call: seen.append(call[-1].last_hidden_state))
    firsts = module.encode(batch)[batch["word_mask"]]
    module.text_encoder.make_words(WordVectors(mean=True))
    means = module.encode(batch)[batch["word_mask"]]
    torch.testing.assert_close(means, means_by_hand(seen[-1], batch))
    assert not torch.allclose(firsts, means, atol=1e-2)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["cnn", "bilstm"])
def test_characters_are_added_before_the_reader(kind):
    encoder, batch = TextEncoder("tiny").eval(), sample()
    mask, words = batch["word_mask"], encoder.words(batch)
    encoder.make_words(WordVectors(hidden=4, characters=6, character_kind=kind))
    part, reader = encoder.parts["characters"], encoder.parts["reader"]
    spelt = part.projection(part.encoder(characters_to_ids(batch["words"])))
    torch.testing.assert_close(encoder.words(batch)[mask], reader(words + spelt, mask)[mask])
    batch["words"] = [tuple(word.upper() for word in post) for post in batch["words"]]
    assert not torch.allclose(encoder.words(batch)[mask], reader(words + spelt, mask)[mask]), "they see letter case"


def test_checkpoints_of_before_go_on(root, tmp_path):
    """They name three fields of five."""
    _, trainer = fit(root, WordBiLSTM(hidden=4))
    trainer.save_checkpoint(tmp_path / "now.ckpt")
    kept = read_checkpoint(tmp_path / "now.ckpt")
    kept["mner"]["text_config"]["mner_word_vectors"] = {"mix": False, "hidden": 4, "reader_layers": 1}
    torch.save(kept, tmp_path / "before.ckpt")
    loaded = FusionModule.load_from_checkpoint(tmp_path / "before.ckpt")
    assert loaded.text_encoder.word_vectors == WordVectors(hidden=4)
    _, trainer = fit(root, WordBiLSTM(hidden=4), max_steps=3, ckpt_path=tmp_path / "before.ckpt")
    assert trainer.global_step == 3


def test_init_from_says_what_it_takes_of_them(root, tmp_path, caplog):
    _, trainer = fit(root, ScalarMix(), WordBiLSTM(hidden=4), WordPieceMean())
    trainer.save_checkpoint(tmp_path / "a.ckpt")

    def told(*callbacks):
        caplog.clear()
        fit(root, *callbacks, init_from=str(tmp_path / "a.ckpt"))
        (line,) = [record.message for record in caplog.records if "init_from" in record.message]
        return line

    bare = told()
    assert "begun anew: head, crf; not taken: text_encoder.parts.mix (2 tensors), text_encoder.parts.reader (10" in bare
    assert "its words are made by mix=True, hidden=4, mean=True, the model's by first pieces alone: give the" in bare
    part = told(WordBiLSTM(hidden=4), WordCharacters(width=4))
    assert "text_encoder.parts.reader (10 tensors)" in part.partition("; begun anew: ")[0]
    assert "; begun anew: text_encoder.parts.characters, head, crf; not taken: text_encoder.parts.mix" in part
    same = told(ScalarMix(), WordBiLSTM(hidden=4), WordPieceMean())
    assert same.endswith("; begun anew: head, crf")


def test_wrong_options():
    with pytest.raises(ValueError, match=r"Expected `kind` to be one of \('cnn', 'bilstm'\), but got 'lstm'"):
        WordCharacters(kind="lstm")
    with pytest.raises(ValueError, match="for a BiLSTM an even one, but got 5 for bilstm"):
        WordCharacters(width=5, kind="bilstm")
    for made in (lambda: WordBiLSTM(hidden=0), lambda: WordBiLSTM(layers=0), lambda: WordCharacters(width=0)):
        with pytest.raises(ValueError, match="of 1 or more, but got"):
            made()
    with pytest.raises(TypeError, match=r"Expected a mner\.fusion\.FusionModule"):
        ScalarMix().setup(pl.Trainer(**QUIET), pl.LightningModule(), "fit")
    encoder = TextEncoder("tiny")
    encoder.model.forward = lambda input_ids, attention_mask: None
    with pytest.raises(ValueError, match="gives the states of all its layers"):
        encoder.make_words(WordVectors(mix=True))
