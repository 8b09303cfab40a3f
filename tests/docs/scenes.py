"""The environments, robots and files that pages assume. A page must define everything else."""

import dataclasses
import shutil
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import gymnasium
import numpy as np

import thetaprime.client as tp
from tests.docs.shell import SMALL_SETTINGS
from tests.support.artifacts import POINT_NAVIGATION, write_untrained
from tests.support.server.certificates import Authority
from thetaprime.cli._profiles import RobotFile
from thetaprime.client._configuration import Configuration
from thetaprime.models import MemorySpec, PolicySpec, zoo_directory
from thetaprime.server import ServerConfig
from thetaprime.server.auth.tokens import TokenEntry, TokenTable, new_token, token_digest
from thetaprime.training import load_config

_DATA: Final = Path(__file__).parents[1] / "data"

Address = Callable[[], str]
Names = Callable[[Address], Mapping[str, Any]]


@dataclasses.dataclass(frozen=True)
class Scene:
    """The assumptions of one page.

    Attributes:
        names: returns names for each of its Python blocks, from a function that returns the server's address.
        toml: functions that read its TOML blocks, in order.
        prepare: writes files into the folder, and returns environment variables.
        elsewhere: blocks that cannot run here, by the beginning of their code, and the test that covers each.
    """

    names: Names = lambda address: {}
    toml: tuple[Callable[[Path], object], ...] = ()
    prepare: Callable[[Path], Mapping[str, str]] = lambda folder: {}
    elsewhere: Mapping[str, str] = dataclasses.field(default_factory=dict)


class Robot:
    """A half-cheetah with a goal of 1.3 m/s, behind the interface of a robot's driver."""

    def __init__(self) -> None:
        self._env: Any = gymnasium.make("thetaprime/HalfCheetahVelocity-v0", goal=1.3)
        self._observation, _ = self._env.reset(seed=0)

    def reset(self) -> Any:
        """Resets the robot, and returns the first observation."""
        self._observation, _ = self._env.reset()
        return self._observation

    def observe(self) -> Any:
        """Returns the current observation."""
        return self._observation

    def step(self, action: Any) -> tuple[Any, float]:
        """Acts, and returns the next observation and the reward."""
        self._observation, reward, _, truncated, _ = self._env.step(action)
        if truncated:
            self.reset()
        return self._observation, float(reward)

    def fallen(self) -> bool:
        """Returns False: a half-cheetah cannot fall."""
        return False


class Countdown:
    """A condition of a control loop that is true a number of times."""

    def __init__(self, steps: int) -> None:
        self._left = steps

    def __bool__(self) -> bool:
        self._left -= 1
        return self._left >= 0


def _readme(address: Address) -> Mapping[str, Any]:
    return {"client": tp.Client(address())}


def _client(address: Address) -> Mapping[str, Any]:
    client = tp.Client(address())
    env = gymnasium.make("thetaprime/HalfCheetahVelocity-v0", goal=1.3)
    session = client.create_session("half-cheetah-velocity")
    policy = session.policy
    trajectories = tp.collect(policy, env, 2, seed=0)
    policy.save("policy.onnx")
    return {
        "client": client,
        "env": env,
        "observation": env.reset(seed=0)[0],
        "session": session,
        "session_id": session.id,
        "policy": policy,
        "trajectories": trajectories,
        "digest": policy.sha256,
        "robot": Robot(),
        "running": Countdown(50),
        **{f"robot_{n}": gymnasium.make("thetaprime/HalfCheetahVelocity-v0", goal=1.3) for n in (1, 2, 3)},
    }


def _robot(address: Address) -> Mapping[str, Any]:
    return {"robot": Robot(), "running": Countdown(50), "client": tp.Client(address())}


def _trust(folder: Path) -> Mapping[str, str]:
    """Writes certificates and a tokens file."""
    authority = Authority(folder, "authority")
    for name, certificate, key in (("server", "server.pem", "server.key"), ("me", "me.pem", "me.key")):
        issued = authority.issue(name)
        issued.certificate.rename(folder / certificate)
        issued.key.rename(folder / key)
    (folder / "clients.pem").write_bytes(authority.certificate.read_bytes())
    token = new_token()
    entry = TokenEntry(tenant="alice", sha256=token_digest(token))
    (folder / "tokens.toml").write_text(f'[[tokens]]\ntenant = "{entry.tenant}"\nsha256 = "{entry.sha256}"\n')
    return {"THETAPRIME_TOKEN": token}


