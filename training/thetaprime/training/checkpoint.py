"""The checkpoint: the whole state of a run in one safetensors file. A resumed run gives the same bits."""

import dataclasses
import json
from pathlib import Path
from typing import Any, Final

import pydantic
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from thetaprime.models import Amendment, ComparisonRun, Decision, Parameters
from thetaprime.training.config import TrainConfig

CHECKPOINT_NAME: Final = "checkpoint.safetensors"
_Amendments: Final = pydantic.TypeAdapter(list[Amendment])
_Decisions: Final = pydantic.TypeAdapter(tuple[Decision, ...])
_THETA, _STEP_SIZES, _OPTIMIZER = "theta/", "step_sizes/", "optimizer/"


class CheckpointError(ValueError):
    """A checkpoint is missing, damaged, or of another run."""


@dataclasses.dataclass
class RunState:
    """The state of a run.

    Attributes:
        config: the run's configuration.
        parameters: θ.
        step_size_state: state of `LearnedStepSizes`; empty without learned step sizes.
        generator_state: state of the run's random number generator.
        optimizer_state: state of the algorithm's meta-optimizer; empty for TRPO.
        iteration: completed iterations.
        environment_steps: steps taken so far, with those of `warm_start`.
        wall_seconds: time spent so far, with that of `warm_start` and of all parts of a resumed run.
        amendments: earlier settings that were changed during the run.
        decisions: the settings that a recipe decided.
        warm_start: the run that θ was initialized from; None for a random initialization.
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
    decisions: tuple[Decision, ...] = ()
    warm_start: ComparisonRun | None = None

    @property
    def step_sizes(self) -> Parameters | None:
        """The learned step sizes, or None."""
        logs = {name[4:]: value for name, value in self.step_size_state.items() if name.startswith("log.")}
        return {name: value.exp() for name, value in logs.items()} or None


def save_checkpoint(directory: Path, state: RunState) -> None:
    """Writes the checkpoint of a run. A crash leaves the previous checkpoint in place."""
    tensors = {_THETA + name: value.contiguous() for name, value in state.parameters.items()}
    tensors |= {_STEP_SIZES + name: value for name, value in state.step_size_state.items()}
    tensors |= {_OPTIMIZER + name: value for name, value in state.optimizer_state.items()}
    metadata = {
        "config": state.config.model_dump_json(),
        "generator_state": json.dumps(state.generator_state),
        "amendments": _Amendments.dump_json(state.amendments).decode(),
        "decisions": _Decisions.dump_json(state.decisions).decode(),
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
        CheckpointError: the checkpoint is missing or damaged.
    """
    path = directory / CHECKPOINT_NAME
    if not path.is_file():
        raise CheckpointError(f"{path}: no checkpoint there; give the folder of a run of thetaprime train")
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata()
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a mapping
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
            decisions=_Decisions.validate_json(metadata.get("decisions", "[]")),
            warm_start=ComparisonRun.model_validate_json(warm) if (warm := metadata.get("warm_start")) else None,
        )
    except (SafetensorError, KeyError, TypeError, ValueError, pydantic.ValidationError) as error:
        raise CheckpointError(f"{path}: not a checkpoint of this version: {error}") from error


def _with_prefix(tensors: Parameters, prefix: str) -> Parameters:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
