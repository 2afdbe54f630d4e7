"""Exports of one file of posts in the formats of many tools, and whether all of them are read as the same posts.

The exports are written here by hand, as the tools' documentation shows them, not by mner's own writers:

    python benchmarks/exports.py data/twitter2017/valid.txt [--keep FOLDER] [--fit]

With --fit each is trained on too, by `mner fit --data PostsDataModule` (a tiny encoder, some steps): the same posts
give the same score and loss on valid to the last digit.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import io
import json
import logging
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from mner.data.examples import Example
from mner.data.formats.posts import read_posts
from mner.data.formats.schemes import from_iob2
from mner.labels import repair, spans

Posts = Sequence[Example]


def text_of(post: Example) -> str:
    """The words with spaces between."""
    return " ".join(post.words)


def marks_of(post: Example, units: Callable[[str], int] = len) -> list[tuple[int, int, str, str]]:
    """Start, end, type and text of the entities; `units` counts what offsets count."""
    text, found = text_of(post), []
    for start, end, type_ in spans(post.tags or ()):
        first = sum(len(word) + 1 for word in post.words[:start])
        own = " ".join(post.words[start:end])
        begin = units(text[:first])
        found.append((begin, begin + units(own), type_, own))
    return found


def utf16(text: str) -> int:
    """Length as a browser counts."""
    return len(text.encode("utf-16-le")) // 2


def write_lines(path: Path, rows: Sequence[object]) -> None:
    """JSON lines."""
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def write_json(path: Path, value: object) -> None:
    """One JSON document, with ASCII escapes as many tools write it."""
    path.write_text(json.dumps(value, indent=2), encoding="utf-8")


def in_columns(posts: Posts, line: Callable[[str, str, int], str], scheme: str = "IOB2", head: str = "") -> str:
    """CoNLL of any columns."""
    blocks = []
    for post in posts:
        tags = from_iob2(repair(post.tags or ()), scheme)  # type: ignore[arg-type]
        rows = zip(post.words, tags, range(1, len(tags) + 1), strict=True)
        blocks.append("".join(line(word, tag, number) + "\n" for word, tag, number in rows))
    return head + "\n".join(blocks)


def conll_spaces(posts: Posts, path: Path) -> None:
    """Space-separated, two columns."""
    path.write_text(in_columns(posts, lambda word, tag, _: f"{word} {tag}"), encoding="utf-8")


def conll_bilou(posts: Posts, path: Path) -> None:
    """Tabs, BILOU."""
    path.write_text(in_columns(posts, lambda word, tag, _: f"{word}\t{tag}", "BILOU"), encoding="utf-8")


def conll_tag_first(posts: Posts, path: Path) -> None:
    """The tag before the word, IOBES, as the MIT corpora have it in IOB2."""
    path.write_text(in_columns(posts, lambda word, tag, _: f"{tag}\t{word}", "IOBES"), encoding="utf-8")


def conll_2003(posts: Posts, path: Path) -> None:
    """CoNLL-2003 proper: word, part of speech, chunk, IOB1."""
    head = "-DOCSTART- -X- -X- O\n\n"
    path.write_text(in_columns(posts, lambda word, tag, _: f"{word} NN I-NP {tag}", "IOB1", head), encoding="utf-8")


def conll_label_studio(posts: Posts, path: Path) -> None:
    """Label Studio's export CoNLL2003."""
    head = "-DOCSTART- -X- O\n"
    path.write_text(in_columns(posts, lambda word, tag, _: f"{word} -X- _ {tag}", head=head), encoding="utf-8")


def conllu(posts: Posts, path: Path) -> None:
    """CoNLL-U, entities in MISC."""
    path.write_text(
        in_columns(posts, lambda word, tag, n: f"{n}\t{word}\t" + "_\t" * 7 + f"SpaceAfter=Yes|NER={tag}"),
        encoding="utf-8",
    )


