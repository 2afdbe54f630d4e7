"""The service: what is asked for is answered as the tagger would, and each bad request alone is refused, by name."""

import base64
import json
import logging
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO

import jsonschema
import pytest
from PIL import Image

import mner
import mner.serving.service
from mner.files import digest
from mner.serving.limits import Limits
from mner.serving.logs import JSONLines
from mner.serving.refusals import CODES
from mner.tagger.post import Post
from mner.tagger.tagger import Tagger

TEXT = "Anna visits Old Town in Lagos"


def picture(size=(80, 60), format="PNG"):
    file = BytesIO()
    Image.new("RGB", size, (200, 30, 10)).save(file, format)
    return file.getvalue()


def in_base64(data):
    return base64.b64encode(data).decode()


@pytest.fixture
def client(serve, text_checkpoint):
    return serve(text_checkpoint)


@pytest.fixture
def image_client(serve, image_checkpoint):
    return serve(image_checkpoint, limits=Limits(max_pixels=10_000))


@pytest.fixture(scope="module")
def tagger(text_checkpoint):
    return Tagger.load(text_checkpoint, device="cpu")


def said(record):
    return [(e["text"], e["type"], e["start"], e["end"]) for e in record["entities"]]


def wanted(tagged):
    return [(e.text, e.type, e.start, e.end) for e in tagged]


def refused(response, status, code, where=None):
    error = response.json()["error"]
    assert (response.status_code, error["status"], error["code"]) == (status, status, code), error
    assert CODES[code] == status
    if where is not None:
        assert error["where"] == where
    return error["message"]


def test_a_post_is_answered_as_the_tagger_does(client, tagger, text_checkpoint):
    expected = tagger(TEXT, context="a town")
    assert expected  # else the comparison says nothing
    answer = client.post("/tag", json={"id": 7, "text": TEXT, "context": "a town"})
    record = answer.json()
    assert answer.status_code == 200
    assert said(record) == wanted(expected)
    assert [e["score"] for e in record["entities"]] == pytest.approx([e.score for e in expected], abs=1e-5)
    assert (record["id"], record["text"], tuple(record["tags"])) == (7, TEXT, expected.tags)
    assert record["context"] == ["a town"]
    assert record["model"] == {
        "name": "text.ckpt",
        "fingerprint": digest(text_checkpoint)[:16],
        "strategy": "TextOnly",
        "mner": mner.__version__,
    }


def test_words_sources_and_several_posts(client, tagger):
    words = TEXT.split()
    posts = [{"id": "a", "tokens": words}, {"text": ""}, {"text": TEXT, "context": {"captions": "a town"}}]
    answer = client.post("/tag", json={"posts": posts}).json()
    expected = tagger([Post(words=words), Post(""), Post(TEXT, context="a town")])
    assert [said(record) for record in answer["posts"]] == [wanted(tagged) for tagged in expected]
    assert [record.get("id") for record in answer["posts"]] == ["a", None, None]
    assert answer["posts"][1]["entities"] == []


def test_an_image_comes_in_base64_or_is_uploaded(image_client, image_checkpoint):
    data = picture()
    expected = Tagger.load(image_checkpoint, device="cpu")(TEXT, image=data)
    given = [in_base64(data), f"data:image/png;base64,{in_base64(data)}", [in_base64(data)]]
    answers = [image_client.post("/tag", json={"text": TEXT, "image": image}) for image in given]
    answers += [
        image_client.post("/tag", data={"text": TEXT}, files={"image": ("p.png", data)}),
        image_client.post("/tag", data={"post": json.dumps({"text": TEXT})}, files={"image": ("p.png", data)}),
    ]
    for answer in answers:
        assert answer.status_code == 200, answer.text
        assert answer.json()["has_image"]
        assert said(answer.json()) == wanted(expected)
        scores = [entity["score"] for entity in answer.json()["entities"]]
        assert scores == pytest.approx([entity.score for entity in expected], abs=1e-5)
    assert not image_client.post("/tag", json={"text": TEXT}).json()["has_image"]


def test_a_form_has_contexts_and_an_id(client):
    form = {"text": TEXT, "context": "a town", "id": "7"}
    answer = client.post("/tag", data=form, files={"image": ("p.png", picture())}).json()
    assert (answer["id"], answer["context"]) == ("7", ["a town"])
    assert answer["image_problem"] == "the model (TextOnly) uses no image"


