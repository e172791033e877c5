"""Render pages from the templates."""

from __future__ import annotations

import jinja2

from t3d.evaluation.figures import interval_text


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
