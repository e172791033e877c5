"""`t3d push`."""

from __future__ import annotations

import shlex
import sys
from json import dumps
from signal import Signals

from t3d.cli.options import Spelling
from t3d.errors import StoppedError, printable
from t3d.share.config import ShareConfig
from t3d.training.interrupt import RaisedSignals


@Spelling(metavars={"model": "RUN", "to": "TARGET"})
def push(config: ShareConfig, *, json: bool = False) -> int:
    """Share a model: upload it to the Hugging Face Hub, or write a folder.

    Uploads the weights, exported files, the result of a test and a model card that is written from the run.
    Paths of this machine are removed. Everybody can then run: t3d predict hf-hub:ORGANIZATION/NAME VIDEO.
    Uploading needs a token: HF_TOKEN or hf auth login. A folder as TARGET gets the same files.

        t3d push fit hf-hub:me/penguins --license mit --about "Penguins."

    Args:
        json: Print the result as JSON.
    """
    from t3d.share.push import push_model

    def stopped(number: int) -> StoppedError:
        return StoppedError(
            f"{Signals(number).name} stopped the command; {config.to} has all of the new files or "
            "none of them. Run the same command again",
            number,
        )

    with RaisedSignals(stopped):
        result = push_model(config)
    for sentence in result.left_out:
        print(f"t3d: {printable(sentence)}", file=sys.stderr)
    if not result.tested:
        print("t3d: the model card has no accuracy; include one with --test FOLDER", file=sys.stderr)
    if json:
        print(dumps(result.to_json(), ensure_ascii=False))
        return 0
    for name, size in result.files.items():
        print(f"{size / 1e6:10.2f} MB  {name}")
    print(f"{'uploaded' if result.url else 'written'}: {printable(result.url or result.name)}")
    print(f"Use it: t3d predict {printable(shlex.quote(result.name))} VIDEO")
    return 0
