"""All attacks; run as a program, the process of one attacker.

python -m tests.attack.attacks NAME '{"address": …}'
"""

import inspect
import os
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


def attack(name: str, aim: dict[str, str], seconds: float) -> None:
    """Runs one attack for a number of seconds, and ends this process with all its connections.

    Args:
        name: of the attack.
        aim: the fields of an `Aim`, but for its source and its end.
        seconds: how long to attack.
    """
    # The attacker stands for another machine: it takes the processors that the server leaves.
    os.nice(10)
    # Each attack has another address: a server that has blocked one attacker meets the next.
    source = f"127.0.1.{[*ATTACKS].index(name) + 1}"
    ATTACKS[name]().run(Aim(**aim, source=source, end=time.monotonic() + seconds))
    # Threads may still wait for replies.
    os._exit(0)
