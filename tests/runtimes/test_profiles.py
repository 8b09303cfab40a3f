"""The ONNX file of every profile acts as torch does, in every runtime, over whole episodes."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np
import pytest

from tests.support.models.memory_cases import CASES as MEMORY_CASES
from tests.support.models.memory_cases import MemoryCase, live
from tests.support.models.policy_cases import CASES, EPISODES, HORIZON, Array, Case, play
from tests.support.models.runtimes import Job, Outputs, Runtime
from thetaprime.models import PROFILES, derive_form

BATCHES: Final = (1, 3)
# Profiles whose graph takes one observation.
ONE_ROBOT: Final = ("rsl-rl", "leapp", "robot")
# By profile: the policies that the profile cannot express.
REFUSES: Final[dict[str, Callable[[Case], bool]]] = {
    "godot-rl": lambda case: not case.bounded,
    **dict.fromkeys(ONE_ROBOT, lambda case: not case.policy.continuous),
}
EXPRESSED: Final = [
    (profile, case)
    for profile in PROFILES
    for case in CASES.values()
    if not REFUSES.get(profile, lambda case: False)(case)
]


def noise(case: Case) -> Array:
    """[H, EPISODES, A]: standard normal, or Gumbel."""
    rng, shape = np.random.default_rng(5), (HORIZON, EPISODES, case.action_size)
    drawn = rng.normal(size=shape) if case.policy.continuous else rng.gumbel(size=shape)
    return drawn.astype(np.float32)


def masks(case: Case) -> Array:
    """[H, EPISODES, A]: allows each action three times out of four, and at least one at each step."""
    rng = np.random.default_rng(6)
    allowed = rng.random((HORIZON, EPISODES, case.action_size)) < 0.75
    np.put_along_axis(allowed, rng.integers(case.action_size, size=(HORIZON, EPISODES, 1)), True, axis=-1)
    return allowed.astype(np.float32)


def inputs_of(profile: str, case: Case) -> Outputs:
    """[H, EPISODES, ...] for each input of a form."""
    observations = play(case)
    if profile == "epsilon":
        return {"obs": observations, "epsilon": noise(case)}
    if profile == "unity-mlagents":
        return {"obs_0": observations, **({} if case.policy.continuous else {"action_masks": masks(case)})}
    if profile == "godot-rl":
        return {"obs": observations, "state_ins": np.arange(HORIZON * EPISODES, dtype=np.float32).reshape(HORIZON, -1)}
    return {"obs": observations}


def torch_outputs(profile: str, case: Case, inputs: Outputs) -> Outputs:
    """Returns torch's value of each output that has an entry for each observation."""
    observations = next(iter(inputs.values()))
    head, continuous = case.head(observations), case.policy.continuous
    if profile == "default":
        return {"actions": case.act(observations), "mean" if continuous else "logits": head}
    if profile in ONE_ROBOT:
        return {"actions": case.act(observations)}
    if profile == "epsilon" and continuous:
        std = case.policy.log_std(case.parameters).exp().detach().numpy()
        sampled = head + std * inputs["epsilon"]
        actions = case.torch(case.policy.to_environment, sampled)
        return {"actions": actions, "policy_actions": sampled, "mean": head}
    if profile == "epsilon":
        sampled = (head + inputs["epsilon"]).argmax(-1)
        return {"actions": sampled + 5, "policy_actions": sampled, "logits": head}
    if profile == "godot-rl":
        exponential = np.exp(head - head.max(-1, keepdims=True))
        output = case.clipped_mean(observations) if continuous else exponential / exponential.sum(-1, keepdims=True)
        return {"output": output, "state_outs": inputs["state_ins"]}
    if continuous:
        action = case.clipped_mean(observations)
        return {"continuous_actions": action, "deterministic_continuous_actions": action}
    likeliest = np.where(inputs["action_masks"] == 1, head, -np.inf).argmax(-1)[..., None]
    return {"discrete_actions": likeliest, "deterministic_discrete_actions": likeliest}


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, Job, Outputs]]:
    """Jobs for every profile, policy and batch size, each with torch's outputs."""
    folder, found = tmp_path_factory.mktemp("forms"), []
    for profile, case in EXPRESSED:
        form = derive_form(case.onnx, profile, case.robot if profile == "robot" else None)
        path = folder / f"{profile}-{case.name}.onnx"
        path.write_bytes(form.onnx)
        inputs = inputs_of(profile, case)
        expected = torch_outputs(profile, case, inputs)
        for batch in BATCHES if profile not in ONE_ROBOT else (1,):
            one_run = {name: array[:, :batch] for name, array in inputs.items()}
            label = f"{profile} {case.name} batch {batch}"
            found.append((label, Job(path, one_run, list(expected)), {n: a[:, :batch] for n, a in expected.items()}))
    return found


