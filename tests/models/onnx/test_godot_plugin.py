"""What the plugin of Godot RL Agents does with a model.

After addons/godot_rl_agents of edbeeching/godot_rl_agents_plugin: onnx/csharp/ONNXInference.cs (`Initialize`,
`RunInference`), onnx/wrapper/ONNX_wrapper.gd (`set_action_means_only`) and sync.gd (`_extract_action_dict`); and after
`verify_onnx_export` of godot_rl/wrappers/onnx/stable_baselines_export.py.
"""

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from tests.support.models.policy_cases import CASES, Case, make_case, play
from thetaprime.models import BoxAction, DiscreteAction, OnnxTemplate, ProfileError, derive_form

EXPRESSED = [case for case in CASES.values() if case.bounded]


class Plugin:
    """The plugin's way from an observation to an action."""

    def __init__(self, data: bytes, action_space: dict[str, dict[str, Any]]) -> None:
        self.session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
        self.action_space = action_space
        # It asks the file how many numbers come out: only then does it know that no log_std follows the means.
        output_size = {each.name: each.shape for each in self.session.get_outputs()}["output"][1]
        continuous_only = all(action["action_type"] == "continuous" for action in action_space.values())
        self.means_only = continuous_only and output_size == sum(action["size"] for action in action_space.values())

    def infer(self, observation: list[float], state: int) -> tuple[list[float], list[float]]:
        feed = {
            "obs": np.array(observation, np.float32).reshape(1, len(observation)),
            "state_ins": np.array([state], np.float32),
        }
        output, state_outs = self.session.run(["output", "state_outs"], feed)
        assert output.dtype == state_outs.dtype == np.float32  # read as floats
        return output.ravel().tolist(), state_outs.ravel().tolist()

    def act(self, observation: list[float]) -> dict[str, Any]:
        numbers, _ = self.infer(observation, 1)
        index = 0
        result: dict[str, Any] = {}
        for name, action in self.action_space.items():
            size = action["size"]
            if action["action_type"] == "discrete":
                largest, chosen = 0.0, 0
                for candidate in range(size):
                    if numbers[index + candidate] > largest:
                        largest, chosen = numbers[index + candidate], candidate
                result[name] = chosen
                index += size
            else:
                result[name] = np.clip(numbers[index : index + size], -1.0, 1.0)
                index += size if self.means_only else 2 * size
        assert index == len(numbers)
        return result


@pytest.mark.parametrize("case", EXPRESSED, ids=lambda case: case.name)
def test_the_engine_acts_as_the_policy(case: Case) -> None:
    kind = "continuous" if case.policy.continuous else "discrete"
    plugin = Plugin(derive_form(case.onnx, "godot-rl").onnx, {"move": {"size": case.action_size, "action_type": kind}})
    for observation, expected in zip(play(case)[:, 0], case.act(play(case)[:, 0]), strict=True):
        action = plugin.act(observation.tolist())["move"]
        if isinstance(case.policy.environment.action, BoxAction):
            low, high = np.array(case.policy.environment.action.low), np.array(case.policy.environment.action.high)
            np.testing.assert_allclose(low + (action + 1) / 2 * (high - low), expected, rtol=1e-5, atol=1e-5)
        else:
            assert action + 5 == expected


def test_the_engine_reads_no_log_std() -> None:
    case = make_case("two", BoxAction(low=(-1.0, -1.0), high=(1.0, 1.0)), (3,))
    space = {name: {"size": 1, "action_type": "continuous"} for name in ("steer", "gas")}
    plugin = Plugin(derive_form(case.onnx, "godot-rl").onnx, space)
    assert plugin.means_only
    observation = np.array([[0.1, -0.4, 0.8]], np.float32)
    action = plugin.act(observation[0].tolist())
    np.testing.assert_allclose([action["steer"][0], action["gas"][0]], case.act(observation)[0], atol=1e-5)


def test_the_engine_misreads_negative_logits_but_not_probabilities() -> None:
    case = make_case("negative", DiscreteAction(count=3), (2,))
    case.parameters["layers.2.bias"] -= torch.tensor([110.0, 100.0, 100.0])
    template = OnnxTemplate(case.policy, "negative@1")
    golden = {"observations": [[0.0, 0.0]], "actions": [2]}
    data, _ = template.write(case.parameters, policy_id="", parent_id="", golden=golden)
    observation = np.array([[0.5, -1.0]], np.float32)
    assert (case.head(observation) < 0).all()
    assert case.act(observation)[0] != 0
    plugin = Plugin(derive_form(data, "godot-rl").onnx, {"move": {"size": 3, "action_type": "discrete"}})
    assert plugin.act(observation[0].tolist())["move"] == case.act(observation)[0]


@pytest.mark.parametrize("case", EXPRESSED, ids=lambda case: case.name)
def test_the_state_is_unchanged_and_the_plugins_runtime_loads_the_file(case: Case) -> None:
    data = derive_form(case.onnx, "godot-rl").onnx
    _, state = Plugin(data, {}).infer([0.0] * case.policy.environment.observation_size, 4)
    assert state == [4.0]
    model = onnx.ModelProto.FromString(data)
    onnx.checker.check_model(model)
    assert model.opset_import[0].version <= 17
    assert model.ir_version <= 8  # the plugin pins onnxruntime 1.15, which reads 9 at most
    assert [each.name for each in model.graph.input] == ["obs", "state_ins"]
    assert [each.name for each in model.graph.output] == ["output", "state_outs"]
    for value in (*model.graph.input, *model.graph.output):
        assert value.type.tensor_type.shape.dim[0].dim_param


@pytest.mark.parametrize("name", ["unbounded", "unbounded-context"])
def test_an_action_without_bounds_is_refused(name: str) -> None:
    expected = r"profile: 'godot-rl' cannot express this policy: dimension 1 .*\[-inf, inf\]"
    with pytest.raises(ProfileError, match=expected):
        derive_form(CASES[name].onnx, "godot-rl")
