"""Fixtures for all tests: real clips, videos that number their frames, killed processes, and a web server."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import pkgutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from accelerate.state import AcceleratorState

from t3d.workers import cluster
from t3d.workers.pool import watched

_HANG = 300.0  # seconds after which something that a test waits for will never come, however busy the machine
_REAL = Path(__file__).resolve().parents[2] / "shared" / "data"
CERTIFICATE = Path(__file__).with_name("loopback.pem")


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real clips. Without it a test is skipped, unless T3D_REQUIRE_REAL_DATA is 1."""
    root = Path(os.environ.get("T3D_REAL_DATA", _REAL))
    if (root / "ucf101_11").is_dir():
        return root
    message = f"no real clips in {root}: set T3D_REAL_DATA to their folder"
    if os.environ.get("T3D_REQUIRE_REAL_DATA") == "1":
        pytest.fail(message)
    pytest.skip(message)


@pytest.fixture(scope="session", autouse=True)
def _no_time_passes_for_progress() -> Iterator[None]:
    """On a busy machine, tasks that take seconds would otherwise print lines about their progress."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("t3d.progress._clock", lambda: 0.0)
        yield


@pytest.fixture(scope="session", autouse=True)
def _no_choice_of_a_runtime_stays_in_the_home_folder(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("T3D_RUNTIME_CACHE", str(tmp_path_factory.mktemp("runtimes")))
        yield


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Sums depend on how many threads share them: runs that are compared bit for bit all use one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def two_threads() -> Iterator[None]:
    """The tests run with one thread by default, where nothing is computed at the same time."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def _numbered_frames(count: int, *, height: int = 48, width: int = 80, first: int = 0) -> torch.Tensor:
    frames = torch.full((count, 3, height, width), 40, dtype=torch.uint8)
    rows, columns = height // 2, width // 5
    for i in range(count):
        for bit in range(10):
            if (first + i) >> bit & 1:
                top, left = bit // 5 * rows, bit % 5 * columns
                frames[i, :, top : top + rows, left : left + columns] = 220
    return frames


def _read_numbers(frames: torch.Tensor) -> list[int]:
    rows, columns = frames.shape[2] // 2, frames.shape[3] // 5
    numbers = []
    for frame in frames.float():
        blocks = frame[:, : 2 * rows, : 5 * columns].reshape(3, 2, rows, 5, columns).mean(dim=(0, 2, 4))
        numbers.append(sum(1 << bit for bit, light in enumerate(blocks.flatten().tolist()) if light > 130))
    return numbers


@pytest.fixture(scope="session")
def numbered_frames() -> Callable[..., torch.Tensor]:
    """Maker of frames, uint8 T C H W, with their number (below 1024) as ten black or white blocks.

    Called as `numbered_frames(count, height=48, width=80, first=0)`.
    """
    return _numbered_frames


@pytest.fixture(scope="session")
def read_numbers() -> Callable[[torch.Tensor], list[int]]:
    """Reader of the numbers that `numbered_frames` drew, from frames T C H W that were en- and decoded."""
    return _read_numbers


# --- other processes ------------------------------------------------------------------------------------


def _wait_until(condition: Callable[[], object]) -> None:
    pause = threading.Event()  # some tests replace time.sleep
    end = time.monotonic() + _HANG
    while not condition():
        assert time.monotonic() < end, f"not within {_HANG:g} s"
        pause.wait(0.01)


@pytest.fixture(scope="session")
def wait_until() -> Callable[[Callable[[], object]], None]:
    """Wait for a condition that will become true, however busy the machine is: `wait_until(path.exists)`."""
    return _wait_until


def _watched_here(
    function: Callable[[Any], Any], items: Sequence[Any], *, workers: int, timeout: float, title: str
) -> Iterator[tuple[Any, Any]]:
    assert workers > 0
    assert timeout > 0
    assert title
    return ((item, function(item)) for item in items)


