"""Factors on the numbers of a compiled model."""

from typing import Any

import mujoco
import numpy as np
import numpy.typing as npt


def scale_model(
    model: mujoco.MjModel,
    *,
    mass: npt.ArrayLike = 1.0,
    inertia: npt.ArrayLike = 1.0,
    friction: npt.ArrayLike = 1.0,
    damping: npt.ArrayLike = 1.0,
    strength: npt.ArrayLike = 1.0,
) -> None:
    """Multiplies numbers of a model, in place.

    Args:
        model: a task's own model.
        mass: one factor, or [nbody - 1] of each body except the world.
        inertia: one factor, or [nbody - 1] or [nbody - 1, 3] of the bodies' principal moments of inertia.
        friction: one factor, or [ngeom] or [ngeom, 3] of the geoms' sliding, torsional and rolling friction.
        damping: one factor, or [nv] of the degrees of freedom.
        strength: one factor, or [nu] of the actuators' forces; 0 for a motor that is off.

    Raises:
        ValueError: a factor is negative or not finite, or their number does not fit the model.
    """
    bodies = model.nbody - 1
    model.body_mass[1:] *= _factors("mass", mass, (bodies,))
    model.body_inertia[1:] *= _factors("inertia", inertia, (bodies, 3))
    model.geom_friction[:] *= _factors("friction", friction, (model.ngeom, 3))
    model.dof_damping[:] *= _factors("damping", damping, (model.nv,))
    power = _factors("strength", strength, (model.nu,))
    # The force is gain * control + bias, within the force range.
    model.actuator_gainprm[:] *= power[:, None]
    model.actuator_biasprm[:] *= power[:, None]
    model.actuator_forcerange[:] *= power[:, None]


def _factors(name: str, given: npt.ArrayLike, shape: tuple[int, ...]) -> npt.NDArray[Any]:
    try:
        factors = np.asarray(given, np.float64)
        if factors.ndim == 1 and len(shape) == 2:
            factors = factors[:, None]
        factors = np.broadcast_to(factors, shape)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name}: {given!r}; expected one factor, or factors {list(shape)}") from error
    if not np.isfinite(factors).all() or (factors < 0.0).any():
        raise ValueError(f"{name}: {given!r}; expected finite factors, 0 or more")
    return factors
