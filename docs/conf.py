"""Sphinx settings of the documentation site: `make docs` builds it into build/site."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

project = "T3D"
author = "The T3D authors"
project_copyright = author
root_doc = "index"
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]
exclude_patterns = ["README.md"]  # index.md includes it

html_theme = "furo"
html_title = "T3D"
html_show_sourcelink = False
html_copy_source = False
html_static_path = ["_static"]
html_css_files = ["site.css"]

# Headings have the anchors of GitHub, so the same links work there.
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 4
# `make notebooks` executes notebooks. The site shows the outputs that are stored in them.
nb_execution_mode = "off"
copybutton_exclude = ".linenos, .gp, .go"

# Docstrings are in Google's style, with Markdown's backticks.
default_role = "code"
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_typehints_format = "short"
napoleon_use_rtype = False
python_maximum_signature_line_length = 80
python_use_unqualified_type_names = True

nitpicky = True


def _public_names() -> dict[str, str]:
    """Return the documented name of each public object by the name of its module and its own."""
    names: dict[str, str] = {}
    for package in ("t3d.models", "t3d"):
        for name in import_module(package).__all__:
            value = getattr(import_module(package), name)
            names[f"{value.__module__}.{name}"] = f"{package}.{name}"
    return names


def _link_type(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, contnode: nodes.TextElement
) -> nodes.Node | None:
    """Link the type of an argument to its public name. Other types, such as torch's, stay text."""
    if node.get("refdomain") != "py":
        return None
    target = str(node["reftarget"])
    public = app.config.t3d_public_names.get(target)
    if public is None:
        return contnode
    domain = env.domains["py"]
    link = domain.resolve_xref(env, node["refdoc"], app.builder, "obj", public, node, contnode)
    return link or contnode


def setup(app: Sphinx) -> None:
    """Register the links of types."""
    app.add_config_value("t3d_public_names", _public_names(), "env")
    app.connect("missing-reference", _link_type)
