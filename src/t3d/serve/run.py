"""The server from top to bottom: folder, scoring processes, address, then requests until it is stopped."""

from __future__ import annotations

import asyncio
import errno
import os
import secrets
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from t3d.data.listing import in_name_order, is_video
from t3d.errors import ConfigError, printable
from t3d.runtime.load import read_model_card
from t3d.serve.child import ScoringProcess, TaskStopped
from t3d.serve.config import ServeConfig
from t3d.serve.folder import ServeFolder, delete_orphans
from t3d.serve.inside import Setup

if TYPE_CHECKING:
    from t3d.serve.app import Site

TOKEN = "T3D_SERVE_TOKEN"
"""Environment variable with the token."""
_SHORTEST_TOKEN = 16
_MOST_EXAMPLES = 24
_MORE_CONNECTIONS = 200  # in addition to those of waiting videos
_BACKLOG = 128
_GRACE = 1  # seconds for answers in progress when the server ends
_TICK = 0.1  # seconds between two looks whether it should end


def serve(
    config: ServeConfig, *, opened: Callable[[str, str | None], None], stopped: Callable[[], bool]
) -> None:
    """Serve the page and the API until it is stopped. All uploads are deleted at the end.

    Args:
        config: The options.
        opened: Called when requests are answered, with the address and with the token if it is a random one.
        stopped: Returns whether the server should end.

    Raises:
        ConfigError: A package is missing, the address cannot be used, or the token is unusable.
        CheckpointError: The model cannot be used.
    """
    _need_packages()
    token = _token(config)
    new = None if token is not None or config.is_local else secrets.token_urlsafe(24)
    examples = _examples(config.examples)
    read_model_card(config.model, allow_unfinished=config.allow_unfinished)  # refuse before a process starts
    os.environ.pop(TOKEN, None)  # the scoring processes decode files from strangers: they do not get it
    with (
        suppress(TaskStopped),  # while the model is loaded
        _hangups(stopped) as ended,
        _listening(config) as listener,
        _folder() as folder,
        _scorers(config, folder, ended) as scorers,
    ):
        site = _site(config, folder, scorers, token or new, examples)
        asyncio.run(_answer(site, listener, lambda address: opened(address, new), ended))


@contextmanager
def _hangups(stopped: Callable[[], bool]) -> Iterator[Callable[[], bool]]:
    """Yield a function that returns whether the server should end, also if the terminal was closed."""
    names = ("SIGHUP", "SIGQUIT") if threading.current_thread() is threading.main_thread() else ()
    numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
    taken: list[int] = []
    before = {number: signal.getsignal(number) for number in numbers}
    for number, former in before.items():
        if former != signal.SIG_IGN:  # `nohup` ignores it: the server stays
            signal.signal(number, lambda number, _: taken.append(number))
    try:
        yield lambda: bool(taken) or stopped()
    finally:
        for number, former in before.items():
            signal.signal(number, former)


def _need_packages() -> None:
    try:
        import fastapi  # noqa: F401
        import python_multipart  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            f'the package {error.name} is missing; install it with `pip install "t3d[serve]"`'
        ) from error


@contextmanager
def _folder() -> Iterator[Path]:
    delete_orphans()
    folder = ServeFolder()
    try:
        yield folder.path
    finally:
        folder.delete()


@contextmanager
def _scorers(
    config: ServeConfig, folder: Path, stopped: Callable[[], bool]
) -> Iterator[list[ScoringProcess]]:
    """Start the scoring processes, one after another, and end them."""
    scorers = [ScoringProcess(Setup(config, str(folder))) for _ in range(config.scorers)]
    try:
        for scorer in scorers:
            scorer.start(stopped)
        yield scorers
    finally:
        for scorer in scorers:
            scorer.close()  # before the folder is deleted


