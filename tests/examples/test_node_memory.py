"""The Node example runs a policy with a memory from its file and its metadata alone."""

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from tests.support.models.memory_cases import CASES, MemoryCase, live

if TYPE_CHECKING:
    from tests.support.node import Talk


def _ask(talk: "Talk", case: MemoryCase, **changes: str) -> dict[str, Any]:
    lived = live(case)
    steps = [
        {
            "observation": lived.inputs["obs"][step, 0].tolist(),
            "begins": bool(lived.resets[step, 0]),
            "reward": float(lived.inputs["prev_reward"][step, 0]),
            "done": bool(lived.inputs["prev_done"][step, 0]),
        }
        for step in range(len(lived.resets))
    ]
    return talk.ask("remember", onnx=case.onnx.hex(), metadata={**case.exported.metadata, **changes}, steps=steps)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_node_acts_as_torch_does_over_lifetimes(talk: "Talk", case: MemoryCase) -> None:
    np.testing.assert_allclose(_ask(talk, case)["actions"], live(case).actions[:, 0], rtol=1e-4, atol=1e-4)


def test_node_refuses_a_file_that_fails_its_golden_sequences(talk: "Talk") -> None:
    case = CASES["lstm"]
    golden = json.loads(case.exported.metadata["thetaprime.golden"])
    golden["outputs"]["actions"][1][5][0] += 1e-3
    answer = _ask(talk, case, **{"thetaprime.golden": json.dumps(golden)})
    assert "fails its golden sequences: at step 5 of sequence 1 its actions is" in answer["error"]


def test_node_refuses_another_contract(talk: "Talk") -> None:
    answer = _ask(talk, CASES["gru"], **{"thetaprime.contract_version": "1"})
    assert "contract_version is 1; expected 2: a policy with a memory" in answer["error"]
