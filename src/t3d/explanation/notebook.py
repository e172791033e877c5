"""HTML of an explanation for notebooks. It needs no other file."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from t3d.errors import printable
from t3d.evaluation.notebook import text_html, titled
from t3d.explanation.depths import DepthShare
from t3d.explanation.pictures import PicturedClip, contact_sheet, picture_uri

_WIDEST = 860  # pixels
_BLUE, _RED = "#4c78a8", "#d1605e"


def explanation_html(
    name: str,
    answer: str,
    *,
    clips: Sequence[PicturedClip],
    depths: Sequence[DepthShare],
    remarks: Sequence[str],
) -> str:
    """Return frames with heat, and bars of the temporal depths.

    Args:
        name: Name of the video.
        answer: Class and probability.
        clips: Clips with heat.
        depths: Contributions of the depths.
        remarks: Sentences below.
    """
    sheet = picture_uri(contact_sheet(clips), side=_WIDEST)
    body = text_html(answer)
    body += f'<img src="{sheet}" alt="frames with heat" style="max-width:100%">'
    longest = max((abs(each.contribution) for each in depths), default=0.0) or 1.0
    rows = []
    for each in depths:
        color = _BLUE if each.contribution >= 0 else _RED
        width = 100 * abs(each.contribution) / longest
        bar = f'<div style="background:{color};height:10px;width:{width:.1f}px"></div>'
        place = escape(printable(f"{each.stage}, depth {each.depth}"))
        text = f"{each.contribution:+.2f} ({each.share:.0%})"
        rows.append(f'<tr><td style="text-align:left">{place}</td><td>{bar}</td><td>{text}</td></tr>')
    if rows:
        body += f'<table style="border:0">{"".join(rows)}</table>'
    return titled(name, body + "".join(map(text_html, remarks)))
