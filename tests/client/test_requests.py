"""Splitting a round into uploads."""

import itertools

import gymnasium
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

import thetaprime.client as tp
from thetaprime import wire
from thetaprime.client._rpc.requests import split_upload


def trajectory(steps: int, width: int) -> wire.Trajectory:
    return wire.Trajectory(
        observations=np.zeros((steps, width), np.float32),
        actions=np.zeros((steps, 1), np.float32),
        rewards=np.zeros(steps, np.float32),
        terminated=False,
        truncated=True,
        final_observation=np.zeros(width, np.float32),
        policy_id="",
    )


SHORT, LONG, WIDE, HUGE = trajectory(1, 1), trajectory(30_000, 1), trajectory(1_000, 700), trajectory(120_000, 30)


@settings(max_examples=60)
@given(st.lists(st.sampled_from([SHORT, LONG, WIDE, HUGE]), max_size=30), st.integers(0, 1200))
def test_parts_keep_the_order_and_stay_within_the_limits(few: list[wire.Trajectory], shorts: int) -> None:
    trajectories = [*few, *[SHORT] * shorts]
    parts = list(split_upload(trajectories))
    assert [id(each) for each in itertools.chain(*parts)] == [id(each) for each in trajectories]
    for part in parts:
        assert part
        steps = sum(len(each) for each in part)
        assert len(part) == 1 or (len(part) <= 500 and steps <= 100_000 and len(wire.pack(part)) < 10 * 2**20)
    # No part is split without need.
    assert len(parts) <= 1 + len(few) + shorts // 250


def test_a_large_round_is_split_into_uploads(client: tp.Client) -> None:
    env = gymnasium.make("Pendulum-v1", max_episode_steps=4)
    session = client.create_session("pendulum")
    session.run(env, 1, 501, progress=False)
    assert session.report is not None
    assert (session.report.trajectories, session.report.steps) == (501, 4 * 501)
    assert len(session.report.uploads) == 2
