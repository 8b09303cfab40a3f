"""The configuration of a training run: one frozen model, from a TOML file and flags."""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal

import pydantic

from thetaprime.models import AdaptationSpec, PolicySpec
from thetaprime.models.spec import Curvature, Spec

OuterLoopName = Literal["maml_trpo", "promp", "e_maml", "dice"]
IMPLIED_CURVATURE: Final[Mapping[OuterLoopName, Curvature]] = {"promp": "ratio", "e_maml": "log_prob", "dice": "dice"}
"""The inner loss that an outer loop is defined with. Under MAML's it is free."""


class TrainConfig(Spec):
    """What a run depends on. Two runs with the same configuration on the same machine give the same bits."""

    tasks: str
    """Task distribution: a name (half-cheetah-velocity), or package.module:Class for your own."""
    method: Literal["maml", "pretrained", "oracle"] = "maml"
    """maml; or a comparison: one policy for all tasks (pretrained), or one that is told the task (oracle)."""
    outer_loop: OuterLoopName = "maml_trpo"
    """What improves θ: MAML under TRPO (Finn et al. 2017), ProMP (Rothfuss et al. 2019), E-MAML under TRPO (Stadie et
    al. 2018), or DiCE (Foerster et al. 2018). All but the first imply `adaptation.curvature`."""
    seed: int = pydantic.Field(default=0, ge=0)
    """Seeds everything that is drawn."""
    iterations: pydantic.PositiveInt = 500
    """Outer-loop iterations."""
    meta_batch_size: pydantic.PositiveInt = 20
    """T: tasks in each iteration."""
    support_trajectories: pydantic.PositiveInt | None = None
    """Trajectories of each task that an inner step learns from in meta-training, where fewer tell it enough than
    `adaptation.trajectories_per_round`: the simulator's time goes to those that judge the adapted policy."""
    max_kl: pydantic.PositiveFloat = 0.01
    """δ: how far an iteration may move the adapted policies, in nats: the trust region, and what ends Adam's epochs."""
    fisher_fraction: float = pydantic.Field(default=0.2, gt=0.0, le=1.0)
    """maml_trpo, e_maml: share of the tasks that Fisher-vector products go over."""
    outer_lr: pydantic.PositiveFloat = 1e-3
    """promp, dice: Adam's learning rate on θ."""
    outer_epochs: pydantic.PositiveInt = 5
    """promp, dice: most steps of Adam on one iteration's trajectories; they end early where `max_kl` is reached."""
    clip_range: float = pydantic.Field(default=0.3, gt=0.0, lt=1.0)
    """promp: ε: probability ratios count between 1 − ε and 1 + ε."""
    inner_kl_penalty: pydantic.NonNegativeFloat = 5e-4
    """promp: η, on the KL between the policies that collected the support trajectories and those they are used for."""
    exploration_credit: pydantic.NonNegativeFloat = 0.01
    """e_maml: factor on the credit of the support's actions. 1 is unbiased, and drowns the rest in noise unless tasks
    are many and trajectories few; 0 is maml_trpo."""
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
    adaptation: AdaptationSpec = pydantic.Field(default=AdaptationSpec(), validate_default=True)
    """The inner loop."""

    @pydantic.field_validator("adaptation")
    @classmethod
    def _imply_curvature(cls, adaptation: AdaptationSpec, info: pydantic.ValidationInfo) -> AdaptationSpec:
        outer_loop = info.data.get("outer_loop")  # missing where it did not fit
        implied = IMPLIED_CURVATURE.get(outer_loop) if outer_loop else None
        if implied is None:
            return adaptation
        if "curvature" in adaptation.model_fields_set and adaptation.curvature != implied:
            raise ValueError(f"curvature is {adaptation.curvature!r}; outer_loop {outer_loop!r} needs {implied!r}")
        if outer_loop == "dice" and adaptation.first_order:
            raise ValueError("first_order is true; outer_loop 'dice' is about the derivative that it leaves out")
        return adaptation.model_copy(update={"curvature": implied})


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
