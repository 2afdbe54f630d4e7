"""Pieces of words against those of running text, for each kind of tokeniser; special tokens; files that are no text."""

import json
from itertools import accumulate, pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import GPT2Tokenizer, PreTrainedTokenizerFast, RobertaTokenizer, T5Tokenizer, XLMRobertaTokenizer

from mner.data.batching import Collate
from mner.data.dataset import MNERDataset
from mner.data.examples import Example
from mner.data.tokenizer import BINARY, PostTokenizer, read_kept, write_kept
from mner.fusion import TextOnly
from mner.labels import bio_labels
from mner.nn import only_context
from mner.tagger.hub import load_model
from mner.tagger.tagger import Tagger
from mner.training.checkpoint import read_checkpoint

SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
TEXT = ["a b Anna visits Lagos with Anna in Lagos", "東京 に 行く 京都 に 住む", "#tag @user said: don't !"] * 40
POST = ["Anna", "visits", "Lagos", "東京", "#tag", "@user", "don't", "said:", "in"]


def byte_level(kind, folder, prefix):
    """BPE over bytes as RoBERTa, GPT-2 or ModernBERT have it (a pre-tokeniser of `tokenizers` alone)."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<|endoftext|>"] if kind == "gpt2" else SPECIAL
    options = {"vocab_size": 700, "special_tokens": special, "initial_alphabet": alphabet, "show_progress": False}
    tokenizer.train_from_iterator(TEXT, trainers.BpeTrainer(**options))
    if kind == "modern":
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A </s>", pair="<s> $A </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
        )
        names = {"cls_token": "<s>", "pad_token": "<pad>", "sep_token": "</s>", "unk_token": "<unk>"}
        PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(folder)
        return
    model = json.loads(tokenizer.to_str())["model"]
    merges = [tuple(merge) for merge in model["merges"]]
    cls = GPT2Tokenizer if kind == "gpt2" else RobertaTokenizer
    cls(vocab=model["vocab"], merges=merges, add_prefix_space=prefix).save_pretrained(folder)


def unigram_pieces():
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    # No Latin letter: a text in another script.
    text = [" ".join(word for word in line.split() if not word.isascii()) for line in TEXT]
    trainer = trainers.UnigramTrainer(vocab_size=40, special_tokens=SPECIAL, unk_token="<unk>", show_progress=False)
    tokenizer.train_from_iterator(text, trainer)
    return [tuple(piece) for piece in json.loads(tokenizer.to_str())["model"]["vocab"]]


def metaspace(folder, scheme):
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    trainer = trainers.UnigramTrainer(vocab_size=120, special_tokens=SPECIAL, unk_token="<unk>", show_progress=False)
    tokenizer.train_from_iterator(TEXT, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 2)]
    )
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", eos_token="</s>").save_pretrained(folder)


def word_piece(folder):
    tokenizer = Tokenizer(models.WordPiece(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.train_from_iterator(
        TEXT, trainers.WordPieceTrainer(vocab_size=120, special_tokens=SPECIAL, show_progress=False)
    )
    tokenizer.post_processor = processors.BertProcessing(("</s>", 2), ("<s>", 0))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", cls_token="<s>").save_pretrained(folder)


KINDS = {
    "roberta": lambda folder: byte_level("roberta", folder, False),
    "roberta, prefix": lambda folder: byte_level("roberta", folder, True),
    "gpt2": lambda folder: byte_level("gpt2", folder, False),
    "gpt2, prefix": lambda folder: byte_level("gpt2", folder, True),
    "modern": lambda folder: byte_level("modern", folder, False),
    "modern, prefix": lambda folder: byte_level("modern", folder, True),
    "unigram of another script": lambda folder: XLMRobertaTokenizer(vocab=unigram_pieces()).save_pretrained(folder),
    "t5 of another script": lambda folder: T5Tokenizer(
        vocab=[("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *unigram_pieces()[5:]], extra_ids=0
    ).save_pretrained(folder),
    "metaspace, always": lambda folder: metaspace(folder, "always"),
    "metaspace, first": lambda folder: metaspace(folder, "first"),
    "metaspace, never": lambda folder: metaspace(folder, "never"),
    "wordpiece": word_piece,
}


@pytest.fixture(scope="module", params=KINDS)
def folder(request, tmp_path_factory):
    place = tmp_path_factory.mktemp("tokenizer")
    KINDS[request.param](place)
    return str(place)


def in_running_text(tokenizer, words):
    """Pieces of each word of a text, by their places in it; the first word is left out, which has no space before."""
    text = " ".join(words)
    ends = list(accumulate(len(word) + 1 for word in words))  # a space belongs to the word behind it
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    found = [[] for _ in words]
    for piece, (_, end) in zip(encoded["input_ids"], encoded["offset_mapping"], strict=True):
        found[next(number for number, until in enumerate(ends) if end < until)].append(piece)
    return found[1:]


def test_pieces_are_those_of_running_text(folder):
    post = PostTokenizer(folder)
    expected = in_running_text(post.tokenizer, ["in", *POST])
    known = post.learn(POST)
    assert [list(known.words[word]) for word in POST] == [ids or list(post._unknown) for ids in expected]


@pytest.mark.parametrize("scheme", ["always", "first", "never"])
def test_a_script_that_nobody_thought_of(tmp_path, scheme):
    """Every word that is not Georgian is unknown here, so that the vocabulary itself has to be tried."""
    text = ["ანა მიდის ქალაქ თბილისში", "თბილისი არის ქალაქი", "ანა და ნინო"] * 20
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    trainer = trainers.UnigramTrainer(vocab_size=60, special_tokens=SPECIAL, unk_token="<unk>", show_progress=False)
    tokenizer.train_from_iterator(text, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", eos_token="</s>", bos_token="<s>")
    fast.save_pretrained(tmp_path)
    post, words = PostTokenizer(str(tmp_path)), ["ანა", "თბილისში", "არის", "ნინო"]
    known = post.learn(words).words
    assert [list(known[word]) for word in words] == in_running_text(post.tokenizer, ["და", *words])
    assert post.encode(["ანა"]).ids.tolist()[::len(known["ანა"]) + 1] == [0, 2]


def test_special_tokens_are_those_of_the_tokeniser(folder):
    post = PostTokenizer(folder)
    ids, starts, post_length, _ = post.encode_plain(["東京"], ["東京"], post.learn(["東京"], ["東京"]))
    pair = post.tokenizer("東京", "東京")["input_ids"]
    special = set(post.tokenizer.all_special_ids) - {post.tokenizer.unk_token_id}
    assert [piece for piece in ids if piece in special] == [piece for piece in pair if piece in special]
    single = post.encode(["東京"]).ids.tolist()
    alone = post.tokenizer("東京")["input_ids"]
    assert [piece for piece in single if piece in special] == [piece for piece in alone if piece in special]
    assert (single[0] in special) == (alone[0] in special)
    assert starts[0] == next(place for place, piece in enumerate(single) if piece not in special)
    assert len(single) <= post_length + 1


def test_bounds_tell_the_texts_apart(folder):
    """A post with one of its texts has the pieces that it has without the others; in a batch too."""
    post, texts = PostTokenizer(folder), ("東京 in", "", "Lagos", "a b")
    ids, _, post_length, bounds = post.encode_plain(POST, texts, post.learn(POST, texts))
    alone = [post.encode(POST, (text,)).ids.tolist() for text in texts]
    for text, one, (start, end) in zip(texts, alone, pairwise(bounds), strict=True):
        assert (ids[: bounds[0]] + ids[start:end] if text else post.encode(POST).ids.tolist()) == one
        assert bool(text) == (end > start)
    assert len(bounds) == len(texts) + 1
    assert post_length <= bounds[0] + 1
    assert bounds[-1] == len(ids)

    posts = [Example("0", None, tuple(POST), None, texts), Example("1", None, ("in",), None, ("", "Anna"))]
    collate = Collate(post.pad_id, needs={"contexts"})
    batch = collate([*MNERDataset(posts, ["O"], post)])
    for source, one in enumerate(alone, start=1):
        view = only_context(batch, source)
        assert view["token_ids"][0][view["token_mask"][0]].tolist() == one
        assert view["token_mask"][0, : len(one)].all()
        other = post.encode(("in",), ("Anna",) if source == 2 else ())
        assert view["token_ids"][1][view["token_mask"][1]].tolist() == other.ids.tolist()
        segments = [int(place >= other.post_length) for place in range(len(other.ids))]
        assert view["segment_ids"][1][view["token_mask"][1]].tolist() == segments


def test_files_make_the_same_tokeniser(folder):
    post = PostTokenizer(folder)
    assert PostTokenizer.from_files(post.files()).encode(POST).ids.tolist() == post.encode(POST).ids.tolist()


@pytest.mark.parametrize("mark", ["\u00ad", "\u200b", "\u200c", "\u200d", "\u200e", "\ufe0f", "\U000e0067"])
def test_format_characters_make_no_word_unknown(folder, mark):
    post = PostTokenizer(folder)
    unknown = post.tokenizer.unk_token_id
    for word in POST:
        known = post.learn([word, f"{mark}{word}", f"{word[:1]}{mark}{word[1:]}", f"{word}{mark}"]).words
        for marked in (f"{mark}{word}", f"{word[:1]}{mark}{word[1:]}", f"{word}{mark}"):
            assert unknown not in known[marked] or unknown in known[word]


@given(content=st.binary() | st.text().map(str.encode) | st.just((BINARY + "AA").encode()))
def test_any_file_is_kept(content, tmp_path_factory):
    path = tmp_path_factory.mktemp("kept") / "file"
    path.write_bytes(content)
    kept = read_kept(path)
    kept.encode()
    path.unlink()
    write_kept(path, kept)
    assert path.read_bytes() == content


def test_binary_files_are_in_checkpoints_and_folders(bert_folder, tmp_path, monkeypatch):
    binary = b"\n\x0e\n\x05<unk>\x15\x00\x00\xff\xfe"  # as a SentencePiece model begins
    post = PostTokenizer(bert_folder)
    save = type(post.tokenizer).save_pretrained

    def with_binary(self, folder, *args, **kwargs):
        save(self, folder, *args, **kwargs)
        Path(folder, "spiece.model").write_bytes(binary)
        Path(folder, "templates").mkdir()

    monkeypatch.setattr(type(post.tokenizer), "save_pretrained", with_binary)
    model = TextOnly(bio_labels(["PER"]), text_encoder=bert_folder)
    model.restored = {"data": {"tokenizer": post.files()}}
    checkpoint = {"state_dict": model.state_dict()}
    model.on_save_checkpoint(checkpoint)
    torch.save(checkpoint, tmp_path / "model.ckpt")
    files = read_checkpoint(tmp_path / "model.ckpt")["mner"]["data"]["tokenizer"]
    write_kept(tmp_path / "again.model", files["spiece.model"])
    assert (tmp_path / "again.model").read_bytes() == binary
    tagger = Tagger.from_checkpoint(tmp_path / "model.ckpt", device="cpu")
    shared = tagger.save_pretrained(tmp_path / "shared")
    assert (shared / "spiece.model").read_bytes() == binary
    assert load_model(shared).model.restored["data"]["tokenizer"] == files
