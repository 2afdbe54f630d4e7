import re

import pytest

from mner.benchmark.plan import BenchmarkError
from mner.benchmark.space import Range, option_of, read_space, with_options
from mner.errors import DataFormatError, DataNotFoundError


def test_a_space_from_a_file_and_as_text(tmp_path):
    text = "model.learning_rate: log(1e-5, 1e-3)\ntrainer.max_epochs: int(2, 8)\ndata.batch_size: [16, null, [1]]\n"
    (tmp_path / "space.yaml").write_text(text)
    found = read_space(str(tmp_path / "space.yaml"))
    assert found == {
        "model.learning_rate": Range("log", 1e-5, 1e-3),
        "trainer.max_epochs": Range("int", 2, 8),
        "data.batch_size": Range("choice", values=(16, None, [1])),
    }
    assert read_space("{model.dropout: 'uniform(0, 0.3)'}") == {"model.dropout": Range("uniform", 0, 0.3)}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("", "Expected --space"),
        ("{a: [}", "--space is no YAML"),
        ("a: b: c", "--space is no YAML"),
        ("[x: 1]", "Expected `option: range`"),
        ("{model.dropout: 3}", "model.dropout: found 3; expected log(1e-5, 1e-3)"),
        ("{model.dropout: 'normal(0, 1)'}", "found 'normal(0, 1)'"),
        ("{model.dropout: 'uniform(0.3, 0)'}", "the lower end first"),
        ("{model.dropout: 'uniform(0, x)'}", "found 'uniform(0, x)'"),
        ("{model.dropout: 'uniform(0, inf)'}", "the lower end first"),
        ("{model.dropout: 'log(0, 1)'}", "above 0"),
        ("{model.layers: 'int(1.5, 3)'}", "whole numbers"),
        ("{model.dropout: []}", "that differ"),
        ("{model.dropout: [1, 1]}", "that differ"),
        ("{model dropout: [1, 2]}", "a name such as model.learning_rate"),
        ("{seed_everything: [1, 2]}", "seed_everything is set by the search itself"),
        ("{checkpoint.monitor: [a, b]}", "set by the search itself"),
        ("{trainer.logger.save_dir: [a, b]}", "set by the search itself"),
    ],
)
def test_bad_spaces_are_one_line(given, said):
    with pytest.raises(BenchmarkError, match=re.escape(said)) as raised:
        read_space(given)
    assert "\n" not in str(raised.value)


def test_bad_files(tmp_path):
    with pytest.raises(DataNotFoundError):
        read_space(str(tmp_path / "none.yaml"))
    (tmp_path / "a.yaml").write_text("a: [")
    with pytest.raises(DataFormatError, match=r"a\.yaml:"):
        read_space(str(tmp_path / "a.yaml"))


def test_options_go_where_fit_looks_for_them():
    config = {
        "model": "TextOnly",
        "data": {"class_path": "SampleDataModule", "init_args": {"train": 60}},
        "trainer": {
            "callbacks": [{"class_path": "EarlyStopping"}, {"class_path": "RDrop", "init_args": {"weight": 1}}],
        },
    }
    options = {"model.learning_rate": 1e-3, "data.train": 30, "trainer.max_epochs": 2, "trainer.callbacks.weight": 3}
    made = with_options(config, {**options, "model.init_args.dropout": 0.2})
    assert made["model"] == {"class_path": "TextOnly", "init_args": {"learning_rate": 1e-3, "dropout": 0.2}}
    assert made["data"]["init_args"] == {"train": 30}
    assert made["trainer"]["callbacks"][1]["init_args"] == {"weight": 3}
    assert made["trainer"]["max_epochs"] == 2
    assert all(option_of(made, name) == value for name, value in options.items())
    assert config["data"]["init_args"] == {"train": 60}  # its own is left alone
    assert option_of(config, "model.learning_rate") is None
    assert option_of(config, "trainer.callbacks.weight") == 1


def test_options_that_have_no_place():
    with pytest.raises(BenchmarkError, match="no options"):
        with_options({"trainer": 3}, {"trainer.max_epochs": 2})
    with pytest.raises(BenchmarkError, match="name the class"):
        with_options({"trainer": {"callbacks": []}}, {"trainer.callbacks.weight": 2})
    with pytest.raises(BenchmarkError, match=r"m\.yaml"):
        with_options({"model": "m.yaml"}, {})


def test_what_is_stored_lies_within_the_range():
    one = Range("log", 1e-5, 1e-3)
    assert one.stored(1e-4) == 1e-4
    assert [one.stored(value) for value in (1e-2, None, "x", True)] == [None] * 4
    assert Range("int", 1, 3).stored(2.5) is None
    assert Range("choice", values=(16, [1])).stored([1]) == "[1]"
    assert Range("choice", values=(1, 2)).stored(True) is None
    assert Range("int", 1, 3).examples() == [1, 3]
