"""The description that LEAPP reads beside a policy's file: which output of the graph is the next value of which input.

LEAPP is NVIDIA's; Isaac Lab's deployment reads its descriptions (version 1.3 of their form, LEAPP 0.7). The text is
JSON, which is YAML too.
"""

import hashlib
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from thetaprime.client._policy.memory_contract import MemoryContract

if TYPE_CHECKING:
    from thetaprime.client._policy.policy_file import TensorInfo

LEAPP_PROFILE: Final = "leapp"
_NODE: Final = "policy"
_FORM: Final = "1.3"


def leapp_description(
    file_name: str, onnx: bytes, tensors: Sequence["TensorInfo"], memory: MemoryContract | None
) -> str:
    """Returns the text of the description.

    Args:
        file_name: of the ONNX file, relative to the description.
        onnx: its bytes.
        tensors: its inputs and outputs. Their axes have fixed lengths.
        memory: its memory, which begins with zeros; None without one.
    """
    states = () if memory is None else memory.states
    fed_back = {each.input for each in states} | {each.output for each in states}

    def described(direction: str) -> list[dict[str, Any]]:
        return [
            {"name": each.name, "shape": list(each.shape), "dtype": each.dtype}
            for each in tensors
            if each.direction == direction
        ]

    def outside(direction: str) -> dict[str, list[str]]:
        names = [each.name for each in tensors if each.direction == direction and each.name not in fed_back]
        return {_NODE: names}

    parameters = {
        "model_path": file_name,
        "md5sum": hashlib.md5(onnx, usedforsecurity=False).hexdigest(),
        "sha256sum": hashlib.sha256(onnx).hexdigest(),
        "backend": "onnx",
    }
    description = {
        "models": {_NODE: {"inputs": described("in"), "outputs": described("out"), "parameters": parameters}},
        "pipeline": {
            "inputs": outside("in"),
            "outputs": outside("out"),
            "data_flow": {},
            # Without initial values, LEAPP begins with zeros: the start of a lifetime.
            "feedback_flow": {f"{_NODE}/{each.output}": [f"{_NODE}/{each.input}"] for each in states},
        },
        "system information": {"leapp config version": _FORM, "producer": "thetaprime"},
    }
    return json.dumps(description, indent=2) + "\n"
