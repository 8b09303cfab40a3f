"""Which ends of a MuJoCo robot's limbs touch the ground."""

import sys
from typing import Any, Self

import gymnasium
import numpy as np
import numpy.typing as npt

_WORLD = 0  # MuJoCo's body 0: the ground, and whatever else stands fast


class Contacts:
    """Reads the contacts of limbs' ends, which are the bodies that carry no other, with what stands fast.

    Args:
        model: the ``mujoco.MjModel``.
        data: the ``mujoco.MjData`` that is stepped.
    """

    def __init__(self, model: Any, data: Any) -> None:
        self._data = data
        carriers = set(model.body_parentid.tolist())
        ends = [body for body in range(1, model.nbody) if body not in carriers]
        self.names = tuple(_name(model, body) for body in ends)
        # By geom, of which end it is a part; -1 is none, and -2 what stands fast.
        self._part_of = np.full(model.ngeom, -1)
        for place, body in enumerate(ends):
            self._part_of[model.geom_bodyid == body] = place
        self._part_of[model.geom_bodyid == _WORLD] = -2

    @classmethod
    def of(cls, env: gymnasium.Env[Any, Any]) -> Self | None:
        """Those of an environment's robot; None where it is none of MuJoCo's, or has no limbs."""
        mujoco = sys.modules.get("mujoco")  # whoever has a robot of MuJoCo's has imported it
        model, data = (getattr(env.unwrapped, name, None) for name in ("model", "data"))
        if mujoco is None or not isinstance(model, mujoco.MjModel) or not isinstance(data, mujoco.MjData):
            return None
        found = cls(model, data)
        return found if found.names else None

    def touching(self) -> npt.NDArray[np.bool_]:
        """[number of limbs], as of the last step of the physics."""
        pairs = self._part_of[self._data.contact.geom.reshape(-1, 2)]
        on_ground = pairs[(pairs == -2).any(1)]
        touching = np.zeros(len(self.names), np.bool_)
        touching[on_ground[on_ground >= 0]] = True
        return touching


def _name(model: Any, body: int) -> str:
    """Its first geom's name, or the body's own: Gymnasium's ant names only the former."""
    first = int(model.body_geomadr[body])
    name = (model.geom(first).name if first >= 0 else "") or model.body(body).name or f"body {body}"
    return str(name).removesuffix("_geom").replace("_", " ")