BAD = [
    (b"", 400, "bad_json", "body"),
    (b"{", 400, "bad_json", "body"),
    (b"\xff", 400, "bad_json", "body"),
    (b'{"text": "a", "text": "b"}', 400, "bad_json", "body"),
    (b'{"text": "a", "relation": NaN}', 400, "bad_json", "body"),
    (b"[" * 100_000, 400, "bad_json", "body"),
    (b'{"id": ' + b"1" * 5000 + b"}", 400, "bad_json", "body"),
    (b"[]", 422, "wrong_type", None),
    (b"3", 422, "wrong_type", None),
    (b"{}", 422, "missing_field", None),
    (b'{"text": null}', 422, "missing_field", None),
    (b'{"text": "a", "tokens": ["a"]}', 422, "missing_field", None),
    (b'{"text": 3}', 422, "wrong_type", "text"),
    (b'{"text": "\\ud800"}', 422, "bad_value", "text"),
    (b'{"tokens": "a"}', 422, "wrong_type", "tokens"),
    (b'{"tokens": ["a", 3]}', 422, "wrong_type", "tokens[1]"),
    (b'{"tokens": ["a", ""]}', 422, "bad_value", "tokens[1]"),
    (b'{"text": "a", "id": []}', 422, "wrong_type", "id"),
    (b'{"text": "a", "id": true}', 422, "wrong_type", "id"),
    (b'{"text": "a", "image": 3}', 422, "wrong_type", "image"),
    (b'{"text": "a", "image": "%%%"}', 422, "not_an_image", "image"),
    (b'{"text": "a", "image": "bm8gaW1hZ2U="}', 422, "not_an_image", "image"),
    (b'{"text": "a", "image": ""}', 422, "not_an_image", "image"),
    (b'{"text": "a", "image": "http://example.com/a.jpg"}', 422, "addresses_not_allowed", "image"),
    (b'{"text": "a", "image": "\\u00e9"}', 422, "not_an_image", "image"),
    (b'{"text": "a", "context": 3}', 422, "wrong_type", "context"),
    (b'{"text": "a", "context": [3]}', 422, "wrong_type", "context[0]"),
    (b'{"text": "a", "context": ["a", "b"]}', 422, "bad_value", "context"),
    (b'{"text": "a", "context": {"caption": "a"}}', 422, "unknown_field", "context"),
    (b'{"text": "a", "relation": "1"}', 422, "wrong_type", "relation"),
    (b'{"text": "a", "relation": 2}', 422, "bad_value", "relation"),
    (b'{"text": "a", "object_names": "cat"}', 422, "wrong_type", "object_names"),
    (b'{"posts": {}}', 422, "wrong_type", "posts"),
    (b'{"posts": []}', 422, "bad_value", "posts"),
    (b'{"posts": [{"text": "a"}, 3]}', 422, "wrong_type", "posts[1]"),
    (b'{"posts": [{"text": "a"}, {"text": 3}]}', 422, "wrong_type", "posts[1].text"),
    (b'{"posts": [{"posts": []}]}', 422, "unknown_field", "posts[0]"),
    (b'{"posts": [{"text": "a"}], "text": "a"}', 422, "unknown_field", None),
]


def test_each_bad_body_is_named(client):
    for body, status, code, where in BAD:
        answer = client.post("/tag", content=body, headers={"Content-Type": "application/json"})
        assert refused(answer, status, code, where).startswith("Found"), body
    assert client.post("/tag", json={"text": TEXT}).status_code == 200


def test_the_nearest_name_is_told(client):
    assert "did you mean 'text'?" in refused(client.post("/tag", json={"txt": "a"}), 422, "unknown_field")
    answer = client.post("/tag", json={"text": "a", "context": {"caption": "a"}})
    assert "did you mean 'captions'?" in refused(answer, 422, "unknown_field")


@pytest.mark.parametrize(
    ("limits", "body", "where"),
    [
        ({"max_bytes": 50}, {"text": "a" * 60}, None),
        ({"max_bytes": 10}, {"text": "a" * 600}, None),
        ({"max_characters": 5}, {"text": "abcdef"}, "text"),
        ({"max_characters": 5}, {"tokens": ["abc", "def"]}, "tokens"),
        ({"max_characters": 5}, {"text": "a", "context": "abcdef"}, "context"),
        ({"max_posts": 1}, {"posts": [{"text": "a"}, {"text": "b"}]}, "posts"),
        ({"max_images": 1}, {"text": "a", "image": ["", ""]}, "image"),
        ({"max_pixels": 4799}, {"text": "a", "image": in_base64(picture())}, "image"),
    ],
)
def test_what_is_too_large_is_413(serve, text_checkpoint, limits, body, where):
    client = serve(text_checkpoint, limits=Limits(**limits))
    refused(client.post("/tag", json=body), 413, "too_large", where)


