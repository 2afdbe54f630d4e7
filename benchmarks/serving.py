"""`mner serve` under load: throughput beside the tagger in process, and a soak with hostile requests.

    python benchmarks/serving.py CHECKPOINT [--posts test.txt] [--count 512] [--clients 64] [--turns 7]
    python benchmarks/serving.py CHECKPOINT --soak 100000 [--hostile 0.01] [--reloads 5]

Throughput: the service is a process, 64 clients with a connection each are another, and the tagger in process is a
third; all on this machine. They take turns: the clients send every post once, a post a request, each client as soon as
it has its answer; then the tagger gets all posts as one list, then in lists of as many posts as there are clients, and
then as a stream in batches of 32. Ratios are taken within a turn. CPU time is that of the process that tags, so that it
does not hold what the clients cost.

Soak: each request has an id of its own and one of 2000 posts, some with an image; what comes back is compared with what
the tagger gives in process. Among them are requests that are broken in many ways, each with the answers that it may
get, clients that hang up, and SIGHUPs. Anything else than that is printed, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import os
import random
import re
import signal
import statistics
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from interleave import machine
from posts import load

GIANT = 400_000


class Server:
    """A service in a process of its own."""

    def __init__(self, checkpoint: str, *options: str) -> None:
        command = [sys.executable, "-m", "mner", "serve", checkpoint, "--port", "0", *options]
        self.log = open(os.environ.get("SERVING_LOG", os.devnull), "w")
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        assert self.process.stderr is not None
        found = None
        while found is None:
            line = self.process.stderr.readline()
            if not line:
                raise SystemExit("the service did not start")
            found = re.search(r"http://(\S+?):(\d+)", line)
        self.host, self.port = found[1], int(found[2])
        self.lines = Counter[str]()
        asyncio.get_running_loop().run_in_executor(None, self._read)

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            record = json.loads(line)  # each line has to be one
            self.lines[f"{record['level']}: {record['message'][:60]}"] += 1
            if record["level"] in ("error", "critical") or record["message"] != "request":
                self.log.write(line)

    def cpu(self) -> float:
        """Seconds of CPU that it has taken."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def memory(self) -> float:
        """Its memory in MiB."""
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+)", text)[1]) / 1024  # type: ignore[index]

    def metrics(self) -> str:
        """Its page of metrics."""
        with urllib.request.urlopen(f"http://{self.host}:{self.port}/metrics", timeout=60) as answer:
            return str(answer.read().decode())

    async def stop(self) -> int:
        """Ask it to end, and wait."""
        self.process.send_signal(signal.SIGTERM)
        return await asyncio.to_thread(self.process.wait, 60)


@dataclass(frozen=True, slots=True)
class Exchange:
    """Bytes to send, and what may come back.

    Attributes:
        raw: The bytes.
        number: Of the post that is asked for; None for a hostile request.
        kind: What is wrong with it; "" where nothing is.
        statuses: What may be answered; 0 is a closed connection.
        cut: Hang up: after so many bytes, -1 after all of them, without reading the answer; None to wait for it.
    """

    raw: bytes
    number: int | None = None
    kind: str = ""
    statuses: tuple[int, ...] = (200,)
    cut: int | None = None


def request(body: bytes, kind: str = "application/json", method: str = "POST", path: str = "/tag") -> bytes:
    """A request as bytes."""
    head = f"{method} {path} HTTP/1.1\r\nHost: a\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


