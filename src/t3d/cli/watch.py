"""`t3d watch`."""

from __future__ import annotations

import sys
from json import dumps

from t3d.cli.options import Spelling
from t3d.errors import ConfigError, T3DError, printable, without_credentials
from t3d.live.config import WatchConfig


@Spelling(
    first=("every", "top", "json", "max_seconds", "timeout", "retries", "runtime", "device"),
)
def watch(config: WatchConfig, *, json: bool = False) -> int:
    """Classify a camera or a live stream.

    Prints one line per clip: the time, the most probable classes, the latency and the number of dropped
    frames. A source that fails is opened again. Ctrl+C ends the command with a summary. The exit status is 1
    if no clip was classified.

        t3d watch runs/first 0
        t3d watch runs/first rtsp://camera.example/stream --json

    Args:
        json: Print one JSON object per clip.
    """
    from t3d.live.run import LiveResult, Watch
    from t3d.training.interrupt import CaughtSignals

    if "://" in config.model:
        raise ConfigError(f"model is {config.model}, a URL; give the model first, then the source")

    def note(text: str) -> None:
        print(f"t3d: {printable(without_credentials(text))}", file=sys.stderr, flush=True)

    def text_of(result: LiveResult) -> str:
        likely = list(zip(result.classes, result.probs, strict=True))[: config.top]
        cells = [
            result.clock().strftime("%H:%M:%S.%f")[:-3],
            *(f"{label} {prob:.1%}" for label, prob in likely),
            f"latency {result.latency:.2f} s",
            f"dropped {result.dropped}",
        ]
        return "\t".join(map(printable, cells))

    watching = Watch(config, note=note)
    with CaughtSignals() as caught:
        try:
            for result in watching.results(lambda: bool(caught.numbers)):
                print(
                    dumps(result.to_json(config.top), ensure_ascii=False) if json else text_of(result),
                    flush=True,
                )
        except T3DError:
            if watching.summary.frames:
                note(str(watching.summary))
            raise
    note(str(watching.summary))
    return 0 if watching.summary.clips else 1
