"""Compares a family of bodies with bare `mujoco.rollout` of one body: 400 half-cheetahs, all cores.

The family's vector environment steps 20 different bodies, 20 of each, with rewards, observations and ends of episodes.
The bare way steps the nominal body 400 times, once per environment step, and does nothing else. Both take the same
random controls, and both are timed alternately, in microseconds of processor time per environment step.
"""

import statistics
import time

import mujoco
import numpy as np
from mujoco import rollout

from benchmarks.measure import Row, machine
from thetaprime.training.resources import available_cores
from thetaprime.training.tasks.bodies.shipped import HalfCheetahBodyTasks

_TASKS, _EACH, _STEPS, _ROUNDS = 20, 20, 200, 7
_BUDGET = 1.25  # 0.8 times the steps per second


def rows() -> list[Row]:
    """Measures one environment step of a family of bodies."""
    family, count = HalfCheetahBodyTasks(), _TASKS * _EACH
    tasks = [task for task in family.sample_tasks(_TASKS, np.random.default_rng(0)) for _ in range(_EACH)]
    vector = family.make_vector(tasks)
    actions = np.random.default_rng(1).uniform(-1.0, 1.0, (_STEPS, count, family.nominal.nu)).astype(np.float32)

    model, cores = family.nominal, available_cores()
    models, data = [model] * count, [mujoco.MjData(model) for _ in range(cores)]
    pool = rollout.Rollout(nthread=cores)
    start = np.zeros((count, mujoco.mj_stateSize(model, mujoco.mjtState.mjSTATE_FULLPHYSICS.value)))
    rng = np.random.default_rng(2)
    for row in start:
        row[1:] = np.concatenate(family.initial(rng))
    controls = np.repeat(actions[:, :, None].astype(np.float64), family.frame_skip, axis=2)
    state = np.empty((count, family.frame_skip, start.shape[1]))
    sensors = np.empty((count, family.frame_skip, model.nsensordata))

    def families() -> None:
        vector.reset(seed=0)
        for each in actions:
            vector.step(each)

    def bare() -> None:
        initial = start.copy()
        for each in controls:
            pool.rollout(
                models,
                data,
                initial,
                each,
                skip_checks=True,
                nstep=family.frame_skip,
                state=state,
                sensordata=sensors,
            )
            initial[:] = state[:, -1]

    times: dict[str, list[float]] = {"family": [], "bare": []}
    for _ in range(_ROUNDS):
        for name, way in (("family", families), ("bare", bare)):
            started = time.process_time()
            way()
            times[name].append((time.process_time() - started) / (_STEPS * count) * 1e6)
    ours, theirs = (statistics.median(times[name]) for name in ("family", "bare"))
    label = "half-cheetah-body: a step of the family / of bare mujoco.rollout of one body"
    return [Row(label, ours, theirs, "µs", ours / theirs, _BUDGET, ours / theirs <= _BUDGET, machine())]
