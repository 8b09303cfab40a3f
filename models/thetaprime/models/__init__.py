"""What a policy is, and how it adapts.

One notation for shapes, everywhere in this project:

    T tasks    N trajectories (of one task)    H steps (of one trajectory)    S = Σ H_n steps of a batch
    O observation (its numbers, flattened)     A action (dimensions, or number of discrete actions)
"""

from thetaprime.models.advantages import advantages
from thetaprime.models.artifact import (
    ExportedPolicy,
    MetaPolicy,
    check_parameters,
    load_meta_policy,
    read_tensors,
    write_meta_policy,
)
from thetaprime.models.artifact_folders import find_meta_policies, resolve_meta_policy, zoo_directory
from thetaprime.models.batch import TrajectoryBatch
from thetaprime.models.behavior import BehaviorDoubt, behavior_evidence
from thetaprime.models.contributions import trajectory_shares
from thetaprime.models.errors import ArtifactError
from thetaprime.models.forward import ForwardPass, forward_pass
from thetaprime.models.inner_loop import (
    InnerStep,
    StepSummary,
    adapt_path,
    adapt_step,
    inner_advantages,
    moving_parameters,
    reinforce_loss,
    summarize_step,
    with_std_factor,
)
from thetaprime.models.kernels import LayerGradient
from thetaprime.models.manifest import Amendment, ComparisonRun, Manifest, Provenance
from thetaprime.models.memory import hold_freed_memory
from thetaprime.models.onnx import (
    DEFAULT_PROFILE,
    PROFILES,
    OnnxForm,
    OnnxTemplate,
    ProfileError,
    RobotDescription,
    check_profile,
    derive_form,
)
from thetaprime.models.parameters import (
    NonFiniteStepError,
    Parameters,
    check_finite,
    digest_bytes,
    parameters_digest,
    parameters_from_bytes,
    parameters_to_bytes,
)
from thetaprime.models.policy import Policy
from thetaprime.models.spec import AdaptationSpec, BoxAction, DiscreteAction, EnvironmentContract, PolicySpec

__all__ = [
    "DEFAULT_PROFILE",
    "PROFILES",
    "AdaptationSpec",
    "Amendment",
    "ArtifactError",
    "BehaviorDoubt",
    "BoxAction",
    "ComparisonRun",
    "DiscreteAction",
    "EnvironmentContract",
    "ExportedPolicy",
    "ForwardPass",
    "InnerStep",
    "LayerGradient",
    "Manifest",
    "MetaPolicy",
    "NonFiniteStepError",
    "OnnxForm",
    "OnnxTemplate",
    "Parameters",
    "Policy",
    "PolicySpec",
    "ProfileError",
    "Provenance",
    "RobotDescription",
    "StepSummary",
    "TrajectoryBatch",
    "adapt_path",
    "adapt_step",
    "advantages",
    "behavior_evidence",
    "check_finite",
    "check_parameters",
    "check_profile",
    "derive_form",
    "digest_bytes",
    "find_meta_policies",
    "forward_pass",
    "hold_freed_memory",
    "inner_advantages",
    "load_meta_policy",
    "moving_parameters",
    "parameters_digest",
    "parameters_from_bytes",
    "parameters_to_bytes",
    "read_tensors",
    "reinforce_loss",
    "resolve_meta_policy",
    "summarize_step",
    "trajectory_shares",
    "with_std_factor",
    "write_meta_policy",
    "zoo_directory",
]
