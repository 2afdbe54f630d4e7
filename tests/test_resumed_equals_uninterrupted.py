"""What was stopped anywhere and gone on with is what nobody stopped, for the commands that go on.

Training itself is in `tests/training/test_resuming.py`, `mner tag` at each byte in `tests/tagger/test_bulk.py`.
"""

import threading
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mner.benchmark.plan import plan
from mner.benchmark.run import PREDICTIONS, execute, recorded
from mner.cli.lightning import run
from mner.data.download import fetch
from mner.data.formats.feature_store import FeatureStore
from mner.data.formats.feature_writer import FeatureWriter
from mner.fusion import FusionModule
from mner.preprocessing.growing_texts import GrowingTexts
from tests.data.test_download import CHECKSUM, CONTENT, Server

IMAGES = [f"{number}.jpg" for number in range(6)]
cuts = st.floats(0, 1, exclude_max=True)


def cut(file: Path, share: float) -> None:
    raw = file.read_bytes()
    file.write_bytes(raw[: int(share * (len(raw) + 1))])


def write_store(folder: Path, kind: str) -> None:
    """What `mner features` does with the images that a store does not have."""
    drawn = np.random.default_rng(0)
    regions = [int(drawn.integers(0, 4)) if kind == "regions" else 2 for _ in IMAGES]
    values = [drawn.normal(size=(count, 7)).astype(np.float32) for count in regions]
    with FeatureWriter(folder, kind=kind, encoder="e", width=3, classes=["dog"], sizes=kind == "regions") as writer:
        for name, count, value in zip(IMAGES, regions, values, strict=True):
            if name not in writer:
                more = {"boxes": [value[:, 3:]], "scores": [value[:, 0]], "names": [["dog"] * count]}
                more = {**more, "sizes": [(4, 3)]} if kind == "regions" else {}
                writer.append([name], [value[:, :3]], **more)
        writer.finish({"broken.jpg": "empty"})


def content(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir() if not file.name.startswith(".")}


@pytest.mark.parametrize("kind", ["grid", "regions"])
@given(shares=st.lists(st.lists(cuts, min_size=9, max_size=9), min_size=1, max_size=3), finished=st.booleans())
@settings(max_examples=25)
def test_stored_features(kind, shares, finished):
    with TemporaryDirectory() as folder:
        place = Path(folder, "store")
        write_store(place, kind)
        whole = content(place)
        for some in shares:  # killed several times
            for share, name in zip(some, sorted(whole), strict=False):
                if name.endswith((".bin", ".tsv")):
                    cut(place / name, share)
            if not finished:
                (place / "broken.json").unlink(missing_ok=True)
        write_store(place, kind)
        assert content(place) == whole
        assert list(FeatureStore(place)) == IMAGES


@given(shares=st.lists(cuts, min_size=1, max_size=3))
@settings(max_examples=40)
def test_captions(shares):
    def write(out: Path) -> None:
        with GrowingTexts(out, "caption", {"model": "m"}, []) as texts:
            for name in IMAGES:
                if name not in texts.done:
                    texts.write([name], [f"é \u2028 {name}"])

    with TemporaryDirectory() as folder:
        out = Path(folder, "captions.jsonl")
        write(out)
        whole = out.read_bytes()
        for share in shares:
            cut(out, share)
        write(out)
        assert out.read_bytes() == whole


@given(breaks=st.lists(st.integers(0, len(CONTENT)), max_size=4), ranges=st.booleans())
@settings(max_examples=20)
def test_downloads(breaks, ranges):
    with TemporaryDirectory() as folder, Server() as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        server.ranges, server.stop_after = ranges, list(breaks)
        path = Path(folder, "a.txt")
        assert fetch(f"{server.url}/a.txt", path, CHECKSUM, attempts=len(breaks) + 1)
        assert path.read_bytes() == CONTENT
        assert [file.name for file in path.parent.glob("[!.]*")] == ["a.txt"]
        server.shutdown()


HOOKS = ["on_train_epoch_start", "on_validation_epoch_end", "on_train_epoch_end", "on_predict_start"]


def stopping(hook, call):
    """The hook, which is Ctrl-C when it is called the so manieth time."""
    calls, own = [], getattr(FusionModule, hook)

    def stop(self):
        calls.append(self.current_epoch)
        if len(calls) == call:
            raise KeyboardInterrupt
        own(self)

    return stop


@pytest.mark.slow
def test_runs_of_a_benchmark(tmp_path, posts_folder, monkeypatch):
    config = tmp_path / "a.yaml"
    config.write_text(
        "model: {class_path: TextOnly, init_args: {learning_rate: 0.01}}\n"
        f"data: {{class_path: Twitter2017DataModule, init_args: {{root: {posts_folder}, batch_size: 3}}}}\n"
        "trainer: {max_epochs: 3, accelerator: cpu, num_sanity_val_steps: 0}\n"
    )
    (job,) = plan([config], [0])
    assert execute(job, tmp_path / "whole", "valid", run)
    whole = (tmp_path / "whole" / "runs" / job.name / PREDICTIONS).read_bytes()
    for hook in HOOKS:
        out = tmp_path / hook
        with monkeypatch.context() as patch:
            patch.setattr(FusionModule, hook, stopping(hook, 1 if hook == "on_predict_start" else 2))
            with pytest.raises((KeyboardInterrupt, SystemExit)):
                execute(job, out, "valid", run)
        assert recorded(job, out) is None
        assert execute(job, out, "valid", run)
        assert recorded(job, out)["resumed"]
        assert (out / "runs" / job.name / PREDICTIONS).read_bytes() == whole
