"""Tag a large corpus on many processors, GPUs or machines, with Ray Data.

    python examples/scale/tag_with_ray.py posts.jsonl --checkpoint best.ckpt --output tagged --workers 8 --gpus 1
    cat tagged/part-*.jsonl > tagged.jsonl

Input and output are those of `mner tag`: JSON lines, a line for each post, in the order of the input; a post that
cannot be tagged has an `error`. Run again after a stop, it goes on where it was. README.md beside this file says more.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from parts import Part, digest, follow, plan, work


def cut(path: Path, posts: int) -> Iterator[Part]:
    """Parts of a file of so many lines each; nothing but their places is kept."""
    with path.open("rb") as file:
        begin, first, number = 0, 1, 0
        for count, _ in enumerate(iter(file.readline, b""), start=1):
            if count - first + 1 == posts:
                yield {"number": number, "begin": begin, "end": file.tell(), "first": first}
                begin, first, number = file.tell(), count + 1, number + 1
        if file.tell() > begin:
            yield {"number": number, "begin": begin, "end": file.tell(), "first": first}


class Slice(io.RawIOBase):
    """Bytes of a file from `begin` to `end`, as a stream."""

    def __init__(self, path: Path, begin: int, end: int) -> None:
        self.file = path.open("rb", buffering=0)
        self.file.seek(begin)
        self.left = end - begin

    def readable(self) -> bool:
        """Yes."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read into `buffer`."""
        found = self.file.read(min(len(buffer), self.left))
        buffer[: len(found)] = found
        self.left -= len(found)
        return len(found)

    def close(self) -> None:
        """Close the file."""
        self.file.close()
        super().close()


class TagPart:
    """A worker with a tagger of its own.

    Args:
        source: File of the posts.
        output: Folder of the output.
        images: Folder of images, or None.
        checkpoint: The model.
        options: Of the `Tagger`.
    """

    def __init__(self, source: str, output: str, images: str | None, checkpoint: str, options: dict[str, Any]) -> None:
        from mner import Tagger
        from mner.tagger.bulk_input import Images

        self.source, self.output = Path(source), Path(output)
        self.images = Images(Path(images) if images else None)
        self.tagger = Tagger.from_checkpoint(checkpoint, **options)

    def __call__(self, part: Part) -> dict[str, Any]:
        """Tag one part; what a worker that died had written of it is kept."""
        from mner.tagger.bulk import Sink, run
        from mner.tagger.bulk_input import from_lines

        final = name(self.output, part)
        unfinished = final.with_suffix(".unfinished")
        with io.BufferedReader(Slice(self.source, part["begin"], part["end"])) as lines:
            with Sink(str(unfinished), "jsonl") as sink:
                run(self.tagger, from_lines(lines, str(self.source), self.images, first=part["first"]), sink)  # type: ignore[arg-type]
                counts = dict(sink.counts)
        os.replace(unfinished, final)
        return {"part": part["number"], "posts": counts.pop("tagged", 0) + counts.get("bad", 0), **counts}


def name(folder: Path, part: Part) -> Path:
    """The output of a part."""
    return folder / f"part-{part['number']:06d}.jsonl"


def main() -> None:
    """Read the arguments, tag."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="file of JSON lines")
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True, help="folder")
    parser.add_argument("--images", type=Path, help="folder of the images that the posts name")
    parser.add_argument("--posts", type=int, default=10_000, help="in a part: what is repeated at worst is one batch")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--captioner", help="image-to-text model, for models trained on captions")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--cpus", type=float, default=1, help="of a worker")
    parser.add_argument("--gpus", type=float, default=0, help="of a worker, or a part of one")
    parser.add_argument("--address", help="of a Ray cluster, as `auto`")
    options = parser.parse_args()
    source, output, checkpoint = (path.resolve() for path in (options.source, options.output, options.checkpoint))
    job = {"input": source.name, "bytes": source.stat().st_size, "posts": options.posts, "model": digest(checkpoint)}
    parts = plan(output, job, lambda: cut(source, options.posts))
    left = [part for part in parts if not name(output, part).exists()]
    print(f"{len(parts)} parts, {len(parts) - len(left)} of them done before", file=sys.stderr)
    if left:
        images = str(options.images.resolve()) if options.images else None
        tagger = {"batch_size": options.batch_size, "captioner": options.captioner}
        worker = {"source": str(source), "output": str(output), "images": images, "checkpoint": str(checkpoint)}
        hands = options.workers, options.cpus, options.gpus, options.address
        done = follow(work(TagPart, {**worker, "options": tagger}, left, *hands), "posts", len(left))
        print(f"{done} posts", file=sys.stderr)
    lost = [part["number"] for part in parts if not name(output, part).exists()]
    if lost:
        raise SystemExit(f"{len(lost)} parts are not there ({lost[:5]}); run the same command again")


if __name__ == "__main__":
    main()
