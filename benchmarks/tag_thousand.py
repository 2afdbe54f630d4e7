"""A thousand posts through `mner tag`: as fast as what, the same as `mner predict`, and whole after a kill.

The posts are of the sample's kind, drawn with another seed than those that the quick start trains on. A third has no
image and one in fifty has a broken one; half are given as text, half as words.

    mner fit --config quickstart
    python benchmarks/tag_thousand.py lightning_logs/version_0/checkpoints/best.ckpt
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from mner.cli import main as mner
from mner.data import read_conll
from mner.data.formats.predictions import read_predictions
from mner.data.sample.texts import write_sample
from mner.data.word_splitter import split_words

IMAGE_OPTIONS = ["--data.images=images", "--data.image_size=64"]  # the quick start's


def make(root: Path, count: int, seed: int) -> Path:
    """Write the posts, as a data set for `mner predict` and as JSON lines for `mner tag`."""
    write_sample(root, 8, 8, count, seed)
    with (root / "posts.jsonl").open("w", encoding="utf-8") as file:
        for number, post in enumerate(read_conll(root / "test.txt")):
            image = root / "images" / f"{post.image_id}.jpg"
            record: dict[str, Any] = {"id": post.id}
            if number % 3 == 0:
                image.unlink(missing_ok=True)
            elif image.is_file():  # the sample itself lacks some
                record["image"] = image.name
                if number % 50 == 1:
                    image.write_bytes(image.read_bytes()[:100])
            text = " ".join(post.words)
            same = [word.text for word in split_words(text)] == list(post.words)
            record |= {"text": text} if same and number % 2 else {"tokens": post.words}
            file.write(json.dumps(record, ensure_ascii=False) + "\n")
    return root / "posts.jsonl"


def command(posts: Path, checkpoint: str, out: Path) -> list[str]:
    """The arguments of `mner tag`."""
    images = str(posts.with_name("images"))
    return ["tag", str(posts), "--checkpoint", checkpoint, "--images", images, "--output", str(out), "--device", "cpu"]


def kill_after(arguments: list[str], out: Path, lines: int) -> int:
    """Run `mner` in a process of its own and kill it when it has written so many lines; how many there are then."""
    program = [sys.executable, "-c", "import sys; from mner.cli import main; sys.exit(main(sys.argv[1:]))"]
    process = subprocess.Popen([*program, *arguments], stderr=subprocess.DEVNULL)
    while process.poll() is None and not (out.exists() and out.read_bytes().count(b"\n") >= lines):
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    return out.read_bytes().count(b"\n")


def read(path: Path) -> list[dict[str, Any]]:
    """The lines of an output of `mner tag`."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]


def compare(one: list[dict[str, Any]], other: list[dict[str, Any]]) -> tuple[int, float]:
    """How many records differ in more than scores, and the largest difference of scores."""
    differ, most = abs(len(one) - len(other)), 0.0
    for first, second in zip(one, other, strict=False):
        scores = [[entity.pop("score") for entity in record.get("entities", ())] for record in (first, second)]
        differ += first != second
        if first == second:
            most = max([most, *(abs(a - b) for a, b in zip(*scores, strict=True))])
    return differ, most


def main() -> None:
    """Run everything and print what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("--posts", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=7)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        posts = make(root / "data", given.posts, given.seed)
        whole, cut, predicted = root / "whole.jsonl", root / "cut.jsonl", root / "predicted.jsonl"
        begin = time.process_time()
        mner(command(posts, given.checkpoint, whole))
        first = time.process_time() - begin
        mner(["tag", *command(posts, given.checkpoint, root / "again.jsonl")[1:]])
        second = time.process_time() - begin - first
        found = read(whole)
        print(f"{len(found)} posts, {sum(record.get('has_image', False) for record in found)} with an image")
        print(f"{given.posts / second:.0f} posts a second of processor time, loading the model included")
        print(f"two runs are the same byte for byte: {whole.read_bytes() == (root / 'again.jsonl').read_bytes()}")
        data = ["--data=Twitter2017DataModule", f"--data.root={posts.parent}", *IMAGE_OPTIONS]
        to = ["--split=test", f"--output={predicted}", "--trainer.logger=false", "--trainer.accelerator=cpu"]
        mner(["predict", f"--ckpt_path={given.checkpoint}", *data, *to])
        by_id = {post.id: post for post in read_predictions(predicted).posts}
        differ = [record["id"] for record in found if list(by_id[record["id"]].pred) != record["tags"]]
        images = [record["id"] for record in found if by_id[record["id"]].has_image != record["has_image"]]
        print(f"against mner predict: {len(differ)} posts with other tags, {len(images)} with another image state")
        left = kill_after(command(posts, given.checkpoint, cut), cut, given.posts // 3)
        before = cut.read_bytes()
        mner(command(posts, given.checkpoint, cut))
        kept = cut.read_bytes().startswith(before[: before.rfind(b"\n") + 1])
        again = read(cut)
        doubles = len(again) - len({record["id"] for record in again})
        print(f"killed with {left} lines written, which {'stayed' if kept else 'CHANGED'}; then {len(again)} lines")
        others, most = compare(again, found)
        print(f"{doubles} doubles, {others} other than in the run that was not killed, scores within {most:.0e}")
        if differ or images or doubles or others or not kept or len(found) != given.posts:
            raise SystemExit(1)


if __name__ == "__main__":
    main()
