"""Compares the export of θ′ to ONNX with `torch.onnx.export` of the same policy."""

import tempfile
import warnings
from pathlib import Path

import torch

from benchmarks.measure import Row, compare
from benchmarks.policies import OBSERVATION, artifact
from thetaprime.models import MetaPolicy, Parameters


def traced(meta_policy: MetaPolicy, parameters: Parameters) -> bytes:
    """Exports a policy to ONNX with `torch.onnx.export`."""

    class Module(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.values = torch.nn.ParameterList(parameters.values())

        def forward(self, obs: torch.Tensor) -> torch.Tensor:
            return meta_policy.policy.act(dict(zip(parameters, self.values, strict=True)), obs)

    file = Path(tempfile.mkdtemp(prefix="thetaprime-bench-")) / "traced.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(Module().eval(), (torch.zeros(1, OBSERVATION),), str(file), verbose=False)
    return file.read_bytes()


def rows() -> list[Row]:
    """Measures writing θ′ into the template, and the whole export."""
    meta_policy = artifact()
    parameters = {name: value + 0.01 for name, value in meta_policy.parameters.items()}
    golden = {"observations": meta_policy.reference["golden_observations"].tolist(), "actions": []}

    def trace() -> None:
        traced(meta_policy, parameters)

    writing = compare(
        "θ′ written into the template / torch.onnx.export",
        lambda: meta_policy.template.write(parameters, policy_id="", parent_id="", golden=golden),
        trace,
        budget=0.01,
        rounds=5,
    )
    whole = compare(
        "θ′ to ONNX with its digests and golden vectors / torch.onnx.export",
        lambda: meta_policy.export(parameters, meta_policy.policy_id),
        trace,
        budget=0.01,
        rounds=5,
    )
    return [writing, whole]