def csv_tokens(posts: Posts, path: Path) -> None:
    """A token a row, the number of the sentence in its first row, as the Kaggle corpus."""
    with path.open("w", encoding="utf-8", newline="") as stream:
        out = csv.writer(stream)
        out.writerow(["Sentence #", "Word", "POS", "Tag"])
        for number, post in enumerate(posts, start=1):
            for place, (word, tag) in enumerate(zip(post.words, post.tags or (), strict=True)):
                out.writerow(["" if place else f"Sentence: {number}", word, "NN", tag])


def csv_spans(posts: Posts, path: Path) -> None:
    """A span a row."""
    with path.open("w", encoding="utf-8", newline="") as stream:
        out = csv.writer(stream)
        out.writerow(["text_id", "text", "start", "end", "label"])
        for post in posts:
            found = marks_of(post)
            out.writerows(
                [[post.id, text_of(post), *mark[:3]] for mark in found] or [[post.id, text_of(post), "", "", ""]]
            )


def doccano(posts: Posts, path: Path) -> None:
    """Doccano of the second generation."""
    write_lines(
        path, [{"id": n, "text": text_of(p), "label": [m[:3] for m in marks_of(p)]} for n, p in enumerate(posts)]
    )


def doccano_relations(posts: Posts, path: Path) -> None:
    """Doccano of the third."""
    rows = []
    for number, post in enumerate(posts):
        entities = [
            {"id": n, "label": m[2], "start_offset": m[0], "end_offset": m[1]} for n, m in enumerate(marks_of(post))
        ]
        rows.append({"id": number, "text": text_of(post), "entities": entities, "relations": [], "Comments": []})
    write_lines(path, rows)


def jsonl_numbers(posts: Posts, path: Path) -> None:
    """Tokens and tags by their names, as on the Hub."""
    write_lines(path, [{"id": p.id, "tokens": p.words, "ner_tags": p.tags} for p in posts])


def jsonl_spans(posts: Posts, path: Path) -> None:
    """Texts with spans."""
    rows = []
    for post in posts:
        found = [{"start": m[0], "end": m[1], "label": m[2]} for m in marks_of(post)]
        rows.append({"id": post.id, "text": text_of(post), "spans": found})
    write_lines(path, rows)


def jsonl_gliner(posts: Posts, path: Path) -> None:
    """Words with spans of words, the last one included."""
    write_json(path, [{"tokenized_text": p.words, "ner": [[s.start, s.end - 1, s.type] for s in spans(p.tags or ())]}
                      for p in posts])  # fmt: skip


def label_studio(posts: Posts, path: Path) -> None:
    """Label Studio's JSON; it counts UTF-16 units."""
    tasks = []
    for number, post in enumerate(posts, start=1):
        results = [
            {"value": {"start": m[0], "end": m[1], "text": m[3], "labels": [m[2]]}, "id": f"r{n}",
             "from_name": "label", "to_name": "text", "type": "labels", "origin": "manual"}
            for n, m in enumerate(marks_of(post, utf16))
        ]  # fmt: skip
        annotation = {"id": number, "completed_by": 1, "result": results, "was_cancelled": False, "ground_truth": False}
        data = {"text": text_of(post), "image": f"/data/upload/1/1a2b3c4d-{post.image_id}.jpg"}
        tasks.append({"id": number, "annotations": [annotation], "data": data, "predictions": [], "project": 1})
    write_json(path, tasks)


def label_studio_min(posts: Posts, path: Path) -> None:
    """Label Studio's JSON-MIN; without a span the control's field is missing."""
    rows = []
    for number, post in enumerate(posts, start=1):
        row: dict[str, object] = {"text": text_of(post), "id": number, "annotator": 1, "annotation_id": number}
        found = [{"start": m[0], "end": m[1], "text": m[3], "labels": [m[2]]} for m in marks_of(post, utf16)]
        rows.append({**row, **({"label": found} if found else {}), "created_at": "2024-01-01", "lead_time": 1.5})
    write_json(path, rows)


