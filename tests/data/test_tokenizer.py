import shutil
from itertools import product

import pytest
from transformers import AutoTokenizer

from mner.data.tokenizer import PostTokenizer, PostTooLongError
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


def test_a_post_of_too_many_words_is_an_error(bert_folder):
    with pytest.raises(PostTooLongError, match="7 words, but only 6 fit"):
        PostTokenizer(bert_folder, max_length=8).encode(list("abcdefg"))


def test_urls_can_be_one_word(bert_folder):
    tokenizer = PostTokenizer(bert_folder, replace_urls="url")
    plain = tokenizer.encode(["see", "url", "http"]).ids.tolist()
    assert tokenizer.encode(["see", "https://t.co/xyz", "http"]).ids.tolist() == plain


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
