"""Large buffers are kept for what runs an image encoder, on glibc alone, and by no import."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

import mner.runtime
from mner.cli import main
from mner.fusion import Concatenation, TextOnly
from mner.runtime import LARGEST_KEPT, keep_memory
from tests.tagging import save_checkpoint

ENVIRONMENT = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES")


@pytest.fixture
def library(monkeypatch):
    """A C library that notes what it is told, and glibc by its name; the environment says nothing."""
    told = []

    class Library:
        def mallopt(self, setting, value):
            told.append((setting, value))
            return 1

    monkeypatch.setattr(mner.runtime.ctypes, "CDLL", lambda name: Library())
    monkeypatch.setattr(platform, "libc_ver", lambda: ("glibc", "2.36"))
    for name in ENVIRONMENT:
        monkeypatch.delenv(name, raising=False)
    return told


def test_glibc_keeps_what_a_layer_gives_back(library):
    assert keep_memory()
    assert library == [(-3, LARGEST_KEPT), (-1, -1)]  # M_MMAP_THRESHOLD and M_TRIM_THRESHOLD of malloc.h
    assert LARGEST_KEPT <= 2**31 - 1, "mallopt takes an int"


@pytest.mark.parametrize("found", [("", ""), ("musl", "1.2.5")], ids=["macOS and Windows", "musl"])
def test_other_libraries_are_told_nothing(library, monkeypatch, found):
    monkeypatch.setattr(platform, "libc_ver", lambda: found)
    assert not keep_memory()
    assert library == []


@pytest.mark.parametrize("name", ENVIRONMENT)
def test_what_the_environment_says_stands(library, monkeypatch, name):
    monkeypatch.setenv(name, "glibc.malloc.check=0" if name == "GLIBC_TUNABLES" else "4096")
    assert not keep_memory()
    assert library == []


def test_a_refused_setting_is_no_success(library, monkeypatch):
    monkeypatch.setattr(mner.runtime.ctypes, "CDLL", lambda name: object())
    assert not keep_memory()


FAULTS = """
import ctypes, resource, sys
from mner.runtime import keep_memory
print("kept" if sys.argv[1] == "keep" and keep_memory() else "as it was")
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
for turn in range(3):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    buffer = libc.malloc(100 << 20)
    ctypes.memset(buffer, 1, 100 << 20)
    libc.free(buffer)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="it is glibc that is told")
def test_a_large_buffer_is_faulted_in_once():
    clean = {name: value for name, value in os.environ.items() if name not in ENVIRONMENT}
    outputs = {
        way: subprocess.run([sys.executable, "-c", FAULTS, way], env=clean, capture_output=True, text=True, check=True)
        for way in ("keep", "import only")
    }
    kept, plain = (output.stdout.split("\n") for output in outputs.values())
    assert (kept[0], plain[0]) == ("kept", "as it was")
    assert int(kept[2]) < 10 < int(kept[1])
    assert min(map(int, plain[1:4])) > 10, "an import alone sets nothing"


@pytest.fixture
def calls(monkeypatch):
    """Counts the calls of `keep_memory`, wherever it was imported."""
    found = []
    import mner.cli.lightning
    import mner.preprocessing.base
    import mner.probing.attention
    import mner.probing.probe

    places = mner.runtime, mner.preprocessing.base, mner.cli.lightning, mner.probing.probe, mner.probing.attention
    for place in places:
        monkeypatch.setattr(place, "keep_memory", lambda: found.append(True))
    return found


IMAGES = {"image_encoder": "test_resnet", "images": "images"}
QUICK = ["--device", "cpu", "--num_workers", "0"]


@pytest.mark.parametrize(
    ("command", "options"),
    [
        ("features", ["--encoder", "test_resnet", "--weights", "random", "--image_size", "32"]),
        ("objects", ["--model", "test_resnet", "--weights", "random"]),
    ],
)
def test_passes_over_images_keep_them(calls, posts_folder, tmp_path, command, options):
    given = ["--images", str(posts_folder / "images"), "--out", str(tmp_path / "out"), *options, *QUICK]
    assert main([command, *given]) != 2
    assert calls


def test_a_run_of_lightning_keeps_them_where_it_has_an_image_encoder(calls, posts_folder, bert_folder, monkeypatch):
    monkeypatch.chdir(posts_folder)
    data = ["--data=Twitter2017DataModule", "--data.root=."]
    quiet = ["--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]
    given = [f"--model.text_encoder={bert_folder}", *data, *quiet]
    assert main(["validate", "--model=TextOnly", *given]) != 2
    assert not calls
    images = ["--model.image_encoder=test_resnet", "--model.image_weights=null", "--data.images=images"]
    assert main(["validate", "--model=Concatenation", *given, *images, "--data.image_size=32"]) != 2
    assert calls


@pytest.mark.parametrize("command", ["tag", "show"])
def test_tagging_keeps_them_where_the_model_sees_images(calls, posts_folder, bert_folder, tmp_path, command):
    text = save_checkpoint(tmp_path / "text.ckpt", TextOnly, posts_folder, bert_folder)
    sees = save_checkpoint(
        tmp_path / "sees.ckpt", Concatenation, posts_folder, bert_folder, image_weights=None, **IMAGES
    )
    posts = tmp_path / "posts.jsonl"
    posts.write_text('{"text": "Anna visits Old Town"}\n')
    for checkpoint, expected in ((text, False), (sees, True)):
        out = tmp_path / f"{checkpoint.stem}.{'html' if command == 'show' else 'jsonl'}"
        given = [str(posts), "--checkpoint", str(checkpoint), "--output", str(out), "--device", "cpu"]
        assert main([command, *given]) == 0
        assert bool(calls) is expected


@pytest.mark.parametrize("command", ["probe", "attention"])
def test_probing_keeps_them(calls, tmp_path, command):
    images = {"probe": ["--images", str(tmp_path)], "attention": [str(tmp_path)]}[command]
    assert main([command, str(tmp_path / "none.ckpt"), str(tmp_path), *images]) == 2, "there is no checkpoint"
    assert calls
