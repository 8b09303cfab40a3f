"""Films the README's moving picture: one θ, adapted on a real server to run forward and to run backward."""

import tempfile
from pathlib import Path
from typing import Any, Final

import gymnasium

import thetaprime.client as tp
import thetaprime.training
from thetaprime.server import ServerConfig, running_server
from thetaprime.training.evaluation.figures.clip import Film, side_by_side
from thetaprime.training.evaluation.figures.opengl import choose_opengl

PICTURE: Final = Path(__file__).with_name("adaptation.webp")
_META_POLICY: Final = "half-cheetah-direction"
_ENVIRONMENT: Final = "thetaprime/HalfCheetahDirection-v0"
_TRAJECTORIES: Final = 20
_STEPS: Final = 80  # of 0.05 s
_SEED: Final = 3
_WIDTH, _HEIGHT = 320, 180
_SQUARE: Final = 2  # sides of a square, as drawn by default
_QUALITY: Final = 45  # of WebP, 0 to 100


def main() -> None:
    """Adapts once for each direction, and writes the picture."""
    gymnasium.register_envs(thetaprime.training)
    choose_opengl()
    with (
        tempfile.TemporaryDirectory() as store,
        running_server(ServerConfig(address="127.0.0.1:0", store=Path(store))) as address,
        tp.Client(address) as client,
    ):
        forward, backward = (_adapt(client, direction) for direction in (1.0, -1.0))
        films = [
            _film("θ, before", client.theta(_META_POLICY), 1.0),
            _film("θ′, rewarded for forward", forward, 1.0),
            _film("θ′, rewarded for backward", backward, -1.0),
        ]
    first, *rest = side_by_side(films)
    first.save(PICTURE, save_all=True, append_images=rest, duration=50, loop=0, quality=_QUALITY)
    print(f"wrote {PICTURE} ({PICTURE.stat().st_size / 1e6:.2f} MB)")  # noqa: T201


def _adapt(client: tp.Client, direction: float) -> tp.AdaptedPolicy:
    """θ after one step of 20 episodes."""
    env = gymnasium.make(_ENVIRONMENT, goal=direction)
    adapted = client.adapt(_META_POLICY, env, rounds=1, trajectories=_TRAJECTORIES, seed=_SEED)
    env.close()
    return adapted


def _film(caption: str, policy: tp.AdaptedPolicy, direction: float) -> Film:
    env: gymnasium.Env[Any, Any] = gymnasium.make(
        _ENVIRONMENT, goal=direction, render_mode="rgb_array", width=_WIDTH, height=_HEIGHT
    )
    _quiet_floor(env)
    film = Film.shoot(caption, policy.act, env, _SEED, _STEPS)
    env.close()
    return film


def _quiet_floor(env: gymnasium.Env[Any, Any]) -> None:
    """Draws larger and paler squares, without shadows: a moving checkerboard takes most of the file's bytes."""
    model: Any = env.unwrapped.model  # type: ignore[attr-defined]
    model.light_castshadow[:] = False
    floor = model.mat("MatPlane")
    floor.reflectance[:] = 0.0
    floor.texrepeat[:] /= _SQUARE
    model.tex_data[:] = 192 + model.tex_data // 4


if __name__ == "__main__":
    main()
