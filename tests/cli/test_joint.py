"""Two data sets with other types, from the command line: trained together, predicted and tagged with their own."""

from __future__ import annotations

import json

import pytest
import yaml

from mner.cli.main import main
from mner.data.formats.predictions import read_predictions
from tests.tiny_sets import write_twitter


@pytest.fixture(scope="module")
def run(tmp_path_factory, bert_folder):
    folder = tmp_path_factory.mktemp("joint_run")
    write_twitter(folder / "a", other="OTHER", count=16)
    write_twitter(folder / "b", count=8)
    of = {"a": "Twitter2015DataModule", "b": "Twitter2017DataModule"}
    data = {
        name: {"class_path": kind, "init_args": {"root": str(folder / name), "batch_size": 4}}
        for name, kind in of.items()
    }
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu", "max_epochs": 1}
    config = {
        "model": {"class_path": "TextOnly", "init_args": {"text_encoder": bert_folder}},
        "data": {"class_path": "JointDataModule", "init_args": {"data": data}},
        "trainer": {**quiet, "logger": {"class_path": "CSVLogger", "init_args": {"save_dir": str(folder / "run")}}},
    }
    (folder / "joint.yaml").write_text(yaml.safe_dump(config))
    main(["fit", "--config", str(folder / "joint.yaml")])
    return folder, next((folder / "run").rglob("best.ckpt"))


def saved(checkpoint):
    return ["--config", str(checkpoint.parent.parent / "config.yaml"), "--ckpt_path", str(checkpoint)]


def test_each_is_scored(run, capsys):
    main(["test", *saved(run[1])])
    told = capsys.readouterr().out
    assert told.count("SpanF1 and seqeval agree.") == 2
    assert {"OTHER", "MISC"} <= set(told.split())


@pytest.mark.parametrize(("name", "own", "others"), [("a", "B-OTHER", "B-MISC"), ("b", "B-MISC", "B-OTHER")])
def test_each_is_predicted_with_its_own_types(run, tmp_path, name, own, others):
    output = tmp_path / "predictions.jsonl"
    main(["predict", *saved(run[1]), "--label_set", name, "--output", str(output)])
    found = read_predictions(output)
    assert own in found.header["labels"]
    assert others not in found.header["labels"]
    assert len(found.posts) == len((run[0] / name / "test.txt").read_text(encoding="utf-8").split("IMGID:")) - 1


def test_tagged_with_the_types_that_are_asked_for(run, tmp_path):
    posts = tmp_path / "posts.jsonl"
    posts.write_text('{"text": "Alan likes the Nile in Paris"}\n')
    found = {}
    for name in ("a", "b"):
        output = tmp_path / f"{name}.jsonl"
        assert not main(["tag", str(posts), "--checkpoint", str(run[1]), "--label_set", name, "--output", str(output)])
        found[name] = json.loads(output.read_text(encoding="utf-8"))
    assert found["a"]["entities"] != found["b"]["entities"]  # two heads of random weights
    # and the record beside the output says which, so that another set does not go on in it
    assert main(["tag", str(posts), "--checkpoint", str(run[1]), "--label_set", "b", "--output", str(output)]) == 0
    assert main(["tag", str(posts), "--checkpoint", str(run[1]), "--label_set", "a", "--output", str(output)]) == 2


@pytest.mark.parametrize("asked", [[], ["--label_set", "c"]])
def test_a_data_set_has_to_be_chosen(run, tmp_path, capsys, asked):
    assert main(["predict", *saved(run[1]), "--output", str(tmp_path / "p.jsonl"), *asked]) == 2
    assert "'a' or 'b', as `label_set`" in capsys.readouterr().err
