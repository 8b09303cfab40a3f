"""Adapts the point-navigation policy to one goal through a running server, round by round.

    thetaprime serve --store ./state                                  # in one terminal
    python examples/adapt_to_a_goal.py --goal 0.4 -0.3                # in another

Needs the task's environment: pip install 'thetaprime[training]'.
"""

import argparse

import gymnasium
import numpy as np

import thetaprime.client as tp
import thetaprime.training

gymnasium.register_envs(thetaprime.training)


def main() -> None:
    """Collects, uploads and adapts three times, and saves the policy."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--address", default=tp.DEFAULT_ADDRESS, help="the server's address (default: %(default)s)")
    parser.add_argument("--goal", type=float, nargs=2, default=(0.4, -0.3), metavar=("X", "Y"))
    parser.add_argument("--output", default="policy.onnx", help="file of θ′ (default: %(default)s)")
    arguments = parser.parse_args()

    env = gymnasium.make("thetaprime/PointNavigation-v0", goal=tuple(arguments.goal))
    with tp.Client(arguments.address) as client:
        session = client.create_session("point-navigation")
        print(f"session {session.id}: resume it with client.resume(...)")
        while session.round < 3:
            trajectories = tp.collect(session.policy, env, trajectories=20, seed=session.round)
            print(f"round {session.round}: return {np.mean([each.total_reward for each in trajectories]):.2f}")
            session.upload(trajectories)
            session.adapt()
        session.policy.save(arguments.output)

    # The file needs no server.
    policy = tp.AdaptedPolicy.load(arguments.output)
    observation, _ = env.reset(seed=0)
    over = False
    while not over:
        observation, _, terminated, truncated, _ = env.step(policy.act(observation))
        over = terminated or truncated
    distance = np.linalg.norm(observation - arguments.goal)
    print(f"the file moves to {observation.round(3)}, {distance:.3f} from the goal")


if __name__ == "__main__":
    main()
