"""Checks an ONNX policy file before a runtime loads it.

A runtime folds constants and allocates every value of a graph, reads files that a tensor names, and follows nested
graphs. This module reads a file's structure without any of that, and accepts only what contract versions 1 and 2 have:
known fields, the operators of their profiles, tensors inside the file, and values whose sizes are bounded. Everything
else is refused by its path.
"""

import dataclasses
import functools
import math
import re
import struct
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

from thetaprime.wire.errors import WireError
from thetaprime.wire.onnx_fields import (
    ATTRIBUTE,
    DIMENSION,
    ENTRY,
    GRAPH,
    MODEL,
    NODE,
    OPERATOR_SET,
    SHAPE,
    TENSOR,
    TENSOR_TYPE,
    TYPE,
    VALUE,
    Span,
    read_bytes,
    read_fields,
    shown,
)
from thetaprime.wire.onnx_operators import OPERATORS, Attributes, Integers, Ints, Operator, Shape, count_elements

MAX_ONNX_BYTES: Final = 64 << 20
"""Largest file."""
MAX_METADATA_BYTES: Final = 4 << 20
"""Most bytes of metadata, keys and values together."""
MAX_ELEMENTS: Final = 1 << 20
"""Most numbers that a graph computes for one observation, over all its values."""
MAX_WORK: Final = 1 << 26
"""Most multiplications and additions for one observation."""
# Of one verification: every golden vector, in one batch.
_MAX_GOLDEN_VECTORS: Final = 1024
_MAX_BATCH_ELEMENTS: Final = 1 << 26
_MAX_BATCH_WORK: Final = 1 << 32
_MAX_NAME_BYTES: Final = 256
_SMALL_BYTES: Final = 512
# Every element takes four bytes of the file, or more.
_MAX_LENGTH: Final = MAX_ONNX_BYTES // 4
# Commands print metadata on terminals, where these can do more than show text.
_CONTROL: Final = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_IR_VERSION: Final = 8
_OPSET: Final = (b"", 15)
_INT64: Final = 7
_MAX_AXES: Final = 6
_ELEMENT_BYTES: Final = {1: 4, 7: 8}  # float32, int64


@dataclasses.dataclass(frozen=True)
class OnnxFile:
    """The content of a checked file.

    Attributes:
        metadata: its metadata_props.
        elements: numbers that the graph computes for one observation.
        work: multiplications and additions for one observation.
    """

    metadata: dict[str, str]
    elements: int
    work: int

    @property
    def max_golden_vectors(self) -> int:
        """The most golden vectors that one batch may verify this graph with."""
        return min(
            _MAX_GOLDEN_VECTORS, _MAX_BATCH_ELEMENTS // max(self.elements, 1), _MAX_BATCH_WORK // max(self.work, 1)
        )


def check_onnx(data: bytes) -> OnnxFile:
    """Checks that a file has the form of contract version 1 or 2, in any profile, within the limits of this module.

    Args:
        data: the ONNX file's bytes.

    Returns:
        The file's metadata, and the cost of its graph.

    Raises:
        WireError: the bytes are not such a file; the error gives the path in it, the found and the expected value.
    """
    if len(data) > MAX_ONNX_BYTES:
        raise WireError("onnx", f"{len(data)} bytes; expected at most {MAX_ONNX_BYTES}")
    model = read_fields(data, (0, len(data)), MODEL, "onnx")
    if (version := model.get("ir_version")) != _IR_VERSION:
        raise WireError("onnx.ir_version", f"{shown(version)}; expected {_IR_VERSION}")
    sets = [read_fields(data, span, OPERATOR_SET, "onnx.opset_import") for span in model.get("opset_import", ())]
    opsets = [(read_bytes(data, each.get("domain")), each.get("version")) for each in sets]
    if opsets != [_OPSET]:
        raise WireError("onnx.opset_import", f"{shown(opsets)}; expected opset {_OPSET[1]} of ONNX alone")
    metadata = _read_metadata(data, model.get("metadata_props", ()))
    if "graph" not in model:
        raise WireError("onnx.graph", "missing")
    graph = _Graph(data)
    graph.check(model["graph"])
    return OnnxFile(metadata, graph.elements, graph.work)


