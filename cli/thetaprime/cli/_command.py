"""Commands whose ``--help`` groups options by topic and ends its text with examples."""

import functools
from collections.abc import Sequence
from typing import Any, Final

import click

OTHER_OPTIONS: Final = "Options"
"""Section of the options that name none."""
RAW_ARGUMENTS: Final = f"{__name__}.arguments"
"""Key in `click.Context.meta` of a command's arguments as they were typed."""


class Option(click.Option):
    """An option in a section of ``--help``.

    Attributes:
        section: the heading.
    """

    def __init__(self, *args: Any, section: str = OTHER_OPTIONS, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.section = section


option = functools.partial(click.option, cls=Option)
"""`click.option` with ``section=``."""


class Command(click.Command):
    """A command with examples and sections of options.

    Attributes:
        examples: command lines, complete and copyable.
    """

    def __init__(self, *args: Any, examples: Sequence[str] = (), **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.examples = tuple(examples)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Keeps the arguments as they were typed, and parses them."""
        ctx.meta[RAW_ARGUMENTS] = tuple(args)
        return super().parse_args(ctx, args)

    def sections(self, context: click.Context) -> dict[str, list[click.Parameter]]:
        """The parameters that ``--help`` lists, by section; the section of other options comes last."""
        found: dict[str, list[click.Parameter]] = {}
        for parameter in self.get_params(context):
            if isinstance(parameter, click.Option) and parameter.get_help_record(context) is not None:
                found.setdefault(getattr(parameter, "section", OTHER_OPTIONS), []).append(parameter)
        return dict(sorted(found.items(), key=lambda section: section[0] == OTHER_OPTIONS))

    def format_help_text(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes the description and the examples."""
        super().format_help_text(ctx, formatter)
        if self.examples:
            with formatter.section("Examples"):
                for line in "\n".join(self.examples).splitlines():  # never folded: they are copied
                    formatter.write(f"{'':>{formatter.current_indent}}{line}\n")

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes the options by section."""
        for title, parameters in self.sections(ctx).items():
            records = (parameter.get_help_record(ctx) for parameter in parameters)
            with formatter.section(title):
                formatter.write_dl([record for record in records if record is not None])
