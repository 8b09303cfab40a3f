"""A policy in its ONNX form, with its digest and golden vectors."""

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from thetaprime.models.golden import golden_actions
from thetaprime.models.memory import RecurrentPolicy
from thetaprime.models.module.policy import ModulePolicy
from thetaprime.models.onnx.golden import evaluate_graph
from thetaprime.models.onnx.golden_sequences import golden_inputs, golden_sequences
from thetaprime.models.onnx.memory_graph import state_tensors
from thetaprime.models.onnx.template import OnnxTemplate
from thetaprime.models.parameters import Parameters, digest_bytes, parameters_digest
from thetaprime.models.policy import Policy


@dataclasses.dataclass(frozen=True, eq=False)
class ExportedPolicy:
    """A policy in its ONNX form, with its digest and golden vectors.

    Attributes:
        policy_id: SHA-256 (hex) of the parameters.
        parent_id: policy id of the policy it was adapted from, or empty.
        onnx: the file.
        onnx_sha256: SHA-256 (hex) of the file.
        metadata: the file's metadata_props.
        golden_observations: [K, *observation_shape] float32.
        golden_actions: [K, A] float32 or [K] int64: the deterministic actions there, as the environment takes them,
            equal on every processor. Of a policy with a memory: the actions at the first step of a lifetime.
    """

    policy_id: str
    parent_id: str
    onnx: bytes
    onnx_sha256: str
    metadata: dict[str, str]
    golden_observations: npt.NDArray[Any]
    golden_actions: npt.NDArray[Any]


def export_policy(
    policy: Policy | RecurrentPolicy,
    template: OnnxTemplate,
    golden: torch.Tensor,
    parameters: Parameters,
    parent_id: str,
) -> ExportedPolicy:
    """The ONNX form of a policy.

    Args:
        policy: the network.
        template: its graph.
        golden: [K, *observation_shape] float32, the golden observations.
        parameters: θ or a θ′.
        parent_id: id of the policy it was adapted from, or empty.
    """
    observations = golden.numpy()
    flat = observations.reshape(len(observations), -1)
    recorded: dict[str, Any]
    if isinstance(policy, RecurrentPolicy):
        inputs, resets = golden_inputs(policy, flat)
        states = state_tensors(policy, parameters)
        outputs = ["actions", "mean" if policy.continuous else "logits"]
        recorded = golden_sequences(template.fill(parameters), inputs, resets, states, outputs)
        observations = observations[: len(resets)]
        actions = np.asarray([steps[0] for steps in recorded["outputs"]["actions"]])
        actions = actions.astype(np.float32 if policy.continuous else np.int64)
    else:
        if isinstance(policy, ModulePolicy):
            actions = evaluate_graph(template.fill(parameters), {"obs": flat}, ["actions"])["actions"]
        else:
            actions = golden_actions(policy, parameters, flat)
        recorded = {"observations": observations.tolist(), "actions": actions.tolist()}
    policy_id = parameters_digest(parameters)
    data, metadata = template.write(parameters, policy_id=policy_id, parent_id=parent_id, golden=recorded)
    return ExportedPolicy(
        policy_id=policy_id,
        parent_id=parent_id,
        onnx=data,
        onnx_sha256=digest_bytes(data),
        metadata=metadata,
        golden_observations=observations,
        golden_actions=actions,
    )
