"""The command, run in this process."""

import json
from collections.abc import Callable
from typing import Any

from click.testing import Result

Command = Callable[..., Result]


def last_json(result: Result) -> Any:
    """The JSON value on the last line that a successful command printed."""
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout.splitlines()[-1])
