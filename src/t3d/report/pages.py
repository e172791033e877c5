"""Parts that all pages share: rendering, and the figures at the top."""

from __future__ import annotations

import jinja2

from t3d.evaluation.figures import interval_text
from t3d.evaluation.metrics import Metrics
from t3d.evaluation.multilabel import MultiMetrics


def render(template: str, **values: object) -> str:
    """Return a page.

    Args:
        template: Name of a file in `t3d/templates`.
        values: Values that the template names. Text is escaped.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("t3d"), autoescape=True, undefined=jinja2.StrictUndefined
    )
    environment.filters["interval"] = interval_text
    return environment.get_template(template).render(**values)


def headline_figures(metrics: Metrics | MultiMetrics) -> list[tuple[str, str]]:
    """Return the name and value of each figure at the top of the page."""
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
    return [*figures, ("clips correct", f"{metrics.clip_top1:.1%}")]
