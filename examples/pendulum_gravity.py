"""Meta-trains a policy over pendulums with unobserved gravity and mass, serves it, and adapts it to new pendulums.

    python examples/pendulum_gravity.py

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
from thetaprime.models import BoxAction, EnvironmentContract
from thetaprime.server import ServerConfig, running_server
from thetaprime.training import ExportRequest, Progress, Task, export_meta_policy, load_config, train

NAME = "pendulum-gravity"


class PendulumGravity:
    """Gymnasium's Pendulum-v1 under gravities of 4 to 16 m/s² and with masses of 0.5 to 1.5 kg."""

    environment = EnvironmentContract(
        environment_id="Pendulum-v1",
        observation_shape=(3,),  # cos θ, sin θ, angular velocity
        action=BoxAction(low=(-2.0,), high=(2.0,)),
        horizon=200,
        control_timestep=0.05,
    )

    def sample_tasks(self, count: int, rng: np.random.Generator) -> list[Task]:
        """Draws gravities and masses."""
        drawn = rng.uniform((4.0, 0.5), (16.0, 1.5), size=(count, 2))
        return [{"gravity": float(gravity), "mass": float(mass)} for gravity, mass in drawn]

    def make(self, task: Task) -> gymnasium.Env[Any, Any]:
        """Returns the environment of one task."""
        # Gymnasium's checker costs as much as the simulation, and check_task_distribution has checked the environment.
        env = gymnasium.make("Pendulum-v1", g=task["gravity"], disable_env_checker=True)
        pendulum: Any = env.unwrapped
        pendulum.m = task["mass"]
        return env


CONFIG = {
    "tasks": "pendulum_gravity:PendulumGravity",
    "meta_batch_size": 10,
    "max_kl": 0.03,
    "fisher_fraction": 0.5,
    "outer_discount": 0.9,  # a horizon of half a second, in which a push takes effect; a longer one adds noise
    "outer_gae_lambda": 0.95,
    "policy.hidden_sizes": [32, 32],
    "policy.activation": "tanh",
    "policy.observation_std": [0.7, 0.7, 3.0],  # inputs of about unit size
    "policy.init_output_scale": 0.1,
    "policy.init_log_std": -0.3,
    "policy.context_size": 4,  # adaptation changes only these four numbers: see inner_lr
    "adaptation.inner_lr": 0.0,
    "adaptation.context_lr": 10.0,
    "adaptation.discount": 0.9,
    "adaptation.curvature": "ratio",
    "adaptation.trajectories_per_round": 10,
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
            description="Swings up pendulums of unknown gravity and mass.",
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
                env = PendulumGravity().make(task)
                adapted = client.adapt(NAME, env, rounds=rounds, seed=seed)
                yield mean_return(theta, env, seed + 1), mean_return(adapted, env, seed + 1)
                env.close()


def mean_return(policy: tp.AdaptedPolicy, env: gymnasium.Env[Any, Any], seed: int, episodes: int = 10) -> float:
    """Returns the mean return over fresh episodes."""
    return float(np.mean([each.total_reward for each in tp.collect(policy, env, episodes, seed=seed)]))


def main() -> None:
    """Trains, serves, adapts, and prints returns."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--iterations", type=int, default=40, help="iterations of meta-training (default: %(default)s)")
    parser.add_argument("--tasks", type=int, default=6, help="new tasks to adapt to (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=Path("runs") / NAME, help="folder (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()

    zoo = meta_train(arguments.output, iterations=arguments.iterations, comparisons=10, seed=arguments.seed)
    tasks = PendulumGravity().sample_tasks(arguments.tasks, np.random.default_rng(1000))
    for task, (before, after) in zip(tasks, adapt(zoo, tasks), strict=True):
        print(f"gravity {task['gravity']:5.2f}, mass {task['mass']:.2f}: return {before:6.0f} -> {after:6.0f}")


if __name__ == "__main__":
    main()