def test_damaged_images_and_bombs(image_client):
    cut = picture()[:60]
    bomb = picture((101, 100))
    assert "truncated" in refused(image_client.post("/tag", json={"text": "a", "image": in_base64(cut)}), 422,
                                  "not_an_image", "image")  # fmt: skip
    answer = image_client.post("/tag", data={"text": "a"}, files=[("image", picture()), ("image", bomb)])
    assert "10000 pixels" in refused(answer, 413, "too_large", "image[1]")


def test_bad_forms(client):
    form = {"Content-Type": "multipart/form-data; boundary=x"}
    bare = {"Content-Type": "multipart/form-data"}
    refused(client.post("/tag", content=b"nothing", headers=bare), 400, "bad_request")
    refused(client.post("/tag", content=b"--x\r\nnothing\r\n--x--", headers=form), 400, "bad_request")
    cut = b'--x\r\nContent-Disposition: form-data; name="text"\r\n\r\nAnna visits'
    assert "cut off" in refused(client.post("/tag", content=cut, headers=form), 400, "bad_request")
    image = {"image": ("p.png", picture())}
    refused(client.post("/tag", files=image), 422, "missing_field")
    refused(client.post("/tag", data={"txt": "a"}, files=image), 422, "unknown_field")
    refused(client.post("/tag", files={"text": ("a.txt", b"a")}), 422, "wrong_type", "text")
    refused(client.post("/tag", data={"text": ["a", "b"]}, files=image), 422, "bad_value", "text")
    refused(client.post("/tag", data={"text": "a", "post": "{}"}, files=image), 400, "bad_request", "post")
    refused(client.post("/tag", data={"post": "{"}, files=image), 400, "bad_json", "post")
    refused(client.post("/tag", data={"post": "[]"}, files=image), 422, "wrong_type", "post")
    body = b'--x\r\nContent-Disposition: form-data; name="image"\r\n\r\nabc\r\n--x--\r\n'
    refused(client.post("/tag", content=body, headers=form), 422, "wrong_type", "image")


def test_other_paths_methods_and_types(client):
    assert "POST /tag" in refused(client.get("/tags"), 404, "not_found")
    answer = client.get("/tag")
    assert refused(answer, 405, "method_not_allowed") == "Found GET /tag; expected POST"
    assert answer.headers["allow"] == "POST"
    refused(client.post("/tag", content=b"a", headers={"Content-Type": "text/plain"}), 415, "unsupported_media_type")
    refused(client.post("/tag", content=b"{}"), 415, "unsupported_media_type")


def test_a_token_is_asked_for(serve, text_checkpoint):
    client = serve(text_checkpoint, token="a-long-enough-token")
    right = {"Authorization": "Bearer a-long-enough-token"}
    for headers in ({}, {"Authorization": "Bearer another"}, {"Authorization": "Basic a-long-enough-token"}):
        answer = client.post("/tag", json={"text": "a"}, headers=headers)
        refused(answer, 401, "unauthorized")
        assert answer.headers["www-authenticate"] == "Bearer"
        refused(client.get("/metrics", headers=headers), 401, "unauthorized")
        refused(client.post("/reload", headers=headers), 401, "unauthorized")
    assert client.post("/tag", json={"text": "a"}, headers=right).status_code == 200
    assert client.post("/reload", headers=right).json()["status"] == "loaded"
    assert client.get("/health").status_code == client.get("/ready").status_code == 200


class Gate:
    """Stands for the tagger's `stream`: waits until it may go on."""

    def __init__(self, service, monkeypatch):
        self.begun, self.open = threading.Event(), threading.Event()
        real = service.model.tagger.stream

        def stream(posts, *options):
            self.begun.set()
            assert self.open.wait(20)
            return real(posts, *options)

        monkeypatch.setattr(service.model.tagger, "stream", stream)


def test_what_takes_too_long_is_504(serve, text_checkpoint, monkeypatch):
    client = serve(text_checkpoint, limits=Limits(timeout=0.2))
    gate = Gate(client.service, monkeypatch)
    refused(client.post("/tag", json={"text": "a"}), 504, "timeout")
    # What nobody waits for any more is not tagged.
    refused(client.post("/tag", json={"text": "b"}), 504, "timeout")
    assert client.service.batcher.waiting == 0
    gate.open.set()
    assert client.post("/tag", json={"text": TEXT}).status_code == 200


