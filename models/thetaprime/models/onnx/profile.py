"""Assembles a file from the default form's body and a profile's head."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper

from thetaprime.models.onnx.golden import golden_vectors
from thetaprime.models.onnx.source import PROFILE_KEY, DefaultForm
from thetaprime.models.onnx.template import IR_VERSION, OPSET
from thetaprime.models.parameters import digest_bytes

BATCH: Final = "batch"
"""The axis with one entry for each observation; symbolic, unless the head fixes its length."""


class ProfileError(ValueError):
    """An unknown profile, or a profile that cannot express a policy.

    Attributes:
        field: the invalid argument: ``profile``, or a path into the robot's description.
        problem: the received value, the expected value, and a valid choice.
    """

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field
        self.problem = problem


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


@dataclasses.dataclass(frozen=True, eq=False)
class Head:
    """The part of a graph that a profile adds to the body of the default form.

    Attributes:
        values: names of the values that it reads from the default form's graph.
        nodes: its operations.
        initializers: its constants.
        inputs: the observation first.
        outputs: in the consumer's order.
        golden_inputs: [K, ...] for each input except the observation.
        metadata: keys that the consumer reads.
        batch: length of the batch axis; None for a symbolic length.
    """

    values: Sequence[str]
    nodes: Sequence[onnx.NodeProto]
    inputs: Sequence[Tensor]
    outputs: Sequence[Tensor]
    initializers: Sequence[onnx.TensorProto] = ()
    golden_inputs: Mapping[str, npt.NDArray[np.float32]] = dataclasses.field(default_factory=dict)
    metadata: Mapping[str, str] = dataclasses.field(default_factory=dict)
    batch: int | None = None


@dataclasses.dataclass(frozen=True)
class OnnxForm:
    """A policy in the form of one engine.

    Attributes:
        profile: name of the profile.
        onnx: the file.
        onnx_sha256: SHA-256 (hex) of the file.
        metadata: the file's metadata_props.
    """

    profile: str
    onnx: bytes
    onnx_sha256: str
    metadata: dict[str, str]


def assemble_form(source: DefaultForm, profile: str, head: Head) -> OnnxForm:
    """The file with the default form's body and a profile's head.

    Args:
        source: the default form.
        profile: the profile's name.
        head: the profile's head.
    """
    observation = head.inputs[0]
    nodes = [_renamed(node, "obs", observation.name) for node in source.nodes_for(head.values)] + list(head.nodes)
    graph = helper.make_graph(
        nodes,
        source.model.graph.name,
        [_value_info(each, head.batch) for each in head.inputs],
        [_value_info(each, head.batch) for each in head.outputs],
        source.initializers_for(nodes) + list(head.initializers),
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION, producer_name="thetaprime"
    )
    onnx.checker.check_model(model, full_check=True)
    inputs = {observation.name: source.golden_observations, **head.golden_inputs}
    golden = golden_vectors(model, inputs, [each.name for each in head.outputs if each.batched])
    metadata = {
        **source.metadata,
        **head.metadata,
        PROFILE_KEY: profile,
        "thetaprime.tensors": _json({each.name: [each.unit, each.what] for each in (*head.inputs, *head.outputs)}),
        "thetaprime.golden": _json(golden),
    }
    helper.set_model_props(model, metadata)
    data = model.SerializeToString(deterministic=True)
    return OnnxForm(profile=profile, onnx=data, onnx_sha256=digest_bytes(data), metadata=metadata)


def _renamed(node: onnx.NodeProto, old: str, new: str) -> onnx.NodeProto:
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    copy.input[:] = [new if name == old else name for name in node.input]
    return copy


def _value_info(tensor: Tensor, batch: int | None) -> onnx.ValueInfoProto:
    shape = [batch if batch is not None and length == BATCH else length for length in tensor.shape]
    return helper.make_tensor_value_info(tensor.name, tensor.element, shape)


def _json(value: object) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)
