"""Adds the contract of the reward to artifacts that were exported without it.

Run ``python -m thetaprime.training.export.add_reward_contract [FOLDER ...]``. It measures the reward of fresh
meta-training tasks under θ, and writes it to manifest.json and to the model card. Every other file stays unchanged.
Without a folder, it does so for every artifact of the zoo.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from thetaprime.models import ArtifactError, MetaPolicy, find_meta_policies, load_meta_policy, zoo_directory
from thetaprime.models.manifest import MANIFEST_NAME
from thetaprime.models.parameters import digest_bytes
from thetaprime.training.export.model_card import CARD_NAME, reward_row
from thetaprime.training.export.reference import measure_reward
from thetaprime.training.resources import task_threads
from thetaprime.training.tasks.distributions import resolve_tasks
from thetaprime.training.tasks.networks import make_policy


def main(folders: Sequence[str]) -> None:
    """Adds the contract to some artifacts."""
    for directory in map(Path, folders) if folders else find_meta_policies(zoo_directory()):
        reward = add_reward_contract(directory).manifest.environment.reward
        sys.stdout.write(f"{directory}: {reward}\n")


def add_reward_contract(directory: Path) -> MetaPolicy:
    """Measures an artifact's reward and writes its manifest and card again.

    Returns:
        The artifact, read again.

    Raises:
        ArtifactError: the artifact is damaged, or its task distribution states no formula of the reward.
    """
    meta_policy = load_meta_policy(directory)
    manifest = meta_policy.manifest
    distribution = resolve_tasks(manifest.provenance.distribution)
    with task_threads(1):  # each operation of torch on one thread, as in training
        reward = measure_reward(
            distribution,
            # Without an earlier measurement, so that the same artifact gives the same contract again.
            make_policy(distribution.environment, manifest.policy),
            meta_policy.parameters,
            meta_policy.step_sizes,
            manifest.adaptation,
            manifest.provenance.seed,
        )
    if reward is None:
        distribution_name = manifest.provenance.distribution
        raise ArtifactError(str(directory), f"the tasks {distribution_name} state no reward in their environment")
    environment = manifest.environment.model_copy(update={"reward": reward})
    files = dict(manifest.files)
    if CARD_NAME in files:
        card = _with_row(meta_policy.read_extra(CARD_NAME).decode(), reward_row(environment)).encode()
        (directory / CARD_NAME).write_bytes(card)
        files[CARD_NAME] = digest_bytes(card)
    changed = manifest.model_copy(update={"environment": environment, "files": files})
    (directory / MANIFEST_NAME).write_bytes(changed.sealed().to_bytes())
    return load_meta_policy(directory)


def _with_row(card: str, row: str) -> str:
    """The card with its row on the reward, after the row on the action."""
    lines = [line for line in card.splitlines(keepends=True) if not line.startswith("| reward |")]
    action = next((index for index, line in enumerate(lines) if line.startswith("| action |")), None)
    return card if action is None else "".join([*lines[: action + 1], row, *lines[action + 1 :]])


if __name__ == "__main__":
    main(sys.argv[1:])