def test_what_is_too_much_is_503_and_what_was_taken_is_finished(serve, text_checkpoint, monkeypatch):
    client = serve(text_checkpoint, limits=Limits(max_waiting=2))
    gate = Gate(client.service, monkeypatch)
    with ThreadPoolExecutor(8) as pool:
        first = pool.submit(client.post, "/tag", json={"text": TEXT})
        assert gate.begun.wait(20)
        more = [pool.submit(client.post, "/tag", json={"text": f"Anna {number}"}) for number in range(2)]
        while client.service.batcher.waiting < 2:
            threading.Event().wait(0.01)
        answer = client.post("/tag", json={"text": "too much"})
        refused(answer, 503, "overloaded")
        assert answer.headers["retry-after"] == "1"
        refused(client.get("/ready"), 503, "overloaded")
        client.service.stopping = True
        refused(client.post("/tag", json={"text": "too late"}), 503, "stopping")
        refused(client.get("/ready"), 503, "stopping")
        gate.open.set()
        assert first.result().json()["text"] == TEXT
        assert [one.result().json()["text"] for one in more] == ["Anna 0", "Anna 1"]


def test_requests_share_batches_and_each_gets_its_own(serve, text_checkpoint, tagger, monkeypatch):
    client = serve(text_checkpoint, max_wait=0.05)
    sizes = []
    monkeypatch.setattr(client.service.batcher, "on_batch", lambda posts, seconds: sizes.append(posts))
    texts = [f"Anna {'very ' * (number % 7)}number{number} visits Lagos" for number in range(60)]
    expected = [wanted(tagged) for tagged in tagger(texts)]
    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda text: client.post("/tag", json={"text": text}).json(), texts))
    assert [answer["text"] for answer in answers] == texts
    assert [said(answer) for answer in answers] == expected
    assert sum(sizes) == 60
    assert max(sizes) > 3


def test_a_post_that_cannot_be_tagged_touches_no_other(serve, text_checkpoint, monkeypatch, caplog):
    client = serve(text_checkpoint, max_wait=0.2)
    split = client.service.model.tagger.prepare._split

    def picky(post):
        if post.text == "poison":
            raise RuntimeError("secret of the poison")
        return split(post)

    monkeypatch.setattr(client.service.model.tagger.prepare, "_split", picky)
    texts = [f"Anna {number}" for number in range(15)]
    with ThreadPoolExecutor(16) as pool, caplog.at_level(logging.ERROR):
        asked = ["poison", *texts]
        bad, *answers = pool.map(lambda text: client.post("/tag", json={"text": text}), asked)
    assert [answer.json()["text"] for answer in answers] == texts
    message = refused(bad, 500, "fault")
    assert "secret" not in message  # only the log has it, under the same id
    assert bad.headers["x-request-id"] in message
    assert "secret of the poison" in caplog.text


def test_a_model_is_loaded_again_without_a_pause(serve, text_checkpoint, image_checkpoint, tmp_path):
    place = tmp_path / "model.ckpt"
    place.write_bytes(text_checkpoint.read_bytes())
    token = "a-long-enough-token"
    client = serve(place, token=token)
    client.headers["Authorization"] = f"Bearer {token}"
    first = client.get("/health").json()["model"]
    stop, answers = threading.Event(), []

    def ask():
        while not stop.is_set():
            answers.append(client.post("/tag", json={"text": TEXT}))

    with ThreadPoolExecutor(3) as pool:
        asking = [pool.submit(ask) for _ in range(3)]
        place.write_bytes(image_checkpoint.read_bytes())
        second = client.post("/reload").json()["model"]
        place.write_bytes(b"no checkpoint")
        assert str(place) in refused(client.post("/reload"), 500, "reload_failed")
        before = len(answers)
        while len(answers) < before + 10:
            threading.Event().wait(0.01)
        stop.set()
        [one.result() for one in asking]
    assert first["fingerprint"] != second["fingerprint"] == digest(image_checkpoint)[:16]
    assert {answer.status_code for answer in answers} == {200}
    assert {answer.json()["model"]["strategy"] for answer in answers} == {"TextOnly", "CoAttention"}
    assert answers[-1].json()["model"] == client.get("/health").json()["model"] == second
    assert 'mner_reloads_total{result="failed"} 1.0' in client.get("/metrics").text


def test_without_a_token_nobody_reloads_from_afar(client):
    assert "SIGHUP" in refused(client.post("/reload"), 403, "no_token")


def test_health_tells_when_nothing_is_tagged_any_more(client):
    assert client.get("/health").json()["status"] == "ok"
    client.portal.call(client.service.batcher.stop)
    refused(client.get("/health"), 500, "fault")


