"""Families of MuJoCo bodies: batches equal single bodies, variations, and the shipped families' physics."""

import pickle
import re
from collections.abc import Sequence
from typing import Any

import gymnasium
import mujoco
import numpy as np
import pytest

from thetaprime.training.tasks import (
    BODY_TASKS,
    BodyState,
    MujocoTasks,
    Task,
    check_task_distribution,
    make_vector,
    resolve_tasks,
    scale_model,
)
from thetaprime.training.tasks.bodies.shipped import AntLegTasks, HalfCheetahBodyTasks, WalkerBodyTasks
from thetaprime.training.tasks.bodies.vector import BodiesVector

ARM = """
<mujoco>
  <option timestep="0.01" gravity="0 0 0"/>
  <worldbody>
    <body name="upper">
      <joint name="shoulder" axis="0 0 1" damping="0.1"/>
      <geom name="upper" type="capsule" fromto="0 0 0 .2 0 0" size=".02"/>
      <site name="anchor" pos=".05 .03 0"/>
      <body name="lower" pos=".2 0 0">
        <joint name="elbow" axis="0 0 1" damping="0.1"/>
        <geom name="lower" type="capsule" fromto="0 0 0 .2 0 0" size=".02"/>
        <site name="tip" pos=".2 0 0"/>
        <site name="grip" pos=".05 .03 0"/>
      </body>
    </body>
  </worldbody>
  <tendon>
    <spatial name="muscle"><site site="anchor"/><site site="grip"/></spatial>
  </tendon>
  <actuator>
    <motor joint="shoulder" ctrlrange="-1 1" ctrllimited="true" gear="0.5"/>
    <muscle tendon="muscle" ctrlrange="0 1" ctrllimited="true" lengthrange="0.05 0.3"/>
  </actuator>
  <sensor><framepos objtype="site" objname="tip"/></sensor>
</mujoco>
"""


class Arm(MujocoTasks):
    """An arm with a motor and a muscle on a tendon that reaches for a hidden target, late and with noise."""

    model, horizon, frame_skip, reset_noise = ARM, 12, 3, 0.1

    def sample_tasks(self, count: int, rng: np.random.Generator) -> Sequence[Task]:
        return [
            {"target": rng.uniform(-0.3, 0.3, 2).tolist(), "mass": float(mass), "late": float(rng.integers(3))}
            for mass in rng.uniform(0.5, 2.0, count)
        ]

    def vary_spec(self, spec: mujoco.MjSpec, task: Task) -> None:
        spec.body("lower").pos[0] = 0.2 + 0.05 * self.latency(task)

    def vary_model(self, model: mujoco.MjModel, task: Task) -> None:
        scale_model(model, mass=task["mass"], inertia=task["mass"])

    def latency(self, task: Task) -> int:
        return int(task["late"])  # type: ignore[arg-type]

    def observation_noise(self, task: Task) -> float:
        return 0.01 * self.latency(task)

    def reward(self, before: BodyState, actions: Any, after: BodyState) -> Any:
        offset = after.sensors[:, :2] - after.task["target"]
        return -np.sqrt(np.square(offset).sum(axis=1))

    def terminated(self, after: BodyState) -> Any:
        return np.abs(after.position[:, 0]) > 0.4


def test_a_batch_of_different_bodies_equals_single_bodies_to_the_bit() -> None:
    check_task_distribution(Arm())
    tasks = Arm().sample_tasks(9, np.random.default_rng(1))
    assert {task["late"] for task in tasks} == {0.0, 1.0, 2.0}
    rng, runs = np.random.default_rng(2), []
    actions = [rng.uniform(-1.5, 1.5, (9, 2)) for _ in range(40)]
    for threads in (1, 2):
        vector: Any = BodiesVector(Arm(), tasks, threads=threads)
        steps = [vector.reset(seed=5)[0], *(np.column_stack(vector.step(each)[:4]) for each in actions)]
        runs.append(np.concatenate([step.ravel() for step in steps]))
    np.testing.assert_array_equal(runs[0], runs[1])
    singles: Any = gymnasium.vector.SyncVectorEnv([lambda task=task: Arm().make(task) for task in tasks])  # type: ignore[misc]
    steps = [singles.reset(seed=5)[0], *(np.column_stack(singles.step(each)[:4]) for each in actions)]
    np.testing.assert_array_equal(runs[0], np.concatenate([step.ravel() for step in steps]))
    assert any(step[:, -2].any() for step in steps[1:]), "no episode terminated"


