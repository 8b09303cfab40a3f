"""The contract of the reward: measured at export, added to earlier artifacts, and heeded by the shipped ones."""

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from thetaprime.models import ArtifactError, adapt_step, find_meta_policies, load_meta_policy, zoo_directory
from thetaprime.training.export import reference
from thetaprime.training.export.add_reward_contract import add_reward_contract
from thetaprime.training.sampling.sampler import collect
from thetaprime.training.tasks.distributions import resolve_tasks


@pytest.fixture
def without_reward(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A shipped artifact as it was before artifacts stated a reward."""
    monkeypatch.setattr(reference, "_TASKS", 3)
    folder = tmp_path / "point-navigation" / "1"
    shutil.copytree(zoo_directory() / "point-navigation" / "1", folder)
    manifest = load_meta_policy(folder).manifest
    environment = manifest.environment.model_dump(exclude={"reward"})
    earlier = manifest.model_validate({**manifest.model_dump(exclude_unset=True), "environment": environment})
    (folder / "manifest.json").write_bytes(earlier.sealed().to_bytes())
    return folder


@pytest.mark.usefixtures("one_thread")
def test_an_earlier_artifact_loads_and_gets_the_contract(without_reward: Path) -> None:
    before = load_meta_policy(without_reward)
    assert before.manifest.environment.reward is None
    after = add_reward_contract(without_reward)
    reward = after.manifest.environment.reward
    assert reward is not None
    assert reward.formula == "-|position - goal|, after the move"
    assert (reward.tasks, len(reward.deviation), len(reward.signal)) == (3, 2, 2)
    assert reward.step_range is not None
    assert reward.return_range is not None
    assert -1.0 < reward.step_range[0] < reward.step_range[1] <= 0.0
    assert -100.0 < reward.return_range[0] < reward.return_range[1] < 0.0
    # θ, its file and its evaluation stay, to the byte.
    assert after.policy_id == before.policy_id
    assert after.export(after.parameters).onnx == before.export(before.parameters).onnx
    changed = {name for name, digest in after.manifest.files.items() if digest != before.manifest.files[name]}
    assert changed <= {"README.md"}
    card = (without_reward / "README.md").read_text()
    assert card.count("| reward |") == 1
    assert f"θ's return on 3 tasks: {reward.return_range[0]:.4g}" in card


@pytest.mark.usefixtures("one_thread")
def test_the_contract_added_again_is_the_same(without_reward: Path) -> None:
    contents = []
    for _ in range(2):
        add_reward_contract(without_reward)
        contents.append({file.name: file.read_bytes() for file in without_reward.iterdir()})
    assert contents[0] == contents[1]


def test_tasks_without_a_formula_are_refused_by_name(without_reward: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tasks = resolve_tasks("point-navigation")
    silent = tasks.environment.model_copy(update={"reward": None})
    monkeypatch.setattr(type(tasks), "environment", silent)
    with pytest.raises(ArtifactError, match="the tasks point-navigation state no reward"):
        add_reward_contract(without_reward)


def test_every_shipped_artifact_states_its_reward() -> None:
    for directory in find_meta_policies(zoo_directory()):
        manifest = load_meta_policy(directory).manifest
        reward = manifest.environment.reward
        assert reward is not None
        stated = resolve_tasks(manifest.provenance.distribution).environment.reward
        assert stated is not None
        assert reward.formula == stated.formula
        assert reward.step_range is not None
        assert reward.return_range is not None
        assert len(reward.deviation) == len(reward.signal) == 2
        # An earlier version's file is the same: the ONNX contract is about observations and actions.
        assert "reward" not in (directory / "policy.onnx").read_bytes().decode("latin-1")


@pytest.mark.usefixtures("one_thread")
def test_noise_in_the_reward_shortens_no_step_of_a_shipped_policy() -> None:
    """Formerly noise passed for a scale, and the step was a third as long."""
    meta_policy = load_meta_policy(zoo_directory() / "point-navigation" / "1")
    policy, theta, adaptation = meta_policy.policy, meta_policy.parameters, meta_policy.manifest.adaptation
    tasks = [{"goal": [0.3, -0.25]}, {"goal": [-0.4, 0.1]}]
    support = collect(resolve_tasks("point-navigation"), tasks, policy, [theta] * 2, 20, rng=np.random.default_rng(0))
    for batch in support:
        noise = 0.05 * torch.randn(batch.rewards.shape, generator=torch.Generator().manual_seed(0))
        lengths = [
            adapt_step(policy, theta, each, adaptation, step=0, step_sizes=meta_policy.step_sizes).parameters["context"]
            - theta["context"]
            for each in (batch, dataclasses.replace(batch, rewards=batch.rewards + noise))
        ]
        assert lengths[1].norm() == pytest.approx(float(lengths[0].norm()), rel=0.1)


@pytest.mark.usefixtures("one_thread")
def test_a_shipped_policy_adapts_alike_in_any_unit_of_the_reward() -> None:
    """Formerly a reward times 10 led navigation ten times too far, and a reward with an offset nowhere."""
    meta_policy = load_meta_policy(zoo_directory() / "point-navigation" / "1")
    policy, theta, adaptation = meta_policy.policy, meta_policy.parameters, meta_policy.manifest.adaptation
    distribution = resolve_tasks("point-navigation")
    tasks = [{"goal": [0.3, -0.25]}, {"goal": [-0.4, 0.1]}]
    support = collect(distribution, tasks, policy, [theta] * 2, 20, rng=np.random.default_rng(0))

    def adapted(task: int, scale: float, offset: float = 0.0) -> torch.Tensor:
        rewards = support[task].rewards * scale + offset
        batch = dataclasses.replace(support[task], rewards=rewards)
        step = adapt_step(policy, theta, batch, adaptation, step=0, step_sizes=meta_policy.step_sizes)
        return step.parameters["context"]

    for task in range(2):
        moved = adapted(task, 1.0) - theta["context"]
        for scale in (0.01, 0.1, 10.0, 100.0):
            other = adapted(task, scale) - theta["context"]
            assert (other - moved).norm() < 0.03 * moved.norm()
            # An offset hides the distance, not the direction.
            shifted = adapted(task, scale, 5.0 * scale) - theta["context"]
            assert torch.nn.functional.cosine_similarity(shifted, moved, dim=0) > 0.999
            assert 0.3 * moved.norm() < shifted.norm() < 1.7 * moved.norm()