class Client:
    """One connection, opened again where it was closed."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, exchange: Exchange) -> tuple[int, bytes]:
        """Status and body of the answer; 0 where the connection was closed without."""
        if self.streams is None:
            self.streams = await asyncio.open_connection(self.server.host, self.server.port, limit=1 << 20)
        reader, writer = self.streams
        try:
            if exchange.cut is not None:
                writer.write(exchange.raw if exchange.cut < 0 else exchange.raw[: exchange.cut])
                await writer.drain()
                await asyncio.sleep(random.random() * 0.02)
                self.close()
                return 0, b""
            writer.write(exchange.raw)
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
            length = re.search(r"content-length: (\d+)", head)
            body = await reader.readexactly(int(length[1])) if length else await reader.read()
            if "connection: close" in head or length is None:
                self.close()
            return int(head[9:12]), body
        except (OSError, EOFError):
            self.close()
            return 0, b""

    def close(self) -> None:
        """Hang up."""
        if self.streams is not None:
            self.streams[1].close()
            self.streams = None


async def ask_all(server: Server, exchanges: Iterator[Exchange], clients: int, check: Any) -> None:
    """Every exchange once, by so many clients, each with the next as soon as it has an answer."""

    async def one() -> None:
        client = Client(server)
        for exchange in exchanges:
            check(exchange, *await client.ask(exchange))
        client.close()

    await asyncio.gather(*(one() for _ in range(clients)))


# Throughput


async def throughput(options: argparse.Namespace) -> None:
    """Print the table."""
    posts = [" ".join(post.words) for post in load(options.posts, options.count)]
    server = Server(options.checkpoint, "--device", "cpu", *options.option)
    exchanges = [Exchange(request(json.dumps({"text": text}).encode()), n) for n, text in enumerate(posts)]

    def check(exchange: Exchange, status: int, body: bytes) -> None:
        assert exchange.number is not None
        if status != 200 or json.loads(body)["text"] != posts[exchange.number]:
            raise SystemExit(f"expected the post {exchange.number}, but got {status}: {body[:200]!r}")

    arguments = [options.checkpoint, json.dumps(posts)]
    names = {"in process, a list": ["0"], f"in process, lists of {options.clients}": [str(options.clients)],
             "in process, a stream of batches": ["stream"]}  # fmt: skip
    rows: dict[str, list[tuple[float, float]]] = {name: [] for name in ("service", *names)}
    workers = {name: InProcess(*arguments, *more) for name, more in names.items()}
    for turn in range(options.turns + 1):
        cpu, begin = server.cpu(), time.perf_counter()
        await ask_all(server, iter(exchanges), options.clients, check)
        taken = time.perf_counter() - begin, server.cpu() - cpu
        if turn:  # the first warms everything up
            rows["service"].append(taken)
        for name, worker in workers.items():
            found = await asyncio.to_thread(worker.turn)
            if turn:
                rows[name].append(found)
    metrics = server.metrics()
    batches = [float(re.findall(rf"mner_batch_posts_{key} (\S+)", metrics)[0]) for key in ("sum", "count")]
    code = await server.stop()
    print(f"# Service: {len(posts)} posts, {options.clients} clients, {options.turns} turns\n")
    print(machine("torch", "transformers", "starlette", "uvicorn"))
    print(f"{os.cpu_count()} cores, {os.environ.get('OMP_NUM_THREADS', 'all')} threads of torch; the service's batches "
          f"had {batches[0] / batches[1]:.1f} posts; it ended with exit code {code}.\n")  # fmt: skip
    print("| | posts a second | CPU ms a post | service's throughput beside it | quartiles | by CPU time | quartiles |")
    print("|---|---|---|---|---|---|---|")
    for name, some in rows.items():
        wall, cpu_ = (statistics.median(times) for times in zip(*some, strict=True))
        parts = [f"{len(posts) / wall:.1f}", f"{1e3 * cpu_ / len(posts):.2f}"]
        for place in (0, 1):
            ratios = [other[place] / own[place] for own, other in zip(rows["service"], some, strict=True)]
            low, middle, high = statistics.quantiles(ratios, n=4)
            parts += [f"{middle:.2f}", f"{low:.2f}-{high:.2f}"]
        print(f"| {name} | {' | '.join(parts)} |")


class InProcess:
    """The tagger in a process of its own, which tags all posts each time that it is asked."""

    def __init__(self, *arguments: str) -> None:
        command = [sys.executable, __file__, "--worker", *arguments]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def turn(self) -> tuple[float, float]:
        """Seconds and CPU seconds."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        wall, cpu = self.process.stdout.readline().split()
        return float(wall), float(cpu)


def worker(checkpoint: str, posts: str, how: str) -> None:
    """What `InProcess` runs."""
    from mner import Tagger

    tagger, texts = Tagger.load(checkpoint, device="cpu"), json.loads(posts)
    for _ in sys.stdin:
        wall, cpu = time.perf_counter(), time.process_time()
        if how == "stream":
            found = list(tagger.stream(texts))
        else:
            size = int(how) or len(texts)
            found = [one for place in range(0, len(texts), size) for one in tagger(texts[place : place + size])]
        assert len(found) == len(texts)
        print(time.perf_counter() - wall, time.process_time() - cpu, flush=True)


# Soak


def picture(number: int) -> bytes:
    """A small image file."""
    from PIL import Image, ImageDraw

    image = Image.new("RGB", (48, 40), (number * 37 % 256, number * 91 % 256, number * 53 % 256))
    ImageDraw.Draw(image).ellipse((4, 4, 12 + number % 30, 30), fill=(number * 11 % 256, 200, 90))
    file = BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


