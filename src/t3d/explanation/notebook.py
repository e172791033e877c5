"""HTML of an explanation for notebooks. It needs no other file."""

from __future__ import annotations

from html import escape

from t3d.errors import printable
from t3d.evaluation.notebook import text_html, titled
from t3d.explanation.pictures import contact_sheet, picture_uri
from t3d.explanation.result import Explanation

_WIDEST = 860  # pixels
_BLUE, _RED = "#4c78a8", "#d1605e"


def explanation_html(explanation: Explanation) -> str:
    """Return frames with heat, and bars of the temporal depths."""
    sheet = picture_uri(contact_sheet(explanation), side=_WIDEST)
    body = text_html(f"{explanation.label} {explanation.probability:.1%}")
    body += f'<img src="{sheet}" alt="frames with heat" style="max-width:100%">'
    longest = max((abs(each.contribution) for each in explanation.depths), default=0.0) or 1.0
    rows = []
    for each in explanation.depths:
        color = _BLUE if each.contribution >= 0 else _RED
        width = 100 * abs(each.contribution) / longest
        bar = f'<div style="background:{color};height:10px;width:{width:.1f}px"></div>'
        name = escape(printable(f"{each.stage}, depth {each.depth}"))
        text = f"{each.contribution:+.2f} ({each.share:.0%})"
        rows.append(f'<tr><td style="text-align:left">{name}</td><td>{bar}</td><td>{text}</td></tr>')
    if rows:
        body += f'<table style="border:0">{"".join(rows)}</table>'
    return titled(explanation.prediction.name, body + "".join(map(text_html, explanation.remarks)))