@pytest.fixture(scope="module")
def work_here() -> Iterator[None]:
    """Examine, transcode and pack in the process of the test, since others take longer to start than to work.

    tests/workers, `killed_at`, the real oddities and the examples in docstrings use other processes.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("t3d.workers.cluster.watched", _watched_here)
        yield


def _killed_at(
    function: str, call: int, work: Callable[[], object], *, when: Literal["before", "after"] = "before"
) -> None:
    module, _, names = function.partition(":")
    owner, _, name = names.rpartition(".")
    calls = []

    def run() -> None:
        os.setsid()  # a process group that can be killed as a whole
        cluster.watched = watched  # also where the test has `work_here`
        place = pkgutil.resolve_name(f"{module}:{owner}" if owner else module)
        kept = getattr(place, name)

        def killing(*arguments: Any, **options: Any) -> Any:
            calls.append(None)
            if (when, len(calls)) == ("before", call):
                os.killpg(0, signal.SIGKILL)
            result = kept(*arguments, **options)
            if (when, len(calls)) == ("after", call):
                os.killpg(0, signal.SIGKILL)
            return result

        setattr(place, name, killing)
        work()

    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    process.join(_HANG)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL


@pytest.fixture(scope="session")
def killed_at() -> Callable[..., None]:
    """Run a function in a process that is killed, with its children, before or after a call of another one.

    Called as `killed_at("package.module:Class.method", 3, work, when="after")`: the moment does not depend on
    how busy the machine is, as it would if the test looked from outside.
    """
    return _killed_at


def _in_two_processes(work: Callable[[int], object]) -> list[Any]:
    """Run a function in two processes of one gloo group, forked from this one. See `in_two_processes`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": "2"}
    import torch._dynamo  # optimizers need it: imported once here, not in each process

    context = multiprocessing.get_context("fork")

    def run(rank: int, results: Any) -> None:
        os.environ.update(place, RANK=str(rank), LOCAL_RANK=str(rank))
        AcceleratorState._reset_state(reset_partial_state=True)  # of runs in the test's own process
        torch.set_num_threads(1)
        try:
            results.send(work(rank))
        except BaseException as error:
            results.send(error)
        sys.stdout.flush()
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
        os._exit(0)

    pipes = [context.Pipe(duplex=False) for _ in range(2)]
    processes = [context.Process(target=run, args=(rank, pipe[1])) for rank, pipe in enumerate(pipes)]
    for process in processes:
        process.start()
    try:
        answered = [reader.poll(_HANG) for reader, _ in pipes]
        assert all(answered), f"no result of a process within {_HANG:g} s: {answered}"
        return [reader.recv() for reader, _ in pipes]
    finally:
        for process in processes:
            process.join(10)
            process.kill()
            process.join()


@pytest.fixture(scope="session")
def in_two_processes() -> Callable[[Callable[[int], object]], list[Any]]:
    """Run a function in two processes of one gloo group, as torchrun starts them.

    Called as `in_two_processes(work)`, with the rank as the argument of `work`. Returns the result of each
    process, or the error that it raised.
    """
    return _in_two_processes