def test_metrics_count(client):
    client.post("/tag", json={"posts": [{"text": TEXT}, {"text": TEXT}]})
    client.post("/tag", json={})
    client.get("/nowhere/secret")
    text = client.get("/metrics").text
    for line in (
        'mner_requests_total{path="/tag",status="200"} 1.0',
        'mner_requests_total{path="/tag",status="422"} 1.0',
        'mner_requests_total{path="other",status="404"} 1.0',
        'mner_refusals_total{code="missing_field"} 1.0',
        "mner_posts_total 2.0",
        "mner_batch_posts_sum 2.0",
        "mner_waiting_posts 0.0",
    ):
        assert line in text
    assert "secret" not in text  # paths of strangers are no labels


def test_logs_are_json_lines_without_texts(serve, text_checkpoint, caplog):
    with caplog.at_level(logging.INFO, "mner.serving"):
        serve(text_checkpoint).post("/tag", json={"text": TEXT}, headers={"X-Request-ID": "abc-1"})
        serve(text_checkpoint, log_texts=True).post("/tag", json={"text": TEXT}, headers={"X-Request-ID": "a\n{b"})
    quiet, loud = (json.loads(JSONLines().format(record)) for record in caplog.records)
    assert (quiet["id"], quiet["path"], quiet["status"], quiet["posts"]) == ("abc-1", "/tag", 200, 1)
    assert TEXT not in json.dumps(quiet)
    assert loud["texts"] == [TEXT]
    assert re.fullmatch("[0-9a-f]{32}", loud["id"])


def test_faults_have_their_traceback_in_the_line():
    try:
        raise ValueError("what\nhappened")
    except ValueError as error:
        record = logging.LogRecord("a", logging.ERROR, "", 0, "it %s", ("broke",), (ValueError, error, None))
    line = JSONLines().format(record)
    assert "\n" not in line
    assert json.loads(line)["message"] == "it broke"
    assert "ValueError: what\nhappened" in json.loads(line)["traceback"]


def test_the_description_is_true(client, image_client):
    found = client.get("/openapi.json").json()
    assert found["openapi"] == "3.1.0"
    assert set(found["paths"]) == {"/tag", "/health", "/ready", "/metrics", "/reload"}
    schemas = found["components"]["schemas"]

    def check(value, name):
        schema = {"$ref": f"#/components/schemas/{name}", "components": {"schemas": schemas}}
        jsonschema.Draft202012Validator(schema).validate(value)

    check({"text": "a", "image": "aaaa", "context": {"captions": "b"}}, "Post")
    for bad in ({}, {"txt": "a"}, {"text": 3}, {"text": "a", "tokens": []}, {"text": "a", "context": {"x": "b"}}):
        with pytest.raises(jsonschema.ValidationError):
            check(bad, "Post")
    check(client.post("/tag", json={"text": TEXT, "id": 1}).json(), "TaggedPost")
    check(client.post("/tag", json={"posts": [{"text": TEXT}]}).json(), "TaggedPosts")
    check(client.post("/tag", json={}).json(), "Error")
    check(client.get("/nowhere").json(), "Error")
    assert str(10_000) in json.dumps(image_client.get("/openapi.json").json()["components"])


def test_the_page_loads_nothing_from_elsewhere(client):
    text = client.get("/docs").text
    assert "POST /tag" in text
    assert "text.ckpt" in text
    assert not re.search(r"(src|href)=['\"]?(https?:)?//", text)
    assert client.get("/").text == text


def test_addresses_are_fetched_only_where_allowed(serve, image_checkpoint, monkeypatch):
    asked = []

    def fetch(address, most, timeout):
        asked.append(address)
        if "inside" in address:
            raise ValueError("the address is not a public one")
        return picture()

    monkeypatch.setattr(mner.serving.service, "fetch", fetch)
    body = {"text": TEXT, "image": "https://example.com/a.png"}
    refused(serve(image_checkpoint).post("/tag", json=body), 422, "addresses_not_allowed", "image")
    assert not asked
    client = serve(image_checkpoint, allow_urls=True)
    assert client.post("/tag", json=body).json()["has_image"]
    refused(client.post("/tag", json=body | {"image": "http://inside/"}), 422, "address_failed", "image")
    assert asked == ["https://example.com/a.png", "http://inside/"]


def test_the_size_of_batches(serve, text_checkpoint):
    assert serve(text_checkpoint).service.batcher.batch_size == 32
    assert serve(text_checkpoint, batch_size=5).service.batcher.batch_size == 5
    with pytest.raises(ValueError, match="`batch_size` to be at least 1, but got 0"):
        serve(text_checkpoint, batch_size=0)


def test_limits_are_above_nothing():
    with pytest.raises(ValueError, match="`max_posts` to be above 0, but got 0"):
        Limits(max_posts=0)
