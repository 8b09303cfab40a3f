"""What a user would do instead of adaptation: Stable-Baselines3's PPO on the task itself, from a policy of ours.

It needs an environment that has stable-baselines3 beside thetaprime:

python -m pip install --no-deps --target build/sb3 'stable-baselines3>=2.9' cloudpickle
PYTHONPATH=build/sb3 python benchmarks/ppo.py half-cheetah-velocity --goal 2.5 --rounds 20
PYTHONPATH=build/sb3 python benchmarks/ppo.py --beyond --minutes 20    # the tasks of docs/trust-in-adaptation.md

The second form goes on where it stopped.
"""

import argparse
import dataclasses
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import gymnasium  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from stable_baselines3 import PPO  # noqa: E402
from stable_baselines3.common.callbacks import BaseCallback  # noqa: E402
from stable_baselines3.common.monitor import Monitor  # noqa: E402
from stable_baselines3.common.vec_env import DummyVecEnv  # noqa: E402

from benchmarks.verdicts.cases import CASES  # noqa: E402
from benchmarks.verdicts.environments import Alteration, alter  # noqa: E402
from benchmarks.verdicts.run import read  # noqa: E402
from thetaprime.models import MetaPolicy, Parameters, load_meta_policy, resolve_meta_policy  # noqa: E402
from thetaprime.training.tasks import resolve_tasks  # noqa: E402

RECORDS: Final = ROOT / "build" / "verdicts" / "ppo.jsonl"
EPISODES: Final = 20
_ACTIVATIONS: Final = {"relu": torch.nn.ReLU, "tanh": torch.nn.Tanh}


def fine_tune(
    meta_policy: MetaPolicy,
    make: Callable[[], gymnasium.Env[Any, Any]],
    rounds: int,
    *,
    start: Parameters | None = None,
    episodes: int = EPISODES,
    seed: int = 0,
    **settings: Any,
) -> list[float]:
    """Runs PPO with the defaults of Stable-Baselines3; a rollout is one round of whole episodes.

    Args:
        meta_policy: whose network the policy has.
        make: makes one environment of the task.
        rounds: number of updates.
        start: parameters to start from; None starts from θ. The value function starts afresh.
        episodes: of each round, side by side.
        seed: of the environments, of the actions and of the value function.
        settings: further arguments of `stable_baselines3.PPO`.

    Returns:
        [rounds + 1]: mean return of the stochastic policy before the first update, and after each.
    """
    spec, contract = meta_policy.manifest.policy, meta_policy.policy.environment
    environments = DummyVecEnv(
        [lambda: Monitor(gymnasium.wrappers.RescaleAction(make(), np.float32(-1), np.float32(1)))] * episodes
    )
    network = {
        "net_arch": {"pi": list(spec.hidden_sizes), "vf": list(spec.hidden_sizes)},
        "activation_fn": _ACTIVATIONS[spec.activation],
        "ortho_init": False,
    }
    ppo = PPO("MlpPolicy", environments, n_steps=contract.horizon, policy_kwargs=network, seed=seed, **settings)
    load(ppo, meta_policy, meta_policy.parameters if start is None else start)
    returns = _Returns()
    ppo.learn((rounds + 1) * contract.horizon * episodes, callback=returns)
    return returns.means[: rounds + 1]


def load(ppo: PPO, meta_policy: MetaPolicy, parameters: Parameters) -> None:
    """Copies a policy of ours into PPO's actor: normalization and context become part of the first layer."""
    policy = meta_policy.policy
    mean, factor = policy.normalization
    layers = [module for module in ppo.policy.mlp_extractor.policy_net if isinstance(module, torch.nn.Linear)]
    layers.append(ppo.policy.action_net)
    with torch.no_grad():
        for index, layer in enumerate(layers):
            weight, bias = parameters[f"layers.{index}.weight"], parameters[f"layers.{index}.bias"]
            if index == 0:
                if policy.spec.context_size:
                    bias = bias + parameters["context.weight"] @ parameters["context"]
                weight = weight * factor
                bias = bias - weight @ mean
            layer.weight.copy_(weight)
            layer.bias.copy_(bias)
        ppo.policy.log_std.copy_(policy.log_std(parameters))


def task_environment(meta_policy: str, goal: Any, body: tuple[Alteration, ...] = ()) -> gymnasium.Env[Any, Any]:
    """Makes a plain environment of a task, with an altered body."""
    env = resolve_tasks(meta_policy).make({"goal": goal})
    if body:
        alter(env.unwrapped.model, body)  # type: ignore[attr-defined]  # a robot's
    return env


class _Returns(BaseCallback):  # type: ignore[misc]  # the library is not a dependency: mypy does not see it
    """The mean return of the episodes of each rollout."""

    def __init__(self) -> None:
        super().__init__()
        self.means: list[float] = []
        self._found: list[float] = []

    def _on_step(self) -> bool:
        self._found += [info["episode"]["r"] for info in self.locals["infos"] if "episode" in info]
        return True

    def _on_rollout_end(self) -> None:
        self.means.append(float(np.mean(self._found)))
        self._found = []


def main() -> None:
    """Fine-tunes θ on one task and prints the returns as JSON, or on every task beyond the range."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("meta_policy", nargs="?", default="half-cheetah-velocity", help="default: %(default)s")
    parser.add_argument("--goal", type=json.loads, default=1.7, help="default: %(default)s; [0.3, -0.2] in the plane")
    parser.add_argument("--body", type=json.loads, default=[], help='[["mass", 1.5]]')
    parser.add_argument("--rounds", type=int, default=20, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument("--beyond", action="store_true", help="run every task beyond the range")
    parser.add_argument("--minutes", type=float, default=20.0, help="for --beyond; default: %(default)s")
    parser.add_argument("--records", type=Path, default=RECORDS, help="for --beyond; default: %(default)s")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.beyond:
        _run_beyond(arguments.records, arguments.rounds, time.monotonic() + 60.0 * arguments.minutes)
        return
    body = tuple((name, value) for name, value in arguments.body)
    returns = _on_task(arguments.meta_policy, arguments.goal, body, arguments.rounds, arguments.seed)
    print(json.dumps(returns))


def _on_task(name: str, goal: Any, body: tuple[Alteration, ...], rounds: int, seed: int) -> list[float]:
    meta_policy = load_meta_policy(resolve_meta_policy(name, None))
    return fine_tune(meta_policy, lambda: task_environment(name, goal, body), rounds, seed=seed)


def _run_beyond(records: Path, rounds: int, until: float) -> None:
    """Runs the trials beyond the range that have no record, until the time is up."""
    os.nice(19)
    records.parent.mkdir(parents=True, exist_ok=True)
    done = {record["key"] for record in read(records)}
    with records.open("a") as file:
        for trial in CASES["beyond"]():
            if trial.caution != "off" or trial.key in done:
                continue
            if time.monotonic() > until:
                return
            found = _on_task(trial.meta_policy, trial.goal, trial.body, rounds, trial.seed)
            record = {"key": trial.key, "trial": dataclasses.asdict(trial) | {"case": "ppo"}, "returns": found}
            file.write(json.dumps(record) + "\n")
            file.flush()


if __name__ == "__main__":
    main()
