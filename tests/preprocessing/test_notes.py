import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
from PIL import Image
from transformers import GPT2Config, GPT2LMHeadModel

from mner.data.formats.context import read_context
from mner.errors import CheckpointError, DataFormatError, DataNotFoundError, MissingDependencyError, MNERError
from mner.preprocessing.chat_address import Answer, Ask, ChatAddress
from mner.preprocessing.notes import PROMPT, LocalModel, notes
from tests.conftest import write_posts
from tests.preprocessing.test_captions import llava, picture, tokenizer

SHORT = "a red car {text}"


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gpt2")
    words = tokenizer()
    config = GPT2Config(
        vocab_size=len(words), n_positions=64, n_embd=16, n_layer=1, n_head=2, bos_token_id=2, eos_token_id=3,
        tie_word_embeddings=False,
    )  # fmt: skip
    torch.manual_seed(0)
    model = GPT2LMHeadModel(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    words.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def posts(tmp_path):
    file = tmp_path / "posts.txt"
    texts = ["a car", "the man in red", "a", "a man", "red"]
    words = [text.split() for text in texts]
    write_posts(file, [(f"p{n}", some, ["B-PER"] + ["O"] * (len(some) - 1)) for n, some in enumerate(words)])
    return file


def test_a_causal_model_goes_on_from_the_prompt(gpt2):
    writer = LocalModel(gpt2, max_new_tokens=6, device="cpu")
    asks = [Ask(prompt, None) for prompt in ("a red car", "a", "a man in a red car a dog", "the man")]
    together = writer(asks)
    assert together == [writer([ask])[0] for ask in asks]  # padding changes nothing
    assert len({answer.text for answer in together}) > 1
    words, model = tokenizer(), GPT2LMHeadModel.from_pretrained(gpt2)
    ids = words("a red car", return_tensors="pt")["input_ids"]
    for _ in range(6):  # greedy, one piece after the other
        following = model(ids).logits[0, -1].argmax()
        ids = torch.cat([ids, following[None, None]], 1)
        if following == 3:
            break
    start = words("a red car", return_tensors="pt")["input_ids"].shape[1]
    assert together[0].text == words.decode(ids[0, start:], skip_special_tokens=True)
    with pytest.raises(ValueError, match="room for beside 6 new ones"):
        writer([Ask("a " * 80, None)])


def test_a_model_that_sees_is_shown_the_image(tmp_path):
    llava(tmp_path)
    writer = LocalModel(str(tmp_path), max_new_tokens=5, device="cpu")
    assert writer.sees
    given = (("a red car", picture(1)), ("a man", None), ("a dog in a car", picture(2)), ("a man", picture(2)))
    asks = [Ask(*one) for one in given]
    together = writer(asks)
    assert together == [writer([ask])[0] for ask in asks]
    assert not any(answer.problem for answer in together)
    assert together[1] != together[3]


def test_notes_are_a_text_source(gpt2, posts, tmp_path, capsys):
    out = tmp_path / "notes.jsonl"
    notes(posts, out, gpt2, prompt=SHORT, max_new_tokens=4, batch_size=2, device="cpu")
    told = capsys.readouterr().err
    assert "5 posts done" in told
    assert "5 of 5 posts have a text; the texts name " in told
    records = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert [record["id"] for record in records] == [f"p{n}" for n in range(5)]
    assert {record["model"] for record in records} == {gpt2}
    writer = LocalModel(gpt2, 4, "cpu")
    assert [record["text"] for record in records] == [
        " ".join(writer([Ask(f"a red car {text}", None)])[0].text.split())
        for text in ("a car", "the man in red", "a", "a man", "red")
    ]
    kept = json.loads((tmp_path / "notes.jsonl.leakage.json").read_text(encoding="utf-8"))
    assert kept["entities"] == {"PER": 5}
    assert set(read_context(out)) == {f"p{n}" for n in range(5)}
    whole = out.read_bytes()
    for size in (len(whole), len(whole) - 4, whole.index(b"\n") + 1, 2):
        out.write_bytes(whole[:size])
        notes(posts, out, gpt2, prompt=SHORT, max_new_tokens=4, batch_size=2, device="cpu")
        assert out.read_bytes() == whole
    with pytest.raises(DataFormatError, match="max_new_tokens 4, now 5"):
        notes(posts, out, gpt2, prompt=SHORT, max_new_tokens=5, device="cpu")


class Server:
    """Speaks as OpenAI's address does; `script` says what to answer to which try, in the end the prompt in capitals."""

    def __init__(self):
        self.script, self.seen, self.times, lock = [], [], [], threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with lock:
                    outer.seen.append((self.path, self.headers["Authorization"], body))
                    outer.times.append(time.monotonic())
                    step = outer.script.pop(0) if outer.script else None
                said = body["messages"][0]["content"]
                text = said if isinstance(said, str) else said[0]["text"]
                status, content = step or (200, chat(text.upper()))
                if status == "slow":
                    time.sleep(0.6)
                    status = 200
                raw = content.encode()
                try:
                    self.send_response(status)
                    self.send_header("Content-Type", "application/json")
                    self.send_header("retry-after-ms", "1")
                    self.send_header("Content-Length", str(len(raw)))
                    self.end_headers()
                    self.wfile.write(raw)
                except OSError:  # the client went away
                    pass

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()


def chat(text, reason="stop"):
    message = {"role": "assistant", "content": text}
    return json.dumps({
        "id": "1", "object": "chat.completion", "created": 1, "model": "m",
        "choices": [{"index": 0, "message": message, "finish_reason": reason}],
    })  # fmt: skip


@pytest.fixture
def server(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    made = Server()
    yield made
    made.server.shutdown()
    made.server.server_close()


def test_an_address_is_asked(server, posts, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MY_KEY", "secret")
    images = tmp_path / "images"
    images.mkdir()
    Image.new("RGB", (20, 20), "red").save(images / "p0.jpg")
    captions = tmp_path / "captions.jsonl"
    captions.write_text('{"image_id": "p0", "caption": "a red square"}\n')
    out = tmp_path / "notes.jsonl"
    options = {"images": images, "context": captions, "prompt": "Q {text} / {context}", "key_variable": "MY_KEY"}
    notes(posts, out, "m", server.url, batch_size=3, **options)
    records = {record["id"]: record for record in map(json.loads, out.read_text(encoding="utf-8").splitlines())}
    assert records["p0"]["text"] == "Q A CAR / A RED SQUARE"
    assert records["p1"]["text"] == "Q THE MAN IN RED /"
    assert "5 of 5 gold entities (100.0 %: PER 100.0 %)" in capsys.readouterr().err
    shown = [one for one in server.seen if not isinstance(one[2]["messages"][0]["content"], str)]
    ((path, authorization, body),) = shown
    assert (path, authorization) == ("/v1/chat/completions", "Bearer secret")
    assert (body["model"], body["temperature"]) == ("m", 0)
    assert body["messages"][0]["content"][1]["image_url"]["url"].startswith("data:image/jpeg;base64,")
    assert len(server.seen) == 5
    for file in tmp_path.glob("notes*"):
        assert "secret" not in file.read_text(encoding="utf-8")
    notes(posts, out, "m", server.url, **options)
    assert len(server.seen) == 5  # all was there


def test_what_may_pass_is_tried_again(server):
    bad = (200, "{no json")
    server.script = [(429, "{}"), (500, "oops"), bad, (200, '{"choices": []}'), ("slow", chat("late")), (503, "{}")]
    asked = ChatAddress(server.url, "m", timeout=0.3, retries=6, parallel=1)
    assert asked([Ask("a", None)]) == [Answer("A")]
    assert len(server.seen) == 7


@pytest.mark.parametrize(
    ("step", "said"),
    [
        ((429, "{}"), "429"), ((500, "{}"), "500"), ((200, "{no"), "none of a chat"),
        (("slow", chat("late")), "timed out"),
    ],
)
def test_tries_come_to_an_end(server, step, said):
    server.script = [step] * 20
    asked = ChatAddress(server.url, "m", timeout=0.2, retries=2, parallel=1)
    with pytest.raises(MNERError, match=f"(?i)after 3 tries: .*{said}.*run it again to go on"):
        asked([Ask("a", None)])
    assert len(server.seen) == 3


def test_nobody_there_and_a_wrong_key(server):
    with pytest.raises(MNERError, match="gave no answer"):
        ChatAddress("http://127.0.0.1:9/v1", "m", retries=0, timeout=2)([Ask("a", None)])
    server.script = [(401, '{"error": {"message": "bad key"}}')]
    with pytest.raises(MNERError, match="401"):
        ChatAddress(server.url, "m", retries=3)([Ask("a", None)])
    assert len(server.seen) == 1  # a wrong key does not become right


def test_posts_that_are_refused_are_told(server, posts, tmp_path, capsys):
    server.script = [(400, "{}"), (413, "{}"), (200, chat(None, "length")), (422, "{}")]
    out = tmp_path / "notes.jsonl"
    notes(posts, out, "m", server.url, prompt="{text}", batch_size=1)
    records = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    problems = ["refused (400)", "refused (413)", "no text (length)", "refused (422)", None]
    assert [record.get("problem") for record in records] == problems
    assert [record["text"] for record in records] == ["", "", "", "", "RED"]
    assert "1 posts without a text: no text (length)" in capsys.readouterr().err


def test_a_run_that_failed_goes_on(server, posts, tmp_path):
    server.script = [None, None, (500, "{}")]
    out = tmp_path / "notes.jsonl"
    options = {"prompt": "{text}", "batch_size": 1, "retries": 0}
    with pytest.raises(MNERError, match="run it again"):
        notes(posts, out, "m", server.url, **options)
    assert out.read_bytes().count(b"\n") == 2
    notes(posts, out, "m", server.url, **options)
    assert out.read_bytes().count(b"\n") == 5
    assert len(server.seen) == 6


def test_requests_keep_their_distance(server):
    asked = ChatAddress(server.url, "m", requests_per_minute=1200, parallel=4)
    asked([Ask("a", None)] * 5)
    assert server.times[-1] - server.times[0] >= 0.15  # four times 50 ms, less what the first took to come


def test_what_is_wrong_is_said(gpt2, posts, tmp_path, monkeypatch):
    out = tmp_path / "notes.jsonl"
    for options, error, said in (
        ({"model": gpt2}, DataNotFoundError, "Expected --out"),
        ({"out": out}, DataNotFoundError, "Expected --model"),
        ({"out": out, "model": gpt2, "prompt": "none"}, ValueError, "a prompt with {text}"),
        ({"out": out, "model": gpt2, "prompt": "{text}", "prompt_file": posts}, ValueError, "but got both"),
        ({"out": out, "model": gpt2, "batch_size": 0}, ValueError, "`batch_size`"),
        ({"out": out, "model": str(tmp_path), "prompt": "{text}"}, CheckpointError, "cannot be used"),
    ):
        with pytest.raises(error, match=said):
            notes(posts, **options)
    assert "{text}" in PROMPT
    for wrong in ({"timeout": 0}, {"retries": -1}, {"parallel": 0}, {"requests_per_minute": -1}):
        with pytest.raises(ValueError, match="Expected a time limit"):
            ChatAddress("http://x", "m", **wrong)
    monkeypatch.setitem(__import__("sys").modules, "openai", None)
    with pytest.raises(MissingDependencyError, match=r"pip install mner\[notes\]"):
        ChatAddress("http://x", "m")
