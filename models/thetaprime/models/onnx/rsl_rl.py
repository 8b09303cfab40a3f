"""Profiles ``rsl-rl`` and ``leapp``: the names that rsl_rl and Isaac Lab give the tensors of a policy.

The graph takes one observation and returns its deterministic action: ``obs`` and ``actions``, with a memory also
``h_in`` and ``h_out``, for an LSTM ``c_in`` and ``c_out``. In the profile ``leapp``, a file in YAML beside it wires the
state (NVIDIA's LEAPP, which Isaac Lab reads); the client writes it.
"""

from onnx import TensorProto

from thetaprime.models.onnx.carried_state import engine_state
from thetaprime.models.onnx.profile import Head, ProfileError
from thetaprime.models.onnx.source import DefaultForm
from thetaprime.models.onnx.tensor import BATCH, Tensor


def head(source: DefaultForm, profile: str, what: str = "the deterministic action") -> Head:
    """The head for a policy.

    Args:
        source: the default form.
        profile: the profile's name, for the error.
        what: description of the action.

    Raises:
        ProfileError: the policy's actions are discrete.
    """
    if not source.continuous:
        raise ProfileError(
            "profile",
            f"{profile!r} cannot express this policy: its actions are discrete, and a robot's joints take numbers; "
            "expected box actions, or the profile 'default'",
        )
    shape = (BATCH, source.action_size)
    return Head(
        carried=engine_state(source, "obs"),
        values=("actions",),
        nodes=(),
        outputs=(Tensor("actions", TensorProto.FLOAT, shape, "the environment's", what),),
        batch=1,
    )