def test_a_step_is_mujocos_with_the_late_action() -> None:
    family = Arm()
    task: Task = {"target": [0.1, 0.1], "mass": 1.7, "late": 2.0}
    env = family.make(task)
    env.reset(seed=3)
    model = family.model_of(task)
    np.testing.assert_allclose(model.body_mass[1:], 1.7 * family.nominal.body_mass[1:])
    np.testing.assert_allclose(model.body("lower").pos[0], 0.3)
    data = mujoco.MjData(model)
    data.qpos[:], data.qvel[:] = family.initial(gymnasium.utils.seeding.np_random(3)[0])
    body: Any = env.unwrapped
    late = [np.zeros(2), np.zeros(2)]
    for action in np.random.default_rng(0).uniform(0.0, 1.0, (4, 2)):
        late.append(action)
        env.step(action)
        data.ctrl[:], data.qacc_warmstart[:] = late.pop(0), 0.0
        for _ in range(3):
            mujoco.mj_step(model, data)
        state = body._bodies.state()
        np.testing.assert_array_equal(state.position[0], data.qpos)
        np.testing.assert_array_equal(state.velocity[0], data.qvel)


def test_told_bodies_equal_made_bodies_and_parked_bodies_rest() -> None:
    family = Arm()
    tasks = family.sample_tasks(4, np.random.default_rng(0))
    vector: Any = family.make_vector(tasks)
    assert type(make_vector(family, tasks)) is BodiesVector
    vector.reset(seed=0)
    vector.park(np.array([True, False, False, True]))
    before = vector.step(np.ones((4, 2)))[0]
    observation, rewards, terminated, truncated, _ = vector.step(np.ones((4, 2)))
    assert (observation == before).all(axis=1).tolist() == [True, False, False, True]
    assert rewards[[0, 3]].tolist() == [0.0, 0.0] and not (terminated | truncated)[[0, 3]].any()
    other = pickle.loads(pickle.dumps(family))  # noqa: S301
    assert other.environment == family.environment


class _OneMore(Arm):
    def vary_spec(self, spec: mujoco.MjSpec, task: Task) -> None:
        spec.body("lower").add_joint(name="wrist", axis=[0, 1, 0])


class _Longer(Arm):
    def vary_model(self, model: mujoco.MjModel, task: Task) -> None:
        model.opt.timestep = 0.02


class _Wider(Arm):
    def vary_model(self, model: mujoco.MjModel, task: Task) -> None:
        model.actuator_ctrlrange[0] = (-2.0, 2.0)


class _Scalar(Arm):
    def reward(self, before: BodyState, actions: Any, after: BodyState) -> Any:
        return 1.0


class _Flat(Arm):
    def observe(self, state: BodyState) -> Any:
        return state.position[0]


class _Missing(Arm):
    model = "no/such/arm.xml"


class _TooMany(Arm):
    def vary_model(self, model: mujoco.MjModel, task: Task) -> None:
        scale_model(model, mass=[1.0, 2.0, 3.0])


class _Early(Arm):
    def latency(self, task: Task) -> int:
        return -1


@pytest.mark.parametrize(
    ("family", "message"),
    [
        (_OneMore(), r"_OneMore.vary_spec, task {'target'.*}: nq is 3; without the variation it is 2"),
        (_Longer(), r"_Longer, task .*: opt.timestep is 0.02 s; the model's is 0.01 s"),
        (_Wider(), r"_Wider, task .*: actuator_ctrlrange differs .*vary the strength"),
        (_Scalar(), r"_Scalar.reward: shape \(\); expected \(1,\), one for each body"),
        (_Flat(), r"_Flat.observe: shape \(2,\); expected \[B, O\] with B = 1"),
        (_Missing(), r"_Missing.model: 'no/such/arm.xml': there is no such file; expected the path of an MJCF file"),
        (_TooMany(), r"mass: \[1.0, 2.0, 3.0\]; expected one factor, or factors \[2\]"),
        (_Early(), r"_Early.latency: -1; expected a number of steps, 0 or more"),
    ],
)
def test_what_a_family_gets_wrong_is_named(family: MujocoTasks, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        env = family.make(family.sample_tasks(1, np.random.default_rng(0))[0])
        env.reset(seed=0)
        env.step(np.zeros(2))


def test_an_action_that_is_not_a_number_is_refused() -> None:
    env = Arm().make(Arm().sample_tasks(1, np.random.default_rng(0))[0])
    env.reset(seed=0)
    with pytest.raises(ValueError, match="action: NaN"):
        env.step(np.array([np.nan, 0.0]))


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(BODY_TASKS) - {"ant-fourth-leg"}))
def test_the_shipped_families_meet_the_contract(name: str) -> None:
    check_task_distribution(resolve_tasks(name))


