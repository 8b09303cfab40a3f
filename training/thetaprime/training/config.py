"""The configuration of a training run: one frozen model, from a TOML file and flags."""

import tomllib
from pathlib import Path
from typing import Any, Literal

import pydantic

from thetaprime.models import AdaptationSpec, PolicySpec
from thetaprime.models.spec import Spec


class TrainConfig(Spec):
    """What a run depends on. Two runs with the same configuration on the same machine give the same bits."""

    tasks: str
    """Task distribution: a name (point-navigation), or package.module:Class for your own."""
    method: Literal["maml", "pretrained", "oracle"] = "maml"
    """maml; or a comparison: one policy for all tasks (pretrained), or one that is told the task (oracle)."""
    seed: int = pydantic.Field(default=0, ge=0)
    """Seeds everything that is drawn."""
    iterations: pydantic.PositiveInt = 500
    """Outer-loop iterations."""
    meta_batch_size: pydantic.PositiveInt = 20
    """T: tasks in each iteration."""
    max_kl: pydantic.PositiveFloat = 0.01
    """δ: trust region of the outer loop, in nats at the adapted policy."""
    fisher_fraction: float = pydantic.Field(default=0.2, gt=0.0, le=1.0)
    """Share of the tasks that Fisher-vector products go over."""
    outer_discount: float = pydantic.Field(default=0.99, gt=0.0, le=1.0)
    """γ of the outer loop's advantages."""
    outer_gae_lambda: float = pydantic.Field(default=1.0, ge=0.0, le=1.0)
    """λ of the outer loop's advantages."""
    multi_step_loss: bool = False
    """Judge the policy after every inner step, not only after the last (MAML++, Antoniou et al. 2019, section 4)."""
    learn_step_sizes: bool = False
    """Learn a step size for each parameter (Meta-SGD, Li et al. 2017), beside θ and by Adam."""
    step_size_lr: pydantic.PositiveFloat = 0.01
    """Adam's learning rate on the logarithm of the step sizes."""
    checkpoint_every: pydantic.PositiveInt = 50
    """Iterations between checkpoints."""
    threads: pydantic.PositiveInt = 2
    """Threads that share the tasks of an iteration; they change the speed and not the result."""
    policy: PolicySpec = PolicySpec()
    """The network."""
    adaptation: AdaptationSpec = AdaptationSpec()
    """The inner loop."""


def load_config(path: Path | None, overrides: dict[str, Any]) -> TrainConfig:
    """A configuration from a file, with flags over it.

    Args:
        path: a TOML file whose tables mirror `TrainConfig`, or None.
        overrides: fields by dotted name, such as ``adaptation.inner_lr``; they win.

    Raises:
        ValueError: the file is not TOML, or a field does not fit: which, what came, what was expected.
    """
    values: dict[str, Any] = {}
    if path is not None:
        try:
            values = tomllib.loads(path.read_text())
        except (OSError, tomllib.TOMLDecodeError) as error:
            raise ValueError(f"{path}: {error}") from error
    for dotted, value in overrides.items():
        *tables, name = dotted.split(".")
        table = values
        for each in tables:
            table = table.setdefault(each, {})
        table[name] = value
    try:
        return TrainConfig.model_validate(values)
    except pydantic.ValidationError as error:
        lines = [f"{'.'.join(map(str, each['loc']))}: {each['msg']} (got {each['input']!r})" for each in error.errors()]
        raise ValueError("; ".join(lines)) from error
