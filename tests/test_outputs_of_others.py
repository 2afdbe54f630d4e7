"""An output that mner did not begin is not touched, by whatever writes."""

import json
from pathlib import Path

import pytest

from mner.cli import main
from mner.data.examples import Example
from mner.data.formats.conll import write_conll
from mner.data.formats.feature_writer import FeatureWriter
from mner.data.formats.json_lines import write_jsonl
from mner.data.formats.predictions import append_predictions
from mner.errors import DataFormatError, DataNotFoundError

POST = Example("1", "1", ("Oslo",), ("B-LOC",))
FIT = ["fit", "--config=config.yaml", "--trainer.logger=false", "--trainer.enable_progress_bar=false"]


@pytest.fixture
def here(tmp_path, posts_folder, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("config.yaml").write_text(
        "# mine\nmodel: {class_path: TextOnly}\n"
        f"data: {{class_path: Twitter2017DataModule, init_args: {{root: {posts_folder}}}}}\n"
        "trainer: {max_steps: 1, accelerator: cpu, enable_model_summary: false}\n"
    )


def test_the_config_that_a_run_was_started_with(here, capsys):
    before = Path("config.yaml").read_bytes()
    for _ in range(2):  # the second run replaces what the first wrote
        main(FIT)
        assert Path("config.yaml").read_bytes() == before
        assert "--config" in capsys.readouterr().out
        assert "class_path: mner.fusion.TextOnly" in Path("config.mner.yaml").read_text()


def test_two_runs_with_one_folder_of_checkpoints(here, monkeypatch, capsys):
    from mner.files import lock

    monkeypatch.setattr("mner.files.WAIT", 0.2)
    folder = Path("checkpoints")
    folder.mkdir()
    held = lock(folder / ".mner.lock")
    assert main(FIT) == 2
    assert "Another process is writing to" in capsys.readouterr().err
    assert [file.name for file in folder.iterdir()] == [".mner.lock"]
    held.release()
    assert not isinstance(main(FIT), int)
    assert not isinstance(main(FIT), int)  # the first let go


@pytest.mark.parametrize("write", [write_conll, write_jsonl])
def test_data(tmp_path, write):
    path = tmp_path / "train.txt"
    path.write_text("mine")
    with pytest.raises(DataFormatError, match="Move it away"):
        write(path, [POST])
    assert path.read_text() == "mine"
    path.unlink()
    write(path, [POST])
    write(path, [POST, Example("2", "2", ("Bo",), ("B-PER",))])
    assert "Bo" in path.read_text()
    path.write_text(path.read_text() + "\n")  # now it is changed
    with pytest.raises(DataFormatError, match="somebody changed"):
        write(path, [POST])


def test_predictions(tmp_path):
    path = tmp_path / "notes.txt"
    with pytest.raises(DataNotFoundError):
        append_predictions(path, [])
    path.write_text("mine")
    with pytest.raises(DataFormatError, match="Name another file"):
        append_predictions(path, [])
    assert path.read_text() == "mine"


def test_a_store_that_was_killed_while_it_began(tmp_path):
    options = {"kind": "grid", "encoder": "e", "width": 2}
    (tmp_path / "lock").touch()
    (tmp_path / ".mner-0123456789abcdef.new").write_text('{"mner')
    with FeatureWriter(tmp_path, **options) as writer:
        writer.finish()
    assert json.loads((tmp_path / "meta.json").read_text())["complete"]
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine.new").touch()
    with pytest.raises(DataFormatError, match=r"mine\.new"):
        FeatureWriter(tmp_path / "other", **options)