@contextmanager
def _listening(config: ServeConfig) -> Iterator[socket.socket]:
    """Listen on the address. A port that is in use is reported before the model is loaded.

    Raises:
        ConfigError: The address cannot be used.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            config.host, config.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise ConfigError(
            f"host is {config.host!r}, which is not an address of this machine: {error}"
        ) from error
    with listener:
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(_BACKLOG)
        except OSError as error:
            raise ConfigError(_why_not_bound(config, error)) from error
        yield listener


def _why_not_bound(config: ServeConfig, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return (
            f"port {config.port} of {config.host} is in use by another program; end it, or choose another "
            "`port` (0 chooses a free one)"
        )
    if isinstance(error, PermissionError):
        return f"port {config.port} needs more rights; choose a `port` above 1023"
    return f"host is {config.host!r}, which is not an address of this machine: {error.strerror}"


def _token(config: ServeConfig) -> str | None:
    """Return the token that the operator gave; None without one.

    Raises:
        ConfigError: The file cannot be read, or the token is too short.
    """
    given, source = os.environ.get(TOKEN), f"the environment variable {TOKEN}"
    if config.token_file is not None:
        source = config.token_file
        try:
            given = Path(config.token_file).read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise ConfigError(f"token_file: {config.token_file} cannot be read: {error}") from error
    if given is None:
        return None
    token = given.strip()
    if len(token) < _SHORTEST_TOKEN or not token.isascii() or any(map(str.isspace, token)):
        raise ConfigError(
            f"the token in {source} has {len(token)} characters; it needs at least {_SHORTEST_TOKEN} ASCII "
            "characters without spaces, such as those that `openssl rand -hex 16` prints"
        )
    return token


def _examples(folder: str | None) -> dict[str, Path]:
    """Return the example videos by name.

    Raises:
        ConfigError: The folder is missing or has no video.
    """
    if folder is None:
        return {}
    try:
        names = [entry.name for entry in Path(folder).iterdir() if entry.is_file() and is_video(entry.name)]
    except OSError as error:
        raise ConfigError(f"examples: {folder}: {error.strerror}; give a folder with videos") from error
    for name in [name for name in names if not _is_text(name)]:
        names.remove(name)
        print(f"t3d: examples: {printable(name)} is left out: its name is not UTF-8", file=sys.stderr)
    if not names:
        raise ConfigError(f"examples: {folder} has no video; give a folder that has some, not in subfolders")
    return {name: Path(folder).resolve() / name for name in in_name_order(names)[:_MOST_EXAMPLES]}


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _site(
    config: ServeConfig,
    folder: Path,
    scorers: list[ScoringProcess],
    token: str | None,
    examples: dict[str, Path],
) -> Site:
    from t3d.serve.app import Site
    from t3d.serve.jobs import Jobs
    from t3d.serve.security import Rules, allowed_hosts

    hosts = allowed_hosts(config.host, config.allowed_hosts, local=config.is_local)
    return Site(config, Jobs(config, folder, scorers), Rules(hosts, token), scorers[0].model, examples)


async def _answer(
    site: Site, listener: socket.socket, opened: Callable[[str], None], stopped: Callable[[], bool]
) -> None:
    """Answer requests until the server is stopped."""
    import uvicorn

    from t3d.serve.app import make_app
    from t3d.serve.connections import bounded

    class Server(uvicorn.Server):
        @contextmanager
        def capture_signals(self) -> Iterator[None]:  # `stopped` knows about signals
            yield

    server = Server(
        uvicorn.Config(
            make_app(site),
            log_level="error",
            access_log=False,  # addresses may contain the token
            server_header=False,
            ws="none",
            http=bounded(site.config.queue + _MORE_CONNECTIONS),
            timeout_graceful_shutdown=_GRACE,
            backlog=_BACKLOG,
        )
    )

    async def watch() -> None:
        announced = False
        while not stopped() and not server.should_exit:
            if server.started and not announced:
                announced = True
                opened(_address(site.config, listener))
            await asyncio.sleep(_TICK)
        await site.jobs.close()  # before uvicorn waits for answers that wait for a result
        server.should_exit = True

    watching = asyncio.create_task(watch())
    await server.serve(sockets=[listener])
    await watching


def _address(config: ServeConfig, listener: socket.socket) -> str:
    host, port = config.host, listener.getsockname()[1]
    if host in ("0.0.0.0", "::", ""):
        host = socket.gethostname()
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"
