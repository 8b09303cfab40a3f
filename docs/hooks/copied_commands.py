"""Lets the copy button of a console block copy its commands, without prompts and output."""

import html
import re
from collections.abc import Iterator
from typing import Final

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import Files
from mkdocs.structure.pages import Page

_CONSOLE: Final = re.compile(
    r'<div class="language-console(?P<classes>[^"]*)">(?P<block><pre.*?</pre>)</div>', flags=re.DOTALL
)
_TAG: Final = re.compile(r"<[^>]+>")
_PROMPT: Final = "$ "


def on_page_content(content: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Adds ``data-copy``, which the theme's button prefers to the block's text."""
    return _CONSOLE.sub(_with_commands, content)


def _with_commands(match: re.Match[str]) -> str:
    text = html.unescape(_TAG.sub("", match["block"]))
    copied = html.escape("\n".join(_commands(text.splitlines())))
    return f'<div class="language-console{match["classes"]}" data-copy="{copied}">{match["block"]}</div>'


def _commands(lines: list[str]) -> Iterator[str]:
    """Lines that are typed: after a prompt, and after a line that ends with a backslash."""
    continued = False
    for line in lines:
        if continued or line.startswith(_PROMPT):
            yield line if continued else line.removeprefix(_PROMPT)
            continued = line.endswith("\\")
