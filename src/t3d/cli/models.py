"""The words behind `t3d models` and `t3d convert`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from jsonargparse import ArgumentParser, Namespace
from jsonargparse.typing import PositiveInt

from t3d.clip import ClipSpec
from t3d.errors import ConfigError, did_you_mean


def fill_models(sub: ArgumentParser) -> None:
    """The options of `t3d models`."""
    sub.add_argument("pattern", nargs="?", default="*", help="such as 't3d*'")
    sub.add_argument("--frames", type=PositiveInt, default=32, help="frames of the clip that is counted")
    sub.add_argument("--size", type=PositiveInt, default=224, help="side of the clip that is counted")
    sub.add_argument("--classes", type=PositiveInt, default=400, help="classes of the net that is counted")
    sub.add_argument("--json", action="store_true", help="print JSON")


def run_models(chosen: Namespace) -> int:
    """List the nets."""
    from rich.console import Console
    from rich.table import Table

    from t3d.models.flops import model_size
    from t3d.models.registry import list_models

    names = list_models(chosen.pattern)
    if not names:
        raise ConfigError(
            f"no net is called {chosen.pattern!r}: {did_you_mean(chosen.pattern, list_models())}"
        )
    clip = {"num_frames": chosen.frames, "size": chosen.size, "num_classes": chosen.classes}
    sizes = {name: model_size(name, **clip) for name in names}
    if chosen.json:
        print(json.dumps({name: {"parameters": s.parameters, "macs": s.macs} for name, s in sizes.items()}))
        return 0
    title = f"{chosen.frames} frames of {chosen.size} × {chosen.size}, {chosen.classes} classes"
    table = Table("net", "parameters (M)", "GMAC a clip", title=title)
    for name, size in sizes.items():
        table.add_row(name, f"{size.parameters / 1e6:.2f}", f"{size.macs / 1e9:.1f}")
    Console().print(table)
    return 0


def fill_convert(sub: ArgumentParser) -> None:
    """The options of `t3d convert`."""
    sub.add_argument("source", help="a .pth file that torch.save wrote")
    sub.add_argument("target", help="the .safetensors file to write")
    sub.add_argument("--model", required=True, help="the net the weights belong to, see: t3d models")
    sub.add_argument("--options", type=dict[str, Any], default={}, help="options of the net, as YAML")
    sub.add_argument("--classes", help="text file with one class name a line, in order")
    sub.add_argument(
        "--inflate",
        type=Literal["mean", "centre"],  # `t3d.models.inflate.Inflation`, which would import torch for --help
        help="the file is a 2D net's: each kernel is spread evenly over time (mean) or put into the middle "
        "step (centre); what is written has no classes and is a start for t3d train --init",
    )
    sub.add_argument(
        "--targets",
        type=Literal["single", "multi"],
        default="single",
        help="multi: the net was trained for several labels a video, by sigmoids",
    )
    sub.add_argument("--clip", type=ClipSpec, default=ClipSpec(), help="what a clip is")


def run_convert(chosen: Namespace) -> int:
    """Turn a foreign file into one of ours."""
    from t3d.models.convert import convert_checkpoint, inflate_checkpoint

    net = {"architecture": chosen.model, "clip": chosen.clip, "options": chosen.options}
    if chosen.inflate:
        if chosen.classes:
            raise ConfigError("--inflate leaves the 2D net's classifier behind: leave --classes out")
        print(inflate_checkpoint(chosen.source, chosen.target, **net, how=chosen.inflate))
        return 0
    if not chosen.classes:
        raise ConfigError(
            "classes is missing: give --classes FILE, one class name a line in the order of the scores (or "
            "--inflate for the weights of a 2D net, which bring no classes)"
        )
    try:
        classes = Path(chosen.classes).read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise ConfigError(f"{chosen.classes}: the class names cannot be read: {error}") from error
    convert_checkpoint(
        chosen.source,
        chosen.target,
        **net,
        classes=tuple(classes),
        targets=chosen.targets,
    )
    return 0
