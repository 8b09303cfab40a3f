"""An ONNX file, kept once: its weights as arrays that an onnxruntime session reads where they lie."""

import dataclasses
import math
from typing import Final

import numpy as np
import numpy.typing as npt
import onnxruntime
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format
from google.protobuf.message import DecodeError, Message

# onnxruntime holds the small ones in place.
_SMALLEST: Final = 128
_FLOAT: Final = 1


@dataclasses.dataclass(frozen=True, eq=False)
class KeptFile:
    """A file, in pieces.

    Attributes:
        pieces: its bytes in their order; those of a weight as its array.
        weights: the weights' arrays, as onnxruntime takes them, by the name of their initializer.
    """

    pieces: tuple[bytes | npt.NDArray[np.float32], ...]
    weights: dict[str, onnxruntime.OrtValue]

    @classmethod
    def of(cls, onnx: bytes) -> "KeptFile":
        """Takes a file apart; what does not read as ONNX is one piece."""
        pieces: list[bytes | npt.NDArray[np.float32]] = []
        weights = {}
        end = 0
        for name, shape, raw in _initializers(onnx):
            # They lie in the order in which they are read: what is found is the weight, or the same bytes before it.
            start = onnx.find(raw[:_SMALLEST], end)
            if not onnx.startswith(raw, max(start, 0)):
                start = onnx.find(raw, end)  # for so long a needle a slow way
            if start >= 0:
                # A copy: within the file a number may begin at any byte.
                weight = np.frombuffer(raw, "<f4").reshape(shape).astype(np.float32)
                weights[name] = onnxruntime.OrtValue.ortvalue_from_numpy(weight)
                pieces += [onnx[end:start], weight]
                end = start + len(raw)
        return cls((*pieces, onnx[end:]), weights)

    def lend(self, options: onnxruntime.SessionOptions) -> None:
        """Has a session read the weights here: this must live as long as the session does."""
        for name, weight in self.weights.items():
            options.add_initializer(name, weight)
        # Nor is it to keep them rearranged.
        options.add_session_config_entry("session.disable_prepacking", "1")

    def __bytes__(self) -> bytes:
        return b"".join(piece if isinstance(piece, bytes) else piece.astype("<f4").tobytes() for piece in self.pieces)


def _initializers(onnx: bytes) -> list[tuple[str, tuple[int, ...], bytes]]:
    """Name, shape and bytes of each initializer that is worth sharing."""
    try:
        graph = _MODEL.FromString(onnx).graph  # type: ignore[attr-defined]  # made below
    except DecodeError:
        return []
    return [
        (tensor.name, tuple(tensor.dims), tensor.raw_data)
        for tensor in graph.initializer
        if tensor.data_type == _FLOAT
        and len(tensor.raw_data) >= _SMALLEST
        and len(tensor.raw_data) == 4 * math.prod(tensor.dims)
    ]


def _model_type() -> type[Message]:
    """Of the onnx package's ModelProto what leads to the weights: the package itself is no dependency of clients."""
    pool = descriptor_pool.DescriptorPool()
    pool.Add(text_format.Parse(_PROTO, descriptor_pb2.FileDescriptorProto()))
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("thetaprime.onnx_weights.Model"))


_PROTO: Final = """
    name: "thetaprime/onnx_weights.proto"
    package: "thetaprime.onnx_weights"
    message_type {
      name: "Tensor"
      field { name: "dims" number: 1 type: TYPE_INT64 label: LABEL_REPEATED }
      field { name: "data_type" number: 2 type: TYPE_INT32 label: LABEL_OPTIONAL }
      field { name: "name" number: 8 type: TYPE_STRING label: LABEL_OPTIONAL }
      field { name: "raw_data" number: 9 type: TYPE_BYTES label: LABEL_OPTIONAL }
    }
    message_type {
      name: "Graph"
      field { name: "initializer" number: 5 type: TYPE_MESSAGE type_name: "Tensor" label: LABEL_REPEATED }
    }
    message_type {
      name: "Model"
      field { name: "graph" number: 7 type: TYPE_MESSAGE type_name: "Graph" label: LABEL_OPTIONAL }
    }
"""
_MODEL: Final = _model_type()
