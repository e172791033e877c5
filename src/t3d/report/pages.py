"""Parts that all pages share: rendering, and the figures at the top."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import jinja2

from t3d.evaluation.figures import interval_text
from t3d.evaluation.metrics import Metrics
from t3d.evaluation.multilabel import MultiMetrics
from t3d.io.files import atomic_path


def write_page(path: str | Path, template: str, **values: object) -> Path:
    """Write a page.

    Args:
        path: The .html file.
        template: See `render`.
        values: See `render`.

    Returns:
        The file.

    Raises:
        WriteError: It cannot be written.
    """
    page = render(template, **values)
    with atomic_path(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return Path(path)


def render(template: str, **values: object) -> str:
    """Return a page.

    Args:
        template: Name of a file in `t3d/templates`.
        values: Values that the template names. Text is escaped.
    """
    return _environment().get_template(template).render(**values)


@cache
def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.PackageLoader("t3d"), autoescape=True, undefined=jinja2.StrictUndefined
    )


def headline_figures(metrics: Metrics | MultiMetrics, *, clips: bool = True) -> list[tuple[str, str]]:
    """Return the name and value of each figure at the top of the page.

    Args:
        metrics: Figures of a test or validation.
        clips: Show the accuracy of single clips, too.
    """
    if isinstance(metrics, MultiMetrics):
        return [
            ("mAP", f"{metrics.video_map:.1%}"),
            ("95% interval", interval_text(metrics.interval)),
            ("random scores", f"{metrics.chance:.1%}"),
            ("micro F1", f"{metrics.micro_f1:.1%}"),
            ("videos", f"{metrics.videos:,}"),
        ]
    figures = [
        ("videos correct", f"{metrics.video_top1:.1%}"),
        ("95% interval", interval_text(metrics.interval)),
        ("always the most frequent class", f"{metrics.majority.share:.1%}"),
        ("guessing", f"{metrics.chance:.1%}"),
    ]
    if metrics.uneven:
        figures.append(("balanced (mean recall)", f"{metrics.balanced_accuracy:.1%}"))
    if metrics.video_top5 is not None:
        figures.append(("videos, top-5", f"{metrics.video_top5:.1%}"))
    return [*figures, ("clips correct", f"{metrics.clip_top1:.1%}")] if clips else figures
