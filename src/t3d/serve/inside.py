"""Code of a scoring process, which loads the model and works on one video at a time.

The server (`t3d.serve.child`) sends tasks and watches it. Messages are JSON, not pickles: if a file takes
over this process, it still cannot run anything in the server.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from t3d.errors import ConfigError, T3DError, VideoError, WriteError, printable_lines
from t3d.serve.config import GB, ServeConfig
from t3d.serve.folder import delete_tree
from t3d.serve.score import Scorer, Task, described

LONGEST = 64_000_000
"""Largest message in bytes."""
_REPORT_EVERY = 0.1  # seconds between two reports of progress
_SLACK = GB  # bytes of memory that programs reserve beyond what they use


@dataclass(frozen=True)
class Setup:
    """Options and folder of a scoring process.

    Args:
        config: The options of the server.
        folder: Folder of the server, which the process deletes if the server dies.
    """

    config: ServeConfig
    folder: str


def serve_tasks(pipe: Connection, setup: Setup) -> None:
    """Load the model, say so or why not, then work until the server ends.

    Args:
        pipe: Connection with the server.
        setup: Options and folder.
    """
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT"):  # may reach all: the server stops this one
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    watcher = threading.Thread(target=_end_with_server, args=(setup.folder,), daemon=True)
    watcher.start()
    _be_modest()
    scorer: Scorer | None = None
    try:
        scorer = Scorer(setup.config)
        scorer.warm_up()
        first: tuple[str, Any] = "ready", described(scorer)
    except T3DError as error:
        first = "error", {"type": type(error).__name__, "text": str(error)}
    if scorer is not None:
        _limit(setup.config, on_cpu=scorer.on_cpu)
    with suppress(EOFError, OSError):  # the server has ended
        _reply(pipe, *first)
        while scorer is not None:
            task = json.loads(pipe.recv_bytes(LONGEST))
            if task is not None:  # else it was finished before the server stopped it
                _reply(pipe, *_answer(scorer, Task(**task), pipe))
    watcher.join()  # it deletes the files: the process must not end before


class _Unwanted(Exception):  # noqa: N818 (not an error)
    """The server no longer wants the result."""


def _reply(pipe: Connection, kind: str, content: Any) -> None:
    pipe.send_bytes(json.dumps([kind, content]).encode())


def _answer(scorer: Scorer, task: Task, pipe: Connection) -> tuple[str, Any]:
    last = 0.0

    def report(share: float) -> None:
        nonlocal last
        if pipe.poll():
            pipe.recv_bytes(LONGEST)
            raise _Unwanted
        if time.monotonic() - last > _REPORT_EVERY:
            last = time.monotonic()
            _reply(pipe, "progress", share)

    try:
        return "result", scorer.work(task, report)
    except _Unwanted:
        return "stopped", None
    except VideoError as error:
        return "refused", for_visitors(without_paths(error.reason or str(error), task))
    except ConfigError as error:  # of the writer: MP4 cannot hold it
        print(f"t3d: {printable_lines(str(error))}", file=sys.stderr, flush=True)
        return "refused", "This video cannot be drawn as MP4. Convert it to H.264 in MP4 first."
    except WriteError as error:
        print(f"t3d: {printable_lines(str(error))}", file=sys.stderr, flush=True)
        return "refused", "The server has no space to write the result. Try again later."
    except BrokenPipeError:  # the server has ended
        raise
    except Exception as error:
        if _is_out_of_memory(error):
            return "refused", "needs more memory than this server allows; send a shorter or smaller video"
        # a bug: the details are for the operator, not for the visitor
        print(traceback.format_exc(), file=sys.stderr, flush=True)
        return "refused", "The server has an error. Its operator can see the details."


def _is_out_of_memory(error: Exception) -> bool:
    """Return whether memory was missing, on the GPU or the CPU. PyTorch has no error for the latter."""
    import torch

    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def for_visitors(reason: str) -> str:
    """Return a reason without advice that only the operator of the server can follow.

    Example:
        >>> for_visitors("frames are too large; raise `max_megapixels`, or make the video smaller")
        'frames are too large; make the video smaller'
        >>> for_visitors("timeout: not read within 3 s; raise `timeout`, or run `t3d prepare transcode`")
        'timeout: not read within 3 s'
    """
    facts, _, advice = reason.partition("; raise `")
    rest = advice.partition(", or ")[2]
    return f"{facts}; {rest}" if rest.startswith("make the video") else facts


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
        delete_tree(Path(folder))
        os._exit(1)


def _be_modest() -> None:
    """Lower the priority of this process: if memory is short, the kernel ends it first."""
    with suppress(OSError), Path("/proc/self/oom_score_adj").open("w") as file:
        file.write("1000")
    with suppress(OSError, AttributeError):  # Windows has none
        os.nice(5)


def _limit(config: ServeConfig, *, on_cpu: bool) -> None:
    """Bound what this process can do after the model is loaded: no core files, no huge files, and memory.

    Args:
        config: The options of the server.
        on_cpu: Whether the CPU computes the model. Drivers of GPUs reserve far more memory than they use.
    """
    try:
        import resource
    except ImportError:  # Windows
        return
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (config.max_output, config.max_output))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a write fails instead
    with suppress(OSError, ValueError):
        pages = int(Path("/proc/self/statm").read_text().split()[5])  # of data
        most = pages * resource.getpagesize() + int(config.max_memory_gb * GB) + _SLACK
        if on_cpu:
            resource.setrlimit(resource.RLIMIT_DATA, (most, most))
