"""From records to posts, the one place that decides: whose annotation, which of two spans, and what are the words."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from sys import intern

import regex

from mner.data.examples import Example, Posts
from mner.data.formats.fields import TYPE
from mner.data.formats.lines import Source, UniqueIds, shown
from mner.data.formats.offsets import to_characters
from mner.data.formats.records import UNTYPED, Mark, Notes, Reading, Record
from mner.data.formats.schemes import SchemeOf
from mner.data.word_splitter import STYLES, UNSPACED, Word, split_words
from mner.labels import Span, split_tag, stray_insides, tags_of

log = logging.getLogger(__name__)
SPACES = "spaces"
_BLANKS = " \t\r\n"
_SPACES = regex.compile(r"[^ \t\r\n]+")
_UNSPACED = regex.compile(f"[{UNSPACED}]")
RUN = 6
"""Letters of such a script between two spaces from which on they are more than a word."""
LONG = 20
"""Letters of a script without spaces in one word from which on it is taken for a whole sentence."""


def posts_of(source: Source, records: Iterable[Record], reading: Reading, notes: Notes, format: str = "") -> Posts:
    """The posts of a file.

    Args:
        source: The file.
        records: What its reader found.
        reading: How it is read where it leaves a choice.
        notes: What the reader had to decide; all notes are logged in one line, and kept with the posts.
        format: The name of its format.

    Raises:
        DataFormatError: For an id twice, annotators who differ, spans that overlap (unless `reading` says what to do),
            offsets that do not fit, what is no tag, another number of tags than words; with line or record.
    """
    read = prepared(source, list(records), reading, notes)
    if (untyped := notes[UNTYPED]) and not any(record.marks or record.tags for record in read):
        advice = "Say where it is: give it one of the names " + ", ".join(TYPE[:6]) + " …."
        raise source.fault("as a whole", f"{untyped:,} spans and no type at any", "a type for each span", advice)
    style = _style(source, read, reading, notes)
    ids, scheme = UniqueIds(source), SchemeOf(source)
    posts: list[Example] = []
    for group in _groups(source, read, reading, notes):
        record = _one_of(source, group, reading, notes)
        if record.words is None and not (record.text or "").strip(_BLANKS):
            notes.add("records without text, left out")
            continue
        if record.id is not None:
            ids.add(record.id, record.place)
        words, tags = _words_and_tags(source, record, style, reading, notes, scheme)
        if words:
            id_ = record.id if record.id is not None else f"{source.stem}/{len(posts) + 1}"
            images = (id_,) if reading.fields.get("image") == "id" else record.image_ids
            posts.append(Example(id_, images[0] if images else None, words, tags, more_images=images[1:]))
        else:
            notes.add("records without words, left out")
    if not posts:
        raise source.fault("as a whole", "no post", "at least one")
    found = scheme.posts(posts)
    _long_words(found, notes)
    if reading.type_map is not None:
        found = Posts(map_types(found, reading.type_map, notes), found.scheme)
    unlabelled = sum(post.tags is None for post in found)
    if unlabelled < len(found):
        notes.add("posts without gold", unlabelled)
    lines = notes.lines()
    if lines:
        log.warning("%s%s: %s", source, f", read as {format}" if format else "", "; ".join(lines))
    return Posts(found, found.scheme, format, lines)


def prepared(source: Source, records: list[Record], reading: Reading, notes: Notes) -> list[Record]:
    """Records whose spans are over characters, without blanks at their ends; those of a post's annotators apart."""
    if "id" in reading.fields and reading.fields["id"] is None:
        for record in records:  # numbered; what groups the annotators of a post stays
            record.key = record.key or (record.id or "" if record.annotator or record.withheld else "")
            record.id = None
    _blanks(records, notes)
    to_characters(source, records, reading.offsets, notes)
    _trim(records, notes)
    return records


def map_types(posts: Iterable[Example], type_map: Mapping[str, str | None], notes: Notes) -> list[Example]:
    """Posts with entity types renamed, merged, or dropped where their new name is None."""
    names = dict(type_map)
    mapped: list[Example] = []
    for post in posts:
        if post.tags is None or not any(split_tag(tag)[1] in names for tag in post.tags):
            mapped.append(post)
            continue
        stray = set(stray_insides(post.tags))
        tags: list[str] = []
        for place, tag in enumerate(post.tags):
            letter, type_ = split_tag(tag)
            new = names.get(type_, type_) if type_ else None
            if type_ in names and (letter == "B" or place in stray):
                notes.add(f"entities of type {type_} " + (f"read as {new}" if new else "dropped"))
            if new is None:
                tags.append("O")
            else:  # a stray I- behind an entity that is now of its type is still one of its own
                joins = place in stray and tags and tags[-1].endswith(f"-{new}")
                tags.append(intern(f"{'B' if joins else letter}-{new}"))
        mapped.append(replace(post, tags=tuple(tags)))
    return mapped


# Whose annotation


