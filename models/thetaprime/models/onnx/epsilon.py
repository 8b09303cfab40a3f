"""Profile ``epsilon``: the policy samples an action, with the noise as an input.

A generator inside the graph would repeat its noise in every new session, and differ between runtimes. With the noise as
an input, every runtime samples the same action. Zeros give the deterministic action.
"""

import numpy as np
import numpy.typing as npt
from onnx import TensorProto, helper

from thetaprime.models.onnx.carried_state import open_state
from thetaprime.models.onnx.profile import Head
from thetaprime.models.onnx.source import DefaultForm
from thetaprime.models.onnx.tensor import BATCH, Tensor


def head(source: DefaultForm) -> Head:
    """The head for a policy; every policy has one."""
    return _gaussian(source) if source.continuous else _categorical(source)


def _inputs(source: DefaultForm, noise: str) -> tuple[Tensor, ...]:
    what = "the noise; zeros choose the mode"
    return (Tensor("epsilon", TensorProto.FLOAT, (BATCH, source.action_size), noise, what),)


def _gaussian(source: DefaultForm) -> Head:
    shape = (BATCH, source.action_size)
    return Head(
        carried=open_state(source),
        values=("mean", "log_std"),
        nodes=[
            helper.make_node("Exp", ["log_std"], ["std"]),
            helper.make_node("Mul", ["epsilon", "std"], ["noise"]),
            helper.make_node("Add", ["mean", "noise"], ["policy_actions"]),
            helper.make_node("Max", ["policy_actions", "clip_low"], ["sampled_above_low"]),
            helper.make_node("Min", ["sampled_above_low", "clip_high"], ["sampled_clipped"]),
            helper.make_node("Mul", ["sampled_clipped", "action_half"], ["sampled_scaled"]),
            helper.make_node("Add", ["sampled_scaled", "action_middle"], ["actions"]),
        ],
        inputs=_inputs(source, "standard normal"),
        outputs=(
            Tensor("actions", TensorProto.FLOAT, shape, "the environment's", "the sampled action, scaled and clipped"),
            Tensor("policy_actions", TensorProto.FLOAT, shape, "the policy's", "as a trajectory records it"),
            Tensor("mean", TensorProto.FLOAT, shape, "the policy's", "mean of the Gaussian, unclipped"),
            Tensor(
                "log_std", TensorProto.FLOAT, (source.action_size,), "the policy's, log", "its log standard deviation"
            ),
        ),
        golden_inputs={"epsilon": golden_noise(source.golden_count, source.action_size)},
    )


def _categorical(source: DefaultForm) -> Head:
    shape = (BATCH, source.action_size)
    return Head(
        carried=open_state(source),
        values=("logits",),
        nodes=[
            # Gumbel-max: the largest of logits + Gumbel noise is a draw from their softmax.
            helper.make_node("Add", ["logits", "epsilon"], ["perturbed"]),
            helper.make_node("ArgMax", ["perturbed"], ["policy_actions"], axis=1, keepdims=0),
            helper.make_node("Add", ["policy_actions", "action_start"], ["actions"]),
        ],
        inputs=_inputs(source, "standard Gumbel, −log(−log u)"),
        outputs=(
            Tensor("actions", TensorProto.INT64, (BATCH,), "the environment's", "the sampled action"),
            Tensor("policy_actions", TensorProto.INT64, (BATCH,), "index from 0", "as a trajectory records it"),
            Tensor("logits", TensorProto.FLOAT, shape, "log-probability", "up to a constant"),
        ),
        golden_inputs={"epsilon": golden_noise(source.golden_count, source.action_size)},
    )


def golden_noise(count: int, size: int) -> npt.NDArray[np.float32]:
    """[count, size]: multiples of a half from -2 to 2, equal on every machine."""
    index = 7 * np.arange(count)[:, None] + 3 * np.arange(size)
    return ((index % 9 - 4) / 2).astype(np.float32)
