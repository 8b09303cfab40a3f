"""The configuration of a training run, read from a TOML file and flags."""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal, Self

import pydantic

from thetaprime.models import AdaptationSpec, MemorySpec, PolicySpec
from thetaprime.models.spec import Curvature, Spec

OuterLoopName = Literal["maml_trpo", "promp", "e_maml", "dice"]
Tracker = Literal["tensorboard", "wandb", "none"]
_NOT_OF_RL2: Final = {
    **dict.fromkeys(("outer_loop", "support_trajectories", "fisher_fraction", "inner_kl_penalty"), ""),
    **dict.fromkeys(("exploration_credit", "multi_step_loss", "learn_step_sizes", "step_size_lr"), ""),
    **{"outer_lr": "learning_rate", "outer_epochs": "epochs", "clip_range": "clip_range", "max_kl": "max_kl"},
    **{"outer_discount": "discount", "outer_gae_lambda": "gae_lambda"},
}
"""Settings of the other methods, each with the field of `RL2Spec` that has its place."""
IMPLIED_CURVATURE: Final[Mapping[OuterLoopName, Curvature]] = {"promp": "ratio", "e_maml": "log_prob", "dice": "dice"}
"""The inner loss that an outer loop requires. `maml_trpo` takes any."""


class RL2Spec(Spec):
    """The settings of ``method = "rl2"``: lifetimes, and PPO through time (Schulman et al. 2017)."""

    episodes: pydantic.PositiveInt = 2
    """n: episodes of each lifetime. The memory is kept from one to the next."""
    chunk_steps: pydantic.PositiveInt = 100
    """Steps of one chunk of backpropagation through time. The memory's state is kept between chunks, its gradient is
    not."""
    learning_rate: pydantic.PositiveFloat = 7e-4
    """Highest learning rate of Adam. It is lowered while steps move the policy by more than `max_kl`."""
    epochs: pydantic.PositiveInt = 4
    """Passes over the lifetimes of an iteration; `max_kl` ends them earlier."""
    minibatches: pydantic.PositiveInt = 4
    """Parts of a pass, each of which takes a step of Adam."""
    clip_range: float = pydantic.Field(default=0.2, gt=0.0, lt=1.0)
    """ε: probability ratios are clipped to 1 − ε and 1 + ε."""
    max_kl: pydantic.PositiveFloat = 0.03
    """KL divergence, in nats, from the policy that sampled, beyond which no further pass follows."""
    discount: float = pydantic.Field(default=0.99, gt=0.0, le=1.0)
    """γ over the whole lifetime: later episodes count in the first one's advantages."""
    gae_lambda: float = pydantic.Field(default=0.95, ge=0.0, le=1.0)
    """λ of the advantages."""
    value_sizes: tuple[pydantic.PositiveInt, ...] = pydantic.Field(default=(64, 64), max_length=16)
    """Units of each hidden layer of the critic, which observes the task and exists in training alone."""
    value_weight: pydantic.PositiveFloat = 0.5
    """Weight of the critic's squared error in the loss."""
    task_weight: pydantic.NonNegativeFloat = 0.0
    """Weight of the squared error with which a linear map of the memory predicts the task's parameters (Humplik et al.
    2019). The memory learns sooner what to look for. 0 for none."""
    entropy_weight: pydantic.NonNegativeFloat = 0.0
    """Weight of the entropy of the action distribution, which rewards exploration."""
    max_gradient_norm: pydantic.PositiveFloat = 0.5
    """Longest gradient of a step; longer ones are shortened."""