def _groups(source: Source, records: Sequence[Record], reading: Reading, notes: Notes) -> list[list[Record]]:
    """The records of each post, in order."""
    groups: dict[object, list[Record]] = {}
    for number, record in enumerate(records):
        own = record.key or (record.id if record.annotator or record.withheld else None)
        groups.setdefault(number if own is None else own, []).append(record)
    return list(groups.values())


def _one_of(source: Source, group: list[Record], reading: Reading, notes: Notes) -> Record:
    """The record that counts, of those of one post."""
    for record in group:
        if record.withheld:
            notes.add(f"annotations {record.withheld}, not read as gold")
    counting = [record for record in group if not record.withheld and record.labelled]
    bare = replace(group[0], tags=None, marks=None)
    if not counting:
        return bare
    if len(chosen := [record for record in counting if record.chosen]) == 1 < len(counting):
        notes.add("posts of several annotators, of whom the one marked as ground truth is read")
        return chosen[0]
    if reading.annotators not in ("error", "first", "majority", "predictions"):
        return _of_one_annotator(counting, bare, reading.annotators, notes)
    if len(counting) == 1:
        return counting[0]
    if len({record.annotator for record in counting}) < len(counting):
        who = ", ".join(dict.fromkeys(shown(record.annotator) for record in counting))
        found = f"a post with {len(counting)} annotations by {who}"
        raise source.fault(counting[-1].place, found, "one annotation a post and annotator", "Take the old ones out.")
    sets = [_marked(record) for record in counting]
    if all(one == sets[0] for one in sets):
        notes.add("posts whose annotators agree, read once")
        return counting[0]
    if reading.annotators in ("error", "predictions"):
        differ = next(place for place, one in enumerate(sets) if one != sets[0])
        only = sorted(sets[0] ^ sets[differ])[0]
        who = f"{counting[0].annotator or '?'} and {counting[differ].annotator or '?'}"
        found = f"annotators {who} who differ ({only[2]} at {only[0]}..{only[1]} by one of them)"
        advice = "Choose: annotators='first', 'majority', or the name of one; `mner data agreement` compares them."
        raise source.fault(counting[differ].place, found, "annotators who agree", advice)
    if reading.annotators == "first":
        notes.add("posts whose annotators differ, read as the first has them")
        return counting[0]
    notes.add("posts whose annotators differ, read with the spans of more than half of them")
    kept = [Mark(*mark) for mark in sorted(set.union(*sets)) if 2 * sum(mark in one for one in sets) > len(sets)]
    return replace(counting[0], tags=None, marks=kept)


def _of_one_annotator(counting: Sequence[Record], bare: Record, name: str, notes: Notes) -> Record:
    own = next((record for record in counting if record.annotator == name), None)
    notes.add(f"annotations by others than {name}, not read", len(counting) - (own is not None))
    return bare if own is None else own


def _marked(record: Record) -> set[tuple[int, int, str]]:
    return {(mark.start, mark.end, mark.type) for mark in record.marks or ()}


# Which spans


def _blanks(records: Iterable[Record], notes: Notes) -> None:
    """Types are one word: blanks in them become `_`."""
    for record in records:
        if record.marks and any(" " in mark.type for mark in record.marks):
            notes.add("spans whose type holds blanks, read with _", sum(" " in mark.type for mark in record.marks))
            record.marks = [mark._replace(type="_".join(mark.type.split())) for mark in record.marks]


def _trim(records: Iterable[Record], notes: Notes) -> None:
    for record in records:
        if record.text is not None and record.marks:
            kept = []
            for mark in record.marks:
                start, end = _without_blanks(record.text, *mark[:2])
                if start >= end:
                    notes.add("spans without text, left out")
                    continue
                notes.add("spans with blanks at an end, taken off", (start, end) != mark[:2])
                kept.append(mark._replace(start=start, end=end))
            record.marks = kept


def _without_blanks(text: str, start: int, end: int) -> tuple[int, int]:
    """Blanks off the ends of a span; a no-break space only where it sticks to a word, since it may be one itself."""
    while start < end and (
        text[end - 1] in _BLANKS or (text[end - 1].isspace() and text[start : end - 1][-1:].strip())
    ):
        end -= 1
    while start < end and (text[start] in _BLANKS or (text[start].isspace() and text[start + 1 : end][:1].strip())):
        start += 1
    return start, end


def apart(source: Source, record: Record, marks: Sequence[Mark], reading: Reading, notes: Notes) -> list[Mark]:
    """Marks that do not overlap, in order.

    Raises:
        DataFormatError: If some do, unless the outer are to be kept.
    """
    kept: list[Mark] = []
    for mark in sorted(dict.fromkeys(mark[:3] for mark in marks), key=lambda one: (one[0] - one[1], one[0])):
        other = next((one for one in kept if one.start < mark[1] and mark[0] < one.end), None)
        if other is None:
            kept.append(Mark(*mark))
            continue
        same = (other.start, other.end) == mark[:2]
        what = "two labels on one span" if same else "spans that overlap"
        if reading.overlaps == "error":
            both = f"{other.type} at {other.start}..{other.end} and {mark[2]} at {mark[0]}..{mark[1]}"
            advice = "overlaps='outer' keeps the longer of two, and the first of two labels."
            raise source.fault(record.place, f"{what}: {both}", "spans apart from each other", advice)
        notes.add(f"{what}: the " + ("second label left out" if same else "inner or shorter left out"))
    notes.add("spans given twice, read once", len(marks) - len({mark[:3] for mark in marks}))
    return sorted(kept)


