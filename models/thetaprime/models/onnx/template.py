"""The ONNX form of a policy: contract version 1, and version 2 for a policy with a memory.

`OnnxTemplate` builds and checks the graph once. A policy's file is then a copy of it with the parameters in its
initializers: without tracing or torch.onnx, in microseconds.

| name | direction | shape, dtype | content |
|---|---|---|---|
| obs | in | [batch, O] float32 | the observation, raw and flattened |
| actions | out | [batch, A] float32, or [batch] int64 | the deterministic action, as the environment takes it |
| mean | out, box | [batch, A] float32 | the Gaussian's mean, in policy units, unclipped |
| log_std | out, box | [A] float32 | its log standard deviation, in policy units |
| logits | out, discrete | [batch, A] float32 | log-probabilities, unnormalized |

Version 2 adds the step before and the state, each as an input (`thetaprime.models.onnx.memory_graph`).
"""

import itertools
import json
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

from thetaprime.models.head import ActionHead
from thetaprime.models.memory import RecurrentPolicy
from thetaprime.models.module.policy import ModulePolicy
from thetaprime.models.onnx import memory_graph
from thetaprime.models.onnx.memory_graph import MemoryGraph, describe_memory, start_inputs, state_tensors
from thetaprime.models.onnx.module_graph import ModuleGraph
from thetaprime.models.parameters import Parameters
from thetaprime.models.policy import CONTEXT_WEIGHT, Policy
from thetaprime.models.spec import CONTEXT

TENSORS: Final = {
    "obs": ("the environment's", "the observation, flattened, raw"),
    "actions": ("the environment's", "the deterministic action"),
    "mean": ("the policy's", "mean of the Gaussian, unclipped"),
    "log_std": ("the policy's, log", "its log standard deviation"),
    "logits": ("log-probability", "up to a constant"),
    **memory_graph.TENSORS,
}
"""Unit and content of each tensor."""

CONTRACT_VERSION: Final = "1"
MEMORY_CONTRACT_VERSION: Final = "2"
"""The version of files that carry a state. A client that reads version 1 alone refuses them."""
# Set explicitly: onnxruntime from 1.10 on, and the engines that embed it, can load these.
OPSET: Final = 15
IR_VERSION: Final = 8

# A prefix for initializers that hold parameters, so that no graph output has the same name.
_PREFIX: Final = "theta."
_ACTIVATION_OPS: Final = {"relu": "Relu", "tanh": "Tanh"}


