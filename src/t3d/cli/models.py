"""`t3d models` and `t3d convert`."""

from __future__ import annotations

from dataclasses import replace
from json import dumps
from pathlib import Path
from typing import Any, Literal

from t3d.cli.options import Spelling
from t3d.clip import ClipSpec, Targets
from t3d.errors import ConfigError, did_you_mean


def models(
    pattern: str = "*", *, num_frames: int = 32, size: int = 224, num_classes: int = 400, json: bool = False
) -> int:
    """List the models, with parameters and multiply-accumulates.

    Args:
        pattern: Shell pattern of names, such as `'t3d*'`.
        num_frames: Frames per clip.
        size: Height and width of the clip in pixels.
        num_classes: Number of classes.
        json: Print JSON.
    """
    from t3d.models.flops import model_size
    from t3d.models.registry import list_models

    names = list_models(pattern)
    if not names:
        raise ConfigError(f"no model matches {pattern!r}: {did_you_mean(pattern, list_models())}")
    sizes = {
        name: model_size(name, num_frames=num_frames, size=size, num_classes=num_classes) for name in names
    }
    if json:
        print(dumps({name: {"parameters": s.parameters, "macs": s.macs} for name, s in sizes.items()}))
        return 0
    from rich.console import Console
    from rich.table import Table

    title = f"{num_frames} frames of {size} × {size}, {num_classes} classes"
    table = Table("model", "parameters (M)", "GMAC per clip", title=title)
    for name, each in sizes.items():
        table.add_row(name, f"{each.parameters / 1e6:.2f}", f"{each.macs / 1e9:.1f}")
    Console().print(table)
    return 0


@Spelling(metavars={"classes": "FILE"})
def convert(
    source: str,
    target: str,
    *,
    model: str,
    classes: str | None = None,
    inflate: Literal["mean", "center"] | None = None,
    targets: Targets = "single",
    options: dict[str, Any] = {},  # noqa: B006 (read only)
    clip: ClipSpec = ClipSpec(),  # noqa: B008 (frozen)
) -> int:
    """Convert weights of another project into a weights file.

    Args:
        source: A `.pth` file that `torch.save` wrote, or a `.safetensors` file.
        target: The `.safetensors` file to write.
        model: Name of the model that the weights belong to. `t3d models` lists the names.
        classes: Text file with one class name per line, in the order of the scores.
        inflate: Convert the weights of a 2D model to the 3D model: spread each kernel evenly over time
            (`mean`), or put it at the middle time step (`center`). The new file has no classes. Start
            training from it with `t3d train --init`.
        targets: Labels per video: one class (`single`), or several (`multi`, trained with sigmoids).
        options: Options of the model, such as `{drop_rate: 0.2}`.
    """
    from t3d.card import ModelCard
    from t3d.models.convert import convert_checkpoint, inflate_checkpoint

    card = ModelCard(model, options=options, clip=clip, targets=targets)
    if inflate:
        if classes:
            raise ConfigError("`inflate` drops the classifier of the 2D model; remove `classes`")
        print(inflate_checkpoint(source, target, card=card, method=inflate))
        return 0
    if not classes:
        raise ConfigError(
            "classes is missing: pass a text file with one class name per line, in the order of the scores "
            "(or set `inflate` for the weights of a 2D model, which need no classes)"
        )
    try:
        names = Path(classes).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{classes}: the class names cannot be read: {error}") from error
    convert_checkpoint(source, target, card=replace(card, classes=tuple(names)))
    return 0
