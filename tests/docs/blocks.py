"""Finds the code blocks of a page with a Markdown parser."""

import dataclasses
import re
from pathlib import Path
from typing import Final

from markdown_it import MarkdownIt

ROOT: Final = Path(__file__).parents[2]
_FILE_NAME: Final = re.compile(r"# ([\w-]+\.(?:py|toml))\s*\n")


@dataclasses.dataclass(frozen=True)
class Block:
    """One fenced block.

    Attributes:
        page: path of its page in the repository.
        line: number of its first line of code, from 1.
        language: the word after the fence.
        code: its lines.
    """

    page: str
    line: int
    language: str
    code: str

    @property
    def where(self) -> str:
        """Page and line, for messages."""
        return f"{self.page}:{self.line}"

    @property
    def file_name(self) -> str | None:
        """The name in the first line, such as ``# pendulum.toml``; None without one."""
        match = _FILE_NAME.match(self.code)
        return match[1] if match else None


def pages() -> list[str]:
    """Returns the paths of the README and of every page in docs/."""
    found = [path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md")]
    return ["README.md", *sorted(found)]


def read_blocks(page: str) -> list[Block]:
    """Returns the blocks of a page, in order."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return [
        Block(page, token.map[0] + 2, token.info.strip(), token.content)
        for token in MarkdownIt("commonmark").parse(text)
        if token.type in ("fence", "code_block") and token.map is not None
    ]
