"""What a notebook shows of a result: HTML that needs no other file."""

from __future__ import annotations

import base64
import io
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from t3d.errors import VideoError, printable
from t3d.io.files import is_url
from t3d.video.video import Images, Video

if TYPE_CHECKING:
    from t3d.evaluation.result import Prediction
    from t3d.evaluation.timeline import Timeline

_BARS = 5  # classes with a bar
_SIDE = 160  # longest side of the picture, in pixels
_BLUE = "#4c78a8"


def prediction_html(prediction: Prediction) -> str:
    """Return a prediction as HTML: a frame from the middle of the video, and bars of classes."""
    if prediction.error is not None:
        body = f"<div>{_text(prediction.error)}</div>"
    else:
        rows = "".join(_bar(name, prob) for name, prob in prediction.top(_BARS))
        body = f'<table style="border:0">{rows}</table>'
        if prediction.targets == "multi":
            body += "<div>independent probabilities: several classes may apply</div>"
        if (uri := frame_uri(prediction)) is not None:
            picture = f'<img src="{uri}" alt="a frame of the video">'
            body = f'<div style="display:flex;gap:12px;align-items:center">{picture}<div>{body}</div></div>'
    return f"<div><div><b>{_text(prediction.name)}</b></div>{body}</div>"


def timeline_html(timeline: Timeline) -> str:
    """Return a timeline as HTML: the segments, and the probabilities over time."""
    from t3d.evaluation.pictures import inline_svg, timeline_figure

    svg = inline_svg(lambda: timeline_figure(timeline))
    return f'<div><div><b>{_text(timeline.path)}</b></div><div style="max-width:860px">{svg}</div></div>'


def frame_uri(prediction: Prediction) -> str | None:
    """Return a small picture of the middle of what was classified, as a data URI.

    Returns:
        None if the file is not on this machine, or cannot be read.
    """
    if is_url(prediction.path) or not Path(prediction.path).exists():
        return None
    try:
        with Video(prediction.path) as video:
            start = prediction.start or 0.0
            end = min(video.duration if prediction.end is None else prediction.end, video.duration)
            number = video.index_at(min((start + end) / 2, video.duration))
            (image,) = video.images_at([number], missing="nearest", transform=_small)
    except (VideoError, IndexError):
        return None
    return "data:image/jpeg;base64," + base64.b64encode(_jpeg(image)).decode()


def _small(images: Images) -> Images:
    """Return frames N H W C with every few pixels only, at least `_SIDE` on the longest side if they had."""
    step = max(max(images.shape[1:3]) // (2 * _SIDE), 1)
    return images[:, ::step, ::step]


def _jpeg(image: Images) -> bytes:
    from PIL import Image

    picture = Image.fromarray(image)
    picture.thumbnail((_SIDE, _SIDE))
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=85)
    return file.getvalue()


def _bar(name: str, prob: float) -> str:
    bar = f"background:{_BLUE};height:10px;width:{100 * prob:.1f}px"
    return (
        f'<tr><td style="text-align:left">{_text(name)}</td>'
        f'<td><div style="width:100px"><div style="{bar}"></div></div></td>'
        f'<td style="text-align:right">{prob:.1%}</td></tr>'
    )


def _text(text: str) -> str:
    return escape(printable(text))
