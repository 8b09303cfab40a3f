"""Draws equations as SVG when the site is built: a browser needs neither a script nor a font for them."""

import html
import re
from typing import Final
from xml.etree.ElementTree import tostring

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import Files
from mkdocs.structure.pages import Page
from ziamath.config import config as drawing
from ziamath.zmath import Latex

_SIZE: Final = 20.0
"""Pixels per em in the drawing. On the page, SVGs are sized in em and follow the size of the text."""
_SCALE: Final = 1.12
"""Enlarges equations, whose font is smaller than the browsers' fonts for text."""
_EQUATION: Final = re.compile(
    r'<(?P<tag>span|div) class="arithmatex">\\[(\[](?P<latex>.*?)\\[)\]]</(?P=tag)>', flags=re.DOTALL
)

drawing.svg2 = False  # glyphs as paths: symbols would repeat their ids in every equation


def on_page_content(content: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Replaces every equation that arithmatex marked by an SVG."""
    return _EQUATION.sub(_draw, content)


def _draw(match: re.Match[str]) -> str:
    latex = " ".join(html.unescape(match["latex"]).split())
    inline = match["tag"] == "span"
    equation = Latex(latex, size=_SIZE, inline=inline, color="currentColor")
    svg = equation.svgxml()
    left, top, width, height = (float(each) * _SCALE / _SIZE for each in svg.attrib["viewBox"].split())
    svg.set("width", f"{width:.3f}em")
    svg.set("height", f"{height:.3f}em")
    svg.set("role", "img")
    svg.set("aria-label", latex)
    if inline:
        # The baseline is at y = 0.
        svg.set("style", f"vertical-align: {-(top + height):.3f}em; margin-left: {left:.3f}em")
    return f'<{match["tag"]} class="equation">{tostring(svg, encoding="unicode")}</{match["tag"]}>'
