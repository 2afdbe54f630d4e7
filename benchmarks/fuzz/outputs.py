"""Outputs that a kill, or somebody's hand, left half-written: gone on with, or refused as they are.

One that was cut off, which is all that a kill does, comes out as that of a run nobody stopped. One that was changed
otherwise is refused, or gone on with behind what is there.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from outcomes import Outcome, Target, broken, tried

from mner.benchmark.plan import Job
from mner.benchmark.run import recorded
from mner.files import REGISTER, output_folder
from mner.growing_file import Growing
from mner.preprocessing.growing_texts import GrowingTexts
from mner.tagger.bulk import Sink, run
from mner.tagger.bulk_input import Given
from mner.tagger.post import Entity, Post, Tagged

POSTS = [("0", "Anna visits Lagos"), ("a b", "no \x85"), (None, "again"), ("2", "Anna"), (None, "\u2028"), ("é", "y")]


class Stub:
    """Stands for a tagger: of each word with a capital it says that it is a person."""

    batch_size = 2

    def stream(self, posts: Iterable[Post], ahead: int = 1) -> Iterator[Tagged]:
        """What a tagger would give."""
        from mner.data.word_splitter import split_words

        for post in posts:
            text = str(post.text)
            words = split_words(text)
            names = [number for number, word in enumerate(words) if word.text.istitle()]
            entities = [Entity(w.text, "PER", w.start, w.end, 0.5, n, n + 1) for n in names for w in [words[n]]]
            tags = ["B-PER" if number in names else "O" for number in range(len(words))]
            yield Tagged(entities, text=text, words=words, tags=tags, has_image=False, image_problem="", context=[])


def tag(path: Path, format: Any) -> None:
    """`mner tag`, with the stub."""
    given = [
        Given(id_, number, f"line {number}" if id_ is None else f"id {id_}", Post(text=text))
        for number, (id_, text) in enumerate(POSTS, start=1)
    ]
    given.append(Given("bad", 7, "id bad", None, "no post"))
    tagger: Any = Stub()
    with Sink(str(path), format, {"model": "m"}) as sink:
        run(tagger, given, sink)


def tag_target(format: str) -> Target:
    """What breaks an output of `mner tag`, and goes on with it."""

    def target(pick: random.Random, folder: Path) -> Callable[[], Outcome]:
        path = folder / "out"
        tag(path, format)
        files = {file.name: file.read_bytes() for file in folder.iterdir() if not file.name.endswith(".lock")}
        names = [name for name in files if not name.endswith(REGISTER)]
        others = list(files.values())

        def once() -> Outcome:
            changed = dict(files)
            killed = pick.random() < 0.5
            if killed:
                for name in names:
                    changed[name] = changed[name][: pick.randrange(len(changed[name]) + 1)]
            else:
                name = pick.choice(list(files))
                changed[name] = broken(pick, changed[name], others)
            for name, raw in changed.items():
                (folder / name).write_bytes(raw)

            def check(found: Any) -> str:
                if killed:
                    same = all((folder / name).read_bytes() == files[name] for name in names)
                    return "" if same else "another output than that of a run nobody stopped"
                kept = all((folder / name).read_bytes().startswith(_whole(changed[name], format)) for name in names)
                return "" if kept else "what was there before is not there any more"

            result, details = tried(lambda: tag(path, format), check)
            if result == "refused":
                same = all((folder / name).read_bytes() == raw for name, raw in changed.items() if name in names)
                if killed or not same:
                    result, details = "refused after a kill" if killed else "refused and changed", "see above"
            return result, details and f"{details}\n{({k: v[:900] for k, v in changed.items() if v != files[k]})!r}"

        return once

    return target


def _whole(raw: bytes, format: str) -> bytes:
    """What of an output ends with the end of a post."""
    end = b"\n\n" if format == "conll" and raw.startswith(b"IMGID") else b"\n"
    return raw[: raw.rfind(end) + len(end)] if end in raw else b""


def caption_target(pick: random.Random, folder: Path) -> Callable[[], Outcome]:
    """What breaks an output of `mner caption`, and reads which images it has."""
    path = folder / "captions.jsonl"
    lines = [json.dumps({"image_id": f"{n}.jpg", "caption": "a dog", "model": "m"}).encode() + b"\n" for n in range(6)]

    def go_on() -> set[str]:
        with GrowingTexts(path, "caption", {"model": "m"}, []) as texts:
            return texts.done

    growing = Growing(path, {"model": "m"})
    growing.write(path, b"".join(lines))
    growing.close()
    sidecar = path.with_name(path.name + REGISTER)
    files = {path: path.read_bytes(), sidecar: sidecar.read_bytes()}

    def once() -> Outcome:
        killed = pick.random() < 0.3
        chosen = path if killed or pick.random() < 0.5 else sidecar
        if killed:
            raw = files[path][: pick.randrange(len(files[path]) + 1)]
        else:
            raw = broken(pick, files[chosen], list(files.values()))
        for file, content in {**files, chosen: raw}.items():
            file.write_bytes(content)
        done = raw.count(b"\n")
        result, details = tried(
            go_on, lambda found: "" if not killed or len(found) == done else f"{sorted(found)} of {done}"
        )
        if result == "refused" and killed:
            result, details = "refused after a kill", ""
        return result, details and f"{details}\n{chosen.name}: {raw[:900]!r}"

    return once


def folder_target(pick: random.Random, folder: Path) -> Callable[[], Outcome]:
    """A folder of outputs whose register is broken: its files are not replaced, or they are those that were written."""
    place = folder / "report"
    file, register = place / "table.md", place / REGISTER

    def write(text: str) -> None:
        with output_folder(place) as draft:
            (draft / file.name).write_text(text)

    write("one")
    write("two")
    whole = register.read_bytes()

    def once() -> Outcome:
        mine = pick.random() < 0.5
        text = "my own" if mine else "two"
        file.write_text(text)
        raw = broken(pick, whole, [whole])
        register.write_bytes(raw)
        result, details = tried(lambda: write("three"))
        after = file.read_text()
        if after != ("three" if result == "read" else text) or (mine and result == "read"):
            result, details = "lost something", f"{text!r} became {after!r}"
        return result, details and f"{details}\n{raw!r}"

    return once


def run_target(pick: random.Random, folder: Path) -> Callable[[], Outcome]:
    """What a benchmark recorded of a run."""
    config = folder / "a.yaml"
    config.write_text("model: x\n")
    job = Job("d", "a", config, 0, 1.0, (), "0" * 16)
    place = folder / "runs" / job.name
    place.mkdir(parents=True)
    whole = json.dumps({"dataset": "d", "system": "a", "seed": 0, "digest": job.digest, "epochs": 3}, indent=1).encode()

    def once() -> Outcome:
        raw = broken(pick, whole, [whole])
        (place / pick.choice(("run.json", "begun.json"))).write_bytes(raw)
        result, details = tried(lambda: recorded(job, folder))
        for file in place.iterdir():
            file.unlink()
        return result, details and f"{details}\n{raw!r}"

    return once


TARGETS: dict[str, Target] = {
    "mner tag, output in JSON lines": tag_target("jsonl"),
    "mner tag, output in CoNLL": tag_target("conll"),
    "mner caption, output": caption_target,
    "folder of outputs": folder_target,
    "mner benchmark, record": run_target,
}
