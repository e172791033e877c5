"""Server that runs Python programs in processes forked from one that has imported torch, but not T3D.

Importing torch takes longer than most programs of the tests. Each line of stdin is a program with its
arguments, environment and folder as JSON; each line of stdout is its exit status and output. See
`run_with_torch` in conftest.py.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile

import torch  # noqa: F401 (what all programs begin with)


def main() -> None:
    """Serve until stdin is closed. In a child, return, so that the program ends as in a new process."""
    for line in sys.stdin:
        request = json.loads(line)
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            child = os.fork()
            if not child:
                os.dup2(out.fileno(), 1)
                os.dup2(err.fileno(), 2)
                os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
                return begin(request)
            status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            texts = []
            for file in (out, err):
                file.seek(0)
                texts.append(file.read().decode())
        print(json.dumps([status, *texts]), flush=True)
    os._exit(0)


def begin(request: dict[str, object]) -> None:
    """Give this process what a new one would have, and keep the program."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["folder"])
    sys.argv = ["-c", *request["words"]]
    sys.path[:] = request["path"]
    globals()["program"] = request["program"]


if __name__ == "__main__":
    main()
    exec(compile(globals().pop("program"), "-c", "exec"), {"__name__": "__main__"})