@cache
def bomb() -> str:
    """A file of few bytes and many pixels, in base64."""
    from PIL import Image

    file = BytesIO()
    Image.new("1", (8000, 8000)).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def hostile(pick: random.Random) -> Exchange:
    """A request that is broken in one of many ways."""
    cut = request(b'{"text": "Anna visits Lagos"}')
    image = base64.b64encode(picture(1)).decode()

    def post(**fields: Any) -> bytes:
        return request(json.dumps(fields).encode())

    kinds: list[tuple[str, bytes, tuple[int, ...]]] = [
        ("no JSON", request(b'{"text": '), (400,)),
        ("no UTF-8", request(b'{"text": "\xff\xfe"}'), (400,)),
        ("nothing", request(b""), (400,)),
        ("nested", request(b'{"text": ' + b"[" * 50_000), (400,)),
        ("a key twice", request(b'{"text": "a", "text": "b"}'), (400,)),
        ("a long number", request(b'{"id": ' + b"9" * 5000 + b"}"), (400,)),
        ("wrong type", post(text=[1, {}]), (422,)),
        ("unknown field", post(txt="Anna"), (422,)),
        ("no field", post(), (422,)),
        ("half a surrogate", post(text="\ud83d"), (422,)),
        ("no image", post(text="Anna", image=base64.b64encode(b"no image").decode()), (422,)),
        ("no base64", post(text="Anna", image="%%%"), (422,)),
        ("cut image", post(text="Anna", image=image[: len(image) // 2 // 4 * 4]), (422,)),
        ("bomb", post(text="Anna", image=bomb()), (413,)),
        ("address", post(text="Anna", image="http://169.254.169.254/latest"), (422,)),
        ("too many characters", post(text="a" * 30_000), (413,)),
        ("too many posts", post(posts=[{"text": "a"}] * 65), (413,)),
        ("giant", post(text="a" * GIANT), (413,)),
        ("said to be giant", b"POST /tag HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
         b"Content-Length: 999999999999\r\n\r\n{}", (413,)),
        ("no length", b"POST /tag HTTP/1.1\r\nHost: a\r\nContent-Length: ten\r\n\r\n{}", (400, 0)),
        ("no HTTP", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 hello\r\n\r\n", (400, 0)),
        ("long header", b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n", (400, 404, 0)),
        ("other type", request(b"Anna", "text/plain"), (415,)),
        ("other method", request(b"", method="DELETE"), (405,)),
        ("other path", request(b"", path="/../../etc/passwd"), (404,)),
        ("cut form", request(b"--x\r\nContent-Dis", "multipart/form-data; boundary=x"), (400,)),
        ("form without boundary", request(b"--x", "multipart/form-data"), (400,)),
        ("reload", request(b"", path="/reload"), (403,)),
    ]  # fmt: skip
    place = pick.randrange(len(kinds) + 6)
    if place < len(kinds):
        name, raw, statuses = kinds[place]
        return Exchange(raw, None, name, statuses)
    cuts = [1, 40, len(cut) - 5, -1, -1, -1]
    where = cuts[place - len(kinds)]
    return Exchange(cut, None, "hung up" if where > 0 else "hung up before the answer", (0,), where)


def soak_requests(bodies: Sequence[dict[str, Any]], count: int, share: float) -> Iterator[Exchange]:
    """So many requests, a share of them hostile."""
    pick = random.Random(0)
    known = [hostile(pick) for _ in range(400)]
    for number in range(count):
        if pick.random() < share:
            yield pick.choice(known)
        else:
            body = {**bodies[number % len(bodies)], "id": number}
            yield Exchange(request(json.dumps(body).encode()), number)


async def soak(options: argparse.Namespace) -> int:
    """Print what came back; the number of what should not have."""
    from mner import Tagger
    from mner.tagger.post import Post

    texts = [f"{' '.join(post.words)} mark{number}" for number, post in enumerate(load(options.posts, 2000))]
    images = [picture(number) if number % 20 == 0 else None for number in range(len(texts))]
    tagger = Tagger.load(options.checkpoint, device="cpu")
    expected = tagger([Post(text, image=image) for text, image in zip(texts, images, strict=True)])
    bodies: list[dict[str, Any]] = [{"text": text} for text in texts]
    for body, image in zip(bodies, images, strict=True):
        if image is not None:
            body["image"] = base64.b64encode(image).decode()
    server = Server(options.checkpoint, "--device", "cpu", "--max_bytes", str(GIANT // 2), *options.option)
    counts, wrong, seen = Counter[str](), Counter[str](), set()
    begin, cpu, memory = time.perf_counter(), server.cpu(), [server.memory()]

    def check(exchange: Exchange, status: int, body: bytes) -> None:
        done = counts.total()
        if done and done % max(options.soak // 20, 1) == 0:
            memory.append(server.memory())
            print(f"{done} requests, {len(seen)} posts answered, {wrong.total()} wrong, {memory[-1]:.0f} MiB, "
                  f"{time.perf_counter() - begin:.0f} s", file=sys.stderr, flush=True)  # fmt: skip
        if options.reloads and done % (options.soak // (options.reloads + 1)) == 1 and done > 1:
            server.process.send_signal(signal.SIGHUP)
        counts[exchange.kind or "well"] += 1
        if status not in exchange.statuses:
            wrong[f"{exchange.kind or 'well'}: {status} {body[:100]!r}"] += 1
        elif status >= 400:
            error = json.loads(body)["error"] if body.startswith(b"{") else {}
            if error.get("status") != status and exchange.kind not in ("no length", "no HTTP", "long header"):
                wrong[f"{exchange.kind}: {body[:100]!r}"] += 1
        elif exchange.number is not None:
            record, place = json.loads(body), exchange.number % len(texts)
            wanted = expected[place]
            right = record["id"] == exchange.number and record["text"] == texts[place]
            right = right and tuple(record["tags"]) == wanted.tags and record["has_image"] == wanted.has_image
            pairs = zip(record["entities"], wanted, strict=False)
            right = right and all(abs(entity["score"] - known.score) < 1e-3 for entity, known in pairs)
            if not right or exchange.number in seen:
                wrong["an answer that is not this request's"] += 1
            seen.add(exchange.number)

    await ask_all(server, soak_requests(bodies, options.soak, options.hostile), options.clients, check)
    seconds, cpu = time.perf_counter() - begin, server.cpu() - cpu
    memory.append(server.memory())
    metrics = server.metrics()
    code = await server.stop()
    lost = counts["well"] - len(seen)
    print(f"# Soak: {counts.total()} requests, {options.clients} clients, {options.reloads} reloads\n")
    print(machine("torch", "transformers", "starlette", "uvicorn"))
    print(f"{seconds:.0f} s, {counts.total() / seconds:.0f} requests a second; CPU of the service {cpu:.0f} s, of the "
          f"clients {time.process_time():.0f} s; memory of the service {memory[0]:.0f} MiB at first, then "
          f"{min(memory[1:]):.0f} to {max(memory[1:]):.0f}; exit code {code}.\n")  # fmt: skip
    print(f"well-formed: {counts['well']}, answered as the tagger does: {len(seen) - wrong.total()}, lost: {lost}")
    print(f"hostile: {counts.total() - counts['well']} of {len(counts) - 1} kinds; not answered as they should: "
          f"{sum(n for what, n in wrong.items() if not what.startswith(('well', 'an answer')))}")  # fmt: skip
    print("reloads: " + ", ".join(re.findall(r'^mner_reloads_total\{result="(.+)', metrics, re.MULTILINE)))
    print("log: " + ", ".join(f"{what} {n}" for what, n in server.lines.most_common(12)))
    for what, number in wrong.most_common(20):
        print(f"WRONG {number}: {what}")
    return wrong.total() + lost


def main() -> int:
    """Read the arguments, run."""
    if sys.argv[1:2] == ["--worker"]:
        worker(*sys.argv[2:])
        return 0
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("--posts", type=Path, help="posts, CoNLL or JSON lines; else invented ones")
    parser.add_argument("--count", type=int, default=512, help="posts of a turn")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--soak", type=int, help="requests of a soak")
    parser.add_argument("--hostile", type=float, default=0.01, help="share of them that is broken")
    parser.add_argument("--reloads", type=int, default=5, help="SIGHUPs meanwhile")
    parser.add_argument("--option", action="append", default=[], help="of `mner serve`: --option=--max_wait=5")
    options = parser.parse_args()
    if options.soak:
        return 1 if asyncio.run(soak(options)) else 0
    asyncio.run(throughput(options))
    return 0


if __name__ == "__main__":
    sys.exit(main())