def prodigy(posts: Posts, path: Path) -> None:
    """Prodigy's ner.manual."""
    rows = []
    for number, post in enumerate(posts):
        start, tokens = 0, []
        for n, word in enumerate(post.words):
            tokens.append({"text": word, "start": start, "end": start + len(word), "id": n, "ws": True})
            start += len(word) + 1
        found = [{"start": m[0], "end": m[1], "token_start": s.start, "token_end": s.end - 1, "label": m[2]}
                 for m, s in zip(marks_of(post), spans(post.tags or ()), strict=True)]  # fmt: skip
        row = {"text": text_of(post), "_input_hash": number, "_task_hash": -number, "tokens": tokens, "spans": found}
        rows.append({**row, "_view_id": "ner_manual", "answer": "accept", "_timestamp": 1700000000})
    write_lines(path, rows)


def argilla(posts: Posts, path: Path) -> None:
    """Argilla 2, records.to_json."""
    rows = []
    for post in posts:
        value = [{"label": m[2], "start": m[0], "end": m[1]} for m in marks_of(post)]
        rows.append({"id": post.id, "status": "completed", "fields": {"text": text_of(post)}, "metadata": {},
                     "suggestions": {}, "vectors": {},
                     "responses": {"span": [{"value": value, "user_id": "u-1", "status": "submitted"}]}})  # fmt: skip
    write_json(path, rows)


def lighttag(posts: Posts, path: Path) -> None:
    """LightTag."""
    by = [{"annotator": "ann", "annotator_id": 3, "timestamp": "2020-01-01"}]
    rows = []
    for post in posts:
        found = [{"start": m[0], "end": m[1], "tag": m[2], "value": m[3], "annotated_by": by, "correct": None}
                 for m in marks_of(post)]  # fmt: skip
        rows.append(
            {"example_id": post.id, "content": text_of(post), "metadata": {}, "annotations": found, "seen_by": by}
        )
    write_json(path, {"examples": rows, "relations": []})


def ubiai(posts: Posts, path: Path) -> None:
    """UBIAI."""
    rows = []
    for post in posts:
        found = [{"text": m[3], "start": m[0], "end": m[1], "entityLabel": m[2]} for m in marks_of(post)]
        rows.append({"documentName": f"{post.id}.txt", "document": text_of(post), "tokens": found, "relations": []})
    write_json(path, rows)


def spacy_pairs(posts: Posts, path: Path) -> None:
    """SpaCy's simple training data."""
    write_json(path, [[text_of(p), {"entities": [m[:3] for m in marks_of(p)]}] for p in posts])


def spacy_iob(posts: Posts, path: Path) -> None:
    """SpaCy's IOB."""
    lines = [" ".join(f"{w}|{t}" for w, t in zip(p.words, p.tags or (), strict=True)) for p in posts]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def webanno(posts: Posts, path: Path) -> None:
    """INCEpTION's WebAnno TSV 3.3 with an identifier beside the value."""
    layer = "#T_SP=de.tudarmstadt.ukp.dkpro.core.api.ner.type.NamedEntity|identifier|value"
    out, offset, key = ["#FORMAT=WebAnno TSV 3.3", layer, "", ""], 0, 0
    for number, post in enumerate(posts, start=1):
        cells = ["_\t_"] * len(post.words)
        for start, end, type_ in spans(post.tags or ()):
            key += 1
            for place in range(start, end):
                cells[place] = f"*\t{type_}" if end - start == 1 else f"*[{key}]\t{type_}[{key}]"
        out.append(f"#Text={text_of(post)}".replace("\\", "\\\\"))
        for place, word in enumerate(post.words):
            end = offset + utf16(word)
            escaped = word
            for sign in ("\\", "[", "]", "|", "_", "->", ";", "*"):
                escaped = escaped.replace(sign, "\\" + sign)
            out.append(f"{number}-{place + 1}\t{offset}-{end}\t{escaped}\t{cells[place]}\t")
            offset = end + 1
        out.append("")
    path.write_text("\n".join(out), encoding="utf-8")


def brat_pair(posts: Posts, path: Path) -> None:
    """brat, one document, a line a post."""
    text, lines = "", []
    for post in posts:
        for start, end, type_, own in marks_of(post):
            lines.append(f"T{len(lines) + 1}\t{type_} {len(text) + start} {len(text) + end}\t{own}\n")
        text += text_of(post) + "\n"
    path.with_suffix(".txt").write_text(text, encoding="utf-8", newline="")
    path.write_text("".join(lines), encoding="utf-8", newline="")


