"""docs/serving.md and the container file: commands, codes and limits are those of the service."""

import inspect
import json
import re
import shlex
from dataclasses import fields
from pathlib import Path

from mner.serving.limits import Limits
from mner.serving.refusals import CODES
from mner.serving.server import serve as serve_command
from tests.serving.test_service import picture, refused

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/serving.md").read_text(encoding="utf-8")


def test_the_curls_of_the_page_are_answered(serve, image_checkpoint):
    client = serve(image_checkpoint)
    curls = [shlex.split(line) for line in PAGE.splitlines() if line.startswith("curl ")]
    assert len(curls) == 2
    for _, address, *options in curls:
        given = dict(zip(options[::2], options[1::2], strict=True))
        path = address.removeprefix("http://127.0.0.1:8000")
        if "-d" in given:
            name, _, value = given["-H"].partition(": ")
            answer = client.post(path, content=given["-d"], headers={name: value})
        else:
            form = dict(word.split("=", 1) for word in options if "=" in word)
            assert form.pop("image").startswith("@")
            answer = client.post(path, data=form, files={"image": ("p.png", picture())})
        assert answer.status_code == 200, answer.text
        assert answer.json()["text"] == "so proud of Quillon today"


def test_the_answers_of_the_page_have_the_fields_of_the_service(serve, image_checkpoint):
    client = serve(image_checkpoint)
    shown, error = (json.loads(block) for block in re.findall(r"^```json\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE))
    answer = client.post("/tag", json={"text": shown["text"]}).json()
    assert (set(shown), set(shown["model"])) == (set(answer), set(answer["model"]))
    assert set(shown["entities"][0]) == set(answer["entities"][0])
    assert shown["text"][shown["entities"][0]["start"] : shown["entities"][0]["end"]] == shown["entities"][0]["text"]
    message = refused(client.post("/tag", json={"txt": "a"}), error["error"]["status"], error["error"]["code"])
    assert message.startswith(error["error"]["message"].removesuffix("..."))


def test_the_codes_of_the_page_are_all():
    rows = re.findall(r"^\| ([\d, ]+) \| (`.+?) \|", PAGE, re.MULTILINE)
    told = {code: statuses for statuses, codes in rows for code in re.findall(r"`(\w+)`", codes)}
    assert set(told) == set(CODES)
    assert all(str(CODES[code]) in statuses for code, statuses in told.items())


def test_the_limits_of_the_page_are_the_commands():
    parameters = inspect.signature(serve_command).parameters
    for field in fields(Limits):
        assert parameters[field.name].default == field.default
        assert re.search(rf"`--{field.name}`[^(|]*\({field.default:,.0f}\b|{field.default:,.0f}\b", PAGE), field.name
    options = set(re.findall(r"`?--(\w+)", PAGE)) & {"max_wait", "batch_size", "token_file", "allow_urls", "log_texts"}
    assert len(options) == 5
    assert options <= set(parameters)


def test_the_container_runs_the_command():
    text = (ROOT / "examples/serving/Containerfile").read_text(encoding="utf-8")
    _, command, *options = json.loads(re.search(r"^ENTRYPOINT (.+)$", text, re.MULTILINE)[1])
    assert command == "serve"
    given = {option[2:] for option in options if option.startswith("--")}
    assert given <= set(inspect.signature(serve_command).parameters)
    for copied in re.search(r"^COPY (.+) \./$", text, re.MULTILINE)[1].split():
        assert (ROOT / copied).is_file()
