"""Reads the fields of an ONNX file's messages, without an ONNX library and without a copy of the tensors.

The reader is strict: an unknown field, a repeated singular field or another wire type is refused. So no parser can see
another file in the same bytes. A general parser would also take a hundred bytes of memory for an empty node of two.
"""

from collections.abc import Mapping
from typing import Any, Final, TypeAlias

from thetaprime.wire.errors import WireError

_SHOWN: Final = 40
# The wire types of protobuf.
_VARINT: Final = 0
_BYTES: Final = 2
# For fields that the contract never has; their names are for errors.
_NEVER: Final = -1

Fields: TypeAlias = Mapping[int, tuple[str, int, int]]
"""The fields of a message by number: name, wire type, and the most entries of a repeated field, or 0."""
Span: TypeAlias = tuple[int, int]
"""Start and end of bytes in a file."""

MODEL: Final[Fields] = {
    1: ("ir_version", _VARINT, 0),
    2: ("producer_name", _BYTES, 0),
    3: ("producer_version", _BYTES, 0),
    5: ("model_version", _VARINT, 0),
    6: ("doc_string", _BYTES, 0),
    7: ("graph", _BYTES, 0),
    8: ("opset_import", _BYTES, 2),
    14: ("metadata_props", _BYTES, 256),
    20: ("training_info", _NEVER, 0),
    25: ("functions", _NEVER, 0),
}
GRAPH: Final[Fields] = {
    1: ("node", _BYTES, 1024),
    2: ("name", _BYTES, 0),
    5: ("initializer", _BYTES, 1024),
    10: ("doc_string", _BYTES, 0),
    11: ("input", _BYTES, 16),
    12: ("output", _BYTES, 16),
    13: ("value_info", _NEVER, 0),
    15: ("sparse_initializer", _NEVER, 0),
}
NODE: Final[Fields] = {
    1: ("input", _BYTES, 64),
    2: ("output", _BYTES, 1),
    3: ("name", _BYTES, 0),
    4: ("op_type", _BYTES, 0),
    5: ("attribute", _BYTES, 8),
    6: ("doc_string", _BYTES, 0),
    7: ("domain", _BYTES, 0),
}
ATTRIBUTE: Final[Fields] = {
    1: ("name", _BYTES, 0),
    3: ("i", _VARINT, 0),
    5: ("t", _BYTES, 0),
    6: ("g, a nested graph", _NEVER, 0),
    8: ("ints", _VARINT, 16),
    11: ("graphs, nested graphs", _NEVER, 0),
    20: ("type", _VARINT, 0),
}
TENSOR: Final[Fields] = {
    1: ("dims", _VARINT, 6),
    2: ("data_type", _VARINT, 0),
    6: ("string_data", _NEVER, 0),
    8: ("name", _BYTES, 0),
    9: ("raw_data", _BYTES, 0),
    12: ("doc_string", _BYTES, 0),
    13: ("external_data, a tensor outside the file", _NEVER, 0),
    14: ("data_location, a tensor outside the file", _NEVER, 0),
}
VALUE: Final[Fields] = {1: ("name", _BYTES, 0), 2: ("type", _BYTES, 0), 3: ("doc_string", _BYTES, 0)}
TYPE: Final[Fields] = {1: ("tensor_type", _BYTES, 0)}
TENSOR_TYPE: Final[Fields] = {1: ("elem_type", _VARINT, 0), 2: ("shape", _BYTES, 0)}
SHAPE: Final[Fields] = {1: ("dim", _BYTES, 3)}
DIMENSION: Final[Fields] = {1: ("dim_value", _VARINT, 0), 2: ("dim_param", _BYTES, 0)}
OPERATOR_SET: Final[Fields] = {1: ("domain", _BYTES, 0), 2: ("version", _VARINT, 0)}
ENTRY: Final[Fields] = {1: ("key", _BYTES, 0), 2: ("value", _BYTES, 0)}


def read_fields(data: bytes, span: Span, known: Fields, path: str) -> dict[str, Any]:
    """Reads the fields of one message.

    Args:
        data: the file's bytes.
        span: start and end of the message in `data`.
        known: the message's fields.
        path: of the message, for errors.

    Returns:
        By name: a number, the start and end of bytes in `data`, or a list of these if the field may repeat.

    Raises:
        WireError: the bytes are not such a message.
    """
    fields: dict[str, Any] = {}
    position, end = span
    while position < end:
        tag = data[position]
        position += 1
        # Most varints have one byte; a call for each would double the time.
        if tag > 127:
            tag, position = _varint(data, position - 1, end, path)
        name, wire_type, most = known.get(tag >> 3) or (f"field {tag >> 3}", _NEVER, 0)
        if tag & 7 != wire_type:
            if wire_type == _NEVER:
                raise WireError(path, f"{name}, which the ONNX contract does not have; or the file is damaged")
            raise WireError(f"{path}.{name}", f"wire type {tag & 7}; expected {wire_type}")
        value: Any
        if position < end and data[position] < 128:
            value = data[position]
            position += 1
        else:
            value, position = _varint(data, position, end, path)
        if wire_type == _BYTES:
            if not 0 <= value <= end - position:
                raise WireError(f"{path}.{name}", "cut off: the file is damaged, or no ONNX file")
            value = (position, position := position + value)
        if most:
            entries = fields.setdefault(name, [])
            if len(entries) == most:
                raise WireError(f"{path}.{name}", f"more than {most} of them")
            entries.append(value)
        elif name in fields:
            raise WireError(f"{path}.{name}", "twice")
        else:
            fields[name] = value
    return fields


def _varint(data: bytes, position: int, end: int, path: str) -> tuple[int, int]:
    """Reads a number of up to 64 bits, as an int64."""
    value = 0
    for shift in range(0, 64, 7):
        if position >= end:
            break
        byte = data[position]
        position += 1
        value |= (byte & 127) << shift
        if byte < 128:
            if value >> 64:
                break
            return value - (value >> 63 << 64), position
    raise WireError(path, "cut off: the file is damaged, or no ONNX file")


def read_bytes(data: bytes, span: Span | None) -> bytes:
    """Returns the bytes of a field; none if the field is missing."""
    return b"" if span is None else data[span[0] : span[1]]


def shown(value: Any) -> str:
    """Returns a value of a file for use in a message: quoted, and truncated to 40 characters."""
    text = repr(value.decode("utf-8", "replace") if isinstance(value, bytes) else value)
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "…"
