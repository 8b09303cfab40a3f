"""Writes the reference of the commands from their ``--help``, with an anchor for each command."""

import html
import inspect
import re
from collections.abc import Iterator
from typing import Final, cast

import click
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import Files
from mkdocs.structure.pages import Page

from thetaprime.cli import cli
from thetaprime.cli._command import Command

_MARK: Final = "<!-- commands -->"
_DEFAULT: Final = re.compile(r"\[default: [^\]]*\]")
_DEPENDS: Final = {
    ("serve", "zoo"): "[default: the shipped meta-policies]",
    ("serve", "adaptation_threads"): "[default: cores ÷ workers]",
}
"""Text of the defaults that depend on the machine."""


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Replaces the mark on a page by the reference of the commands."""
    return markdown.replace(_MARK, "\n".join(_commands())) if _MARK in markdown else markdown


def _commands() -> Iterator[str]:
    yield from _members(cli, click.Context(cli, info_name="thetaprime"))


def _members(group: click.Group, parent: click.Context) -> Iterator[str]:
    """Describes the commands of a group; a group among them is followed by its own."""
    for name in group.list_commands(parent):
        command = group.get_command(parent, name)
        context = click.Context(cast("click.Command", command), info_name=name, parent=parent)
        yield f"## {context.command_path}\n"
        if isinstance(command, click.Group):
            yield f"{inspect.cleandoc(command.help or '')}\n"
            yield from _members(command, context)
            continue
        assert isinstance(command, Command), name  # noqa: S101 - list_commands returned the name
        yield from _described(command, context)


def _described(command: Command, context: click.Context) -> Iterator[str]:
    yield f"```text\n{' '.join([context.command_path, *command.collect_usage_pieces(context)])}\n```\n"
    yield f"{inspect.cleandoc(command.help or '')}\n"
    yield "\n".join(["```console", *(f"$ {example}" for example in command.examples), "```\n"])
    for title, parameters in command.sections(context).items():
        yield f"**{title}**\n"
        yield "| option | meaning |\n|---|---|"
        for parameter in parameters:
            flags, meaning = parameter.get_help_record(context) or ("", "")
            depends = _DEPENDS.get((str(context.info_name), str(parameter.name)))
            meaning = _DEFAULT.sub(depends, meaning) if depends else meaning
            yield f"| {_cell(flags, code=True)} | {_cell(meaning)} |"
        yield ""


def _cell(text: str, *, code: bool = False) -> str:
    """Escapes the text of a table's cell, pipes and Markdown included."""
    text = " ".join(text.split())
    if code:
        return f"`{text}`".replace("|", "\\|")
    text = html.escape(text, quote=False)
    for character in "\\|*_[]":
        text = text.replace(character, f"\\{character}")
    return text
