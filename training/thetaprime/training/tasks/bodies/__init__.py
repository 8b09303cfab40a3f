"""Families of MuJoCo models: one body for each task, batches of different bodies stepped on native threads.

| module | contents |
|---|---|
| `family` | the base class `MujocoTasks`, from which a user derives a family |
| `simulation` | B bodies: their states, latency, noise, and steps by `mujoco.rollout` |
| `single` | one body as an `Env` that can be rendered |
| `vector` | many bodies as a `VectorEnv` |
| `variations` | factors on masses, inertias, frictions, dampings and motor strengths |
| `shipped` | `half-cheetah-body`, `ant-leg` and `walker-body` |
"""
