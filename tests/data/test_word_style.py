"""How text is split is found from the words of the data, kept in checkpoints and used by the tagger."""

import json

import pytest
import regex
import torch
from hypothesis import given
from hypothesis import strategies as st

from mner.data import SnapchatDataModule
from mner.data.word_splitter import STYLES, split_words
from mner.data.word_style import as_written, find_style
from mner.fusion import FusionModule, TextOnly
from mner.tagger.tagger import Tagger

TEXTS = [
    "RT @bo_x: don't stop, @acme #1st at 7:30pm (so) well-known http://t.co/a1",
    "we saw O'Neill in the U.S. today, and J.R.R. said \"go\"!",
    "Ann's $ABCD fell 3.5% - 10,000 down... ok :) 👍🏽",
]
UNSPACED = ["今天北京天气怎么样。", "東京に行く iPhone15", "ฉันอยู่ที่กรุงเทพ"]


@pytest.mark.parametrize("style", STYLES)
def test_the_style_that_made_the_words_is_found(style, caplog):
    caplog.set_level("INFO", logger="mner")
    texts = UNSPACED if style == "characters" else TEXTS
    found = find_style([[word.text for word in split_words(text, style)] for text in texts])
    assert found.style == style
    assert found.share > 0.75
    (record,) = caplog.records
    assert repr(style) in record.message
    assert f"{100 * found.share:.1f} %" in record.message


def test_the_default_stays_where_nothing_tells():
    words = [["Anna", "visits", "Lagos"]] * 3
    assert find_style(words).style == "twitter2015"
    assert find_style(words, "twitter2017").style == "twitter2017"
    assert find_style([]).style == "twitter2015"


def test_data_of_no_style_is_warned_of(caplog):
    find_style([["今天", "北京", "天气"]])
    assert "That is little" in caplog.records[0].message


@pytest.mark.parametrize(
    "text",
    [
        'She said "go" and left.',
        "(so) [it] {is}, at 7pm: the 1st!",
        "don't; we're; O'Neill's rock-n-roll and/or a_b",
        "100% @user #tag $5 “so” «là»",
        "今天、北京。",
        "don\u2019t … ok ?",
    ],
)
def test_words_are_put_together_as_people_write(text):
    """What was split at every sign comes back as it was written, but for a space before a sign that stood alone."""
    words = regex.findall(r"\p{Han}|[\p{L}\p{N}]+|\S", text)
    assert as_written(words)[0] == text.replace(" ?", "?").replace(" …", "…")


def test_units_stand_behind_their_numbers_only():
    words = "st 7 pm , the 1 st and 22 nd , a pm 3 th".split()
    assert as_written(words)[0] == "st 7pm, the 1st and 22nd, a pm 3th"


def test_posts_are_looked_at_evenly():
    """Of 2,500 posts every second one; the others say nothing."""
    words = [word.text for word in split_words(TEXTS[1], "treebank")]
    assert find_style([words, ["今天", "北京"]] * 1250).style == "treebank"
    assert find_style([words, ["今天", "北京"]] * 1250).share == find_style([words]).share


@given(words=st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=4), max_size=8))
def test_words_are_where_it_says(words):
    text, places = as_written(words)
    assert [text[start:end] for start, end in places] == words


def write(root):
    for split, count in (("train", 30), ("valid", 4), ("test", 4)):
        lines = []
        for number in range(count):
            person, place = ["O'Neill", "J.R.R.", "Ed."][number % 3], ["U.S.", "Lagos."][number % 2]
            record = {"id": f"{split}{number}", "tokens": ["we", "saw", person, "in", place, "today"]}
            lines.append(json.dumps(record | {"label": ["O", "O", "B-PER", "O", "B-LOC", "O"]}) + "\n")
        (root / f"{split}.jsonl").write_text("".join(lines))


def checkpoint(root, bert_folder, described):
    data = SnapchatDataModule(str(root), text_encoder=bert_folder, types=["PER", "LOC"])
    if described:
        data.setup("fit")
    model = TextOnly(data.labels, text_encoder=bert_folder)
    model.restored = {"data": data.describe()}
    kept = {"state_dict": model.state_dict()}
    model.on_save_checkpoint(kept)
    torch.save(kept, root / "model.ckpt")
    return root / "model.ckpt"


def test_the_tagger_splits_as_the_training_data(tmp_path, bert_folder):
    write(tmp_path)
    path = checkpoint(tmp_path, bert_folder, True)
    assert FusionModule.load_from_checkpoint(path).restored["data"]["words"] == {"style": "whitespace", "share": 1.0}
    tagger = Tagger.from_checkpoint(path, device="cpu")
    text = "we saw O'Neill\u200b in U.S. today"
    assert [word.text for word in tagger(text).words] == ["we", "saw", "O'Neill", "in", "U.S.", "today"]
    again = Tagger.from_pretrained(tagger.save_pretrained(tmp_path / "shared"), device="cpu")
    assert again.prepare.style == "whitespace"
    assert Tagger.from_checkpoint(path, words="twitter2015", device="cpu").prepare.style == "twitter2015"


def test_checkpoints_of_before_behave_as_before(tmp_path, bert_folder):
    write(tmp_path)
    assert Tagger.from_checkpoint(checkpoint(tmp_path, bert_folder, False), device="cpu").prepare.style == "twitter2015"
