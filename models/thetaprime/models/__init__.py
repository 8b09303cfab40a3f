"""Policies and their adaptation: network, inner loop, artifacts, ONNX files.

One notation for shapes, everywhere in this project:

    T tasks    N trajectories (of one task)    H steps (of one trajectory)    S = Σ H_n steps of a batch
    O observation (its numbers, flattened)     A action (dimensions, or number of discrete actions)
"""

import importlib
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from thetaprime.models.artifact import (
        MetaPolicy,
        check_parameters,
        load_meta_policy,
        read_tensors,
        write_meta_policy,
    )
    from thetaprime.models.artifact_files import ArtifactLimits
    from thetaprime.models.artifact_folders import (
        find_meta_policies,
        resolve_meta_policy,
        scan_meta_policies,
        zoo_directory,
    )
    from thetaprime.models.behavior import (
        BehaviorDoubt,
        BehaviorMeasurement,
        RoundDoubt,
        behavior_evidence,
        doubt_round,
        measure_behavior,
    )
    from thetaprime.models.contributions import step_derivatives, trajectory_contributions
    from thetaprime.models.errors import ArtifactError, MemoryUnsupportedError
    from thetaprime.models.exported import ExportedPolicy
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
    from thetaprime.models.manifest import (
        Amendment,
        ComparisonRun,
        Decision,
        Manifest,
        Provenance,
    )
    from thetaprime.models.memory import MemoryInputs, MemoryState, RecurrentPolicy
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
    from thetaprime.models.policy import ForwardPass, Policy, forward_pass
    from thetaprime.models.reward_units import reward_deviation, reward_signal
    from thetaprime.models.spec import (
        AdaptationSpec,
        BoxAction,
        DiscreteAction,
        EnvironmentContract,
        MemorySpec,
        PolicySpec,
        RewardContract,
        RewardDeviation,
    )
    from thetaprime.models.trajectories import TrajectoryBatch, estimate_advantages

__all__ = [
    "DEFAULT_PROFILE",
    "PROFILES",
    "AdaptationSpec",
    "Amendment",
    "ArtifactError",
    "ArtifactLimits",
    "BehaviorDoubt",
    "BehaviorMeasurement",
    "BoxAction",
    "ComparisonRun",
    "Decision",
    "DiscreteAction",
    "EnvironmentContract",
    "ExportedPolicy",
    "ForwardPass",
    "InnerStep",
    "Manifest",
    "MemoryInputs",
    "MemorySpec",
    "MemoryState",
    "MemoryUnsupportedError",
    "MetaPolicy",
    "NonFiniteStepError",
    "OnnxForm",
    "OnnxTemplate",
    "Parameters",
    "Policy",
    "PolicySpec",
    "ProfileError",
    "Provenance",
    "RecurrentPolicy",
    "RewardContract",
    "RewardDeviation",
    "RobotDescription",
    "RoundDoubt",
    "StepSummary",
    "TrajectoryBatch",
    "adapt_path",
    "adapt_step",
    "behavior_evidence",
    "check_finite",
    "check_parameters",
    "check_profile",
    "derive_form",
    "digest_bytes",
    "doubt_round",
    "estimate_advantages",
    "find_meta_policies",
    "forward_pass",
    "inner_advantages",
    "load_meta_policy",
    "measure_behavior",
    "moving_parameters",
    "parameters_digest",
    "parameters_from_bytes",
    "parameters_to_bytes",
    "read_tensors",
    "reinforce_loss",
    "resolve_meta_policy",
    "reward_deviation",
    "reward_signal",
    "scan_meta_policies",
    "step_derivatives",
    "summarize_step",
    "trajectory_contributions",
    "with_std_factor",
    "write_meta_policy",
    "zoo_directory",
]

_MODULES: Final = {
    "AdaptationSpec": "spec",
    "Amendment": "manifest",
    "ArtifactError": "errors",
    "ArtifactLimits": "artifact_files",
    "BehaviorDoubt": "behavior",
    "BehaviorMeasurement": "behavior",
    "BoxAction": "spec",
    "ComparisonRun": "manifest",
    "Decision": "manifest",
    "DEFAULT_PROFILE": "onnx",
    "DiscreteAction": "spec",
    "EnvironmentContract": "spec",
    "ExportedPolicy": "exported",
    "ForwardPass": "policy",
    "InnerStep": "inner_loop",
    "Manifest": "manifest",
    "MemoryInputs": "memory",
    "MemorySpec": "spec",
    "MemoryState": "memory",
    "MemoryUnsupportedError": "errors",
    "MetaPolicy": "artifact",
    "NonFiniteStepError": "parameters",
    "OnnxForm": "onnx",
    "OnnxTemplate": "onnx",
    "PROFILES": "onnx",
    "Parameters": "parameters",
    "Policy": "policy",
    "PolicySpec": "spec",
    "ProfileError": "onnx",
    "Provenance": "manifest",
    "RecurrentPolicy": "memory",
    "RewardContract": "spec",
    "RewardDeviation": "spec",
    "RobotDescription": "onnx",
    "RoundDoubt": "behavior",
    "StepSummary": "inner_loop",
    "TrajectoryBatch": "trajectories",
    "adapt_path": "inner_loop",
    "adapt_step": "inner_loop",
    "behavior_evidence": "behavior",
    "check_finite": "parameters",
    "check_parameters": "artifact",
    "check_profile": "onnx",
    "derive_form": "onnx",
    "digest_bytes": "parameters",
    "doubt_round": "behavior",
    "estimate_advantages": "trajectories",
    "find_meta_policies": "artifact_folders",
    "forward_pass": "policy",
    "inner_advantages": "inner_loop",
    "load_meta_policy": "artifact",
    "measure_behavior": "behavior",
    "moving_parameters": "inner_loop",
    "parameters_digest": "parameters",
    "parameters_from_bytes": "parameters",
    "parameters_to_bytes": "parameters",
    "read_tensors": "artifact",
    "reinforce_loss": "inner_loop",
    "resolve_meta_policy": "artifact_folders",
    "reward_deviation": "reward_units",
    "reward_signal": "reward_units",
    "scan_meta_policies": "artifact_folders",
    "summarize_step": "inner_loop",
    "step_derivatives": "contributions",
    "trajectory_contributions": "contributions",
    "with_std_factor": "inner_loop",
    "write_meta_policy": "artifact",
    "zoo_directory": "artifact_folders",
}


def __getattr__(name: str) -> Any:
    """Imports a public name on first use: specifications come without torch, whose import takes seconds."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value
    return value