class OnnxTemplate:
    """A checked graph for one policy architecture, whose initializers are the parameters.

    Args:
        policy: the network.
        meta_policy: ``name@version`` of the meta-policy, for the metadata.
    """

    def __init__(self, policy: Policy | RecurrentPolicy, meta_policy: str) -> None:
        self._policy = policy
        self._model = _build(policy)
        self._order = tuple(policy.parameter_shapes)
        self._parameter_names = frozenset(self._order)
        self._constant = {
            "thetaprime.contract_version": MEMORY_CONTRACT_VERSION if policy.spec.memory else CONTRACT_VERSION,
            "thetaprime.meta_policy": meta_policy,
            "thetaprime.environment": policy.environment.model_dump_json(exclude={"reward"}),
            "thetaprime.distribution": "gaussian" if policy.continuous else "categorical",
        }
        onnx.checker.check_model(self._model, full_check=True)

    def write(
        self, parameters: Parameters, *, policy_id: str, parent_id: str, golden: Mapping[str, Any]
    ) -> tuple[bytes, dict[str, str]]:
        """The ONNX file of a policy.

        Args:
            parameters: by the names that `Policy.init` gives.
            policy_id: id of the policy.
            parent_id: id of the policy it was adapted from, or empty.
            golden: ``observations`` and ``actions`` as nested lists, or golden sequences for a policy with a memory,
                written to the metadata.

        Returns:
            The file's bytes and its metadata.

        Raises:
            ValueError: the parameters do not fit the template.
        """
        model = self.fill(parameters)
        metadata = {
            **self._constant,
            "thetaprime.policy_id": policy_id,
            "thetaprime.parent_id": parent_id,
            **self._memory(parameters),
            "thetaprime.golden": json.dumps(golden, separators=(",", ":")),
        }
        helper.set_model_props(model, metadata)
        return model.SerializeToString(deterministic=True), metadata

    def _memory(self, parameters: Parameters) -> dict[str, str]:
        policy = self._policy
        if not isinstance(policy, RecurrentPolicy):
            return {}
        states = state_tensors(policy, parameters)
        described = describe_memory(policy.memory.cell, policy.memory.size, states, start_inputs(policy))
        return {"thetaprime.memory": json.dumps(described, separators=(",", ":"))}

    def fill(self, parameters: Parameters) -> onnx.ModelProto:
        """The graph of a policy, without metadata; arguments and errors as in `write`."""
        if parameters.keys() != self._parameter_names:
            raise ValueError(f"parameters {sorted(parameters)}; expected {sorted(self._parameter_names)}")
        model = onnx.ModelProto()
        model.CopyFrom(self._model)
        for initializer in model.graph.initializer:
            if not initializer.name.startswith(_PREFIX):
                continue
            value = parameters[initializer.name.removeprefix(_PREFIX)]
            if tuple(value.shape) != tuple(initializer.dims):
                raise ValueError(f"{initializer.name} has shape {list(value.shape)}; expected {list(initializer.dims)}")
            initializer.raw_data = _bytes(value)
        return model

    def read(self, data: bytes) -> Parameters:
        """Reads the parameters of a policy, to the bit, from a file of `write`.

        Raises:
            ValueError: another template wrote the file.
        """
        model = onnx.ModelProto.FromString(data)
        found = {
            initializer.name.removeprefix(_PREFIX): _read(initializer)
            for initializer in model.graph.initializer
            if initializer.name.startswith(_PREFIX)
        }
        if found.keys() != self._parameter_names:
            raise ValueError(f"the file holds parameters {sorted(found)}; expected {sorted(self._parameter_names)}")
        return {name: found[name] for name in self._order}


def _read(initializer: onnx.TensorProto) -> torch.Tensor:
    return torch.from_numpy(numpy_helper.to_array(initializer).copy())


def _bytes(value: torch.Tensor) -> bytes:
    array = value.detach().numpy().astype("<f4", copy=False)
    return np.ascontiguousarray(array).tobytes()


def _build(policy: Policy | RecurrentPolicy) -> onnx.ModelProto:
    nodes, initializers = [], []
    mean, factor = policy.normalization
    initializers += [
        numpy_helper.from_array(mean.numpy(), "observation_mean"),
        numpy_helper.from_array(factor.numpy(), "observation_factor"),
    ]
    nodes += [
        helper.make_node("Sub", ["obs", "observation_mean"], ["obs_centered"]),
        helper.make_node("Mul", ["obs_centered", "observation_factor"], ["obs_normalized"]),
    ]
    inputs = [helper.make_tensor_value_info("obs", TensorProto.FLOAT, ["batch", policy.environment.observation_size])]
    outputs = []
    result = "mean" if policy.continuous else "logits"
    if isinstance(policy, ModulePolicy):
        network = ModuleGraph(policy, "obs_normalized", result, _PREFIX)
        body = network.nodes, network.initializers
    elif isinstance(policy, RecurrentPolicy):
        memory = MemoryGraph(policy, "obs_normalized", _PREFIX)
        nodes, initializers = nodes + memory.nodes, initializers + memory.initializers
        inputs, outputs = inputs + memory.inputs, memory.outputs
        remembering = policy.environment.observation_size + policy.memory.size
        body = _mlp(policy, remembering, memory.result, result)
    else:
        body = _mlp(policy, policy.environment.observation_size, "obs_normalized", result)
    head = _gaussian_head(policy) if policy.continuous else _categorical_head(policy)
    graph = helper.make_graph(
        nodes + body[0] + head.nodes,
        "thetaprime_policy",
        inputs,
        head.outputs + outputs,
        initializers + body[1] + head.initializers,
    )
    return helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="thetaprime",
    )