def brat_folder(posts: Posts, path: Path) -> None:
    """brat, a document a post."""
    path.mkdir()
    for number, post in enumerate(posts):
        brat_pair([post], path / f"{number:06}.ann")


EXPORTS: dict[str, Callable[[Posts, Path], None]] = {
    "spaces.txt": conll_spaces,
    "bilou.txt": conll_bilou,
    "tag_first.tsv": conll_tag_first,
    "conll2003.conll": conll_2003,
    "label_studio.conll": conll_label_studio,
    "posts.conllu": conllu,
    "tokens.csv": csv_tokens,
    "spans.csv": csv_spans,
    "doccano.jsonl": doccano,
    "doccano_relations.jsonl": doccano_relations,
    "ner_tags.jsonl": jsonl_numbers,
    "spans.jsonl": jsonl_spans,
    "gliner.json": jsonl_gliner,
    "label_studio.json": label_studio,
    "label_studio_min.json": label_studio_min,
    "prodigy.jsonl": prodigy,
    "argilla.json": argilla,
    "lighttag.json": lighttag,
    "ubiai.json": ubiai,
    "spacy.json": spacy_pairs,
    "spacy.iob": spacy_iob,
    "webanno.tsv": webanno,
    "brat.ann": brat_pair,
    "brat": brat_folder,
}
"""Name of a file or folder, and what writes it."""


def content(posts: Posts) -> list[tuple[tuple[str, ...], list[tuple[int, int, str]]]]:
    """What all exports share: words and entities."""
    return [(post.words, [tuple(span) for span in spans(post.tags or ())]) for post in posts]


def fitted(path: Path, out: Path) -> dict[str, str]:
    """What `mner fit` says of the valid split of an export, dealt out by the data module."""
    from mner.cli.main import main as mner

    command = ["fit", "--data", "PostsDataModule", "--data.root", str(path), "--data.batch_size", "32"]
    command += ["--model", "TextOnly", "--model.text_encoder", "tiny", "--seed_everything", "0"]
    command += ["--trainer.max_steps", "20", "--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"]
    command += ["--trainer.val_check_interval", "20", "--trainer.check_val_every_n_epoch", "null"]
    command += ["--trainer.enable_model_summary", "false", "--trainer.default_root_dir", str(out)]
    command += ["--trainer.logger", "CSVLogger", "--trainer.logger.save_dir", str(out)]
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as said:
        code = mner(command)  # what was run, where it came to its end
    if isinstance(code, int) and code:
        return {"error": (said.getvalue().strip().splitlines() or [f"exit code {code}"])[-1]}
    with next(out.rglob("metrics.csv")).open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row.get("val/f1")]
    return {"F1": rows[-1]["val/f1"], "loss": rows[-1]["val/loss"]}


def main() -> int:
    """Write, read, compare; exit code 1 if one differs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("posts", type=Path, help="a file of posts with gold, in any format that is read")
    parser.add_argument("--keep", type=Path, help="folder for the exports; else they are removed")
    parser.add_argument("--fit", action="store_true", help="train on each, too")
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="    %(message)s", stream=sys.stdout)
    posts = read_posts(options.posts)
    wrong = 0
    first: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        place = options.keep or Path(folder)
        place.mkdir(parents=True, exist_ok=True)
        for name, write in EXPORTS.items():
            write(posts, place / name)
            read = read_posts(place / name)
            same = content(read) == content(posts)
            told = ""
            if options.fit:
                found = fitted(place / name, Path(folder) / "fitted" / name)
                first = first or found
                same = same and found == first and "error" not in found
                told = "; fit: " + ", ".join(f"{key} {value}" for key, value in found.items())
            wrong += not same
            print(f"{'equal' if same else 'DIFFERS':8} {name:26} read as {read.format}, {len(read):,} posts{told}")
    done = "read and trained on" if options.fit else "read"
    print(f"{len(EXPORTS) - wrong} of {len(EXPORTS)} exports of {len(posts):,} posts are {done} as the same posts")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
