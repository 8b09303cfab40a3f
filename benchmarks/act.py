"""Compares `AdaptedPolicy.act` with a bare `InferenceSession.run`, and with a call to a server."""

import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from statistics import median

import grpc
import numpy as np
import numpy.typing as npt
import onnxruntime

from benchmarks.measure import Row, compare, machine
from benchmarks.policies import OBSERVATION, shipped
from thetaprime.client import AdaptedPolicy

BATCH = 1000
_ROUNDS, _REPEATS = 30, 200


def rows() -> list[Row]:
    """Measures one observation, deterministic and stochastic; a batch; one observation sent over the network."""
    meta_policy = shipped("half-cheetah-velocity")
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
    return [*found, _compare_with_server(policy, observation)]


def bare_session(onnx: bytes) -> onnxruntime.InferenceSession:
    """Returns a session with one thread and otherwise default options."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(onnx, options, providers=["CPUExecutionProvider"])


def _compare_with_server(policy: AdaptedPolicy, observation: npt.NDArray[np.float32]) -> Row:
    """Compares `act` with a call to an echo server, a lower bound for a server that acts: ThetaPrime's does not.

    Server, client and policy run in separate processes, so that none shares another one's threads.
    """
    ours, reference = [], []
    with _start_process("echo") as server, _start_process("ask", _read_line(server)) as client:
        for _ in range(_ROUNDS):
            started = time.perf_counter()
            for _ in range(_REPEATS):
                policy.act(observation)
            ours.append((time.perf_counter() - started) / _REPEATS * 1e6)
            print(_REPEATS, file=client.stdin, flush=True)
            reference.append(float(_read_line(client)) * 1e6)
    one, other, budget = median(ours), median(reference), 1 / 30
    name = "act / a round trip of a gRPC call with the observation, over loopback"
    return Row(name, one, other, "µs", one / other, budget, one / other <= budget, machine())


@contextlib.contextmanager
def _start_process(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "benchmarks.act", *arguments]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.terminate()


def _read_line(process: subprocess.Popen[str]) -> str:
    return process.stdout.readline().strip() if process.stdout else ""


def _echo() -> None:
    """Runs the echo server, and prints its port."""
    echo = grpc.unary_unary_rpc_method_handler(lambda request, context: request)
    server = grpc.server(ThreadPoolExecutor(1))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("benchmark", {"Echo": echo}),))
    print(server.add_insecure_port("127.0.0.1:0"), flush=True)
    server.start()
    server.wait_for_termination()


def _ask(port: str) -> None:
    """Reads numbers of calls from standard input, makes so many, and prints the mean seconds of one."""
    observation = np.zeros(OBSERVATION, np.float32).tobytes()
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        ask = channel.unary_unary("/benchmark/Echo", bytes, bytes)
        ask(observation)
        for line in sys.stdin:
            started = time.perf_counter()
            for _ in range(int(line)):
                ask(observation)
            print((time.perf_counter() - started) / int(line), flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "echo":
        _echo()
    else:
        _ask(sys.argv[2])
