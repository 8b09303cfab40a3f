"""Ground contacts of a MuJoCo robot's limbs."""

import sys
from typing import Any, Self

import gymnasium
import numpy as np
import numpy.typing as npt

_WORLD = 0  # MuJoCo's body 0: the ground and all else that does not move


class Contacts:
    """Reads the contacts between the world and the ends of limbs, which are the bodies without children.

    Args:
        model: the ``mujoco.MjModel``.
        data: the ``mujoco.MjData`` that is stepped.
    """

    def __init__(self, model: Any, data: Any) -> None:
        self._data = data
        carriers = set(model.body_parentid.tolist())
        ends = [body for body in range(1, model.nbody) if body not in carriers]
        self.names = tuple(_name(model, body) for body in ends)
        # For each geom, the index of its limb; -1 for none, -2 for the world.
        self._part_of = np.full(model.ngeom, -1)
        for place, body in enumerate(ends):
            self._part_of[model.geom_bodyid == body] = place
        self._part_of[model.geom_bodyid == _WORLD] = -2

    @classmethod
    def of(cls, env: gymnasium.Env[Any, Any]) -> Self | None:
        """The contacts of an environment's robot; None if it is not a MuJoCo robot with limbs."""
        mujoco = sys.modules.get("mujoco")  # an environment with a MuJoCo robot has imported it
        model, data = (getattr(env.unwrapped, name, None) for name in ("model", "data"))
        if mujoco is None or not isinstance(model, mujoco.MjModel) or not isinstance(data, mujoco.MjData):
            return None
        found = cls(model, data)
        return found if found.names else None

    def touching(self) -> npt.NDArray[np.bool_]:
        """[number of limbs]: whether each limb touched the world in the last physics step."""
        pairs = self._part_of[self._data.contact.geom.reshape(-1, 2)]
        on_ground = pairs[(pairs == -2).any(1)]
        touching = np.zeros(len(self.names), np.bool_)
        touching[on_ground[on_ground >= 0]] = True
        return touching


def _name(model: Any, body: int) -> str:
    """The name of the body's first geom, or of the body: Gymnasium's ant names only geoms."""
    first = int(model.body_geomadr[body])
    name = (model.geom(first).name if first >= 0 else "") or model.body(body).name or f"body {body}"
    return str(name).removesuffix("_geom").replace("_", " ")