def _mlp(
    policy: ActionHead, width: int, current: str, output: str
) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """The built-in network over `width` numbers: its nodes and its initializers."""
    sizes = (width, *policy.spec.hidden_sizes, policy.environment.action.size)
    nodes, initializers, last = [], [], len(sizes) - 2
    if policy.spec.context_size:
        size, units = policy.spec.context_size, sizes[1]
        initializers += [
            _placeholder(f"{_PREFIX}{CONTEXT}", (size,)),
            _placeholder(f"{_PREFIX}{CONTEXT_WEIGHT}", (units, size)),
        ]
        nodes += [
            helper.make_node("MatMul", [f"{_PREFIX}{CONTEXT_WEIGHT}", f"{_PREFIX}{CONTEXT}"], ["context.bias"]),
            helper.make_node("Add", [f"{_PREFIX}layers.0.bias", "context.bias"], ["layers.0.bias"]),
        ]
    for index, (fan_in, fan_out) in enumerate(itertools.pairwise(sizes)):
        weight, bias = f"{_PREFIX}layers.{index}.weight", f"{_PREFIX}layers.{index}.bias"
        initializers += [_placeholder(weight, (fan_out, fan_in)), _placeholder(bias, (fan_out,))]
        result = f"layers.{index}.linear"
        if index == last:
            result = output
        added = "layers.0.bias" if index == 0 and policy.spec.context_size else bias
        nodes.append(helper.make_node("Gemm", [current, weight, added], [result], transB=1))
        if index < last:
            current = f"layers.{index}.output"
            nodes.append(helper.make_node(_ACTIVATION_OPS[policy.spec.activation], [result], [current]))
    return nodes, initializers


class _Head(NamedTuple):
    nodes: list[onnx.NodeProto]
    initializers: list[onnx.TensorProto]
    outputs: list[onnx.ValueInfoProto]


def _gaussian_head(policy: ActionHead) -> _Head:
    size = policy.environment.action.size
    clip, half, middle = policy.scaling
    initializers = [
        _placeholder(f"{_PREFIX}log_std", (size,)),
        numpy_helper.from_array(np.array([policy.spec.min_log_std], np.float32), "min_log_std"),
        numpy_helper.from_array(-clip.numpy(), "clip_low"),
        numpy_helper.from_array(clip.numpy(), "clip_high"),
        numpy_helper.from_array(half.numpy(), "action_half"),
        numpy_helper.from_array(middle.numpy(), "action_middle"),
    ]
    nodes = [
        helper.make_node("Max", ["mean", "clip_low"], ["mean_above_low"]),
        helper.make_node("Min", ["mean_above_low", "clip_high"], ["mean_clipped"]),
        helper.make_node("Mul", ["mean_clipped", "action_half"], ["mean_scaled"]),
        helper.make_node("Add", ["mean_scaled", "action_middle"], ["actions"]),
        helper.make_node("Max", [f"{_PREFIX}log_std", "min_log_std"], ["log_std"]),
    ]
    outputs = [
        helper.make_tensor_value_info("actions", TensorProto.FLOAT, ["batch", size]),
        helper.make_tensor_value_info("mean", TensorProto.FLOAT, ["batch", size]),
        helper.make_tensor_value_info("log_std", TensorProto.FLOAT, [size]),
    ]
    return _Head(nodes, initializers, outputs)


def _categorical_head(policy: ActionHead) -> _Head:
    nodes = [
        helper.make_node("ArgMax", ["logits"], ["chosen"], axis=1, keepdims=0),
        helper.make_node("Add", ["chosen", "action_start"], ["actions"]),
    ]
    outputs = [
        helper.make_tensor_value_info("actions", TensorProto.INT64, ["batch"]),
        helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", policy.environment.action.size]),
    ]
    return _Head(nodes, [numpy_helper.from_array(np.array([policy.action_start], np.int64), "action_start")], outputs)


def _placeholder(name: str, shape: tuple[int, ...]) -> onnx.TensorProto:
    return numpy_helper.from_array(np.zeros(shape, np.float32), name)
