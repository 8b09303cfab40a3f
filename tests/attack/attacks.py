"""All attacks; run as a program, the process of one attacker.

python -m tests.attack.attacks NAME '{"address": …}'
"""

import inspect
import json
import os
import sys
import time
from typing import Final

from tests.attack import connections, frames, headers, messages, tenants
from tests.attack.attack import Aim, Attack

_ROOMS: Final = (connections, headers, frames, messages, tenants)


ATTACKS: Final[dict[str, type[Attack]]] = {
    each.title(): each
    for room in _ROOMS
    for each in vars(room).values()
    if inspect.isclass(each) and issubclass(each, Attack) and each.__module__ == room.__name__
    if not inspect.isabstract(each)
}
"""The classes of attacks by name, in the order of their modules."""


def main() -> None:
    """Runs one attack for a number of seconds, and ends the process with all its connections."""
    # The attacker stands for another machine: it takes the processors that the server leaves.
    os.nice(10)
    name, aim, seconds = sys.argv[1], json.loads(sys.argv[2]), float(sys.argv[3])
    ATTACKS[name]().run(Aim(**aim, end=time.monotonic() + seconds))
    os._exit(0)


if __name__ == "__main__":
    main()
