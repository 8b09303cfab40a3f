"""Meta-trains a policy over cart-poles with unobserved lengths and motors, serves it, and adapts it to new cart-poles.

Half of the motors push in the opposite direction, which no observation shows. A policy without adaptation drops the
pole of one half of the tasks; adaptation infers the direction.

    python examples/cartpole_poles.py

Needs pip install 'thetaprime[server,training]'. docs/your-own-tasks.md explains every step, and shows the same steps as
commands, which need only the class.
"""

import argparse
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

import thetaprime.client as tp
from thetaprime.models import DiscreteAction, EnvironmentContract
from thetaprime.server import ServerConfig, running_server
from thetaprime.training import ExportRequest, Progress, Task, export_meta_policy, load_config, train

NAME = "cartpole-poles"
HORIZON = 200


class CartPolePoles:
    """Gymnasium's CartPole-v1 with half-lengths of 0.3 to 1 m and forces of 6 to 12 N, to the right or to the left."""

    environment = EnvironmentContract(
        environment_id="CartPole-v1",
        observation_shape=(4,),  # position, velocity, angle, angular velocity
        action=DiscreteAction(count=2),
        horizon=HORIZON,
        control_timestep=0.02,
    )

    def sample_tasks(self, count: int, rng: np.random.Generator) -> list[Task]:
        """Draws lengths and signed forces."""
        lengths = rng.uniform(0.3, 1.0, size=count)
        forces = rng.uniform(6.0, 12.0, size=count) * rng.choice([-1.0, 1.0], size=count)
        return [{"length": float(length), "force": float(force)} for length, force in zip(lengths, forces, strict=True)]

    def make(self, task: Task) -> gymnasium.Env[Any, Any]:
        """Returns the environment of one task."""
        # Gymnasium's checker costs as much as the simulation, and check_task_distribution has checked the environment.
        env = gymnasium.make("CartPole-v1", max_episode_steps=HORIZON, disable_env_checker=True)
        cart: Any = env.unwrapped
        cart.length, cart.force_mag = task["length"], task["force"]
        # CartPole derives these attributes in its constructor.
        cart.polemass_length = cart.masspole * cart.length
        cart.total_mass = cart.masspole + cart.masscart
        return env


CONFIG = {
    "tasks": "cartpole_poles:CartPolePoles",
    "meta_batch_size": 16,
    "max_kl": 0.03,
    "fisher_fraction": 0.5,
    "outer_discount": 0.98,
    "outer_gae_lambda": 0.95,
    "policy.hidden_sizes": [32, 32],
    "policy.activation": "tanh",
    "policy.observation_std": [0.5, 0.5, 0.1, 0.5],  # inputs of about unit size
    "policy.init_output_scale": 0.1,
    "policy.context_size": 4,  # adaptation changes only these four numbers: see inner_lr
    "adaptation.inner_lr": 0.0,
    "adaptation.context_lr": 10.0,
    "adaptation.discount": 0.95,
    "adaptation.curvature": "ratio",
    "adaptation.trajectories_per_round": 20,
}


def meta_train(folder: Path, *, iterations: int, comparisons: int, tasks: int = 10, seed: int = 0) -> Path:
    """Trains the meta-policy, the pretrained policy and the oracle, and writes the artifact.

    Args:
        folder: folder of the runs and of the artifact.
        iterations: iterations of the meta-policy.
        comparisons: iterations of the pretrained policy and of the oracle.
        tasks: number of held-out tasks for the model card's curves. Verdicts compare a session's task with four times
            as many.
        seed: seed of the runs.

    Returns:
        The folder of artifacts, for a server.
    """
    for method, count in {"maml": iterations, "pretrained": comparisons, "oracle": comparisons}.items():
        config = load_config(None, CONFIG | {"method": method, "iterations": count, "seed": seed})

        def show(progress: Progress, method: str = method) -> None:
            if progress.iteration == 1 or progress.iteration % 5 == 0:
                returns = f"return {progress.pre_return:.0f} -> {progress.post_return:.0f}"
                print(f"{method}, iteration {progress.iteration}: {returns}", flush=True)

        train(config, folder / method, on_iteration=show)
    zoo = folder / "zoo"
    artifact = zoo / NAME / "1"
    export_meta_policy(
        ExportRequest(
            maml=folder / "maml",
            pretrained=folder / "pretrained",
            oracle=folder / "oracle",
            output=artifact,
            name=NAME,
            version=1,
            description="Balances poles of unknown length with motors of unknown force and direction.",
            tasks=tasks,
            calibration_tasks=4 * tasks,
        )
    )
    print(f"wrote {artifact}: its README.md is the model card")
    return zoo


def adapt(zoo: Path, tasks: Sequence[Task], *, rounds: int = 2, seed: int = 0) -> Iterator[tuple[float, float]]:
    """Serves the artifact, and adapts it to each task through the client.

    Args:
        zoo: folder of artifacts.
        tasks: held-out tasks.
        rounds: number of adaptation steps.
        seed: seed of the episodes.

    Yields:
        The mean return of θ and of θ′ over fresh episodes.
    """
    with tempfile.TemporaryDirectory() as store:
        config = ServerConfig(address="127.0.0.1:0", store=Path(store), zoo=(zoo,))
        with running_server(config) as address, tp.Client(address) as client:
            theta = client.theta(NAME)
            for task in tasks:
                env = CartPolePoles().make(task)
                adapted = client.adapt(NAME, env, rounds=rounds, seed=seed)
                yield mean_return(theta, env, seed + 1), mean_return(adapted, env, seed + 1)
                env.close()


def mean_return(policy: tp.AdaptedPolicy, env: gymnasium.Env[Any, Any], seed: int, episodes: int = 10) -> float:
    """Returns the mean return over fresh episodes."""
    return float(np.mean([each.total_reward for each in tp.collect(policy, env, episodes, seed=seed)]))


def main() -> None:
    """Trains, serves, adapts, and prints returns."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--iterations", type=int, default=35, help="iterations of meta-training (default: %(default)s)")
    parser.add_argument("--tasks", type=int, default=6, help="new tasks to adapt to (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=Path("runs") / NAME, help="folder (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()

    zoo = meta_train(arguments.output, iterations=arguments.iterations, comparisons=10, seed=arguments.seed)
    tasks = CartPolePoles().sample_tasks(arguments.tasks, np.random.default_rng(1000))
    for task, (before, after) in zip(tasks, adapt(zoo, tasks), strict=True):
        print(f"length {task['length']:.2f}, force {task['force']:6.2f}: return {before:4.0f} -> {after:4.0f}")


if __name__ == "__main__":
    main()
