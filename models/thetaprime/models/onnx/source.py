"""Reads a policy's default form, the source of every other form."""

import dataclasses
import json
from collections.abc import Container, Iterable
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt
import onnx
import pydantic

from thetaprime.models.onnx.memory_graph import StateTensor
from thetaprime.models.onnx.template import CONTRACT_VERSION, MEMORY_CONTRACT_VERSION
from thetaprime.models.spec import BoxAction, EnvironmentContract

PROFILE_KEY: Final = "thetaprime.profile"
"""Metadata key of the profile; the default form lacks it."""


@dataclasses.dataclass(frozen=True, eq=False)
class DefaultForm:
    """A file in the default form.

    Attributes:
        data: the file's bytes.
        model: its graph.
        metadata: its metadata_props.
        environment: the contract of the policy's environment.
        golden_inputs: of the golden vectors, by name: [K, O] float32 for ``obs``, flattened. With a memory, of the
            golden sequences: [K, T, ...] for each input but the state.
        golden_outputs: [K, A] ``actions``, or [K] for discrete actions. With a memory, [K, T, A] or [K, T].
        memory: the entry ``thetaprime.memory``; None for a policy without a memory.
        resets: [K, T], whether a lifetime begins at a step of the golden sequences; None without a memory.
    """

    data: bytes
    model: onnx.ModelProto
    metadata: dict[str, str]
    environment: EnvironmentContract
    golden_inputs: dict[str, npt.NDArray[Any]]
    golden_outputs: dict[str, npt.NDArray[Any]]
    memory: dict[str, Any] | None = None
    resets: npt.NDArray[np.bool_] | None = None

    @classmethod
    def read(cls, data: bytes) -> Self:
        """Reads a file that `OnnxTemplate.write` made.

        Raises:
            ValueError: it is not an ONNX file, not a ThetaPrime policy, or not in the default form.
        """
        try:
            model = onnx.ModelProto.FromString(data)
        except Exception as error:  # the error class of onnx's own protobuf
            raise ValueError("the bytes are not an ONNX file") from error
        metadata = {entry.key: entry.value for entry in model.metadata_props}
        if PROFILE_KEY in metadata:
            raise ValueError(
                f"the file is in the form {metadata[PROFILE_KEY]!r}; other forms are derived from the default form"
            )
        version = metadata.get("thetaprime.contract_version")
        if version not in (CONTRACT_VERSION, MEMORY_CONTRACT_VERSION):
            raise ValueError(
                f"thetaprime.contract_version is {version!r}; expected {CONTRACT_VERSION!r} or "
                f"{MEMORY_CONTRACT_VERSION!r}"
            )
        try:
            environment = EnvironmentContract.model_validate_json(metadata["thetaprime.environment"])
            golden = json.loads(metadata["thetaprime.golden"])
            if version == CONTRACT_VERSION:
                observations, actions = np.asarray(golden["observations"], np.float32), golden["actions"]
                inputs = {"obs": observations.reshape(len(observations), environment.observation_size)}
                memory = resets = None
            else:
                memory, resets = json.loads(metadata["thetaprime.memory"]), np.asarray(golden["resets"], np.bool_)
                actions = golden["outputs"]["actions"]
                inputs = {name: _numbers(rows) for name, rows in golden["inputs"].items()}
        except (KeyError, TypeError, AttributeError, ValueError, pydantic.ValidationError) as error:
            raise ValueError(f"the file's metadata is invalid: {error!r}") from error
        dtype = np.float32 if isinstance(environment.action, BoxAction) else np.int64
        return cls(data, model, metadata, environment, inputs, {"actions": np.asarray(actions, dtype)}, memory, resets)

    @property
    def golden_count(self) -> int:
        """The number of golden observations, over all steps of all sequences."""
        return len(self.golden_inputs["obs"]) if self.resets is None else self.resets.size

    @property
    def states(self) -> list[StateTensor]:
        """The state of the graph; empty without a memory."""
        return [
            StateTensor(each["input"], each["output"], each["axis"], np.asarray(each["initial"], np.float32))
            for each in (self.memory or {"states": []})["states"]
        ]

    @property
    def continuous(self) -> bool:
        """Whether actions are drawn from a Gaussian (otherwise from a categorical)."""
        return isinstance(self.environment.action, BoxAction)

    @property
    def observation_size(self) -> int:
        """O."""
        return self.environment.observation_size

    @property
    def action_size(self) -> int:
        """A."""
        return self.environment.action.size

    def nodes_for(self, values: Iterable[str], given: Container[str] = ()) -> list[onnx.NodeProto]:
        """The nodes that some values depend on, in the graph's order.

        Args:
            values: their names.
            given: names of values that other nodes compute.
        """
        nodes = self.model.graph.node
        made_by = {output: node for node in nodes for output in node.output if output not in given}
        wanted, found = list(values), set()
        while wanted:
            name = wanted.pop()
            if name in made_by and name not in found:
                found.add(name)
                wanted += made_by[name].input
        return [node for node in nodes if found.intersection(node.output)]

    def initializers_for(self, nodes: Iterable[onnx.NodeProto]) -> list[onnx.TensorProto]:
        """The constants and parameters that the given nodes read, in the file's order."""
        read = {name for node in nodes for name in node.input}
        return [each for each in self.model.graph.initializer if each.name in read]


def _numbers(rows: Any) -> npt.NDArray[Any]:
    """Nested lists as float32, or as int64 where each number is an integer without a point."""
    array = np.asarray(rows)
    if array.dtype.kind not in "fi":
        raise ValueError(f"dtype {array.dtype}; expected numbers")
    return array.astype(np.float32 if array.dtype.kind == "f" else np.int64)
