"""What a profile is, and how the default form's body and a profile's head become a file."""

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
"""The axis of a tensor that has one entry for each observation; symbolic, unless the head fixes it."""


class ProfileError(ValueError):
    """A profile that there is not, or that cannot express a policy.

    Attributes:
        field: what is at fault: ``profile``, or a path into the robot's description.
        problem: what came, what was expected, and what would do.
    """

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field
        self.problem = problem


@dataclasses.dataclass(frozen=True)
class Tensor:
    """An input or output of a graph.

    Attributes:
        name: as the consumer looks it up.
        element: its type, of `onnx.TensorProto`.
        shape: lengths of its axes, `BATCH` for the one with an entry for each observation.
        unit: what its numbers count.
        what: what it is, in one line.
    """

    name: str
    element: int
    shape: tuple[int | str, ...]
    unit: str
    what: str

    @property
    def batched(self) -> bool:
        """Whether it has an entry for each observation."""
        return BATCH in self.shape


@dataclasses.dataclass(frozen=True, eq=False)
class Head:
    """What a profile puts on the body of the default form.

    Attributes:
        values: what it takes from the default form's graph, by name.
        nodes: its own operations.
        initializers: its own constants.
        inputs: the observation first.
        outputs: in the consumer's order.
        golden_inputs: [K, ...] for each input but the observation.
        metadata: keys that the consumer reads.
        batch: length of the batch axis; None leaves it to each run.
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
    """A policy in the form that one engine reads.

    Attributes:
        profile: its name.
        onnx: the file.
        onnx_sha256: SHA-256 (hex) of the file.
        metadata: the file's metadata_props.
    """

    profile: str
    onnx: bytes
    onnx_sha256: str
    metadata: dict[str, str]


def put_together(source: DefaultForm, profile: str, head: Head) -> OnnxForm:
    """The file of the default form's body under a head.

    Args:
        source: where the body comes from.
        profile: the profile's name.
        head: what goes on it.
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
