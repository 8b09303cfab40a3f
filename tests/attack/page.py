"""The table of attacks in docs/reliability.md: `PAGE=1 make attack` writes it."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from tests.attack.arena import Result
from tests.attack.attacks import ATTACKS

PAGE: Final = Path(__file__).parents[2] / "docs" / "reliability.md"
_TABLE: Final = re.compile(r"\| attack \| the peer sends \|.*?\n\n", re.DOTALL)
_ROW: Final = re.compile(r"^\| `([a-z-]+)` \| ([^|]+) \| ([^|]+) \| ([^|]+) \|$", re.MULTILINE)


def read_rows() -> dict[str, tuple[str, ...]]:
    """Returns the cells of each attack's row: what the peer sends, memory, honest percentile."""
    return {name: tuple(cells) for name, *cells in _ROW.findall(PAGE.read_text(encoding="utf-8"))}


def write_table(results: Mapping[str, Result]) -> None:
    """Writes the table; attacks without a result keep their figures.

    Args:
        results: by attack.
    """
    earlier = read_rows()
    lines = ["| attack | the peer sends | memory above idle | honest 95th percentile |", "|---|---|---|---|"]
    for name, kind in ATTACKS.items():
        if name in results:
            figures: tuple[str, ...] = f"{max(0.0, results[name].mib):.0f} MiB", f"{results[name].ratio:.1f} ×"
        else:
            figures = earlier[name][1:] if name in earlier else ("not measured", "not measured")
        lines.append(f"| `{name}` | {kind.about} | {' | '.join(figures)} |")
    text = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(_TABLE.sub(lambda _: "\n".join(lines) + "\n\n", text, count=1), encoding="utf-8")
