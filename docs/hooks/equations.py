"""Draws equations while the site is built, so that a reader's browser needs neither a script nor a font for them."""

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
"""Pixels of an em, as drawn. On the page the SVGs are measured in em, and so take the size of the text around them."""
_SCALE: Final = 1.12
"""The font of equations is small beside those that browsers choose for text."""
_EQUATION: Final = re.compile(
    r'<(?P<tag>span|div) class="arithmatex">\\[(\[](?P<latex>.*?)\\[)\]]</(?P=tag)>', flags=re.DOTALL
)

drawing.svg2 = False  # glyphs as paths: symbols would have the same ids in every equation


def on_page_content(content: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Puts an SVG for every equation that arithmatex has marked."""
    return _EQUATION.sub(_drawn, content)


def _drawn(match: re.Match[str]) -> str:
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
        # The baseline is at 0.
        svg.set("style", f"vertical-align: {-(top + height):.3f}em; margin-left: {left:.3f}em")
    return f'<{match["tag"]} class="equation">{tostring(svg, encoding="unicode")}</{match["tag"]}>'
