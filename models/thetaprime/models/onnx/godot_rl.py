"""Profile ``godot-rl``: the form that the plugin of Godot RL Agents loads.

The plugin clamps continuous actions to ±1, so the graph outputs the action in [-1, 1]. It chooses a discrete action by
the largest output above 0, so the graph outputs probabilities. The plugin passes a constant as the state and drops the
state that comes back: it cannot run a policy with a memory, and the state of other policies passes unchanged.
"""

import math

import numpy as np
from onnx import TensorProto, helper

from thetaprime.models.onnx.carried_state import open_state
from thetaprime.models.onnx.profile import Head, ProfileError
from thetaprime.models.onnx.source import DefaultForm
from thetaprime.models.onnx.tensor import BATCH, Tensor
from thetaprime.models.spec import BoxAction


def head(source: DefaultForm) -> Head:
    """The head for a policy.

    Raises:
        ProfileError: the policy has a memory, or an action dimension has no bounds, but the engine would clamp it.
    """
    if source.memory is not None:
        raise ProfileError(
            "profile",
            "'godot-rl' cannot express this policy: it has a memory, and the plugin passes a constant as the state and "
            "drops the state that comes back; expected a policy without a memory, or the profile 'default', which a "
            "script of your own can run",
        )
    _check_bounded(source)
    shape = (BATCH, source.action_size)
    if source.continuous:
        node = helper.make_node("Identity", ["mean_clipped"], ["output"])
        output = Tensor("output", TensorProto.FLOAT, shape, "[-1, 1]", "the deterministic action")
    else:
        node = helper.make_node("Softmax", ["logits"], ["output"], axis=1)
        output = Tensor("output", TensorProto.FLOAT, shape, "probability", "of each action")
    count = source.golden_count
    return Head(
        carried=open_state(source),
        values=("mean_clipped" if source.continuous else "logits",),
        nodes=[node, helper.make_node("Identity", ["state_ins"], ["state_outs"])],
        inputs=(Tensor("state_ins", TensorProto.FLOAT, (BATCH,), "none", "anything"),),
        outputs=(output, Tensor("state_outs", TensorProto.FLOAT, (BATCH,), "none", "state_ins")),
        golden_inputs={"state_ins": np.arange(count, dtype=np.float32)},
    )


def _check_bounded(source: DefaultForm) -> None:
    action = source.environment.action
    if not isinstance(action, BoxAction):
        return
    for dimension, (low, high) in enumerate(zip(action.low, action.high, strict=True)):
        if not (math.isfinite(low) and math.isfinite(high)):
            raise ProfileError(
                "profile",
                f"'godot-rl' cannot express this policy: dimension {dimension} of its action has bounds "
                f"[{low}, {high}], and the engine clamps every action to [-1, 1]; expected an environment whose action "
                "space is bounded, or the profile 'default', which a script of your own can run",
            )