def _client_file(path: Path) -> object:
    (path.parent / "token").write_text(new_token())
    return Configuration.read(path, {})


def _pendulum(path: Path) -> object:
    return load_config(path, {"tasks": "pendulum_gravity:PendulumGravity"})


def _server_file(path: Path) -> object:
    return ServerConfig(config=path)


def _onnx(address: Address) -> Mapping[str, Any]:
    client = tp.Client(address())
    session = client.create_session("half-cheetah-velocity")
    return {"client": client, "session": session, "observation": Robot().observe(), "tp": tp}


def _default_form(folder: Path) -> Mapping[str, str]:
    """Copies a policy in the default form, for six joints."""
    shutil.copy(zoo_directory() / "half-cheetah-velocity" / "1" / "policy.onnx", folder)
    return {}


def _remembering(address: Address) -> Mapping[str, Any]:
    return {"env": gymnasium.make("thetaprime/PointNavigation-v0", goal=(0.3, -0.2))}


def _remembering_file(folder: Path) -> Mapping[str, str]:
    """Writes a policy with a memory for point navigation."""
    spec = PolicySpec(hidden_sizes=(8,), memory=MemorySpec(size=16, reward_scale=0.1))
    made = write_untrained(folder / "zoo", "point-navigation-rl2", POINT_NAVIGATION, spec=spec)
    shutil.copy(made.directory / "policy.onnx", folder / "remembering.onnx")
    return {}


def _robot_file(path: Path) -> object:
    return RobotFile().convert(path, None, None)


def _model(folder: Path) -> Mapping[str, str]:
    """Copies a model of Stable-Baselines3."""
    shutil.copy(_DATA / "stable_baselines3" / "pendulum-ppo.zip", folder / "pendulum.zip")
    return {}


def _small_settings(folder: Path) -> Mapping[str, str]:
    """Writes the settings of a small build."""
    (folder / "small.toml").write_text(SMALL_SETTINGS)
    return {}


def _normalized(address: Address) -> Mapping[str, Any]:
    """An environment with running statistics, as VecNormalize has them."""
    return {"env": types.SimpleNamespace(obs_rms=types.SimpleNamespace(mean=np.zeros(3), var=np.ones(3)))}


SCENES: dict[str, Scene] = {
    "README.md": Scene(names=_readme),
    "docs/adapt-your-robot.md": Scene(names=_robot),
    "docs/bring-your-own-policy.md": Scene(names=_normalized, prepare=_model),
    "docs/client.md": Scene(names=_client, toml=(_client_file,)),
    "docs/reading-a-verdict.md": Scene(names=_client),
    "docs/onnx.md": Scene(
        names=_onnx,
        toml=(_robot_file,),
        prepare=_default_form,
        elsewhere={
            "import * as ort": "tests/runtimes/run.mjs",
            "float torque": "tests/models/onnx/test_unity_importer.py",
            "func set_action": "tests/models/onnx/test_godot_plugin.py",
        },
    ),
    "docs/operating.md": Scene(
        toml=(_server_file,),
        elsewhere={"$ pip install 'thetaprime[server,postgres,objects]'": "tests/durability/test_replicas.py"},
    ),
    "docs/deploy.md": Scene(
        toml=(_server_file,),
        elsewhere=dict.fromkeys(
            ("$ install -m 644", "$ docker compose", "$ kubectl create"), "tests/deploy/test_deployment.py"
        ),
    ),
    "docs/policies-with-memory.md": Scene(names=_remembering, prepare=_remembering_file),
    "docs/trust.md": Scene(toml=(TokenTable.read,), prepare=_trust),
    "docs/write-a-client.md": Scene(
        elsewhere={
            "session, theta = CreateSession(": "examples/node/main.mjs, run by tests/examples/test_node_program.py",
            " " * 19 + "CreateSession": "tests/support/server/session_model.py",
            "57 ": "tests/examples/test_write_a_client.py",
        }
    ),
    "docs/your-own-tasks.md": Scene(toml=(_pendulum,), prepare=_small_settings),
}


def scene(page: str) -> Scene:
    """Returns the scene of a page; an empty scene by default."""
    return SCENES.get(page, Scene())
