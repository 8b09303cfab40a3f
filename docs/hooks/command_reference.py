"""Writes the reference of the commands from the commands themselves: what ``--help`` says, with links to go to."""

import html
import inspect
import re
from collections.abc import Iterator
from typing import Final

import click
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import Files
from mkdocs.structure.pages import Page

from thetaprime.cli import cli

_MARK: Final = "<!-- commands -->"
_DEFAULT: Final = re.compile(r"\[default: [^\]]*\]")
_DEPENDS: Final = {
    ("serve", "zoo"): "[default: the shipped meta-policies]",
    ("serve", "adaptation_threads"): "[default: cores ÷ workers]",
}
"""Defaults that depend on where they are asked for."""


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Puts the commands where a page asks for them."""
    return markdown.replace(_MARK, "\n".join(_commands())) if _MARK in markdown else markdown


def _commands() -> Iterator[str]:
    group = click.Context(cli, info_name="thetaprime")
    for name in cli.list_commands(group):
        command = cli.get_command(group, name)
        assert command is not None, name  # noqa: S101 - it was listed
        context = click.Context(command, info_name=name, parent=group)
        yield f"## thetaprime {name}\n"
        yield f"```text\n{' '.join([context.command_path, *command.collect_usage_pieces(context)])}\n```\n"
        yield f"{inspect.cleandoc(command.help or '')}\n"
        yield "| option | what it does |\n|---|---|"
        for parameter in command.get_params(context):
            record = parameter.get_help_record(context)
            if record is not None:
                flags, meaning = record
                depends = _DEPENDS.get((name, str(parameter.name)))
                meaning = _DEFAULT.sub(depends, meaning) if depends else meaning
                yield f"| {_cell(flags, code=True)} | {_cell(meaning)} |"
        yield ""


def _cell(text: str, *, code: bool = False) -> str:
    """One cell of a table: no pipe divides it, and nothing in it is read as Markdown."""
    text = " ".join(text.split())
    if code:
        return f"`{text}`".replace("|", "\\|")
    text = html.escape(text, quote=False)
    for character in "\\|*_[]":
        text = text.replace(character, f"\\{character}")
    return text
