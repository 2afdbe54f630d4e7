import pytest
from hypothesis import given
from hypothesis import strategies as st

from mner.data.word_pieces import FORMAT_CHARACTERS
from mner.data.word_splitter import STYLES, readable, split_words, style_of


def words(text, style):
    return [word.text for word in split_words(text, style)]


# Made-up posts; each shows one of the rules that were read off the files.
@pytest.mark.parametrize(
    ("text", "as_2015", "as_2017"),
    [
        ("RT @The_Zoo: hi", "RT @The _ Zoo : hi", "RT @ The_Zoo : hi"),
        ("#NWM7 #Vice-Chair", "#NWM7 #Vice-Chair", "# NWM7 # Vice - Chair"),
        ("Ann's dog didn't", "Ann ' s dog didn ' t", "Ann ' s dog didn ' t"),
        ("Bo\u2019s", "Bo \u2019 s", "Bo \u2019 s"),
        ("the 1st, at 10:30pm", "the 1st , at 10 : 30pm", "the 1 st , at 10 : 30 pm"),
        ("$2.99 or 10,000", "$ 2 . 99 or 10 , 000", "$ 2.99 or 10,000"),
        ("$ABCD fell 3.5%", "$ABCD fell 3 . 5 %", "$ ABCD fell 3.5 %"),
        ("a 7-star well-known w/ 7/11", "a 7-star well-known w/ 7/11", "a 7 - star well - known w / 7 / 11"),
        ("R.I.P. ... wait...", "R . I . P . ... wait . . .", "R . I . P . . . . wait . . ."),
        ("http://t.co/a1B_2. http://t.c…", "http://t.co/a1B_2. http://t.c…", "http://t.co/a1B_2. http://t.c…"),
        ("A&amp;B &lt;3", "A&amp ; B &lt ; 3", "A & amp ; B & lt ; 3"),
        ('he: "go" (no) [x]', 'he : " go " ( no ) [ x ]', 'he : " go " ( no ) [ x ]'),
        ("ok :) :-( :D", "ok : ) : - ( : D", "ok :) :-( :D"),
        ("U10s and 3D", "U10s and 3D", "U10s and 3 D"),
        ("win🏀💯 👍🏽", "win 🏀💯 👍🏽", "win 🏀 💯 👍 🏽"),
        ("❤️", "❤️", "❤️"),
        ("Beyoncé Zoe\u0308 नमस्ते дом 東京", "Beyoncé Zoe\u0308 नमस्ते дом 東京", "Beyoncé Zoe\u0308 नमस्ते дом 東京"),
        ("a\u00a0b\u2028c\tde\r\nf", "a b c de f", "a b c de f"),
        ("", "", ""),
        (" \n\t ", "", ""),
    ],
)
def test_rules(text, as_2015, as_2017):
    assert words(text, "twitter2015") == as_2015.split()
    assert words(text, "twitter2017") == as_2017.split()


@pytest.mark.parametrize("style", STYLES)
@given(text=st.text(st.characters()) | st.text("aZ0@#_'.,:-/&;$ \n😀👍🏽\ufe0f\ud800\x00"))
def test_each_character_is_in_one_word_or_white_space(style, text):
    end = 0
    for word in split_words(text, style):
        assert word.text == text[word.start : word.end] != ""
        assert not any(character.isspace() for character in word.text if character not in "\x1c\x1d\x1e\x1f")
        assert FORMAT_CHARACTERS.sub("", text[end : word.start]).strip() == ""
        assert FORMAT_CHARACTERS.sub("", word.text) != ""
        end = word.end
    assert FORMAT_CHARACTERS.sub("", text[end:]).strip() == ""


@pytest.mark.parametrize("style", STYLES)
@given(st.lists(st.sampled_from("RT @bo # tag 12 1st it's well-known http://t.co/x1 ... ! 👍🏽 $ABC".split())))
def test_splitting_again_changes_nothing(style, parts):
    once = words(" ".join(parts), style)
    again = words(" ".join(once), style)
    assert again == once


UNSEEN = ["\u200b", "\u00ad", "\u200c", "\u200d", "\u200e", "\u200f", "\u2060", "\ufeff", "\ufe0f", "\U000e0067"]
PLAIN = st.text(st.characters(exclude_categories=["Cs"]), max_size=12).map(lambda text: FORMAT_CHARACTERS.sub("", text))


@pytest.mark.parametrize("style", STYLES)
@given(text=PLAIN | st.sampled_from(["don't", "U.S. O'Neill", "@a_b #1st 👍🏽 ok", "今天 กรุง x"]), data=st.data())
def test_format_characters_split_nothing(style, text, data):
    marks = data.draw(st.lists(st.sampled_from(["", "", *UNSEEN]), min_size=len(text) + 1, max_size=len(text) + 1))
    marked = marks[0] + "".join(character + mark for character, mark in zip(text, marks[1:], strict=True))
    found = split_words(marked, style)
    assert [FORMAT_CHARACTERS.sub("", word.text) for word in found] == words(text, style)
    assert all(word.text == marked[word.start : word.end] for word in found)


@pytest.mark.parametrize("style", STYLES)
def test_emoji_keep_what_changes_them(style):
    for emoji in ("❤\ufe0f", "🏴\U000e0067\U000e0062\U000e007f", "👨\u200d"):
        assert words(f"go {emoji} !", style) == ["go", emoji, "!"]
    family = "👨\u200d👩\u200d👧"
    assert (words(family, style) == [family]) is (style != "twitter2017")


def test_other_styles():
    text = "don't O'Neill U.S. 3.5 go... #a @b_c well-known, 7:30pm"
    assert words(text, "whitespace") == text.split()
    expected = "do n't O'Neill U.S. 3.5 go ... #a @b_c well-known , 7 : 30pm".split()
    assert words(text, "treebank") == expected
    assert words("今天 iPhone15好用", "characters") == ["今", "天", "iPhone15", "好", "用"]
    assert words("ที่นี่", "characters") == ["ที่", "นี่"]
    for script in ("東京タワー", "ກຂຄ", "កខគ", "ကခဂ"):
        assert len(words(script, "characters")) == len(script)


def test_time_grows_with_length_only():
    for text in ("a" * 100_000, "@" * 100_000, "1," * 50_000, "http" * 25_000, "&-" * 50_000, "\ufe0f" * 100_000):
        for style in STYLES:
            seen = len(FORMAT_CHARACTERS.sub("", text))  # of what is not seen there is no word
            assert sum(len(word.text) for word in split_words(text, style)) == seen


def test_unknown_style_is_named():
    with pytest.raises(ValueError, match=r"twitter2015.*'tweets'"):
        split_words("a", "tweets")


def test_style_follows_the_data():
    assert style_of("Twitter2017DataModule") == "twitter2017"
    assert style_of("SampleDataModule") == style_of("") == style_of(None) == "twitter2015"


def test_halves_of_surrogate_pairs_alone_are_replaced():
    assert readable("a\ud7ff\ud800b\udfff\ue000\U0001f600") == "a\ud7ff\ufffdb\ufffd\ue000\U0001f600"
    assert readable("Zürich") == "Zürich"


def test_another_style_is_refused():
    with pytest.raises(ValueError, match="`style`") as caught:
        split_words("a", "bert")
    names = "('twitter2015', 'twitter2017', 'treebank', 'whitespace', 'characters')"
    assert str(caught.value) == f"Expected argument `style` to be one of {names}, but got 'bert'"
