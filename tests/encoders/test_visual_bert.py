"""VisualBERT: every weight arrives under whatever name it goes, or the load fails and says which did not."""

from __future__ import annotations

import re

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoTokenizer, BertConfig, BertModel, BertTokenizer, VisualBertConfig, VisualBertForPreTraining

from mner.data.tokenizer import PostTokenizer
from mner.encoders.text import TextEncoder
from mner.encoders.visual_bert import convert_visual_bert, load_visual_bert, visual_parameters
from mner.errors import CheckpointError

VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "hello", "kevin", "durant", "in", "paris", "##s"]
NAMES = ["none", "task model", "bert.", "authors"]


@pytest.fixture(scope="module")
def trained():
    """A VisualBERT with heads; every weight is random, those that start as 0, 1 or copies too."""
    torch.manual_seed(0)
    config = VisualBertConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=32,
        visual_embedding_dim=6,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=48,
        max_position_embeddings=20,
        pad_token_id=0,
    )
    model = VisualBertForPreTraining(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return model


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    BertTokenizer(vocab={piece: index for index, piece in enumerate(VOCABULARY)}).save_pretrained(folder)
    return str(folder)


def named(model, names):
    """The model's weights as files name them."""
    state = {key: value.clone() for key, value in model.state_dict().items()}
    if names == "task model":
        return state
    body = {key.removeprefix("visual_bert."): value for key, value in state.items() if key.startswith("visual_bert.")}
    if names == "none":
        return body
    if names == "bert.":
        return {f"bert.{key}": value for key, value in body.items()}
    renames = [
        ("visual_token_type_embeddings", "token_type_embeddings_visual"),
        ("visual_position_embeddings", "position_embeddings_visual"),
        ("visual_projection", "projection"),
    ]
    authors = {f"bert.{key}": value for key, value in state.items() if key.startswith("cls.")}
    for key, value in body.items():
        for ours, theirs in renames:
            key = key.replace(ours, theirs)
        authors[f"bert.bert.{key}"] = value
    return authors | {"bert.bert.embeddings.position_ids": torch.arange(20)[None]}


def write(folder, config, state):
    config.save_pretrained(folder)
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    return str(folder)


def inputs():
    ids = torch.tensor([[2, 6, 7, 8, 3], [2, 5, 3, 0, 0]])
    return ids, ids != 0, torch.zeros_like(ids)


@pytest.mark.parametrize("names", NAMES)
def test_every_weight_arrives(tmp_path, trained, names):
    model = load_visual_bert(write(tmp_path, trained.config, named(trained, names)))
    wanted = trained.visual_bert.state_dict()
    found = model.state_dict()
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[key], wanted[key]) for key in wanted)


@pytest.mark.parametrize("names", NAMES)
def test_text_encoder_shares_the_load(tmp_path, trained, names):
    encoder = TextEncoder(write(tmp_path, trained.config, named(trained, names))).eval()
    ids, mask, segments = inputs()
    with torch.no_grad():
        reference = trained.visual_bert(ids, attention_mask=mask.long(), token_type_ids=segments).last_hidden_state
        torch.testing.assert_close(encoder(ids, mask, segments)[mask], reference[mask], atol=1e-6, rtol=0)


@pytest.mark.parametrize("names", NAMES)
@pytest.mark.parametrize("load", [load_visual_bert, TextEncoder])
def test_missing_weight_is_named(tmp_path, trained, names, load):
    state = named(trained, names)
    lost = [key for key in state if key.endswith(("embeddings.projection.bias", "embeddings.visual_projection.bias"))]
    assert len(lost) == 1
    del state[lost[0]]
    folder = write(tmp_path, trained.config, state)
    with pytest.raises(CheckpointError, match=r"1 missing: embeddings\.visual_projection\.bias"):
        load(folder)


def test_left_over_weight_is_named(tmp_path, trained):
    state = named(trained, "task model") | {"visual_bert.encoder.layer.2.output.dense.bias": torch.zeros(32)}
    with pytest.raises(CheckpointError, match=r"1 left over: .*encoder\.layer\.2\.output\.dense\.bias"):
        load_visual_bert(write(tmp_path, trained.config, state))


def test_weight_of_another_shape_is_named(tmp_path, trained):
    state = named(trained, "none")
    state["embeddings.visual_projection.weight"] = torch.zeros(32, 7)
    message = r"1 of another shape: embeddings\.visual_projection\.weight \(32, 7\) for \(32, 6\)"
    with pytest.raises(CheckpointError, match=message):
        load_visual_bert(write(tmp_path, trained.config, state))