@pytest.fixture(scope="session")
def run_with_torch() -> Iterator[Callable[..., subprocess.CompletedProcess[str]]]:
    """Run a Python program that imports torch, in a process that has it and nothing of T3D.

    Called as `run_with_torch(program, *words)`, with the words in `sys.argv`. See tests/fork_server.py.
    """
    command = [sys.executable, str(Path(__file__).with_name("fork_server.py"))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        streams = server.stdin, server.stdout

        def run(program: str, *words: str) -> subprocess.CompletedProcess[str]:
            request = {
                "program": program,
                "words": words,
                "environment": dict(os.environ),
                "folder": str(Path.cwd()),
                "path": ["", *sys.path],
            }
            print(json.dumps(request), file=streams[0], flush=True)
            return subprocess.CompletedProcess([program, *words], *json.loads(streams[1].readline()))

        yield run
        server.stdin.close()


# --- a web server ---------------------------------------------------------------------------------------


@dataclass
class _Page:
    """Content of a server under one path, and the faults it simulates.

    Args:
        content: The file.
        media: Content for `?alt=media`, for object stores that serve metadata and content under one path.
        tagged: Whether responses have an ETag.
        ranges: Whether the server supports Range.
        if_range: Whether the server supports If-Range.
        cuts: Number of body bytes after which each of the next responses is truncated.
        refusals: Status codes of the next responses.
        length: False value of Content-Length; -1 to omit the header.
        location: Target of a redirect.
        headers: Additional response headers.
        hold: Position in the content before which the server stops sending until the test calls `release`.
    """

    content: bytes = b""
    media: bytes | None = None
    tagged: bool = True
    ranges: bool = True
    if_range: bool = True
    cuts: list[int] = field(default_factory=list)
    refusals: list[int] = field(default_factory=list)
    length: int | None = None
    location: str | None = None
    headers: dict[str, str] = field(default_factory=dict)
    hold: int | None = None
    _released: threading.Event = field(default_factory=threading.Event)

    def release(self) -> None:
        """Let the server send the rest, and never hold again."""
        self._released.set()

    def send(self, body: bytes, start: int, write: Callable[[bytes], object]) -> None:
        """Write the content from `start` on, in two parts if some of it is held."""
        held = len(body) if self.hold is None or self._released.is_set() else max(self.hold - start, 0)
        write(body[:held])
        if held < len(body):
            self._released.wait()
            write(body[held:])


class _Site:
    """A web server on loopback: `pages` by path; `asked` holds path and headers of every request."""

    def __init__(self, *, certificate: Path | None = None) -> None:
        self.pages: dict[str, _Page] = {}
        self.asked: list[tuple[str, dict[str, str]]] = []
        site = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                site.answer(self)

            do_HEAD = do_GET  # noqa: N815

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.scheme = "http"
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
            self.scheme = "https"
        self.server.handle_error = lambda *_: None  # type: ignore[method-assign] # clients that hang up
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.server.server_port}"

    def put(self, path: str, content: bytes = b"", **manners: Any) -> _Page:
        self.pages[path] = _Page(content, **manners)
        return self.pages[path]

    def put_folder(self, path: str, folder: Path) -> str:
        """Put the files of a folder under a path; gives its URL."""
        for file in folder.iterdir():
            self.put(f"{path}/{file.name}", file.read_bytes())
        return self.url(path)

    def fetched(self, path: str) -> int:
        """Return the number of requests for this path or any path below it."""
        return sum(asked.startswith(path) for asked, _ in self.asked)

    def url(self, path: str) -> str:
        return f"{self.scheme}://{self.host}{path}"

    def ranges(self) -> list[str | None]:
        """Return the requested ranges, in order."""
        return [headers.get("range") for _, headers in self.asked]

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        path, _, query = handler.path.partition("?")
        asked = {name.lower(): value for name, value in handler.headers.items()}
        self.asked.append((path, asked))
        page = self.pages.get(path)
        status = 404 if page is None else page.refusals.pop(0) if page.refusals else 200
        if page is None or status != 200 or page.location is not None:
            handler.send_response(302 if status == 200 else status)
            for name, value in ({"Location": page.location} if page and page.location else {}).items():
                handler.send_header(name, value)
            for name, value in (page.headers if page else {}).items():
                handler.send_header(name, value)
            handler.send_header("Content-Length", "0")
            handler.end_headers()
            return
        content = page.media if page.media is not None and "alt=media" in query else page.content
        tag = f'"{hashlib.md5(content).hexdigest()}"' if page.tagged else None
        start, end, whole = 0, len(content), len(content)
        given = asked.get("if-range")
        if page.ranges and "range" in asked and (not page.if_range or given in (None, tag)):
            first, _, last = asked["range"].removeprefix("bytes=").partition("-")
            start, end = int(first), min(int(last) + 1, whole) if last else whole
            status = 206 if start < whole else 416
        handler.send_response(status)
        if status == 416:
            start = end = 0
        if page.length != -1:
            handler.send_header("Content-Length", str(end - start if page.length is None else page.length))
        if status != 200:
            span = f"{start}-{end - 1}" if status == 206 else "*"
            handler.send_header("Content-Range", f"bytes {span}/{whole}")
        if tag:
            handler.send_header("ETag", tag)
        for name, value in page.headers.items():
            handler.send_header(name, value)
        handler.end_headers()
        if handler.command == "HEAD":
            return
        body = content[start:end]
        if page.cuts:
            body = body[: page.cuts.pop(0)]
        page.send(body, start, handler.wfile.write)


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[_Site]:
    """A web server on loopback."""
    yield from _running(_Site(), monkeypatch)


@pytest.fixture
def tls_site(monkeypatch: pytest.MonkeyPatch) -> Iterator[_Site]:
    """The same server over TLS, with an untrusted certificate."""
    yield from _running(_Site(certificate=CERTIFICATE), monkeypatch)


def _running(site: _Site, monkeypatch: pytest.MonkeyPatch) -> Iterator[_Site]:
    for name in ("no_proxy", "NO_PROXY"):  # whatever stands between this machine and others
        monkeypatch.setenv(name, "127.0.0.1")
    yield site
    for page in site.pages.values():
        page.release()  # its thread ends
    site.server.shutdown()
    site.server.server_close()
