"""A process that holds the model and works on one video at a time, watched by the server.

Whatever a file does to FFmpeg or to the model happens in this process. If it takes too long or too much
memory, the server kills it, reports why, and starts another one.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from t3d.errors import LostReaderError, T3DError, VideoError, WriteError, printable_lines
from t3d.serve.config import ServeConfig
from t3d.serve.score import Report, Scorer, Task, described

_POLL = 0.05  # seconds between two looks at the process
_REPORT_EVERY = 0.1  # seconds between two reports of progress
_GB = 1_000_000_000


@dataclass(frozen=True)
class Setup:
    """Options and folder of a scoring process.

    Args:
        config: The options of the server.
        folder: Folder of the server, which the process deletes if the server dies.
    """

    config: ServeConfig
    folder: str


class TaskError(Exception):
    """Work on a video failed, with the reason for the visitor."""


class TaskStopped(Exception):  # noqa: N818 (not an error: the visitor no longer wants the result)
    """The work was stopped from outside."""


class ScoringProcess:
    """A process that works on one video at a time. Another one replaces it when it dies.

    All methods are for one thread at a time, except `stop`.

    Args:
        setup: What the process needs.

    Attributes:
        model: Facts about the model, see `t3d.serve.score.described`.
        is_broken: True if the model could not be loaded again.
    """

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self._process: multiprocessing.process.BaseProcess | None = None
        self._pipe: Connection | None = None
        self._stopped = False
        self._base = 0  # resident bytes with the model loaded, before the first video
        self.model: dict[str, Any] = {}
        self.is_broken = False

    @property
    def is_ready(self) -> bool:
        """True if the process is alive and has loaded the model."""
        return self._process is not None and self._process.is_alive()

    def start(self, unwanted: Callable[[], bool] = lambda: False) -> None:
        """Start the process and wait until it has loaded the model.

        Args:
            unwanted: Returns whether the process is no longer wanted.

        Raises:
            T3DError: The model cannot be loaded.
            TaskStopped: The process is no longer wanted.
        """
        context = multiprocessing.get_context("spawn")  # not forked: this process has threads
        pipe, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs, self._setup), daemon=True)
        process.start()
        theirs.close()
        self._process, self._pipe = process, pipe
        while True:
            if self._stopped or unwanted():
                self._kill()
                raise TaskStopped
            alive = process.is_alive()
            kind, content = self._message(_POLL)
            if kind == "ready":
                self.model = content
                self._base = _resident(process.pid)
                return
            if kind == "error":
                self._kill()
                raise content
            if not alive:
                self._kill()
                raise LostReaderError(
                    f"The process that loads the model ended with exit status {process.exitcode}",
                    "Free memory, or try another `device` or `runtime`",
                )

    def run(self, task: Task, *, report: Report, unwanted: Callable[[], bool]) -> dict[str, Any]:
        """Work on one video.

        Args:
            task: The work.
            report: Called with the share that is done.
            unwanted: Returns whether the result is no longer wanted.

        Returns:
            The result as plain values.

        Raises:
            TaskError: The video cannot be used, with the reason for the visitor.
            TaskStopped: The result is no longer wanted.
        """
        if not self.is_ready:
            try:
                self.start(unwanted)
                self.is_broken = False
            except T3DError as error:
                self.is_broken = True
                print(f"t3d: {printable_lines(str(error))}", file=sys.stderr, flush=True)
                raise TaskError("The server cannot load its model at the moment. Try again later.") from error
        assert self._pipe is not None
        assert self._process is not None
        with suppress(OSError):  # it died: found out below
            self._pipe.send(task)
        config = self._setup.config
        end = time.monotonic() + config.timeout
        while True:
            alive = self._process.is_alive()
            kind, content = self._message(_POLL)
            if kind == "progress":
                report(content)
            elif kind == "result":
                return dict(content)
            elif kind == "refused":
                raise TaskError(sentence(str(content)))
            elif kind == "" and not alive:
                self._kill()
                raise TaskError(
                    "Reading this file crashed a library, so it is probably damaged. Convert it first, for "
                    "example with `ffmpeg -i IN -c:v libx264 -c:a aac OUT.mp4`."
                )
            if self._stopped or unwanted():
                self._kill()
                raise TaskStopped
            if time.monotonic() > end:
                self._kill()
                raise TaskError(
                    f"This video took longer than {config.timeout:g} s, the limit of this server. Send a "
                    "shorter one."
                )
            if _resident(self._process.pid) - self._base > config.max_memory_gb * _GB:
                self._kill()
                raise TaskError(
                    f"This video needs more than {config.max_memory_gb:g} GB of memory, the limit of this "
                    "server. Send a shorter or smaller one."
                )

    def stop(self) -> None:
        """End the process, also while another thread is in `run`."""
        self._stopped = True
        process = self._process
        if process is not None and process.is_alive():
            process.kill()

    def close(self) -> None:
        """End the process and wait until it has ended. No thread may be in `run`."""
        self.stop()
        self._kill()

    def _kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.join()
        if self._pipe is not None:
            self._pipe.close()
        self._process = self._pipe = None

    def _message(self, seconds: float) -> tuple[str, Any]:
        """Return the next message of the process; `("", None)` if there is none within some seconds."""
        assert self._pipe is not None
        try:
            return self._pipe.recv() if self._pipe.poll(seconds) else ("", None)
        except (EOFError, OSError):  # the process died
            return "", None


def _resident(pid: int | None) -> int:
    """Return the bytes that a process has in memory; 0 if it ended."""
    import psutil  # not above: on Linux, it imports a module that only POSIX has

    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:
        return 0


def _serve(pipe: Connection, setup: Setup) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):  # may reach all processes: the server stops this one
        signal.signal(number, signal.SIG_IGN)
    watcher = threading.Thread(target=_end_with_server, args=(setup.folder,), daemon=True)
    watcher.start()
    _limit(setup.config)
    scorer: Scorer | None = None
    try:
        scorer = Scorer(setup.config)
        first: tuple[str, Any] = "ready", described(scorer)
    except T3DError as error:
        first = "error", error
    with suppress(EOFError, OSError):  # the server has ended
        pipe.send(first)
        while scorer is not None:
            task = pipe.recv()
            pipe.send(_answer(scorer, task, pipe))
    watcher.join()  # it deletes the files: the process must not end before


def _answer(scorer: Scorer, task: Task, pipe: Connection) -> tuple[str, Any]:
    last = 0.0

    def report(share: float) -> None:
        nonlocal last
        if time.monotonic() - last > _REPORT_EVERY:
            last = time.monotonic()
            pipe.send(("progress", share))

    try:
        return "result", scorer.work(task, report)
    except VideoError as error:
        return "refused", without_paths(error.reason or str(error), task)
    except WriteError as error:
        print(f"t3d: {printable_lines(str(error))}", file=sys.stderr, flush=True)
        return "refused", "The server has no space to write the result. Try again later."
    except MemoryError:
        return "refused", "needs more memory than this server allows; send a shorter or smaller video"
    except BrokenPipeError:  # the server has ended
        raise
    except Exception:  # a bug: the details are for the operator, not for the visitor
        print(traceback.format_exc(), file=sys.stderr, flush=True)
        return "refused", "The server has an error. Its operator can see the details."


def sentence(reason: str) -> str:
    """Return the reason of a `VideoError` as a sentence for the visitor.

    Example:
        >>> sentence("is empty (0 bytes)"), sentence("timeout: not read within 3 s")
        ('This file is empty (0 bytes).', 'Timeout: not read within 3 s.')
    """
    verb = reason.partition(" ")[0] in ("is", "has", "needs", "cannot")
    text = f"This file {reason}" if verb else reason[:1].upper() + reason[1:]
    return text if text.endswith((".", "!", "?")) else f"{text}."


def without_paths(text: str, task: Task) -> str:
    """Return a message for a visitor: the files of the server are not in it.

    Example:
        >>> without_paths("/tmp/x/a.mp4 is empty", Task("predict", "/tmp/x/a.mp4"))
        'the video is empty'
    """
    for path in (task.video, task.out):
        if path:
            text = text.replace(path, "the video").replace(str(Path(path).parent), "…")
    return text


def _end_with_server(folder: str) -> None:
    """Wait for the death of the server, then delete its files and end."""
    server = multiprocessing.parent_process()
    if server is not None:
        server.join()
        shutil.rmtree(folder, ignore_errors=True)
        os._exit(1)


def _limit(config: ServeConfig) -> None:
    """Bound what this process can do: no core files, no huge files, and less processor time than the page."""
    try:
        import resource
    except ImportError:  # Windows
        return
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    largest = int(config.max_disk_gb * _GB)
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a write fails instead
    with suppress(OSError):
        os.nice(5)  # the page stays quick while videos are classified