def test_another_prefix_fails_instead_of_staying_random(tmp_path, trained):
    state = {f"model.{key}": value for key, value in named(trained, "none").items()}  # two of them the pooler's
    with pytest.raises(CheckpointError, match=f"{len(state) - 2} missing.*{len(state)} left over"):
        load_visual_bert(write(tmp_path, trained.config, state))


def test_missing_pooler_is_left_out(tmp_path, trained):
    state = {key: value for key, value in named(trained, "none").items() if not key.startswith("pooler.")}
    assert load_visual_bert(write(tmp_path, trained.config, state)).pooler is None


def test_another_model_is_refused(tmp_path):
    config = BertConfig(vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=2)
    BertModel(config).save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="'bert'"):
        load_visual_bert(str(tmp_path))


def test_authors_file_becomes_a_folder(tmp_path, trained, tokenizer):
    source, folder = tmp_path / "nlvr2_coco_pre_trained.th", tmp_path / "made"
    torch.save(named(trained, "authors"), source)
    convert_visual_bert(str(source), str(folder), tokenizer, heads=4)
    encoder = TextEncoder(str(folder)).eval()
    ids, mask, segments = inputs()
    with torch.no_grad():
        reference = trained.visual_bert(ids, attention_mask=mask.long(), token_type_ids=segments).last_hidden_state
        torch.testing.assert_close(encoder(ids, mask, segments)[mask], reference[mask], atol=1e-6, rtol=0)
    assert encoder.config["pad_token_id"] == 0  # else the row of another piece would never learn
    assert AutoTokenizer.from_pretrained(folder)("kevin durants")["input_ids"] == [2, 6, 7, 10, 3]


def test_hub_upload_without_tokeniser_becomes_a_folder(tmp_path, trained, tokenizer):
    source = tmp_path / "upload"
    trained.save_pretrained(source)
    convert_visual_bert(str(source), str(tmp_path / "made"), tokenizer)
    made, wanted = load_visual_bert(str(tmp_path / "made")).state_dict(), trained.visual_bert.state_dict()
    assert all(torch.equal(made[key], wanted[key]) for key in wanted)


def test_wrong_tokeniser_is_refused(tmp_path, trained):
    source = tmp_path / "upload"
    trained.save_pretrained(source)
    # Without a vocabulary, transformers makes a tokeniser of five special pieces, and says nothing.
    with pytest.raises(CheckpointError, match=r"5 pieces.*11"):
        convert_visual_bert(str(source), str(tmp_path / "made"), str(source))
    assert not (tmp_path / "made").exists()


def test_posts_are_not_tokenised_without_a_vocabulary(tmp_path, trained):
    trained.save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="no vocabulary"):
        PostTokenizer(str(tmp_path))


@pytest.mark.parametrize("lost", ["embeddings.projection.weight", "encoder.layer.1.output.dense.bias"])
def test_incomplete_file_is_refused(tmp_path, trained, tokenizer, lost):
    state = named(trained, "authors")
    del state[f"bert.bert.{lost}"]
    torch.save(state, tmp_path / "weights.th")
    with pytest.raises(CheckpointError, match=re.escape(lost.replace(".projection", ".visual_projection"))):
        convert_visual_bert(str(tmp_path / "weights.th"), str(tmp_path / "made"), tokenizer, heads=4)


def test_text_alone_trains_every_parameter_that_asks_for_it(tmp_path, trained):
    encoder = TextEncoder(write(tmp_path, trained.config, named(trained, "none")))
    encoder(*inputs()).square().sum().backward()
    assert all((parameter.grad is not None) == parameter.requires_grad for parameter in encoder.parameters())
    frozen = {id(parameter) for parameter in encoder.parameters() if not parameter.requires_grad}
    assert frozen == {id(parameter) for parameter in visual_parameters(encoder.model)}
    assert len(frozen) == 4


def test_captions_are_read_as_second_segment(tmp_path, trained):
    encoder = TextEncoder(write(tmp_path, trained.config, named(trained, "none"))).eval()
    ids = torch.tensor([[2, 6, 3, 9, 3]])
    segments = torch.tensor([[0, 0, 0, 1, 1]])
    with torch.no_grad():
        reference = trained.visual_bert(ids, token_type_ids=segments).last_hidden_state
        torch.testing.assert_close(encoder(ids, ids != 0, segments), reference, atol=1e-6, rtol=0)
        other = encoder(torch.tensor([[2, 6, 3, 8, 3]]), ids != 0, segments)
    assert (other[0, 1] - reference[0, 1]).abs().max() > 1e-3


def test_only_visual_bert_has_visual_parameters():
    assert visual_parameters(TextEncoder("tiny").model) == []
