import shutil
from itertools import product

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import normalizers, pre_tokenizers
from transformers import AutoConfig, AutoModel, AutoTokenizer

from mner.data.encoder_limit import _BEHIND_PADDING, encoder_limit
from mner.data.tokenizer import (
    PostTokenizer,
    PostTooLongError,
    _cut_longest,
    _shorten_words,
)
from mner.errors import CheckpointError

WORDS = ["Anna", "visits", "http://t.co/AbC", "\ufe0f", "l.a.", "_", "\u00a0", "ok"]


def test_pieces_equal_those_of_the_whole_post(bert_folder):
    reference = AutoTokenizer.from_pretrained(bert_folder)
    shown = ["[UNK]" if word in ("\ufe0f", "\u00a0") else word for word in WORDS]
    whole = reference(shown, ["a caption"], is_split_into_words=True)
    pieces = PostTokenizer(bert_folder).encode(WORDS, ["a caption"])
    assert pieces.ids.tolist()[: pieces.post_length] == reference(shown, is_split_into_words=True)["input_ids"]
    starts = {
        word: place
        for place, word in reversed(list(enumerate(whole.word_ids()[: pieces.post_length])))
        if word is not None
    }
    assert pieces.word_starts.tolist() == [starts[word] for word in range(len(WORDS))]


def test_context_is_the_second_segment(bert_folder):
    reference = AutoTokenizer.from_pretrained(bert_folder)
    pair = reference("anna visits", "a caption", return_token_type_ids=True)
    pieces = PostTokenizer(bert_folder).encode(["anna", "visits"], ["a caption"])
    assert pieces.ids.tolist() == pair["input_ids"]
    assert [int(place >= pieces.post_length) for place in range(len(pieces.ids))] == pair["token_type_ids"]


def test_several_contexts_are_separated(bert_folder):
    tokenizer = PostTokenizer(bert_folder)
    ids = tokenizer.encode(["a"], ["b", "", "c"]).ids.tolist()
    assert tokenizer.tokenizer.convert_ids_to_tokens(ids) == ["[CLS]", "a", "[SEP]", "b", "[SEP]", "c", "[SEP]"]


def test_context_is_cut_before_the_post(bert_folder):
    tokenizer = PostTokenizer(bert_folder, max_length=12)
    pieces = tokenizer.encode(["abc", "de"], ["f" * 50, "g"])
    assert len(pieces.ids) == 12
    tokens = tokenizer.tokenizer.convert_ids_to_tokens(pieces.ids.tolist())
    assert tokens == ["[CLS]", "a", "##b", "##c", "d", "##e", "[SEP]", "f", "##f", "[SEP]", "g", "[SEP]"]


def test_long_words_lose_pieces_before_words_are_lost(bert_folder):
    tokenizer = PostTokenizer(bert_folder, max_length=8)
    pieces = tokenizer.encode(["a" * 30, "b", "c" * 4], ["no room"])
    tokens = tokenizer.tokenizer.convert_ids_to_tokens(pieces.ids.tolist())
    assert tokens == ["[CLS]", "a", "##a", "b", "c", "##c", "[SEP]"]
    assert [tokens[start] for start in pieces.word_starts] == ["a", "b", "c"]


@given(
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=6),
    texts=st.lists(st.integers(1, 12), max_size=3),
    room=st.integers(0, 40),
)
def test_no_more_is_cut_than_has_to_be(sizes, texts, room):
    """One limit for all words, one for all texts: the largest that fits."""

    def cut(sizes, room):
        fits = [limit for limit in range(max(sizes) + 1) if sum(min(size, limit) for size in sizes) <= room]
        return [min(size, fits[-1]) for size in sizes] if fits else None

    if len(sizes) <= room:
        assert [len(word) for word in _shorten_words([(0,) * size for size in sizes], room)] == cut(sizes, room)
    else:
        with pytest.raises(PostTooLongError):
            _shorten_words([(0,) * size for size in sizes], room)
    if texts:
        assert [len(text) for text in _cut_longest([(0,) * size for size in texts], room)] == cut(texts, room)


def test_a_post_of_too_many_words_is_an_error(bert_folder):
    with pytest.raises(PostTooLongError, match="7 words, but only 6 fit"):
        PostTokenizer(bert_folder, max_length=8).encode(list("abcdefg"))


