"""The whole state of a run in one safetensors file, so that it can be resumed to the bit."""

import dataclasses
import json
from pathlib import Path
from typing import Any, Final

import pydantic
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from thetaprime.models import Amendment, ComparisonRun, Parameters
from thetaprime.training.config import TrainConfig

CHECKPOINT_NAME: Final = "checkpoint.safetensors"
_Amendments: Final = pydantic.TypeAdapter(list[Amendment])
_THETA, _STEP_SIZES, _OPTIMIZER = "theta/", "step_sizes/", "optimizer/"


class CheckpointError(ValueError):
    """A checkpoint that is missing, damaged, or of another run."""


@dataclasses.dataclass
class RunState:
    """Where a run stands.

    Attributes:
        config: of the run.
        parameters: θ.
        step_size_state: of `LearnedStepSizes`, empty where they are not learned.
        generator_state: of the numpy generator that everything is drawn from.
        optimizer_state: of the outer loop, empty where it has none.
        iteration: outer iterations taken.
        environment_steps: taken so far, those of `warm_start` among them.
        wall_seconds: spent so far, over all resumed parts and that of `warm_start`.
        amendments: with which settings the run began that were changed on the way.
        warm_start: the run that θ came from, where it did not begin at random.
    """

    config: TrainConfig
    parameters: Parameters
    step_size_state: Parameters
    generator_state: dict[str, Any]
    optimizer_state: Parameters = dataclasses.field(default_factory=dict)
    iteration: int = 0
    environment_steps: int = 0
    wall_seconds: float = 0.0
    amendments: list[Amendment] = dataclasses.field(default_factory=list)
    warm_start: ComparisonRun | None = None

    @property
    def step_sizes(self) -> Parameters | None:
        """The learned step sizes, or None."""
        logs = {name[4:]: value for name, value in self.step_size_state.items() if name.startswith("log.")}
        return {name: value.exp() for name, value in logs.items()} or None


def save_checkpoint(directory: Path, state: RunState) -> None:
    """Writes the checkpoint of a run; the previous one is there until the new one is whole."""
    tensors = {_THETA + name: value.contiguous() for name, value in state.parameters.items()}
    tensors |= {_STEP_SIZES + name: value for name, value in state.step_size_state.items()}
    tensors |= {_OPTIMIZER + name: value for name, value in state.optimizer_state.items()}
    metadata = {
        "config": state.config.model_dump_json(),
        "generator_state": json.dumps(state.generator_state),
        "amendments": _Amendments.dump_json(state.amendments).decode(),
        "warm_start": state.warm_start.model_dump_json() if state.warm_start else "",
        "progress": json.dumps([state.iteration, state.environment_steps, state.wall_seconds]),
    }
    directory.mkdir(parents=True, exist_ok=True)
    written = directory / f"{CHECKPOINT_NAME}.new"
    written.write_bytes(save(tensors, metadata))
    written.replace(directory / CHECKPOINT_NAME)


def load_checkpoint(directory: Path) -> RunState:
    """Reads the checkpoint of a run.

    Raises:
        CheckpointError: there is none, or it is damaged.
    """
    path = directory / CHECKPOINT_NAME
    if not path.is_file():
        raise CheckpointError(f"{path}: no checkpoint there; give the folder of a run that thetaprime train has begun")
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata()
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # it is not a mapping
        iteration, environment_steps, wall_seconds = json.loads(metadata["progress"])
        return RunState(
            config=TrainConfig.model_validate_json(metadata["config"]),
            parameters=_with_prefix(tensors, _THETA),
            step_size_state=_with_prefix(tensors, _STEP_SIZES),
            generator_state=json.loads(metadata["generator_state"]),
            optimizer_state=_with_prefix(tensors, _OPTIMIZER),
            iteration=iteration,
            environment_steps=environment_steps,
            wall_seconds=wall_seconds,
            amendments=_Amendments.validate_json(metadata.get("amendments", "[]")),
            warm_start=ComparisonRun.model_validate_json(warm) if (warm := metadata.get("warm_start")) else None,
        )
    except (SafetensorError, KeyError, TypeError, ValueError, pydantic.ValidationError) as error:
        raise CheckpointError(f"{path}: not a checkpoint of this version: {error}") from error


def _with_prefix(tensors: Parameters, prefix: str) -> Parameters:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
