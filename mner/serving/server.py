"""`mner serve`: the service as a process, which is stopped and reloaded by signals."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import socket
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mner.errors import DataFormatError, DataNotFoundError, MissingDependencyError, MNERError

if TYPE_CHECKING:
    from mner.serving.batcher import Model
    from mner.serving.service import Service

TOKEN = "MNER_TOKEN"
"""The variable of the environment that may hold the token."""
SHORTEST = 16
"""Characters of a token, at least."""


def serve(
    checkpoint: str,
    host: str = "127.0.0.1",
    port: int = 8000,
    captioner: str | None = None,
    image_weights: Path | None = None,
    label_set: str | None = None,
    min_score: float = 0.0,
    names: list[str] | None = None,
    names_ignore_case: bool = False,
    batch_size: int = 32,
    workers: int | None = None,
    max_wait: float = 2.0,
    max_bytes: int = 20_000_000,
    max_pixels: int = 40_000_000,
    max_characters: int = 20_000,
    max_posts: int = 64,
    max_images: int = 8,
    max_waiting: int = 1024,
    timeout: float = 30.0,
    token_file: Path | None = None,
    allow_urls: bool = False,
    log_texts: bool = False,
    device: str = "auto",
) -> int:
    """Serve a model over HTTP: POST /tag finds the entities of posts; GET /docs says the rest.

    SIGHUP, or POST /reload with the token, loads the model again; SIGTERM and Ctrl-C finish what was taken and end.
    A token that requests have to bring is taken from the variable MNER_TOKEN or from --token_file.

    Args:
        checkpoint: The checkpoint that `mner fit` wrote, or the folder or Hub name of a shared model.
        host: Address to listen at; the default is for this machine alone.
        port: Port to listen at; 0 for any that is free.
        captioner: Image-to-text model for posts without context, if the model was trained on captions.
        image_weights: File of the weights of what made the model's image features.
        label_set: Whose labels to tag with, of a model that was trained on several data sets.
        min_score: Entities with a lower score are left out.
        names: Lists of names that are always, or never, entities of a type, as for `mner tag`.
        names_ignore_case: Whether names are found in other case too.
        batch_size: Most posts in a batch, of all requests together.
        workers: Batches that are tagged at once, which share the cores; if not given, as many as torch has threads,
            four at most, and 1 on a GPU and for models that need a captioner or an encoder of features.
        max_wait: Milliseconds that a batch which is not full waits for more posts.
        max_bytes: Bytes of a request.
        max_pixels: Pixels of an image.
        max_characters: Characters of a post, and of each of its contexts.
        max_posts: Posts of a request.
        max_images: Images of a post.
        max_waiting: Posts that may wait for the model.
        timeout: Seconds for a request.
        token_file: File with the token.
        allow_urls: Fetch images at public addresses of the net.
        log_texts: Write the texts of posts into the log.
        device: `auto`, `cpu`, `cuda`, ...

    Returns:
        Exit code 0, once it is stopped.

    Raises:
        MissingDependencyError: If the packages of `mner[serve]` are not installed.
        CheckpointError: If the model cannot be used.
        DataFormatError: If the token is too short.
    """
    token = read_token(token_file)
    _check_packages()
    from mner.serving.limits import Limits
    from mner.serving.logs import set_up
    from mner.serving.service import Service
    from mner.tagger.names import Names

    limits = Limits(max_bytes, max_pixels, max_characters, max_posts, max_images, max_waiting, timeout)
    if max_wait < 0:
        raise ValueError(f"Expected `max_wait` to be at least 0, but got {max_wait}")
    given = {"captioner": captioner, "image_weights": image_weights, "label_set": label_set, "device": device}
    options = {name: value for name, value in given.items() if value is not None} | {"min_score": min_score}

    def load() -> Model:
        model = load_model(checkpoint, names=Names.read(names, names_ignore_case) if names else None, **options)
        _settle()
        return model

    with _listening(host, port) as listener:
        service = Service(load, limits, batch_size, max_wait / 1000, token, allow_urls, log_texts, workers)
        written = set_up()
        _ignore_image_warnings()
        shown = "[{}]:{}" if listener.family == socket.AF_INET6 else "{}:{}"
        address = shown.format(*listener.getsockname()[:2])
        print(f"serving {checkpoint} at http://{address}, pages at /docs", file=sys.stderr, flush=True)
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(run(service, listener, written.flush))
    return 0


def _settle() -> None:
    """Spare the collector of garbage what stays, libraries and model: that took a third of the time of HTTP."""
    gc.unfreeze()  # what a model before this one left
    gc.collect()
    gc.freeze()


def load_model(checkpoint: str, **options: Any) -> Model:
    """A model and what replies say of it.

    Args:
        checkpoint: File, folder or Hub name.
        options: Of `Tagger`.

    Raises:
        CheckpointError: If it cannot be used.
        MNERError: If it was replaced while it was read.
    """
    import mner
    from mner.encoders.weights import weights_hash
    from mner.files import digest
    from mner.serving.batcher import Model
    from mner.tagger.tagger import Tagger

    before = digest(checkpoint)
    tagger = Tagger.load(checkpoint, **options)
    if digest(checkpoint) != before:
        raise MNERError(f"{checkpoint} was replaced while it was read; load it again")
    print_ = before[:16] if Path(checkpoint).exists() else weights_hash(tagger.model)
    facts = {
        "name": Path(checkpoint).name if Path(checkpoint).exists() else checkpoint,
        "fingerprint": print_,
        "strategy": type(tagger.model).__name__,
        "mner": mner.__version__,
    }
    return Model(tagger, facts)


def read_token(file: Path | None) -> str | None:
    """The token of a file or of the environment; None where there is neither.

    Raises:
        DataNotFoundError: If there is no such file.
        DataFormatError: If it is too short, or of more than one line of ASCII.
    """
    if file is None and TOKEN not in os.environ:
        return None
    if file is not None and not file.is_file():
        raise DataNotFoundError(f"No file with a token at {file}")
    token = (os.environ[TOKEN] if file is None else file.read_text(encoding="utf-8", errors="replace")).strip()
    if len(token) < SHORTEST or not (token.isascii() and token.isprintable() and " " not in token):
        found = f"a token of {len(token)} characters"
        raise DataFormatError(TOKEN if file is None else file, None, found, f"{SHORTEST} or more, on one line, ASCII")
    return token


async def run(service: Service, listener: socket.socket, often: Callable[[], object] = lambda: None) -> None:
    """Serve until SIGTERM or SIGINT; what was taken is finished then, and no more is taken.

    Args:
        service: The service.
        listener: The socket to listen at.
        often: Called five times a second, and at the end.
    """
    import uvicorn

    from mner.serving.refusals import Refusal

    class Server(uvicorn.Server):
        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:  # ours do more
            yield

    seconds = int(service.limits.timeout) + 5
    config = uvicorn.Config(
        service.app, log_config=None, access_log=False, lifespan="on", timeout_graceful_shutdown=seconds,
        server_header=False, ws="none", loop="asyncio", backlog=2048,
    )  # fmt: skip
    server = Server(config)
    tasks: set[asyncio.Task[None]] = set()

    def stop() -> None:
        service.stopping = True
        server.should_exit = True

    async def reload() -> None:
        with contextlib.suppress(Refusal):  # it is in the log
            await service.reload()

    def hang_up() -> None:
        task = asyncio.ensure_future(reload())
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    loop = asyncio.get_running_loop()
    wanted = {"SIGTERM": stop, "SIGINT": stop, "SIGHUP": hang_up}
    for name, handler in wanted.items():
        with contextlib.suppress(NotImplementedError, AttributeError):  # Windows
            loop.add_signal_handler(getattr(signal, name), handler)

    async def keep_calling() -> None:
        while True:
            await asyncio.sleep(0.2)
            often()

    calling = asyncio.ensure_future(keep_calling())
    try:
        await server.serve(sockets=[listener])
    finally:
        calling.cancel()
        often()


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """The loop of uvloop where it is installed, which takes less time; it has no release for Windows."""
    try:
        import uvloop
    except ImportError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


def _listening(host: str, port: int) -> socket.socket:
    """The port is taken before the model is loaded, which takes long."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=2048)
    except (OSError, OverflowError) as error:
        said = error.strerror if isinstance(error, OSError) else error
        raise MNERError(f"Cannot listen at {host}, port {port}: {said}") from None


def _ignore_image_warnings() -> None:
    from mner.tagger.preprocessor import ImageWarning

    warnings.simplefilter("ignore", ImageWarning)  # replies have them


def _check_packages() -> None:
    try:
        import prometheus_client  # noqa: F401
        import python_multipart  # noqa: F401
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise MissingDependencyError(
            f"Expected {error.name} for the service, but it is not installed; `pip install 'mner[serve]'`"
        ) from None
