"""An input or output of a profile's graph."""

import dataclasses
from typing import Final

BATCH: Final = "batch"
"""The axis with one entry for each observation; symbolic, unless the head fixes its length."""


@dataclasses.dataclass(frozen=True)
class Tensor:
    """An input or output of a graph.

    Attributes:
        name: the consumer's name for it.
        element: element type, of `onnx.TensorProto`.
        shape: lengths of its axes, `BATCH` for the axis with one entry for each observation.
        unit: unit of its numbers.
        what: description, in one line.
    """

    name: str
    element: int
    shape: tuple[int | str, ...]
    unit: str
    what: str

    @property
    def batched(self) -> bool:
        """Whether it has one entry for each observation."""
        return BATCH in self.shape
