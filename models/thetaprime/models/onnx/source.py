"""Reads a policy's default form, the source of every other form."""

import dataclasses
import json
from collections.abc import Iterable
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt
import onnx
import pydantic

from thetaprime.models.onnx.template import CONTRACT_VERSION
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
        golden_observations: [K, O] float32, flattened.
        golden_actions: [K, A], or [K] for discrete actions.
    """

    data: bytes
    model: onnx.ModelProto
    metadata: dict[str, str]
    environment: EnvironmentContract
    golden_observations: npt.NDArray[np.float32]
    golden_actions: npt.NDArray[Any]

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
        if version != CONTRACT_VERSION:
            raise ValueError(f"thetaprime.contract_version is {version!r}; expected {CONTRACT_VERSION!r}")
        try:
            environment = EnvironmentContract.model_validate_json(metadata["thetaprime.environment"])
            vectors = json.loads(metadata["thetaprime.golden"])
            observations = np.asarray(vectors["observations"], np.float32)
            actions = np.asarray(
                vectors["actions"], np.float32 if isinstance(environment.action, BoxAction) else np.int64
            )
            golden = observations.reshape(len(observations), environment.observation_size)
        except (KeyError, TypeError, ValueError, pydantic.ValidationError) as error:
            raise ValueError(f"the file's metadata is invalid: {error!r}") from error
        return cls(data, model, metadata, environment, golden, actions)

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

    def nodes_for(self, values: Iterable[str]) -> list[onnx.NodeProto]:
        """The nodes that the given values depend on, in the graph's order."""
        made_by = {output: node for node in self.model.graph.node for output in node.output}
        wanted, found = list(values), set()
        while wanted:
            name = wanted.pop()
            if name in made_by and name not in found:
                found.add(name)
                wanted += made_by[name].input
        return [node for node in self.model.graph.node if found.intersection(node.output)]

    def initializers_for(self, nodes: Iterable[onnx.NodeProto]) -> list[onnx.TensorProto]:
        """The constants and parameters that the given nodes read, in the file's order."""
        read = {name for node in nodes for name in node.input}
        return [each for each in self.model.graph.initializer if each.name in read]
