"""`AdaptedPolicy.act` against a bare `InferenceSession.run`, and against asking a server."""

from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import numpy.typing as npt
import onnxruntime

from benchmarks.measure import Row, compare
from benchmarks.policies import OBSERVATION, artifact
from thetaprime.client import AdaptedPolicy

BATCH = 1000


def rows() -> list[Row]:
    """One observation, deterministic and stochastic; a batch; one over the network instead."""
    meta_policy = artifact()
    onnx = meta_policy.export(meta_policy.parameters).onnx
    policy = AdaptedPolicy(onnx, seed=0)
    session = bare_session(onnx)
    batch = np.random.default_rng(0).normal(size=(BATCH, OBSERVATION)).astype(np.float32)
    observation, batched = batch[0], batch[:1]
    found = [
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
    found.append(
        compare(
            f"act on {BATCH} observations / InferenceSession.run",
            lambda: policy.act(batch),
            lambda: session.run(["actions"], {"obs": batch}),
            budget=1.05,
            rounds=100,
            repeats=10,
            unit="µs",
        )
    )
    return [*found, _against_a_server(policy, observation)]


def bare_session(onnx: bytes) -> onnxruntime.InferenceSession:
    """A session with one thread, and else as onnxruntime makes it."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(onnx, options, providers=["CPUExecutionProvider"])


def _against_a_server(policy: AdaptedPolicy, observation: npt.NDArray[np.float32]) -> Row:
    """ThetaPrime's own server does not act, so one is made that echoes: the least that asking could cost."""
    echo = grpc.unary_unary_rpc_method_handler(lambda request, context: request)
    with ThreadPoolExecutor(1) as threads:
        server = grpc.server(threads)
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("benchmark", {"Echo": echo}),))
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            ask = channel.unary_unary("/benchmark/Echo", bytes, bytes)
            row = compare(
                "act / a round trip of a gRPC call with the observation, over loopback",
                lambda: policy.act(observation),
                lambda: ask(observation.tobytes()),
                budget=1 / 30,
                rounds=50,
                repeats=20,
                unit="µs",
            )
        server.stop(None).wait()
    return row
