"""The description that LEAPP reads beside a policy's file wires the state as its inference does."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

import thetaprime.client as tp
from tests.support.models.memory_cases import CASES, live
from tests.support.models.policy_cases import CASES as FORGETFUL
from thetaprime.models import ProfileError, derive_form

_DTYPES = {"float32": np.float32}


class Inference:
    """What LEAPP 0.7 does with a description (leapp/inference_manager.py): one buffer for each input of each node.

    Each run takes the given inputs, runs every node, and moves its outputs along the flows.
    """

    def __init__(self, path: Path) -> None:
        described = json.loads(path.read_text())
        assert {"models", "pipeline", "system information"} <= described.keys()
        self.pipeline = described["pipeline"]
        (self.name,) = described["models"]
        self.model = described["models"][self.name]
        parameters = self.model["parameters"]
        data = (path.parent / parameters["model_path"]).read_bytes()
        assert hashlib.sha256(data).hexdigest() == parameters["sha256sum"]
        assert hashlib.md5(data, usedforsecurity=False).hexdigest() == parameters["md5sum"]
        assert parameters["backend"] == "onnx"
        self.session = onnxruntime.InferenceSession(data)
        for side, values in (("inputs", self.session.get_inputs()), ("outputs", self.session.get_outputs())):
            assert [(each["name"], each["shape"]) for each in self.model[side]] == [(v.name, v.shape) for v in values]
        outputs = {each["name"] for each in self.model["outputs"]}
        fed_back = {source.partition("/")[2] for source in self.pipeline["feedback_flow"]}
        # Every output goes somewhere, once.
        assert fed_back | set(self.pipeline["outputs"][self.name]) == outputs
        self.reset()

    def reset(self) -> None:
        assert "initial_values" not in self.pipeline
        self.buffers = {each["name"]: np.zeros(each["shape"], _DTYPES[each["dtype"]]) for each in self.model["inputs"]}

    def run(self, inputs: dict[str, Any]) -> dict[str, Any]:
        assert sorted(inputs) == [f"{self.name}/{each}" for each in sorted(self.pipeline["inputs"][self.name])]
        for key, value in inputs.items():
            self.buffers[key.partition("/")[2]] = value
        names = [each["name"] for each in self.model["outputs"]]
        given = dict(zip(names, self.session.run(names, self.buffers), strict=True))
        for source, targets in self.pipeline["feedback_flow"].items():
            for target in targets:
                self.buffers[target.partition("/")[2]] = given[source.partition("/")[2]]
        return {name: given[name] for name in self.pipeline["outputs"][self.name]}


@pytest.mark.parametrize("name", ["gru", "gru-encoder-unbounded", "lstm"])
def test_leapp_feeds_the_state_back_over_lifetimes(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    tp.PolicyFile(derive_form(case.onnx, "leapp").onnx).save(tmp_path / "walker.onnx")
    lived, inference = live(case), Inference(tmp_path / "walker.yaml")
    for step, begins in enumerate(lived.resets[:, 0]):
        if begins:
            inference.reset()
        read = [lived.inputs["obs"][step, 0], *(lived.inputs[each][step, :1] for each in ("prev_reward", "prev_done"))]
        given = inference.run({"policy/obs": np.concatenate(read)[None]})
        np.testing.assert_allclose(given["actions"][0], lived.actions[step, 0], rtol=1e-4, atol=1e-4)


def test_a_policy_without_a_memory_has_no_feedback(tmp_path: Path) -> None:
    case = FORGETFUL["bounded"]
    tp.PolicyFile(derive_form(case.onnx, "leapp").onnx).save(tmp_path / "leapp.onnx")
    inference = Inference(tmp_path / "leapp.yaml")
    assert inference.pipeline["feedback_flow"] == {}
    observation = np.full((1, 5), 0.5, np.float32)
    np.testing.assert_allclose(inference.run({"policy/obs": observation})["actions"], case.act(observation), atol=1e-5)


@pytest.mark.parametrize("profile", ["rsl-rl", "leapp"])
def test_discrete_actions_are_refused_by_name(profile: str) -> None:
    with pytest.raises(ProfileError, match=f"'{profile}' cannot express this policy: its actions are discrete"):
        derive_form(CASES["gru-discrete"].onnx, profile)


def test_other_profiles_have_no_description(tmp_path: Path) -> None:
    tp.PolicyFile(derive_form(CASES["gru"].onnx, "rsl-rl").onnx).save(tmp_path / "walker.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["walker.onnx"]
