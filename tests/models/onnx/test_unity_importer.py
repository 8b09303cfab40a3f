"""What Unity's ML-Agents checks when it imports a model.

After com.unity.ml-agents, Runtime/Inference/SentisModelInfo.cs and SentisModelParamLoader.cs (`CheckModel`), for a
behavior with one vector sensor. The importer runs the graph on zeros and reads its constants from the outputs.
"""

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from tests.support.models.policy_cases import CASES, Case
from thetaprime.models import derive_form

# What Sentis does not run, of what a policy might be tempted to use.
UNSUPPORTED = {"GRU", "RNN", "If", "Loop", "Scan", "SequenceAt", "StringNormalizer"}


def failed_checks(
    data: bytes, observation_size: int, continuous_size: int, branches: list[int], deterministic: bool
) -> list[str]:
    """The importer's complaints about a model, for a behavior with these sizes."""
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    shapes = {
        each.name: [1 if isinstance(length, str) else length for length in each.shape] for each in session.get_inputs()
    }
    outputs = run(session, {name: np.zeros(shape, np.float32) for name, shape in shapes.items()})
    failed = []
    for constant in ("version_number", "memory_size"):
        if constant not in outputs:
            return [f"constant {constant} was not found"]
        if outputs[constant].dtype != np.float32:
            failed.append(f"{constant} is not float")
    if not any("continuous_actions" in name or "discrete_actions" in name for name in outputs):
        return ["no action output"]
    prefix = "deterministic_" if deterministic else ""
    for kind in ("continuous", "discrete"):
        if any(f"{kind}_actions" in name for name in outputs):
            if f"{kind}_action_output_shape" not in outputs:
                return [f"no {kind} action output shape"]
            if f"{prefix}{kind}_actions" not in outputs or scalar(outputs[f"{kind}_action_output_shape"]) <= 0:
                return [f"no {prefix}{kind} actions"]
    if not 2 <= int(scalar(outputs["version_number"])) <= 3:
        failed.append("model version is not supported")
    if int(scalar(outputs["version_number"])) != 3:
        failed.append("a model of API 1 names its observations otherwise")
    if int(scalar(outputs["memory_size"])) > 0 and "recurrent_in" not in shapes:
        failed.append("no recurrent input")
    if "obs_0" not in shapes:
        failed.append("no observation for sensor 0")
    known = {"obs_0", "action_masks", "recurrent_in", "prev_action", "epsilon", "sequence_length"}
    failed += [f"unexpected input {name}" for name in shapes if name not in known]
    if shapes.get("obs_0", [1, 0])[1] != observation_size:
        failed.append("the observation does not match")
    if branches and "action_masks" not in shapes:
        failed.append("no action masks")
    size = int(scalar(outputs["continuous_action_output_shape"])) if "continuous_action_output_shape" in outputs else 0
    if size != continuous_size:
        failed.append("the continuous action size does not match")
    model_branches = outputs.get("discrete_action_output_shape", np.empty(0)).ravel().tolist()
    if model_branches != branches:
        failed.append("the discrete branches do not match")
    return failed


def run(session: Any, feed: dict[str, Any]) -> dict[str, Any]:
    names = [each.name for each in session.get_outputs()]
    return dict(zip(names, session.run(names, feed), strict=True))


def scalar(array: Any) -> float:
    return float(array.ravel()[0])


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
@pytest.mark.parametrize("deterministic", [False, True])
def test_the_importer_accepts_every_policy(case: Case, deterministic: bool) -> None:
    form = derive_form(case.onnx, "unity-mlagents")
    observation_size = case.policy.environment.observation_size
    sizes = (case.action_size, []) if case.policy.continuous else (0, [case.action_size])
    assert failed_checks(form.onnx, observation_size, *sizes, deterministic) == []
    # And it is the checks that accept: they refuse other sizes, and the default form.
    assert failed_checks(form.onnx, observation_size + 1, *sizes, deterministic)
    assert failed_checks(form.onnx, observation_size, sizes[0] + 1, [*sizes[1], 2], deterministic)
    assert failed_checks(case.onnx, observation_size, *sizes, deterministic)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_unitys_engine_can_run_the_graph(case: Case) -> None:
    model = onnx.ModelProto.FromString(derive_form(case.onnx, "unity-mlagents").onnx)
    assert 7 <= model.opset_import[0].version <= 15
    assert not {node.op_type for node in model.graph.node} & UNSUPPORTED
    constants = {node.output[0] for node in model.graph.node if node.op_type == "Constant"}
    by_name = {output.name for output in model.graph.output if not output.type.tensor_type.shape.dim[0].dim_param}
    assert constants == by_name  # initializers that are outputs are lost on import
    assert not {each.name for each in model.graph.initializer} & {each.name for each in model.graph.input}


def test_a_mask_leaves_the_likeliest_allowed_action() -> None:
    case = CASES["discrete"]
    session = onnxruntime.InferenceSession(derive_form(case.onnx, "unity-mlagents").onnx)
    observation = np.full((1, 5), 0.3, np.float32)
    order = np.argsort(-case.head(observation)[0])
    masks = np.ones((1, 4), np.float32)
    for likeliest in order:
        given = run(session, {"obs_0": observation, "action_masks": masks})
        assert given["discrete_actions"].tolist() == given["deterministic_discrete_actions"].tolist() == [[likeliest]]
        masks[0, likeliest] = 0
