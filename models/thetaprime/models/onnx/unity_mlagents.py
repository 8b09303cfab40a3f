"""Profile ``unity-mlagents``: the form that Unity's ML-Agents imports, model API version 3.

The importer finds tensors by name, and the sizes of the action space in constants that are outputs of the graph. It has
a stochastic and a deterministic output of each kind, and the component chooses one. Here both are the deterministic
action: an acting policy needs no noise, and noise drawn inside the graph could not be verified. To explore, use
``epsilon``.

An ML-Agents trainer clamps its Gaussian at ±3 and divides by 3, so its environments take [-1, 1]. This file gives them
the
same: along a bounded dimension, -1 is the lower and 1 the upper bound.
"""

from typing import Final

import numpy as np
import numpy.typing as npt
from onnx import NodeProto, TensorProto, helper, numpy_helper

from thetaprime.models.onnx.carried_state import CarriedState, engine_state
from thetaprime.models.onnx.profile import Head
from thetaprime.models.onnx.source import DefaultForm
from thetaprime.models.onnx.tensor import BATCH, Tensor

_MODEL_API_VERSION: Final = 3.0
# ML-Agents subtracts this number from the logits of forbidden actions.
_FORBIDDEN: Final = 1e8


def head(source: DefaultForm) -> Head:
    """The head for a policy; every policy has one."""
    return _continuous(source) if source.continuous else _discrete(source)


def _carried(source: DefaultForm) -> CarriedState:
    return engine_state(source, "obs_0", "chosen_allowed", joined="recurrent")


def _memory_size(carried: CarriedState) -> int:
    return sum(each.initial.size for each in carried.states)


def _fact_tensors(carried: CarriedState) -> tuple[Tensor, ...]:
    size = _memory_size(carried)
    return (
        Tensor("version_number", TensorProto.FLOAT, (1,), "constant", "version of the model API: 3"),
        Tensor("memory_size", TensorProto.FLOAT, (1,), "constant", f"numbers of memory: {size}"),
    )


def _continuous(source: DefaultForm) -> Head:
    shape = (BATCH, source.action_size)
    unit, carried = "[-1, 1] where bounded", _carried(source)
    return Head(
        carried=carried,
        values=("mean_clipped",),
        nodes=[
            *_facts(carried, "continuous_action_output_shape", [float(source.action_size)]),
            helper.make_node("Identity", ["mean_clipped"], ["continuous_actions"]),
            helper.make_node("Identity", ["mean_clipped"], ["deterministic_continuous_actions"]),
        ],
        outputs=(
            *_fact_tensors(carried),
            Tensor("continuous_actions", TensorProto.FLOAT, shape, unit, "the deterministic action"),
            Tensor("continuous_action_output_shape", TensorProto.FLOAT, (1,), "constant", "dimensions of the action"),
            Tensor("deterministic_continuous_actions", TensorProto.FLOAT, shape, unit, "the same"),
        ),
    )


def _discrete(source: DefaultForm) -> Head:
    size = source.action_size
    unit, carried = "index from 0", _carried(source)
    return Head(
        carried=carried,
        values=("logits",),
        nodes=[
            *_facts(carried, "discrete_action_output_shape", [[float(size)]]),
            helper.make_node("Sub", ["action_masks", "mask_allowed"], ["mask_below"]),
            helper.make_node("Mul", ["mask_below", "mask_penalty"], ["mask_added"]),
            helper.make_node("Add", ["logits", "mask_added"], ["logits_allowed"]),
            helper.make_node("ArgMax", ["logits_allowed"], ["chosen_allowed"], axis=1, keepdims=1),
            helper.make_node("Identity", ["chosen_allowed"], ["discrete_actions"]),
            helper.make_node("Identity", ["chosen_allowed"], ["deterministic_discrete_actions"]),
        ],
        initializers=[
            numpy_helper.from_array(np.array([1.0], np.float32), "mask_allowed"),
            numpy_helper.from_array(np.array([_FORBIDDEN], np.float32), "mask_penalty"),
        ],
        inputs=(Tensor("action_masks", TensorProto.FLOAT, (BATCH, size), "1 or 0", "1 where an action is allowed"),),
        outputs=(
            *_fact_tensors(carried),
            Tensor("discrete_actions", TensorProto.INT64, (BATCH, 1), unit, "the likeliest of the allowed actions"),
            Tensor("discrete_action_output_shape", TensorProto.FLOAT, (1, 1), "constant", "number of actions"),
            Tensor("deterministic_discrete_actions", TensorProto.INT64, (BATCH, 1), unit, "the same"),
        ),
        golden_inputs={"action_masks": _golden_masks(source.golden_count, size)},
    )


def _facts(carried: CarriedState, shape_name: str, action_shape: list[float] | list[list[float]]) -> list[NodeProto]:
    # Constant nodes, since some importers take an initializer that is an output for an input.
    memory_size = [float(_memory_size(carried))]
    facts = {"version_number": [_MODEL_API_VERSION], "memory_size": memory_size, shape_name: action_shape}
    return [
        helper.make_node("Constant", [], [name], value=numpy_helper.from_array(np.array(value, np.float32), name))
        for name, value in facts.items()
    ]


def _golden_masks(count: int, size: int) -> npt.NDArray[np.float32]:
    """[count, size]: every other row forbids one action."""
    masks = np.ones((count, size), np.float32)
    odd = np.arange(1, count, 2)
    masks[odd, odd // 2 % size] = 0.0
    return masks