def test_urls_can_be_one_word(bert_folder):
    tokenizer = PostTokenizer(bert_folder, replace_urls="url")
    plain = tokenizer.encode(["see", "url", "http"]).ids.tolist()
    assert tokenizer.encode(["see", "https://t.co/xyz", "http"]).ids.tolist() == plain


@pytest.mark.parametrize(("text", "shown"), [
    ("RT see https://t.co/xyz | www.b.c", "RT see url | url"),
    ("(HTTP://t.co/x) and", "(url and"),
    ("xhttp://t.co http: www", "xhttp://t.co http: www"),
    ("soft\u00adhyphen https://t.co/x", "softhyphen url"),
])  # fmt: skip
def test_urls_in_texts_beside_a_post_too(bert_folder, text, shown):
    given, plain = PostTokenizer(bert_folder, replace_urls="url"), PostTokenizer(bert_folder)
    assert given.encode(["a"], [text]).ids.tolist() == plain.encode(["a"], [shown]).ids.tolist()
    if "url" in shown:
        assert plain.encode(["a"], [text]).ids.tolist() != plain.encode(["a"], [shown]).ids.tolist()
    backslash = PostTokenizer(bert_folder, replace_urls=r"\1")
    assert backslash.encode(["a"], ["www.b.c"]).ids.tolist() == plain.encode(["a"], [r"\1"]).ids.tolist()


@pytest.mark.parametrize("url", ["http://t.co/x", "https://T.CO/x", "HTTP://t.co/x", "www.a.b", "WWW.a.b"])
def test_urls_in_any_case(bert_folder, url):
    tokenizer = PostTokenizer(bert_folder, replace_urls="url")
    assert tokenizer.encode([url]).ids.tolist() == tokenizer.encode(["url"]).ids.tolist()
    for other in (f"x{url}", "https:", "www."):
        assert tokenizer.encode([other]).ids.tolist() != tokenizer.encode(["url"]).ids.tolist()


def test_the_longest_post_is_the_tokenisers_own(bert_folder, tmp_path):
    assert PostTokenizer(bert_folder).max_length == 128
    for declared, expected in ((100_000, 100_000), (10**30, 512)):  # transformers writes "no limit" as 10**30
        tokenizer = AutoTokenizer.from_pretrained(bert_folder)
        tokenizer.model_max_length = declared
        tokenizer.save_pretrained(tmp_path)
        assert PostTokenizer(str(tmp_path)).max_length == expected
    assert PostTokenizer(bert_folder, max_length=300).max_length == 300


def test_what_is_learnt_is_forgotten_beyond_a_number(bert_folder):
    tokenizer = PostTokenizer(bert_folder)

    def known():
        return len(tokenizer._known.words), len(tokenizer._known.texts)

    tokenizer.learn(["a", "b", "a"], ["c", "d", "e"])
    tokenizer.forget(beyond=3)
    assert known() == (2, 3)
    tokenizer.forget(beyond=2)
    assert known() == (2, 0)
    tokenizer.forget()
    assert known() == (0, 0)


def test_a_lower_limit_holds_for_texts_that_were_learnt_before(bert_folder):
    tokenizer = PostTokenizer(bert_folder)
    tokenizer.encode(["a"], ["b" * 50])
    for limit, expected in ((None, 128), (200, 128), (20, 20)):
        tokenizer.limit_to(limit)
        assert tokenizer.max_length == expected
    assert len(tokenizer.encode(["a"], ["b" * 50]).ids) == 20


def test_the_fingerprint_tells_tokenisers_apart(bert_folder, tmp_path):
    """Those of one vocabulary that treat case, accents, Chinese letters, apostrophes or numbers in another way."""
    first = PostTokenizer(bert_folder).fingerprint
    assert PostTokenizer(bert_folder, max_length=9).fingerprint == first
    kinds = [
        ("normalizer", normalizers.BertNormalizer(lowercase=False)),
        ("normalizer", normalizers.BertNormalizer(lowercase=True, strip_accents=False)),
        ("pre_tokenizer", pre_tokenizers.Digits()),
        ("pre_tokenizer", pre_tokenizers.Split("'", "removed")),
        ("pre_tokenizer", pre_tokenizers.Split("#", "removed")),
        ("pre_tokenizer", pre_tokenizers.Split("://", "removed")),
    ]
    found = {first}
    for number, (part, value) in enumerate(kinds):
        tokenizer = AutoTokenizer.from_pretrained(bert_folder)
        setattr(tokenizer.backend_tokenizer, part, value)
        tokenizer.save_pretrained(tmp_path / str(number))
        found.add(PostTokenizer(str(tmp_path / str(number))).fingerprint)
    assert len(found) == len(kinds) + 1


