"""`t3d serve`."""

from __future__ import annotations

import sys

from t3d.cli.options import Spelling
from t3d.serve.config import ServeConfig


@Spelling(
    metavars={"examples": "FOLDER", "token_file": "FILE", "allowed_hosts": "NAME", "host": "ADDRESS"},
    first=("examples", "host", "port", "token_file", "max_mb", "max_seconds", "queue", "runtime", "device"),
)
def serve(config: ServeConfig) -> int:
    """Open a web page and an API that classify videos.

    Visitors drop a video and see its classes over time. Uploads are deleted after some minutes, and when the
    command ends (Ctrl+C). Only this machine reaches the server, unless `--host` is set. Needs: pip install
    "t3d[serve]".

        t3d serve runs/first
        t3d serve runs/first --examples videos/examples --port 8080
    """
    from t3d.serve.run import serve as run
    from t3d.training.interrupt import CaughtSignals

    def opened(address: str, token: str | None) -> None:
        print(address if token is None else f"{address}?token={token}", flush=True)
        print("t3d: press Ctrl+C to end the server and delete all uploads", file=sys.stderr, flush=True)

    with CaughtSignals() as caught:
        run(config, opened=opened, stopped=lambda: bool(caught.numbers))
    return 0