@pytest.mark.slow
def test_every_profile_equals_torch_over_whole_episodes(runtime: Runtime, jobs: list[tuple[str, Job, Outputs]]) -> None:
    results = runtime([job for _, job, _ in jobs])
    for (label, _, expected), given in zip(jobs, results, strict=True):
        for name, array in expected.items():
            assert given[name].shape == array.shape, f"{label}: {name}"
            if given[name].dtype == np.int64:
                np.testing.assert_array_equal(given[name], array, err_msg=f"{label}: {name}")
            else:
                assert given[name].dtype == np.float32
                np.testing.assert_allclose(given[name], array, rtol=1e-5, atol=1e-5, err_msg=f"{label}: {name}")


MEMORY_REFUSES: Final[dict[str, Callable[[MemoryCase], bool]]] = {
    "godot-rl": lambda case: True,
    **dict.fromkeys(ONE_ROBOT, lambda case: not case.policy.continuous),
}


def memory_job(profile: str, case: MemoryCase, path: Path, batch: int) -> tuple[Job, Outputs]:
    """Returns a job over whole lifetimes with resets in their middle, and torch's outputs."""
    form = derive_form(case.onnx, profile, case.robot if profile == "robot" else None)
    path.write_bytes(form.onnx)
    lived, continuous = live(case), case.policy.continuous
    shape, size = lived.resets.shape, case.policy.environment.action.size
    inputs, expected = dict(lived.inputs), {"actions": lived.actions}
    if profile in ("default", "epsilon"):
        expected["mean" if continuous else "logits"] = lived.head
    if profile == "epsilon":
        inputs["epsilon"] = np.zeros((*shape, size), np.float32)
    if profile in (*ONE_ROBOT, "unity-mlagents"):
        read = [lived.inputs["obs"], *(lived.inputs[name][..., None] for name in ("prev_reward", "prev_done"))]
        inputs = {"obs_0" if profile == "unity-mlagents" else "obs": np.concatenate(read, -1)}
    if profile == "unity-mlagents" and continuous:
        clip = case.policy.scaling[0].numpy()
        expected = {"deterministic_continuous_actions": np.clip(lived.head, -clip, clip)}
    elif profile == "unity-mlagents":
        inputs["action_masks"] = np.ones((*shape, size), np.float32)
        expected = {"discrete_actions": lived.actions[..., None] - case.policy.action_start}
    states = json.loads(form.metadata["thetaprime.memory"])["states"]
    one_run = {name: rows[:, :batch] for name, rows in inputs.items()}
    job = Job(path, one_run, list(expected), lived.resets[:, :batch], states)
    return job, {name: rows[:, :batch] for name, rows in expected.items()}


@pytest.mark.slow
def test_every_profile_of_a_policy_with_a_memory_equals_torch_over_whole_lifetimes(
    runtime: Runtime, tmp_path: Path
) -> None:
    jobs = {
        f"{profile} {case.name} batch {batch}": memory_job(
            profile, case, tmp_path / f"{profile}-{case.name}.onnx", batch
        )
        for profile in PROFILES
        for case in MEMORY_CASES.values()
        if not MEMORY_REFUSES.get(profile, lambda case: False)(case)
        for batch in (BATCHES if profile not in ONE_ROBOT else (1,))
    }
    assert len(jobs) == (3 * 5) * 2 + 3 * 3
    for (label, (_, expected)), given in zip(jobs.items(), runtime([job for job, _ in jobs.values()]), strict=True):
        for name, array in expected.items():
            assert given[name].shape == array.shape, f"{label}: {name}"
            np.testing.assert_allclose(given[name], array, rtol=1e-4, atol=1e-4, err_msg=f"{label}: {name}")


def test_the_episodes_tell_the_policies_apart() -> None:
    """The episodes include clipped and unclipped actions, and every discrete action."""
    observations = play(CASES["bounded"])
    mean = CASES["bounded"].head(observations)
    assert 0.05 < (np.abs(mean) > 1).mean() < 0.95
    assert set(CASES["discrete"].act(play(CASES["discrete"])).ravel()) == {5, 6, 7, 8}


def test_every_profile_is_tried_with_a_policy_of_each_kind() -> None:
    tried = {(profile, case.name) for profile, case in EXPRESSED}
    assert len(tried) == 7 * 5 - 2 - 3


def test_a_form_for_one_observation_takes_no_batch(runtime: Runtime, jobs: list[tuple[str, Job, Outputs]]) -> None:
    path = next(job.onnx for label, job, _ in jobs if label.startswith("robot bounded "))
    with pytest.raises(Exception, match=r"invalid dimensions for input"):
        runtime([Job(path, {"obs": np.zeros((1, 3, 5), np.float32)}, ["actions"])])
