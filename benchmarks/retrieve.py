"""`mner retrieve` on a million made texts: time and memory, with BM25 and with an encoder, and killed 20 times.

    python benchmarks/retrieve.py --work FOLDER [--texts 1000000] [--posts 2000] [--model FOLDER --part 4000]
        [--kills 20]

The texts are made: 6 to 24 words of 200,000, which are drawn by Zipf's law. Each command is a process of its own, whose
processor time and peak memory (resident, mapped pages among it) are the system's. The encoder runs on a part of the
texts, beside its bare forward passes on the same texts in the same batches, without tokenising, reading and writing.
The run that is killed is BM25's from the start: in the reading of the corpus, in the index, in the posts. Linux only.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np


def made(path: Path, count: int, seed: int, posts: bool = False) -> Path:
    """A file of made texts, or of posts."""
    if path.exists():
        return path
    rng = np.random.default_rng(seed)
    chances = 1 / np.arange(1, 200_001)
    chances /= chances.sum()
    with path.with_suffix(".new").open("w") as stream:
        for start in range(0, count, 10_000):
            lengths = rng.integers(6, 25, min(10_000, count - start))
            words = iter(rng.choice(len(chances), lengths.sum(), p=chances).tolist())
            for number, length in enumerate(lengths.tolist(), start):
                text = [f"w{next(words)}" for _ in range(length)]
                record: dict[str, object] = {"text": " ".join(text)}
                if posts:
                    record = {"id": f"p{number}", "tokens": text, "label": ["O"] * length}
                stream.write(json.dumps(record) + "\n")
    path.with_suffix(".new").rename(path)
    return path


def command(posts: Path, corpus: Path, out: Path, *options: str) -> list[str]:
    """The command line."""
    line = [sys.executable, "-m", "mner", "retrieve", posts, "--corpus", corpus, "--out", out, *options]
    return [str(word) for word in line]


def run(line: list[str]) -> str:
    """Run a command to its end: wall clock, processor time, peak memory."""
    begun = time.perf_counter()
    process = subprocess.Popen(line, stderr=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    assert status == 0, line
    seconds = time.perf_counter() - begun
    return f"{seconds:.0f} s, {used.ru_utime + used.ru_stime:.0f} s of processor, peak {used.ru_maxrss / 2**20:.2f} GiB"


def processor_seconds(pid: int) -> float:
    """What a process has used so far (Linux)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def killed(line: list[str], out: Path, whole: Path, kills: int, build: float, posts: int) -> None:
    """Kill a run again and again and compare what comes out in the end.

    A fifth of the kills come at random moments of the `build` seconds of processor time that corpus and index take; the
    others when a random number of further posts are written.
    """
    draw = random.Random(0)
    counts: list[int] = []
    for kill in range(kills):
        before = counts[-1] if counts else 0
        seconds, more = draw.uniform(0.05, 0.95) * build, draw.randint(1, posts // kills)
        process = subprocess.Popen(line, stderr=subprocess.DEVNULL)
        while process.poll() is None and (
            processor_seconds(process.pid) < seconds if kill < kills / 5 else written(out) < before + more
        ):
            time.sleep(0.05)
        if process.poll() is not None:
            print(f"  the run came to its end before kill {kill + 1}")
            break
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        counts.append(written(out))
    print(f"  posts written at each kill: {counts}")
    print(f"  the last run: {run(line)}")
    print(f"  the same as without kills: {out.read_bytes() == whole.read_bytes()}")


def written(out: Path) -> int:
    """Lines of a file that may not be there."""
    return out.read_bytes().count(b"\n") if out.exists() else 0


def rates(work: Path, model: str, part: int) -> None:
    """Texts a second of processor by an encoder, as `mner retrieve` runs it and bare."""
    # Here, since a child's peak memory is at least its parent's.
    import torch

    from mner.preprocessing.corpus import build_corpus
    from mner.preprocessing.vectors import CHUNK, MeanEncoder

    texts = list(build_corpus(made(work / f"texts{part}.jsonl", part, 0), work / "part.index").texts())
    encoder = MeanEncoder(model, batch_size=64)
    ours, bare = 0.0, 0.0
    for start in range(0, len(texts), CHUNK):  # in turns, so that other load meets both
        chunk = texts[start : start + CHUNK]
        pieces = sorted((encoder._tokenizer(text.text)["input_ids"] for text in chunk), key=len)
        batches = [
            torch.nn.utils.rnn.pad_sequence([torch.tensor(ids) for ids in pieces[first : first + 64]], True)
            for first in range(0, len(pieces), 64)
        ]
        begun = time.process_time()
        encoder(chunk)
        ours += time.process_time() - begun
        begun = time.process_time()
        with torch.no_grad():
            for ids in batches:
                encoder.encoder.model(input_ids=ids, attention_mask=(ids != 0).long())
        bare += time.process_time() - begun
    print(
        f"vectors by {encoder.name}: {len(texts) / ours:.0f} texts a second of processor, the bare encoder "
        f"{len(texts) / bare:.0f}, on {len(texts)} texts", flush=True,
    )  # fmt: skip


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--texts", type=int, default=1_000_000)
    parser.add_argument("--posts", type=int, default=2000)
    parser.add_argument("--model")
    parser.add_argument("--part", type=int, default=4000)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--build", type=float, default=60.0, help="processor seconds of corpus and index")
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    corpus = made(given.work / f"texts{given.texts}.jsonl", given.texts, 0)
    posts = made(given.work / f"posts{given.posts}.jsonl", given.posts, 1, posts=True)
    whole, out = given.work / "whole.jsonl", given.work / "killed.jsonl"

    print(f"BM25, {given.texts:,} texts, {given.posts:,} posts", flush=True)
    if not whole.exists():
        print(f"  with the index built: {run(command(posts, corpus, whole))}", flush=True)
    again = given.work / "again.jsonl"
    again.unlink(missing_ok=True)
    print(f"  with the index there: {run(command(posts, corpus, again, '--index', f'{whole}.index'))}")
    size = sum(file.stat().st_size for file in Path(f"{whole}.index").rglob("*") if file.is_file())
    print(f"  the index: {size / 2**20:.0f} MiB")

    if given.model:
        rates(given.work, given.model, given.part)

    if given.kills:
        print(f"BM25 killed {given.kills} times", flush=True)
        killed(command(posts, corpus, out), out, whole, given.kills, given.build, given.posts)


if __name__ == "__main__":
    main()
