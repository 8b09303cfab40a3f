"""Tasks for meta-training: a simulator in another process, which is told its task.

The simulator is any program, in any language. It reads a line of JSON from its standard
input, and writes a line of JSON to its standard output:

    {"reset": {"strength": 0.7}, "seed": 3}  ->  {"observation": [0.1, 0.0]}
    {"action": [0.5]}                        ->  {"observation": [...], "reward": -0.1, "terminated": false}

`my_tasks_simulator.py` is an example. It ends when its standard input is closed.
"""

import atexit
import json
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium.spaces import Box
from thetaprime.models import BoxAction, EnvironmentContract
from thetaprime.training import Task

# The command that starts your simulator: a list of words.
COMMAND = [sys.executable, str(Path(__file__).with_name("my_tasks_simulator.py"))]
ANSWER_SECONDS = 10.0  # the simulator is ended if it does not answer for so long
HORIZON = 50  # steps of an episode

Vector = npt.NDArray[np.float32]


class MyTasks:
    """Carts on a track, with a motor of unknown strength and direction."""

    # The spaces and the horizon of every task's environment. The observations must not
    # contain the task: a policy that observes it need not adapt.
    environment = EnvironmentContract(
        environment_id="MyTasks",
        observation_shape=(2,),
        action=BoxAction(low=(-1.0,), high=(1.0,)),
        horizon=HORIZON,
        control_timestep=0.1,  # seconds
    )

    def sample_tasks(self, count: int, rng: np.random.Generator) -> Sequence[Task]:
        """Samples tasks with the given generator and no other; names and numbers alone."""
        signs, sizes = rng.choice([-1.0, 1.0], count), rng.uniform(0.5, 2.0, count)
        return [{"strength": strength} for strength in (signs * sizes).tolist()]

    def make(self, task: Task) -> gymnasium.Env[Any, Any]:
        """Makes the environment of one task. Its first reset starts a simulator."""
        return Simulator(task)

    def set_task(self, env: gymnasium.Env[Any, Any], task: Task) -> None:
        """Gives an environment another task, so that a simulator plays many episodes."""
        simulator = env.unwrapped
        assert isinstance(simulator, Simulator)
        simulator.task = task


class Simulator(gymnasium.Env[Vector, Vector]):
    """An environment whose steps another process computes.

    Args:
        task: of the next episodes.
    """

    def __init__(self, task: Task) -> None:
        self.task = task
        self.observation_space = Box(-np.inf, np.inf, (2,), np.float32)
        self.action_space = Box(-1.0, 1.0, (1,), np.float32)
        self._process: subprocess.Popen[str] | None = None
        self._steps = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Vector, dict[str, Any]]:
        """Begins an episode. A simulator that has ended is started again."""
        super().reset(seed=seed)
        self._steps = 0
        # The simulator takes its random numbers from this seed alone: episodes repeat.
        message = {"reset": dict(self.task), "seed": int(self.np_random.integers(2**31))}
        if self._process is not None:
            try:
                return self._observation(self._ask(message)), {}
            except RuntimeError as error:
                print(f"starting the simulator again: {error}", file=sys.stderr)
        return self._observation(self._ask(message)), {}

    def step(self, action: Vector) -> tuple[Vector, float, bool, bool, dict[str, Any]]:
        """Takes a step. An error here costs the episode, and training goes on."""
        answer = self._ask({"action": np.asarray(action, np.float64).tolist()})
        self._steps += 1
        over = bool(answer["terminated"])
        observation, reward = self._observation(answer), float(answer["reward"])
        return observation, reward, over, self._steps >= HORIZON, {}

    def close(self) -> None:
        """Ends the simulator."""
        atexit.unregister(self.close)
        process, self._process = self._process, None
        if process is not None:
            process.kill()  # or tell your simulator to end, and wait
            process.communicate()

    def _observation(self, answer: dict[str, Any]) -> Vector:
        return np.asarray(answer["observation"], np.float32)

    def _ask(self, message: dict[str, Any]) -> dict[str, Any]:
        """Sends a message, and returns the answer.

        Raises:
            RuntimeError: the simulator ended, was too slow, or wrote something else.
        """
        if self._process is None:
            pipe = subprocess.PIPE
            self._process = subprocess.Popen(COMMAND, stdin=pipe, stdout=pipe, text=True)
            atexit.register(self.close)  # no simulator outlives the program
        process = self._process
        assert process.stdin is not None and process.stdout is not None
        clock = threading.Timer(ANSWER_SECONDS, process.kill)
        clock.start()
        line = ""
        try:
            process.stdin.write(json.dumps(message) + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
            answer: dict[str, Any] = json.loads(line)
            return answer
        except (OSError, ValueError) as error:
            self.close()  # the next reset starts another one
            problem = f"answered {line!r}" if line else f"ended, status {process.returncode}"
            raise RuntimeError(f"{COMMAND[-1]} {problem}, after {message}") from error
        finally:
            clock.cancel()
