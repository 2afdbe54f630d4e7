"""examples/scale on one machine with two workers: nothing is lost when one of them is killed."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mner import Tagger
from mner.data.formats.feature_store import FeatureStore
from mner.fusion import TextOnly
from mner.preprocessing.features import features
from tests.tagging import save_checkpoint

SCALE = Path(__file__).parents[2] / "examples" / "scale"
POSTS, PART = 600, 40
needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="Ray is not installed; pip install 'mner[ray]'"
)
pytestmark = pytest.mark.slow


def start(script, *arguments):
    return subprocess.Popen(
        [sys.executable, str(SCALE / script), *map(str, arguments)], stderr=subprocess.PIPE, text=True
    )


def run(script, *arguments):
    process = start(script, *arguments)
    _, told = process.communicate()
    assert process.returncode == 0, told
    return told


def wait_for(found, process):
    while not (value := found()):
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)
    return value


def workers_of(process):
    """Processes of Ray's workers below `process`."""
    parents, titles = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            pid = int(folder.name)
            parents[pid] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            titles[pid] = (folder / "cmdline").read_bytes()
        except (OSError, ValueError):
            continue  # it is gone

    def is_ours(pid):
        while pid in parents:
            pid = parents[pid]
            if pid == process.pid:
                return True
        return False

    return [pid for pid, title in titles.items() if b"MapWorker" in title and is_ours(pid)]


@pytest.fixture
def corpus(tmp_path):
    words = ["Anna", "visits", "Old", "Town", "with", "Bo"]
    lines = [
        json.dumps(
            {"id": f"p{number}", "text": " ".join(words[(number + place) % 6] for place in range(3 + number % 9))}
        )
        for number in range(POSTS)
    ]
    lines[5] = "no JSON"
    lines[7] = json.dumps({"text": "no id of its own"})
    path = tmp_path / "posts.jsonl"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds the workers in /proc, which this system lacks")
@needs_ray
def test_a_killed_worker_loses_nothing(tmp_path, corpus, posts_folder, bert_folder):
    checkpoint = save_checkpoint(tmp_path / "model.ckpt", TextOnly, posts_folder, bert_folder)
    output = tmp_path / "tagged"
    arguments = ["tag_with_ray.py", corpus, "--checkpoint", checkpoint, "--output", output, "--posts", PART]
    arguments += ["--batch-size", 4, "--workers", 2]
    process = start(*arguments)
    wait_for(lambda: list(output.glob("*.jsonl")), process)
    victim = workers_of(process)[0]
    os.kill(victim, signal.SIGKILL)
    left = POSTS // PART - len(list(output.glob("*.jsonl")))
    assert left > 0, "the worker was killed too late to be missed"
    _, told = process.communicate()
    assert process.returncode == 0, told
    parts = sorted(output.glob("*"))
    assert [part.name for part in parts] == [f"part-{number:06d}.jsonl" for number in range(POSTS // PART)] + [
        "plan.json"
    ]
    tagged = [json.loads(line) for part in parts[:-1] for line in part.read_text(encoding="utf-8").splitlines()]
    assert len(tagged) == POSTS
    assert "error" in tagged[5]
    assert tagged[7]["id"] == "8"  # the line, counted in the whole file
    tagger = Tagger.from_checkpoint(checkpoint)
    lines = corpus.read_text(encoding="utf-8").splitlines()
    given = [json.loads(line)["text"] for number, line in enumerate(lines) if number != 5]
    expected = [[(one.start, one.end, one.type) for one in found] for found in tagger.stream(given)]
    found = [[(e["start"], e["end"], e["type"]) for e in one["entities"]] for one in tagged if "error" not in one]
    assert found == expected

    # What is there is not done again; what is missing is.
    before = {part: part.stat().st_mtime_ns for part in parts}
    parts[3].unlink()
    assert f"{POSTS // PART} parts, {POSTS // PART - 1} of them done before" in run(*arguments)
    after = {part: part.stat().st_mtime_ns for part in parts}
    assert [part for part in parts if before[part] != after[part]] == [parts[3]]
    other = [*arguments[:-4], "--batch-size", 4, "--posts", PART + 1]
    process = start(*other)
    _, told = process.communicate()
    assert process.returncode != 0
    assert "the plan of another job (other posts)" in told


@needs_ray
def test_features_of_parts_are_those_of_the_whole(tmp_path, posts_folder):
    common = {"encoder": "test_resnet", "weights": "random", "image_size": 32}
    whole = features(posts_folder / "images", tmp_path / "whole", num_workers=0, **common)
    options = [f"--{key.replace('_', '-')}={value}" for key, value in common.items()]
    run("features_with_ray.py", posts_folder / "images", "--output", tmp_path / "joined", "--size", 4, *options)
    joined = FeatureStore(tmp_path / "joined")
    assert list(joined) == list(whole)
    assert joined.broken == whole.broken != {}
    assert joined.meta["weights_hash"] == whole.meta["weights_hash"]
    for key in whole:
        assert joined[key].shape == whole[key].shape
        assert abs(joined[key].astype("f4") - whole[key].astype("f4")).max() < 1e-2
    assert not (tmp_path / "joined.parts").exists()
