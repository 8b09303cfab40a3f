"""Assembles a file from the default form's body and a profile's head."""

import dataclasses
import json
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper

from thetaprime.models.onnx.carried_state import CarriedState
from thetaprime.models.onnx.golden import golden_vectors
from thetaprime.models.onnx.golden_sequences import golden_sequences
from thetaprime.models.onnx.memory_graph import describe_memory
from thetaprime.models.onnx.source import PROFILE_KEY, DefaultForm
from thetaprime.models.onnx.template import IR_VERSION, OPSET
from thetaprime.models.onnx.tensor import BATCH, Tensor
from thetaprime.models.parameters import digest_bytes


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


@dataclasses.dataclass(frozen=True, eq=False)
class Head:
    """The part of a graph that a profile adds to the body of the default form.

    Attributes:
        carried: the inputs, and the state with its operations.
        values: names of the values that it reads from the default form's graph.
        nodes: its operations.
        outputs: in the consumer's order, without the state.
        initializers: its constants.
        inputs: further inputs.
        golden_inputs: [K, ...] for each of these inputs, over all steps of all sequences.
        metadata: keys that the consumer reads.
        batch: length of the batch axis; None for a symbolic length.
    """

    carried: CarriedState
    values: Sequence[str]
    nodes: Sequence[onnx.NodeProto]
    outputs: Sequence[Tensor]
    initializers: Sequence[onnx.TensorProto] = ()
    inputs: Sequence[Tensor] = ()
    golden_inputs: Mapping[str, npt.NDArray[np.float32]] = dataclasses.field(default_factory=dict)
    metadata: Mapping[str, str] = dataclasses.field(default_factory=dict)
    batch: int | None = None

    @property
    def all_inputs(self) -> tuple[Tensor, ...]:
        """The graph's inputs: the observation, the head's own, then those of the memory."""
        first, *more = self.carried.inputs
        return (first, *self.inputs, *more)

    @property
    def all_outputs(self) -> tuple[Tensor, ...]:
        """The graph's outputs, the state last."""
        return (*self.outputs, *self.carried.outputs)


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
    carried = head.carried
    given = {output for node in carried.reads for output in node.output}
    body = [
        _renamed(node, "obs", carried.observation) for node in source.nodes_for([*head.values, *carried.values], given)
    ]
    nodes = [*carried.reads, *body, *head.nodes, *carried.nodes]
    graph = helper.make_graph(
        nodes,
        source.model.graph.name,
        [_value_info(each, head.batch) for each in head.all_inputs],
        [_value_info(each, head.batch) for each in head.all_outputs],
        [*source.initializers_for(nodes), *head.initializers, *carried.initializers],
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION, producer_name="thetaprime"
    )
    onnx.checker.check_model(model, full_check=True)
    metadata = {
        **source.metadata,
        **head.metadata,
        PROFILE_KEY: profile,
        "thetaprime.tensors": _json(
            {each.name: [each.unit, each.what] for each in (*head.all_inputs, *head.all_outputs)}
        ),
        **_memory(source, head),
        "thetaprime.golden": _json(_golden(source, head, model)),
    }
    helper.set_model_props(model, metadata)
    data = model.SerializeToString(deterministic=True)
    return OnnxForm(profile=profile, onnx=data, onnx_sha256=digest_bytes(data), metadata=metadata)


def _memory(source: DefaultForm, head: Head) -> dict[str, str]:
    """What the file says of its state."""
    if source.memory is None:
        return {}
    carried, memory = head.carried, source.memory
    described = describe_memory(memory["cell"], memory["size"], carried.states, carried.start)
    return {"thetaprime.memory": _json(described)}


def _golden(source: DefaultForm, head: Head, model: onnx.ModelProto) -> dict[str, object]:
    """The golden vectors of the file, or its golden sequences."""
    given = {**head.carried.golden_inputs, **head.golden_inputs}
    outputs = [each.name for each in head.outputs if each.batched]
    if source.resets is None:
        inputs = {head.carried.observation: source.golden_inputs["obs"], **given}
        return golden_vectors(model, inputs, outputs)
    names = {each.name for each in head.all_inputs} - {each.input for each in head.carried.states}
    inputs = {name: rows for name, rows in source.golden_inputs.items() if name in names}
    inputs |= {name: rows.reshape(*source.resets.shape, *rows.shape[1:]) for name, rows in given.items()}
    return golden_sequences(model, inputs, source.resets, head.carried.states, outputs)


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
