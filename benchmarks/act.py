"""`AdaptedPolicy.act` on one observation against a bare `InferenceSession.run`."""

import numpy as np
import onnxruntime

from benchmarks.measure import Row, compare
from benchmarks.policies import OBSERVATION, artifact
from thetaprime.client import AdaptedPolicy


def rows() -> list[Row]:
    """Deterministic and stochastic acting."""
    meta_policy = artifact()
    onnx = meta_policy.export(meta_policy.parameters).onnx
    policy = AdaptedPolicy(onnx, seed=0)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(onnx, options, providers=["CPUExecutionProvider"])
    observation = np.random.default_rng(0).normal(size=OBSERVATION).astype(np.float32)
    batched = observation[None]
    return [
        compare(
            f"act({kind}) on one observation / InferenceSession.run",
            lambda deterministic=deterministic: policy.act(observation, deterministic=deterministic),  # type: ignore[misc]
            lambda: session.run(["actions"], {"obs": batched}),
            budget=1.3,
            rounds=50,
            repeats=500,
            unit="µs",
        )
        for kind, deterministic in (("deterministic", True), ("stochastic", False))
    ]
