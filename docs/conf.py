"""How Sphinx makes the site of these pages; `make docs` runs it."""

import os
import re
import sys
from pathlib import Path
from typing import Any

# Any backend will do: signatures and docstrings are read, no model is run.
os.environ.setdefault("KERAS_BACKEND", "jax")
sys.path.insert(0, str(Path(__file__).parent.parent))

import nbformat
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util.nodes import make_refnode

from docs.api_pages import write_api_pages
from docs.docstrings import to_restructured_text
from docs.notebooks import EXTRAS, make_notebook
from keras_metaformer_lite import __version__

project = "keras-metaformer"
author = "the keras-metaformer authors"
copyright = f"2026, {author}"
version = release = __version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
]
exclude_patterns = ["_build"]
myst_heading_anchors = 3

napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_custom_sections = [("Call arguments", "params_style"), "Reference", "Source"]
# What Keras says of its own methods is Markdown.
autodoc_inherit_docstrings = False
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
# Long signatures stand one argument a line.
maximum_signature_line_length = 88
python_use_unqualified_type_names = True
add_module_names = False

html_theme = "furo"
html_title = f"keras-metaformer {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_js_files = [("site.js", {"defer": "defer"})]
html_show_sourcelink = False
html_copy_source = False
html_theme_options = {
    "light_css_variables": {
        "color-brand-primary": "#0b57a4",
        "color-brand-content": "#0b57a4",
        "color-brand-visited": "#6b3fa0",
    },
    "dark_css_variables": {
        "color-brand-primary": "#7fb8ff",
        "color-brand-content": "#7fb8ff",
        "color-brand-visited": "#c8a2f5",
    },
}
# Colours of code that can be read on their ground (WCAG AA).
pygments_style = "a11y-high-contrast-light"
pygments_dark_style = "a11y-high-contrast-dark"

#: Files of the repository's root that are pages here.
_PAGES_OF_ROOT = {
    "CONTRIBUTING.md": "/project/contributing.md",
    "CHANGELOG.md": "/project/changelog.md",
    "SECURITY.md": "/project/security.md",
}


def _point_to_pages(app: Sphinx, docname: str, source: list[str]) -> None:
    """Links to files of the root lead to their pages, and not to copies."""
    for name, page in _PAGES_OF_ROOT.items():
        link = rf"\]\((?:\.\./)*{re.escape(name)}(#[^)]*)?\)"
        source[0] = re.sub(link, rf"]({page}\1)", source[0])


def _offer_notebook(app: Sphinx, docname: str, source: list[str]) -> None:
    """Under the title of a guide that is a notebook too."""
    if docname in EXTRAS:
        title, rest = source[0].split("\n", 1)
        link = f'<a href="{docname}.ipynb" download>Run this page as a notebook</a>'
        source[0] = f"{title}\n\n<p>{link}</p>\n{rest}"


def _write_notebooks(app: Sphinx, exception: Exception | None) -> None:
    """Beside the pages, where their links to other pages hold."""
    if exception is not None or app.builder.name != "html":
        return
    for name in EXTRAS:
        page = Path(app.srcdir, f"{name}.md")
        source = [page.read_text(encoding="utf-8")]
        _point_to_pages(app, name, source)
        nbformat.write(make_notebook(page, source[0]), app.outdir / f"{name}.ipynb")


def _read_docstring(
    app: Sphinx, what: str, name: str, member: Any, options: Any, lines: list[str]
) -> None:
    lines[:] = to_restructured_text(lines)


def _name_levels(
    app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: Any
) -> None:
    """Captions in furo's sidebar are headings: of what level, for screen readers."""
    tree = context.get("furo_navigation_tree", "")
    level = 'role="heading" aria-level="2"'
    context["furo_navigation_tree"] = tree.replace('role="heading"', level)


class _LinkNames(SphinxPostTransform):
    """`km.fold` in a page's text, as code, leads to what the site says of it."""

    default_priority = 400

    def run(self, **kwargs: Any) -> None:
        objects = self.env.domains.python_domain.objects
        for literal in list(self.document.findall(nodes.literal)):
            text = literal.astext()
            match = re.fullmatch(r"km\.([\w.]+)(\(.*\))?", text, re.DOTALL)
            if match is None or isinstance(literal.parent, nodes.reference):
                continue
            entry = objects.get(f"keras_metaformer.{match[1]}")
            here = self.env.current_document.docname
            if entry is not None and not _is_in_title(literal):
                link = make_refnode(
                    self.app.builder, here, entry.docname, entry.node_id, []
                )
                literal.replace_self(link)
                link += literal


def _is_in_title(node: nodes.Node) -> bool:
    return isinstance(node.parent, nodes.title)


def setup(app: Sphinx) -> dict[str, bool]:
    write_api_pages(Path(__file__).parent / "api")
    app.connect("source-read", _point_to_pages)
    app.connect("source-read", _offer_notebook)
    app.connect("build-finished", _write_notebooks)
    # Before napoleon's, of priority 500.
    app.connect("autodoc-process-docstring", _read_docstring, priority=400)
    # After furo's.
    app.connect("html-page-context", _name_levels, priority=900)
    app.add_post_transform(_LinkNames)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