def _read_metadata(data: bytes, spans: Sequence[Span]) -> dict[str, str]:
    path = "onnx.metadata_props"
    size = sum(end - start for start, end in spans)
    if size > MAX_METADATA_BYTES:
        raise WireError(path, f"{size} bytes; expected at most {MAX_METADATA_BYTES}")
    metadata: dict[str, str] = {}
    for span in spans:
        entry = read_fields(data, span, ENTRY, path)
        try:
            key, value = read_bytes(data, entry.get("key")).decode(), read_bytes(data, entry.get("value")).decode()
        except UnicodeDecodeError as error:
            raise WireError(path, f"not UTF-8: {error.reason} at byte {error.start} of a key or value") from error
        if key in metadata:
            raise WireError(path, f"the key {shown(key)} twice")
        if _CONTROL.search(key) or _CONTROL.search(value):
            raise WireError(path, f"a control character in {shown(key)} or its value; expected text")
        metadata[key] = value
    return metadata


class _Graph:
    """A graph, read from its inputs to its outputs without any number of its tensors."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._shapes: dict[bytes, Shape] = {}
        self.elements = 0
        self.work = 0

    def check(self, span: Span) -> None:
        graph = read_fields(self._data, span, GRAPH, "onnx.graph")
        for index, each in enumerate(graph.get("input", ())):
            path = f"onnx.graph.input[{index}]"
            name, shape = _small(_parse_value, read_bytes(self._data, each), path)
            self._define(name, shape, path)
            self._add(count_elements(shape), 0, path)
        for index, each in enumerate(graph.get("initializer", ())):
            path = f"onnx.graph.initializer[{index}]"
            name, shape = _read_tensor(self._data, each, path)
            self._define(name, shape, path)
        for index, each in enumerate(graph.get("node", ())):
            self._check_node(each, f"onnx.graph.node[{index}]")
        for index, each in enumerate(graph.get("output", ())):
            path = f"onnx.graph.output[{index}]"
            name, declared = _small(_parse_value, read_bytes(self._data, each), path)
            if (found := self._shapes.get(name)) != declared:
                raise WireError(path, f"{shown(name)} has shape {shown(found)}; it is declared {shown(declared)}")

    def _check_node(self, span: Span, path: str) -> None:
        operator, names, attributes, outputs = _small(_parse_node, read_bytes(self._data, span), path)
        inputs = []
        for name in names:
            shape = self._shapes.get(name)
            if shape is None:
                raise WireError(path, f"reads {shown(name)}, which nothing before it computes")
            inputs.append(shape)
        result, work = operator(inputs, attributes, path)
        for name in outputs:
            self._define(name, result, path)
        self._add(count_elements(result), work, path)

    def _define(self, name: bytes, shape: Shape, path: str) -> None:
        _check_name(name, path)
        if name in self._shapes:
            raise WireError(path, f"the value {shown(name)} twice")
        self._shapes[name] = shape

    def _add(self, elements: int, work: int, path: str) -> None:
        self.elements += elements
        self.work += work
        if self.elements > MAX_ELEMENTS:
            raise WireError(path, f"{self.elements} numbers for one observation; expected at most {MAX_ELEMENTS}")
        if self.work > MAX_WORK:
            raise WireError(path, f"{self.work} operations for one observation; expected at most {MAX_WORK}")


_Parsed = TypeVar("_Parsed")


def _small(parse: Callable[[bytes, str], _Parsed], data: bytes, path: str) -> _Parsed:
    """Parses a message; one of few bytes is remembered, since every policy of a meta-policy has the same."""
    if len(data) > _SMALL_BYTES:
        parse = getattr(parse, "__wrapped__")  # noqa: B009
    return parse(data, path)


@functools.lru_cache(maxsize=512)
def _parse_node(data: bytes, path: str) -> tuple[Operator, tuple[bytes, ...], Attributes, tuple[bytes, ...]]:
    """Reads the operator, the names of the inputs, the attributes and the names of the outputs of a node."""
    node = read_fields(data, (0, len(data)), NODE, path)
    name, domain = read_bytes(data, node.get("op_type")), read_bytes(data, node.get("domain"))
    operator = OPERATORS.get(name)
    if operator is None or domain:
        known = ", ".join(each.decode() for each in OPERATORS)
        raise WireError(path, f"operator {shown(name)} of domain {shown(domain)}; expected one of {known}")
    inputs, outputs = (tuple(read_bytes(data, each) for each in node.get(side, ())) for side in ("input", "output"))
    return operator, inputs, _read_attributes(data, node.get("attribute", ()), path), outputs


@functools.lru_cache(maxsize=128)
def _parse_value(data: bytes, path: str) -> tuple[bytes, Shape]:
    """Reads the name and the declared shape of an input or output."""
    value = read_fields(data, (0, len(data)), VALUE, path)
    path = f"{path}.type"
    tensor = read_fields(data, value.get("type", (0, 0)), TYPE, path).get("tensor_type", (0, 0))
    kind = read_fields(data, tensor, TENSOR_TYPE, path)
    if kind.get("elem_type") not in _ELEMENT_BYTES or "shape" not in kind:
        raise WireError(path, "expected a tensor of float32 or int64 with a shape")
    axes = read_fields(data, kind["shape"], SHAPE, path).get("dim", ())
    lengths = [read_fields(data, each, DIMENSION, path) for each in axes]
    if any(len(each) != 1 for each in lengths):
        raise WireError(path, "an axis without a length; expected a length or a name")
    for each in lengths:
        if "dim_param" in each:
            _check_name(read_bytes(data, each["dim_param"]), path)
    fixed = [each.get("dim_value") for each in lengths]
    _check_shape([1 if each is None else each for each in fixed], path)
    # The state of a memory has the axis of its layers first.
    if None in fixed[1:] and (len(fixed) != 3 or fixed.count(None) > 1 or fixed[2] is None):
        expected = "the axis of the observations first, or second of three"
        raise WireError(path, f"shape {shown(fixed)}; expected {expected}")
    shape = tuple(-1 if each is None else each for each in fixed)
    return read_bytes(data, value.get("name")), shape


def _read_tensor(data: bytes, span: Span, path: str) -> tuple[bytes, Shape]:
    """Reads the name and the shape of a tensor whose numbers are in the file."""
    tensor = read_fields(data, span, TENSOR, path)
    element = tensor.get("data_type")
    if element not in _ELEMENT_BYTES:
        raise WireError(f"{path}.data_type", f"{shown(element)}; expected 1 (float32) or 7 (int64)")
    shape = tuple(tensor.get("dims", ()))
    _check_shape(shape, path)
    start, end = tensor.get("raw_data", (0, 0))
    expected = math.prod(shape) * _ELEMENT_BYTES[element]
    if end - start != expected:
        raise WireError(f"{path}.raw_data", f"{end - start} bytes; expected {expected} for shape {list(shape)}")
    if element == _INT64 and len(shape) == 1 and shape[0] <= _MAX_AXES:
        shape = Integers(shape, struct.unpack(f"<{shape[0]}q", data[start:end]))
    return read_bytes(data, tensor.get("name")), shape


def _read_attributes(data: bytes, spans: Sequence[Span], path: str) -> Attributes:
    attributes: dict[bytes, int | Shape | Ints] = {}
    for span in spans:
        attribute = read_fields(data, span, ATTRIBUTE, f"{path}.attribute")
        name = read_bytes(data, attribute.get("name"))
        if name in attributes or sum(each in attribute for each in ("i", "ints", "t")) != 1:
            raise WireError(f"{path}.attribute", f"{shown(name)}; expected one integer, a list of them, or one tensor")
        value: Any = attribute.get("i")
        if "ints" in attribute:
            value = Ints(attribute["ints"])
        elif value is None:
            value = _read_tensor(data, attribute["t"], f"{path}.attribute")[1]
        attributes[name] = value
    return attributes


def _check_name(name: bytes, path: str) -> None:
    # A runtime writes names into its log, which may be a terminal.
    if not 0 < len(name) <= _MAX_NAME_BYTES or not name.isascii() or not name.decode().isprintable():
        raise WireError(path, f"the name {shown(name)}; expected 1 to {_MAX_NAME_BYTES} printable ASCII characters")


def _check_shape(shape: Sequence[int], path: str) -> None:
    bounded = all(0 < each <= _MAX_LENGTH for each in shape)
    if not bounded or math.prod(shape) > _MAX_LENGTH:
        raise WireError(path, f"shape {list(shape)}; expected at most {_MAX_LENGTH} numbers, and axes of 1 or more")