@pytest.mark.parametrize(
    ("ours", "gymnasiums", "arguments", "bonus", "warm"),
    [
        ("HalfCheetahBody", "HalfCheetah-v5", {"ctrl_cost_weight": 0.05}, 0.0, 1e-9),
        ("WalkerBody", "Walker2d-v5", {"healthy_reward": 0.1}, 0.0, 1e-6),
        (
            "AntLeg",
            "Ant-v5",
            {"ctrl_cost_weight": 0.005, "healthy_reward": 0.05, "include_cfrc_ext_in_observation": False},
            None,
            1e-9,
        ),
    ],
)
def test_the_nominal_bodys_physics_are_gymnasiums(
    ours: str, gymnasiums: str, arguments: dict[str, Any], bonus: float | None, warm: float
) -> None:
    mine: Any = gymnasium.make(f"thetaprime/{ours}-v0").unwrapped
    theirs: Any = gymnasium.make(gymnasiums, **arguments).unwrapped
    mine.reset(seed=0)
    theirs.reset(seed=0)
    rng = np.random.default_rng(1)
    for _ in range(30):
        state = mine._bodies.state()
        theirs.set_state(state.position[0], state.velocity[0])
        theirs.data.qacc_warmstart[:] = 0.0
        action = rng.uniform(-0.3, 0.3, mine.action_space.shape)
        observation, reward, terminated, _, _ = mine.step(action)
        expected = theirs.step(action)
        np.testing.assert_allclose(observation, expected[0], rtol=0, atol=warm)
        if bonus is not None:
            np.testing.assert_allclose(reward, expected[1] + bonus, rtol=0, atol=warm / mine._family.seconds)
        assert terminated == expected[2]
        if terminated:
            break


def test_the_shipped_bodies_vary_as_documented() -> None:
    rng = np.random.default_rng(0)
    cheetahs, ants, walkers = HalfCheetahBodyTasks(), AntLegTasks(), WalkerBodyTasks()
    tasks: list[Any] = cheetahs.sample_tasks(600, rng)
    dead = [task["strength"].count(0.0) for task in tasks]
    assert set(dead) == {0, 1} and 0.27 < np.mean(dead) < 0.4
    masses = np.array([task["mass"] for task in tasks])
    assert -3.0 <= masses.min() < -2.9 and 2.9 < masses.max() <= 3.0 and abs(masses.mean()) < 0.1
    task = {**cheetahs.nominal_task, "mass": [1.0, 0, 0, 0, 0, 0, 0], "strength": [0.0, 1, 1, 1, 1, 1]}
    model, nominal = cheetahs.model_of(task), cheetahs.nominal
    np.testing.assert_allclose(model.body_mass[1:3], [1.5 * nominal.body_mass[1], nominal.body_mass[2]])
    assert model.actuator_gainprm[:, 0].tolist() == [0.0, 1, 1, 1, 1, 1]
    legs: list[Any] = ants.sample_tasks(30, rng)
    assert {tuple(task["dead"]) for task in legs} == {(1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0)}
    gains = ants.model_of({"dead": [0.0, 1.0, 0.0, 0.0]})
    off = [
        gains.joint(gains.actuator_trnid[index, 0]).name for index in np.flatnonzero(gains.actuator_gainprm[:, 0] == 0)
    ]
    assert sorted(off) == ["ankle_2", "hip_2"]
    walker: Any = {**walkers.nominal_task, "damping": [2.0, 0, 0, 0, 0, 0], "friction": [-1.0] * 24}
    model = walkers.model_of(walker)
    np.testing.assert_allclose(model.dof_damping[3], 1.69 * walkers.nominal.dof_damping[3])
    np.testing.assert_allclose(model.geom_friction, walkers.nominal.geom_friction / 1.5)
    (fourth,) = {str(task["dead"]) for task in resolve_tasks("ant-fourth-leg").sample_tasks(5, rng)}
    assert fourth == "[0.0, 0.0, 0.0, 1.0]"


def test_a_registered_body_names_a_wrong_argument() -> None:
    with pytest.raises(ValueError, match=re.escape("wings: unknown; a task of AntLeg has dead")):
        gymnasium.make("thetaprime/AntLeg-v0", wings=1)
    with pytest.raises(ValueError, match=r"dead: \[1.0\]; expected 4 numbers"):
        gymnasium.make("thetaprime/AntLeg-v0", dead=[1.0])
