"""Engines of the tagger: the same entities with each, written once, and the fastest chosen among those that agree."""

from __future__ import annotations

import json
import shutil
import sys

import pytest
import torch
from transformers.modeling_outputs import BaseModelOutput

from mner.cli import main
from mner.errors import CheckpointError, MissingDependencyError, MNERError
from mner.fusion import TextOnly
from mner.tagger import engine_choice
from mner.tagger.engine_choice import Accelerated, exported_folder, with_engine
from mner.tagger.engines import installed
from mner.tagger.tagger import Tagger
from tests.tagging import save_checkpoint

TEXTS = ["Anna visits Old Town", "RT @acme: Dr. Seuss " * 3, "x", "nothing " * 200]


@pytest.fixture(scope="module")
def path(tmp_path_factory, posts_folder, bert_folder):
    return save_checkpoint(tmp_path_factory.mktemp("engines") / "a.ckpt", TextOnly, posts_folder, bert_folder)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def load(path, cache, monkeypatch):
    """A tagger with an engine; graphs are kept for all tests."""
    monkeypatch.setenv("MNER_CACHE", str(cache))
    return lambda engine="torch", **options: Tagger.from_checkpoint(path, device="cpu", engine=engine, **options)


def tags(tagger):
    return [tagged.tags for tagged in tagger(TEXTS)]


@pytest.mark.parametrize("engine", ["onnx", "openvino"])
def test_the_same_entities(load, engine):
    if engine == "openvino":
        pytest.importorskip("openvino", reason="openvino is not installed")
    tagger, other = load(), load(engine)
    assert (tagger.engine, other.engine) == ("torch", engine)
    assert tags(other) == tags(tagger)
    for one, two in zip(tagger(TEXTS), other(TEXTS), strict=True):
        assert [entity.score for entity in one] == pytest.approx([entity.score for entity in two], abs=1e-4)
    assert other.render(TEXTS[0]).parts == tagger.render(TEXTS[0]).parts


def test_a_graph_is_written_once_for_the_same_weights(load, monkeypatch):
    place = exported_folder(load())

    def never(*args):
        raise AssertionError("written again")

    monkeypatch.setattr(engine_choice, "export_onnx", never)
    assert exported_folder(load()) == place
    changed = load()
    with torch.no_grad():
        changed.model.head.bias += 1
    with pytest.raises(AssertionError, match="written again"):
        exported_folder(changed)


@pytest.fixture
def copied(load, monkeypatch):
    """Exports of the model copy the one that there is: writing it takes seconds."""
    place = exported_folder(load())

    def export_onnx(tagger, out):
        shutil.copytree(place, out, dirs_exist_ok=True)
        return 0.0

    monkeypatch.setattr(engine_choice, "export_onnx", export_onnx)
    monkeypatch.setattr("mner.tagger.onnx.export_onnx", export_onnx)
    return place


def test_a_damaged_graph_is_written_again(load, copied, tmp_path, monkeypatch):
    monkeypatch.setenv("MNER_CACHE", str(tmp_path))
    place = exported_folder(load())
    assert tmp_path in place.parents
    (place / "model.onnx").write_bytes(b"cut")
    assert tags(load("onnx")) == tags(load())


def test_int8_only_where_it_is_allowed(load, monkeypatch):
    """Timings are given: the rounded graph is the fastest, then ONNX Runtime's."""
    order = ["onnx, int8", "onnx", "torch"]
    asked = []

    def timed(scores, batches):
        asked.append(set(scores))
        return {name: order.index(name) if name in order else 9.0 for name in scores}

    monkeypatch.setattr(engine_choice, "seconds_of", timed)
    assert load("auto").engine == "onnx"
    assert load("auto", int8=True).engine == "onnx, int8"
    assert "onnx, int8" not in asked[0]
    order.reverse()
    assert load("auto", int8=True).engine == "torch"


def test_an_engine_that_gives_other_tags_is_not_taken(load, monkeypatch):
    made = engine_choice._exported

    def wrong(tagger, engine, rounded):
        right = made(tagger, engine, rounded)
        return Accelerated(right.model, lambda batch: -right.label_scores(batch), right.engine)

    monkeypatch.setattr(engine_choice, "_exported", wrong)
    monkeypatch.setattr(engine_choice, "seconds_of", lambda scores, batches: {name: len(name) for name in scores})
    assert load("auto").engine == "torch"


def test_a_measurement_takes_the_least_of_turns():
    calls = []
    found = engine_choice.seconds_of({"a": lambda b: calls.append("a"), "b": lambda b: calls.append("b")}, [1])
    assert calls == ["a", "b"] * engine_choice.TURNS
    assert all(0 <= seconds < 60 for seconds in found.values())


