"""Of an encoder-decoder the encoder is used: trained, kept in checkpoints, shared, and used to tag."""

from __future__ import annotations

import pytest
import pytorch_lightning as pl
import torch
from transformers import (
    AutoConfig,
    AutoModel,
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    EncoderDecoderConfig,
    EncoderDecoderModel,
    T5Config,
    T5EncoderModel,
    T5ForConditionalGeneration,
    T5Model,
    T5Tokenizer,
)

from mner.data import Twitter2017DataModule
from mner.encoders.lora import Adapters
from mner.encoders.text import TextEncoder
from mner.errors import CheckpointError
from mner.fusion import FusionModule, TextOnly, TransformerAttention
from mner.tagger.tagger import Tagger

from ..conftest import save_bert
from .tiny_models import BART, T5, encoder, padded, plain

KINDS = ["t5", "mt5", "umt5", "bart", "mbart"]
SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}
QUIET = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789@.!:/_#"


def save_t5(folder, cls=T5Model):
    """A T5 whose pieces are letters, as a transformers folder."""
    pieces = ["<pad>", "</s>", "<unk>", *LETTERS, *LETTERS.upper()[:26], "▁", *(f"▁{letter}" for letter in LETTERS)]
    T5Tokenizer(vocab=[(piece, -1.0) for piece in pieces], extra_ids=0).save_pretrained(folder)
    cls(T5Config(**{**T5, "vocab_size": len(pieces), "pad_token_id": 0, "decoder_start_token_id": 0})).save_pretrained(
        folder
    )
    return str(folder)


def save_bart(folder):
    """A BART with the tokeniser of letters, as a transformers folder."""
    save_bert(folder)
    config = BartConfig(**{**BART, "vocab_size": 83, "pad_token_id": 0, "max_position_embeddings": 128})
    BartForConditionalGeneration(config).save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("kind", KINDS)
def test_the_decoder_is_left_out_and_padding_unseen(kind):
    text_encoder, (ids, mask, segments) = encoder(kind), padded()
    assert not any("decoder" in name for name, _ in text_encoder.named_parameters())
    states = text_encoder(ids, mask, segments)
    assert states.shape == (3, 9, text_encoder.width)
    torch.testing.assert_close(text_encoder(ids.masked_fill(~mask, 7), mask, segments)[mask], states[mask])
    whole = AutoModel.from_config(AutoConfig.for_model(**plain(kind))).eval()
    whole.get_encoder().load_state_dict(text_encoder.model.state_dict())
    # The whole model says what its encoder saw.
    seen = whole(input_ids=ids, attention_mask=mask.long(), decoder_input_ids=ids).encoder_last_hidden_state
    torch.testing.assert_close(seen[mask], states[mask])


@pytest.mark.parametrize("kind", KINDS)
def test_every_parameter_learns_and_the_configuration_builds_it_again(kind):
    text_encoder, inputs = encoder(kind), padded()
    text_encoder(*inputs).square().sum().backward()
    assert [name for name, parameter in text_encoder.named_parameters() if parameter.grad is None] == []
    again = TextEncoder(text_encoder.config).eval()
    again.load_state_dict(text_encoder.state_dict())
    assert torch.equal(again(*inputs), text_encoder(*inputs))
    assert TextEncoder(again.config).state_dict().keys() == text_encoder.state_dict().keys()


@pytest.mark.parametrize("cls", [T5Model, T5ForConditionalGeneration, T5EncoderModel])
def test_weights_come_from_whole_models_and_encoders_alike(tmp_path, cls):
    folder = save_t5(tmp_path, cls)
    text_encoder, original = TextEncoder(folder), cls.from_pretrained(folder)
    expected = original.get_encoder().state_dict()
    assert text_encoder.model.state_dict().keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in text_encoder.model.state_dict().items())


def test_weights_that_the_encoder_lacks_are_named(tmp_path):
    folder = save_t5(tmp_path)
    model = T5Model.from_pretrained(folder)
    state = {name: value for name, value in model.state_dict().items() if "encoder.block.1.layer.0" not in name}
    model.save_pretrained(folder, state_dict=state)
    with pytest.raises(CheckpointError, match=r"leave 5 tensors of T5Model random.*'encoder\.block\.1\.layer\.0"):
        TextEncoder(folder)


@pytest.mark.parametrize("save", [save_t5, save_bart])
def test_trained_kept_and_used_to_tag(tmp_path, posts_folder, save):
    folder = save(tmp_path / "encoder")
    data = Twitter2017DataModule(str(posts_folder), text_encoder=folder, batch_size=3)
    model = TextOnly(data.labels, text_encoder=folder, learning_rate=1e-2)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    trainer = pl.Trainer(max_epochs=2, default_root_dir=str(tmp_path), enable_checkpointing=False, **QUIET)
    trainer.fit(model, data)
    still = [name for name, parameter in model.named_parameters() if torch.equal(parameter, before[name])]
    assert still == [name for name in still if "crf" in name], "all of the encoder learnt"
    trainer.save_checkpoint(tmp_path / "model.ckpt")
    data.setup("test")
    batch = next(iter(data.test_dataloader()))
    (tmp_path / "encoder").rename(tmp_path / "gone")  # the checkpoint is enough
    again = FusionModule.load_from_checkpoint(tmp_path / "model.ckpt")
    assert torch.equal(again.emissions(batch), model.eval().emissions(batch))
    tagger = Tagger.from_checkpoint(tmp_path / "model.ckpt")
    found = [list(post.tags) for post in tagger(batch["words"])]
    assert found == [[again.labels[label] for label in path] for path in again(batch)]
    tagger.save_pretrained(tmp_path / "shared")
    shared = Tagger.from_pretrained(str(tmp_path / "shared"))
    assert [list(post.tags) for post in shared(batch["words"])] == found


def test_adapters(tmp_path):
    pytest.importorskip("peft", reason="the extra `lora` is not installed")
    text_encoder, inputs = encoder("t5"), padded()
    before = text_encoder(*inputs)
    text_encoder.adapt(Adapters(rank=2, layers=("q", "v")))
    torch.testing.assert_close(text_encoder(*inputs), before)
    again = TextEncoder(text_encoder.config).eval()
    again.load_state_dict(text_encoder.state_dict())
    torch.testing.assert_close(again(*inputs), before)


def test_what_reads_no_text_is_refused_by_name(tmp_path):
    sizes = {**BART, "max_source_positions": 10}
    for kind, config in (("whisper", sizes), ("vit", SIZES), ("clip", {}), ("fsmt", {"langs": ["a", "b"]})):
        with pytest.raises(CheckpointError, match=rf"Expected a text encoder, but \w+ of the kind '{kind}'"):
            TextEncoder({**config, "model_type": kind})
    bert = BertConfig(**SIZES, vocab_size=9)
    EncoderDecoderModel(EncoderDecoderConfig.from_encoder_decoder_configs(bert, bert)).save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="no plain model of the kind 'encoder-decoder'") as caught:
        TextEncoder(str(tmp_path))
    assert "\n" not in str(caught.value)


def test_strategies_that_read_regions_with_the_encoder_refuse_them():
    with pytest.raises(ValueError, match=r"one of the kinds .* but got 't5'"):
        TransformerAttention(["O", "B-PER", "I-PER"], text_encoder=plain("t5"), region_width=8)
