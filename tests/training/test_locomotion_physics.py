"""Rewards and physics of a step, compared with MuJoCo's and Gymnasium's."""

from pathlib import Path
from typing import Any

import gymnasium
import mujoco
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.training.locomotion import (
    HOWS,
    Actions,
    Floats,
    a_seed,
    draw_actions,
    every_body,
    every_kind,
    few,
    make,
    some_goals,
)
from thetaprime.training.tasks.environments.locomotion import ANT, DIRECTION, HALF_CHEETAH, VELOCITY, Body, Goal
from thetaprime.training.tasks.environments.locomotion.bodies import State, contact_wrenches
from thetaprime.training.tasks.environments.locomotion.vector import Simulator


def contact_cost(model: mujoco.MjModel, qpos: Floats, qvel: Floats, action: Actions, frame_skip: int) -> float:
    """The contact cost of a step, by MuJoCo's `cfrc_ext` at the beginning of its last physics step."""
    data = mujoco.MjData(model)
    data.qpos[:], data.qvel[:], data.ctrl[:] = qpos, qvel, action
    mujoco.mj_step(model, data, nstep=frame_skip - 1)
    mujoco.mj_forward(model, data)
    mujoco.mj_rnePostConstraint(model, data)
    return float(5e-4 * np.square(np.clip(data.cfrc_ext, -1.0, 1.0)).sum())


@every_kind
@few
@given(seed=a_seed, how=st.sampled_from(HOWS))
def test_rewards_follow_their_definition(body: Body, kind: Goal, seed: int, how: str) -> None:
    contact = _contact_paid_for(body, kind, seed, how)
    assert contact >= 0.0 if body is ANT else contact == 0.0


@pytest.mark.parametrize("kind", [VELOCITY, DIRECTION], ids=lambda kind: kind.name)
def test_an_ant_pays_for_touching_the_ground(kind: Goal) -> None:
    # Without actions the ant lands on its feet; with random ones it may turn over first.
    assert all(_contact_paid_for(ANT, kind, seed, "zero") > 0 for seed in range(3))


def _contact_paid_for(body: Body, kind: Goal, seed: int, how: str) -> float:
    """Asserts that each step's reward follows the definition; returns the sum of the contact costs."""
    rng = np.random.default_rng(seed)
    (goal,) = some_goals(kind, 1, rng)
    env = make(body, kind, goal)
    env.reset(seed=seed)
    unwrapped: Any = env.unwrapped
    data = unwrapped.data
    model = mujoco.MjModel.from_xml_path(str(body.model_path)) if body is ANT else None  # without our sensors
    paid = 0.0
    for _ in range(40):
        action = draw_actions(how, (int(body.model.nu),), rng)
        qpos, qvel = data.qpos.copy(), data.qvel.copy()
        _, reward, terminated, truncated, info = env.step(action)
        v = (data.qpos[0] - qpos[0]) / 0.05
        control = float(np.sum(np.clip(action.astype(np.float64), -1, 1) ** 2))
        if body is HALF_CHEETAH:
            expected = (-abs(v - goal) if kind is VELOCITY else goal * v) - 0.05 * control
        else:
            contact = contact_cost(model, qpos, qvel, action, body.frame_skip)
            paid += contact
            expected = (1 - abs(v - goal) if kind is VELOCITY else goal * v) - 0.005 * control - contact + 0.05
        assert reward == pytest.approx(expected, abs=1e-6)  # the rounding of the float32 action
        assert info["x_velocity"] == pytest.approx(v) and info["x_position"] == data.qpos[0]
        if terminated or truncated:
            break
    env.close()
    return paid


@few
@given(seed=a_seed)
def test_contact_sensors_agree_with_mujoco(seed: int) -> None:
    rng = np.random.default_rng(seed)
    model, data = ANT.model, mujoco.MjData(ANT.model)
    touching = 0
    data.qpos[:], data.qvel[:] = ANT.initial(rng)
    for _ in range(60):
        data.ctrl[:] = rng.uniform(-1.0, 1.0, model.nu)
        mujoco.mj_step(model, data, nstep=5)
        # RK4 leaves the forces of its last stage and the sensors of its first: compute both at one state.
        mujoco.mj_forward(model, data)
        mujoco.mj_rnePostConstraint(model, data)
        wrenches = contact_wrenches(data.sensordata[None])[0]
        theirs = data.cfrc_ext[1:]
        np.testing.assert_allclose(wrenches, -theirs, rtol=1e-9, atol=1e-9)
        touching += int(np.abs(theirs).max() > 1.0)
    assert touching, "the ant never touched the ground"


@every_body
@pytest.mark.parametrize("how", HOWS)
def test_physics_are_gymnasiums(body: Body, how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gymnasium starts the solver from its last solution, we start it cold: equal up to the solver's convergence."""
    monkeypatch.chdir(tmp_path)  # MuJoCo logs warnings about Gymnasium's models into the working directory
    theirs: Any = gymnasium.make({"half_cheetah": "HalfCheetah-v5", "ant": "Ant-v5"}[body.name]).unwrapped
    theirs.reset(seed=0)
    shape = (1, int(body.model.nu))
    simulator = Simulator(body, 1, 1)

    def step(position: Floats, velocity: Floats, actions: Actions) -> tuple[Floats, Floats]:
        after, _ = simulator.step(State(position, velocity), actions)
        return after.position.copy(), after.velocity.copy()

    touching = 0
    for seed in range(5):
        rng = np.random.default_rng(seed)
        position, velocity = (each[None] for each in body.initial(rng))
        for _ in range(20):  # away from the start, and down to the ground
            position, velocity = step(position, velocity, draw_actions("random", shape, rng))
        theirs.set_state(position[0], velocity[0])
        for _ in range(10):
            actions = draw_actions(how, shape, rng)
            position, velocity = step(position, velocity, actions)
            theirs.step(actions[0])
            # The solver stops near its tolerance, not at it: over 40 seeds up to 8e-9 and 6e-8, mostly 1e-13.
            np.testing.assert_allclose(theirs.data.qpos, position[0], rtol=0, atol=1e-7)
            np.testing.assert_allclose(theirs.data.qvel, velocity[0], rtol=0, atol=1e-6)
            touching += int(theirs.data.ncon > 0)
    assert touching
    theirs.close()