# What are the words


def _style(source: Source, records: Sequence[Record], reading: Reading, notes: Notes) -> object:
    if isinstance(reading.words, str) and reading.words not in (SPACES, *STYLES):
        raise ValueError(f"Expected argument `words` to be one of {(SPACES, *STYLES)}, but got {reading.words!r}")
    if reading.words is not None:
        return reading.words
    texts = [record.text or "" for record in records if record.words is None]
    runs = [len(_UNSPACED.findall(word)) for text in texts for word in _SPACES.findall(text)]
    if 2 * sum(run for run in runs if run > RUN) <= max(sum(runs), sum(len(text) for text in texts) / 2):
        return SPACES
    notes.add("texts in a script without spaces, split into its characters", sum(r.words is None for r in records))
    return "characters"


def _split(text: str, style: object) -> list[tuple[int, int]]:
    if style == SPACES:
        return [match.span() for match in _SPACES.finditer(text)]
    words: Sequence[Word] = style(text) if callable(style) else split_words(text, style)  # type: ignore[arg-type]
    return [(word.start, word.end) for word in words]


def _words_and_tags(
    source: Source, record: Record, style: object, reading: Reading, notes: Notes, scheme: SchemeOf
) -> tuple[tuple[str, ...], tuple[str, ...] | None]:
    if record.text is None or record.tags is not None:
        return _given_words(source, record, reading, notes, scheme)
    text, marks = record.text, apart(source, record, record.marks or (), reading, notes)
    own = record.places is not None and reading.words is None
    places = list(record.places or ()) if own else _split(text, style)
    if own and not _in_order(places, len(text)):
        raise source.fault(record.place, "tokens that overlap or are not within the text", "tokens one after the other")
    edges = sorted({edge for mark in marks for edge in mark[:2]})
    cut = []
    for start, end in places:
        inner = [edge for edge in edges if start < edge < end]
        notes.add("words cut at the edges of spans", bool(inner))
        bounds = [start, *inner, end]
        cut += [pair for pair in pairwise(bounds) if text[slice(*pair)].strip(_BLANKS)]
    for mark in marks:  # what no word covers, such as a lone sign that the style does not see
        if not any(start < mark.end and mark.start < end for start, end in cut):
            cut = sorted([*cut, (mark.start, mark.end)])
            notes.add("spans that the splitting leaves no word of, read as one")
    words = tuple(intern(text[start:end]) for start, end in cut)
    if record.marks is None:
        return words, None
    return words, tuple(map(intern, tags_of(_over_words(cut, marks), len(words))))


def _in_order(places: Sequence[tuple[int, int]], length: int) -> bool:
    ends = [0, *(end for _, end in places)]
    return all(before <= start < end <= length for before, (start, end) in zip(ends, places, strict=False))


def _over_words(places: Sequence[tuple[int, int]], marks: Sequence[Mark]) -> list[Span]:
    found = []
    for mark in marks:
        inside = [n for n, (start, end) in enumerate(places) if start < mark.end and mark.start < end]
        found.append(Span(inside[0], inside[-1] + 1, mark.type))
    return found


def _given_words(
    source: Source, record: Record, reading: Reading, notes: Notes, scheme: SchemeOf
) -> tuple[tuple[str, ...], tuple[str, ...] | None]:
    words = tuple(map(intern, record.words or ()))
    if not words:
        raise source.fault(record.place, "a post without words", "at least one word", "Remove the post.")
    if "" in words:
        raise source.fault(record.place, "an empty word", "words with content")
    if record.tags is not None:
        if len(record.tags) != len(words):
            found = f"{len(words)} words and {len(record.tags)} tags"
            raise source.fault(
                record.place, found, "as many tags as words", "Words and tags belong together one by one."
            )
        for tag in record.tags:
            scheme.check(record.place, tag)
        return words, tuple(map(intern, record.tags))
    if record.marks is None:
        return words, None
    for mark in record.marks:
        if not 0 <= mark.start < mark.end <= len(words):
            found = f"a span of words {mark.start}..{mark.end} in a post of {len(words)} words"
            raise source.fault(record.place, found, "spans within the post, their end not included")
    spans = [Span(*mark[:3]) for mark in apart(source, record, record.marks, reading, notes)]
    return words, tuple(map(intern, tags_of(spans, len(words))))


def _long_words(posts: Posts, notes: Notes) -> None:
    long = sum(len(_UNSPACED.findall(word)) > LONG for post in posts for word in post.words)
    notes.add(f"words of over {LONG} letters of a script without spaces: whole sentences as one word?", long)