@pytest.mark.parametrize(
    ("kind", "padding"),
    [(kind, padding) for kind in ("bert", *_BEHIND_PADDING) for padding in (1, 3)[: 1 + (kind != "mpnet")]],
)  # the padding of MPNet is always 1
def test_the_limit_by_the_configuration_is_the_models(kind, padding):
    sizes = {name: 16 for name in ("hidden_size", "intermediate_size", "max_position_embeddings")}
    sizes |= {"vocab_size": 40, "num_hidden_layers": 1, "num_attention_heads": 2, "pad_token_id": padding}
    own = {"longformer": {"attention_window": [4]}, "xmod": {"languages": ["a"], "default_language": "a"}}
    sizes |= own.get(kind, {})
    config = AutoConfig.for_model(kind, **sizes)
    model = AutoModel.from_config(config).eval()
    limit = encoder_limit(config.to_dict())
    assert limit == (16 if kind == "bert" else 15 - padding)
    model(torch.full((1, limit), 5))
    with pytest.raises((IndexError, RuntimeError)):
        model(torch.full((1, limit + 1 + (kind == "longformer")), 5))


def test_configurations_without_a_limit():
    for places in (None, 0, -1, "512"):
        assert encoder_limit({"model_type": "bert", "max_position_embeddings": places}) is None
    assert encoder_limit({"model_type": "bert", "max_position_embeddings": 1}) == 1
    assert encoder_limit({"model_type": "roberta", "max_position_embeddings": 20, "pad_token_id": None}) == 19


def test_files_make_the_same_tokeniser(bert_folder):
    tokenizer = PostTokenizer(bert_folder, max_length=20, replace_urls="url")
    again = PostTokenizer.from_files(tokenizer.files(), max_length=20, replace_urls="url")
    assert again.encode(WORDS, ["text"]).ids.tolist() == tokenizer.encode(WORDS, ["text"]).ids.tolist()


def test_files_stay_in_their_folder(bert_folder):
    with pytest.raises(ValueError, match="plain names"):
        PostTokenizer.from_files({"../evil.json": "{}"})


def test_no_words_is_an_error(bert_folder):
    with pytest.raises(ValueError, match="at least one word"):
        PostTokenizer(bert_folder).encode([])


def test_halves_of_surrogate_pairs_are_unknown_and_no_error(bert_folder):
    tokenizer = PostTokenizer(bert_folder)
    words, texts = ["a\ud800", "\udfff", "b"], ["c \udc00"]
    assert len(tokenizer.encode(words, texts).word_starts) == 3


@pytest.mark.parametrize(
    ("name", "content"),
    [
        *product(("tokenizer.json", "tokenizer_config.json"), (b"", b"{", b"\xff\xfe{\x00}")),
        ("tokenizer.json", b'{"version": true}'),
        ("tokenizer_config.json", b'{"unk_token": "[UN/]"}'),
    ],
)
def test_a_damaged_tokeniser_is_refused_in_one_line(bert_folder, tmp_path, name, content):
    folder = shutil.copytree(bert_folder, tmp_path / "bert")
    (folder / name).write_bytes(content)
    with pytest.raises(CheckpointError, match="damaged") as found:
        PostTokenizer(str(folder))
    assert "\n" not in str(found.value)


def test_a_tokeniser_with_special_pieces_that_the_encoder_lacks(bert_folder):
    tokenizer = PostTokenizer(bert_folder)
    size = len(tokenizer.tokenizer)
    tokenizer.check_fits(size)
    tokenizer.check_fits(None)
    with pytest.raises(CheckpointError, match="do not belong together"):
        tokenizer.check_fits(3)