def test_torch_is_measured_as_it_will_run(load, monkeypatch):
    """In inference mode: else the layers that taggers compute would not be those that are measured."""
    tagger, seen = load(), []
    label_scores = tagger.model.label_scores
    monkeypatch.setattr(
        tagger.model,
        "label_scores",
        lambda batch: seen.append(torch.is_inference_mode_enabled()) or label_scores(batch),
    )
    with_engine(tagger, "auto", False)
    assert seen
    assert all(seen)


def test_a_model_that_cannot_be_exported(load, monkeypatch):
    def refused(*args):
        raise CheckpointError("has its own `decode`")

    monkeypatch.setattr(engine_choice, "exported_folder", refused)
    assert load("auto").engine == "torch"
    with pytest.raises(CheckpointError, match="own `decode`"):
        load("onnx")


def test_what_is_refused(load, cache):
    with pytest.raises(ValueError, match="auto, torch, onnx, openvino, compile, but got 'tensorrt'"):
        load("tensorrt")
    with pytest.raises(ValueError, match="torch has no use for it"):
        load("torch", int8=True)
    with pytest.raises(ValueError, match="exported already"):
        Tagger.from_onnx(exported_folder(load()), engine="openvino")
    tagger = load()
    tagger.model.to("meta")
    with pytest.raises(ValueError, match="device='cpu'"):
        with_engine(tagger, "onnx")
    assert with_engine(tagger, "auto") is tagger.model


def test_an_engine_that_is_not_installed(load, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    assert not installed("openvino")
    with pytest.raises(MissingDependencyError, match=r"openvino.*mner\[openvino\]"):
        load("openvino")


def test_a_compiler_that_fails_is_one_line(load, monkeypatch):
    def fails(self, **options):
        raise RuntimeError("no C++ compiler\nand more")

    monkeypatch.setattr(torch.nn.Module, "compile", fails)
    with pytest.raises(MNERError, match=r"does not work for this model here \(no C\+\+ compiler\)"):
        load("compile")


@pytest.mark.parametrize("wrong", [float("nan"), 3.0])
def test_a_compiler_that_computes_something_else_is_refused(load, monkeypatch, wrong):
    def compiled(self, **options):
        self._compiled_call_impl = lambda **given: BaseModelOutput(wrong * type(self).forward(self, **given)[0])

    monkeypatch.setattr(torch.nn.Module, "compile", compiled)
    with pytest.raises(MNERError, match="its scores are others than those of PyTorch; a folder of its own"):
        load("compile")


@pytest.mark.slow
def test_the_compiler_gives_the_same(load, tmp_path, monkeypatch):
    # What it keeps is keyed without the kind of processor, which ATEN_CPU_CAPABILITY may have changed since.
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    torch._dynamo.reset()
    other = load("compile")
    assert other.engine == "compile"
    assert tags(other) == tags(load())


@pytest.fixture
def valid(posts_folder):
    return str(posts_folder / "valid.txt")


@pytest.mark.parametrize("how", ["dynamic", "static"])
@pytest.mark.usefixtures("copied")
def test_a_rounded_export_tells_its_loss(path, tmp_path, valid, how, capsys):
    out = tmp_path / "out"
    assert main(["export", str(path), str(out), "--quantize", how, "--valid", valid, "--max_loss", "100"]) == 0
    said = capsys.readouterr().err
    assert "F1 on 6 posts of valid.txt" in said
    assert f"{how} int8" in said
    tagger = Tagger.from_onnx(out)
    assert len(tagger(TEXTS[0]).tags) == 4
    whole = tagger.model.graph.session.get_modelmeta()
    assert "onnx.infer" in json.dumps(whole.custom_metadata_map)


@pytest.mark.usefixtures("copied")
def test_a_rounded_export_that_loses_too_much_is_not_written(path, tmp_path, valid, capsys, monkeypatch):
    found = iter([0.9, 0.8])
    monkeypatch.setattr("mner.tagger.quantization.f1_of", lambda *given: next(found))
    out = tmp_path / "out"
    assert main(["export", str(path), str(out), "--quantize", "dynamic", "--valid", valid]) == 2
    said = capsys.readouterr().err
    assert "80.00 with dynamic int8, 90.00 without; that is a loss of more than --max_loss 0.5" in said
    assert not out.exists()
    assert main(["export", str(path), str(out), "--quantize", "dynamic"]) == 2
    assert "Expected --valid" in capsys.readouterr().err
