"""docs/reliability.md describes every attack."""

from tests.attack.attacks import ATTACKS
from tests.attack.page import read_rows


def test_the_page_lists_every_attack_in_the_words_of_its_class() -> None:
    assert {name: cells[0] for name, cells in read_rows().items()} == {
        name: kind.about for name, kind in ATTACKS.items()
    }