class TrainConfig(Spec):
    """The settings of a run. Two runs with equal settings on one machine give the same bits."""

    tasks: str
    """Task distribution: a shipped name (half-cheetah-velocity), or package.module:Class for your own."""
    method: Literal["maml", "rl2", "pretrained", "oracle"] = "maml"
    """What to train: a policy that adapts by gradient steps (maml), or in its memory (rl2), or a comparison without
    inner steps: one policy for all tasks (pretrained), or one that observes the task (oracle)."""
    outer_loop: OuterLoopName = "maml_trpo"
    """Algorithm that improves θ: MAML with TRPO (Finn et al. 2017), ProMP (Rothfuss et al. 2019), E-MAML with TRPO
    (Stadie et al. 2018), or DiCE (Foerster et al. 2018). All but maml_trpo set `adaptation.curvature`."""
    seed: int = pydantic.Field(default=0, ge=0)
    """Seed of the initial parameters, tasks, environments and actions."""
    iterations: pydantic.PositiveInt | None = None
    """Number of outer-loop iterations. Default: 500; with `minutes` or `environment_steps`, as many as they allow."""
    minutes: pydantic.PositiveFloat | None = None
    """Minutes of training, over all parts of a resumed run. The iteration that reaches them is the last."""
    environment_steps: pydantic.PositiveInt | None = None
    """Environment steps of the run. The iteration that reaches them is the last."""
    meta_batch_size: pydantic.PositiveInt = 20
    """T: tasks sampled in each iteration. More tasks give less noise and take more time."""
    spread_tasks: bool = False
    """Spread the tasks of each iteration evenly instead of sampling them independently. Each task is distributed as
    before, and their mean has less noise. The distribution needs `tasks_at`: see `SpreadTaskDistribution`."""
    support_trajectories: pydantic.PositiveInt | None = None
    """Trajectories of each task for an inner step during meta-training. Default: `adaptation.trajectories_per_round`.
    Fewer save simulation time for the query trajectories, which judge the adapted policy."""
    max_kl: pydantic.PositiveFloat = 0.01
    """δ: the largest KL divergence, in nats, by which an iteration may move the adapted policies. It is TRPO's trust
    region and ends the epochs of Adam."""
    fisher_fraction: float = pydantic.Field(default=0.2, gt=0.0, le=1.0)
    """maml_trpo, e_maml: fraction of each task's trajectories used for Fisher-vector products. Less is faster and
    noisier."""
    outer_lr: pydantic.PositiveFloat = 1e-3
    """promp, dice: learning rate of Adam on θ."""
    outer_epochs: pydantic.PositiveInt = 5
    """promp, dice: maximum steps of Adam on one iteration's trajectories; `max_kl` ends them earlier."""
    clip_range: float = pydantic.Field(default=0.3, gt=0.0, lt=1.0)
    """promp: ε: probability ratios are clipped to 1 − ε and 1 + ε."""
    inner_kl_penalty: pydantic.NonNegativeFloat = 5e-4
    """promp: η: weight of the KL divergence from the policies that sampled the support trajectories."""
    exploration_credit: pydantic.NonNegativeFloat = 0.01
    """e_maml: weight of the credit for the support's actions. 1 is unbiased and needs many tasks to be seen through its
    noise; 0 is maml_trpo."""
    outer_discount: float = pydantic.Field(default=0.99, gt=0.0, le=1.0)
    """Discount γ of the outer loop's advantages."""
    outer_gae_lambda: float = pydantic.Field(default=1.0, ge=0.0, le=1.0)
    """λ of the outer loop's generalized advantage estimates."""
    multi_step_loss: bool = False
    """Judge the policy after every inner step, not only after the last (MAML++, Antoniou et al. 2019, section 4)."""
    learn_step_sizes: bool = False
    """Learn a step size for each parameter, by Adam, along with θ (Meta-SGD, Li et al. 2017)."""
    step_size_lr: pydantic.PositiveFloat = 0.01
    """Learning rate of Adam on the logarithm of the learned step sizes."""
    checkpoint_every: pydantic.PositiveInt = 50
    """Iterations between checkpoints."""
    checkpoint_minutes: pydantic.PositiveFloat = 5.0
    """Minutes after which an iteration ends with a checkpoint, even if `checkpoint_every` does not ask for one."""
    tracker: Tracker = "tensorboard"
    """Where to show the run's measurements while it trains. The learning curves are kept in the run's folder with any
    tracker."""
    threads: pydantic.PositiveInt = 2
    """Threads that share the tasks of an iteration. They change the speed, not the result."""
    policy: PolicySpec = pydantic.Field(default=PolicySpec(), validate_default=True)
    """The network."""
    adaptation: AdaptationSpec = pydantic.Field(default=AdaptationSpec(), validate_default=True)
    """The inner loop."""
    rl2: RL2Spec = RL2Spec()
    """Lifetimes and PPO, of method rl2."""

    @pydantic.field_validator("policy")
    @classmethod
    def _check_memory(cls, policy: PolicySpec, info: pydantic.ValidationInfo) -> PolicySpec:
        method = info.data.get("method")  # absent if it was invalid
        if method != "rl2":
            if policy.memory is not None and method is not None:
                raise ValueError(f"memory is {policy.memory.cell!r}, with method {method!r}; expected method 'rl2'")
            return policy
        for name, kept in (("module", ""), ("context_size", 0)):
            if (found := getattr(policy, name)) != kept:
                raise ValueError(f"{name} is {found!r}; method 'rl2' takes {kept!r}: its memory adapts")
        return policy if policy.memory is not None else policy.model_copy(update={"memory": MemorySpec()})

    @pydantic.model_validator(mode="after")
    def _check_method(self) -> Self:
        if self.method != "rl2":
            if self.rl2 != RL2Spec():
                raise ValueError(
                    f"rl2 has settings, with method {self.method!r}; expected method 'rl2', or no settings"
                )
            return self
        usual = TrainConfig.model_construct(tasks=self.tasks)
        for name, instead in _NOT_OF_RL2.items():
            found, kept = getattr(self, name), getattr(usual, name)
            if found != kept:
                hint = f"set rl2.{instead}" if instead else "leave it out"
                raise ValueError(f"{name} is {found!r}, which method 'rl2' does not use; {hint}")
        usual_adaptation = AdaptationSpec()
        for name in AdaptationSpec.model_fields:
            if (found := getattr(self.adaptation, name)) != getattr(usual_adaptation, name):
                raise ValueError(
                    f"adaptation.{name} is {found!r}, which method 'rl2' does not use: its memory adapts, without "
                    "inner steps; leave it out"
                )
        return self

    @pydantic.field_validator("adaptation")
    @classmethod
    def _imply_curvature(cls, adaptation: AdaptationSpec, info: pydantic.ValidationInfo) -> AdaptationSpec:
        outer_loop = info.data.get("outer_loop")  # absent if it was invalid
        implied = IMPLIED_CURVATURE.get(outer_loop) if outer_loop else None
        if implied is None:
            return adaptation
        if "curvature" in adaptation.model_fields_set and adaptation.curvature != implied:
            raise ValueError(f"curvature is {adaptation.curvature!r}; outer_loop {outer_loop!r} needs {implied!r}")
        if outer_loop == "dice" and adaptation.first_order:
            raise ValueError("first_order is true; outer_loop 'dice' needs the second derivative that it leaves out")
        return adaptation.model_copy(update={"curvature": implied})


