"""Pages of HTML that are whole in one file: pictures inside, no scripts, no network."""

import base64
import html
import io
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from keras_metaformer_lite.weights.disk import replacement

_STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, sans-serif; color: #1b1b1b; background: #fff;
  margin: 0 auto; padding: 1rem; max-width: 70rem; }
h1 { font-size: 1.6rem; line-height: 1.2; margin: 0.5rem 0; }
h2 { font-size: 1.25rem; margin: 2.5rem 0 0.5rem; border-top: 1px solid #ddd;
  padding-top: 1rem; overflow-wrap: anywhere; }
h3 { font-size: 1rem; margin: 1.5rem 0 0.25rem; }
p { max-width: 45rem; margin: 0.25rem 0 0.75rem; }
.reading, .facts { color: #555; font-size: 0.9rem; overflow-wrap: anywhere; }
.maps { display: grid; gap: 0.75rem;
  grid-template-columns: repeat(auto-fill, minmax(9rem, 1fr)); }
.first { display: grid; gap: 1rem; align-items: start;
  grid-template-columns: minmax(9rem, 16rem) minmax(0, 1fr); }
@media (max-width: 30rem) { .first { grid-template-columns: 1fr; } }
figure { margin: 0; }
figure img { width: 100%; height: auto; display: block; border-radius: 4px; }
figcaption { font-size: 0.85rem; color: #333; overflow-wrap: anywhere; }
.picture { overflow-x: auto; }
.picture img { max-width: 100%; height: auto; }
table { border-collapse: collapse; width: 100%; font-size: 0.9rem; }
td, th { text-align: left; padding: 0.2rem 0.5rem 0.2rem 0; vertical-align: middle;
  overflow-wrap: anywhere; }
td.number { text-align: right; white-space: nowrap; width: 4rem; }
td.bar { width: 40%; }
td.bar div { background: #0072B2; height: 0.8rem; border-radius: 2px; min-width: 1px; }
"""
#: Nothing is loaded and nothing runs, whatever names of files and classes say.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def page(title: str, parts: Iterable[str]) -> str:
    """A whole document.

    Args:
        title: its heading, as text.
        parts: HTML.
    """
    body = "\n".join(parts)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{text(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        f"<h1>{text(title)}</h1>\n{body}\n</body>\n</html>\n"
    )


def text(value: object) -> str:
    """Text of any origin, as HTML; halves of characters, which no file takes, too."""
    plain = str(value).encode("utf-8", "backslashreplace").decode("utf-8")
    return html.escape(plain)


def paragraph(value: object, kind: str = "") -> str:
    """A paragraph of text, with what stands in backquotes as code.

    Args:
        value: text of any origin.
        kind: `"reading"`, `"facts"` or nothing.
    """
    content = re.sub("`([^`]+)`", r"<code>\1</code>", text(value))
    return f'<p class="{kind}">{content}</p>' if kind else f"<p>{content}</p>"


def heading(value: object, level: int = 2) -> str:
    """A heading of text."""
    return f"<h{level}>{text(value)}</h{level}>"


def picture(content: bytes, description: str) -> str:
    """A diagram, no wider than the page.

    Args:
        content: of a PNG file.
        description: what it shows, for those who cannot see it.
    """
    return (
        f'<div class="picture"><img src="{_data(content, "png")}" '
        f'alt="{text(description)}"></div>'
    )


def photograph(pixels: np.ndarray, caption: str) -> str:
    """A picture with what it is below.

    Args:
        pixels: uint8 `(height, width, 3)`.
        caption: text.
    """
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, format="JPEG", quality=88)
    return (
        f'<figure><img src="{_data(stream.getvalue(), "jpeg")}" alt="{text(caption)}">'
        f"<figcaption>{text(caption)}</figcaption></figure>"
    )


def side_by_side(figures: Iterable[str], kind: str = "maps") -> str:
    """Figures in as many columns as there is room for."""
    return f'<div class="{kind}">{"".join(figures)}</div>'


def bars(rows: Sequence[tuple[str, float]]) -> str:
    """A table of names and shares from 0 to 1, with bars."""
    cells = "".join(
        f'<tr><td>{text(name)}</td><td class="number">{share:.1%}</td>'
        f'<td class="bar"><div style="width:{100 * min(max(share, 0), 1):.1f}%"></div>'
        "</td></tr>"
        for name, share in rows
    )
    return f"<table>{cells}</table>"


def write(path: Path, document: str) -> None:
    """Write a document under another name, then put it in place."""
    with replacement(path, path.suffix) as temporary:
        temporary.write_text(document, encoding="utf-8")


def _data(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"