def load_config(path: Path | None, overrides: dict[str, Any]) -> TrainConfig:
    """Reads a configuration from a file and overrides.

    Args:
        path: a TOML file whose tables mirror `TrainConfig`; None for the defaults.
        overrides: values by dotted field name, such as ``adaptation.inner_lr``; they replace the file's.

    Raises:
        ValueError: the file cannot be read or is not TOML, or a field is invalid; the message names the field and the
            value.
    """
    values: dict[str, Any] = {}
    if path is not None:
        try:
            values = tomllib.loads(path.read_text())
        except (OSError, tomllib.TOMLDecodeError) as error:
            raise ValueError(f"{path}: {error}") from error
    return _validated(values, overrides)


def changed_config(config: TrainConfig, overrides: Mapping[str, Any]) -> TrainConfig:
    """A configuration with some values replaced, by dotted field name.

    Raises:
        ValueError: as `load_config`.
    """
    values = config.model_dump(mode="json")
    if "outer_loop" in overrides:  # the old one implied it
        del values["adaptation"]["curvature"]
    return _validated(values, overrides)


def _validated(values: dict[str, Any], overrides: Mapping[str, Any]) -> TrainConfig:
    for dotted, value in overrides.items():
        *tables, name = dotted.split(".")
        table = values
        for each in tables:
            if table.get(each) is None:  # absent, or an optional table that is not there
                table[each] = {}
            table = table[each]
        table[name] = value
    try:
        return TrainConfig.model_validate(values)
    except pydantic.ValidationError as error:
        lines = [f"{'.'.join(map(str, each['loc']))}: {each['msg']} (got {each['input']!r})" for each in error.errors()]
        raise ValueError("; ".join(lines)) from error
