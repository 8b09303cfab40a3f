"""`PolicyRunner` replaces the policy of a running control loop."""

import gc
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto

import thetaprime.client as tp
from thetaprime import models

Artifact = Callable[[str], models.MetaPolicy]
Theta = Callable[[str], tp.AdaptedPolicy]
OBSERVATION = np.array([0.3, -0.2, 0.5], np.float32)


@pytest.fixture
def files(artifact: Artifact) -> list[bytes]:
    """Ten policies for the pendulum with different actions."""
    meta_policy = artifact("pendulum")
    made = []
    for shift in range(10):
        parameters = {name: value + 0.01 * shift for name, value in meta_policy.parameters.items()}
        made.append(meta_policy.export(parameters).onnx)
    return made


def action_of(onnx: bytes) -> float:
    return float(tp.AdaptedPolicy(onnx).act(OBSERVATION)[0])


@pytest.mark.parametrize("kind", ["policy", "bytes", "path", "str"])
def test_a_new_policy_acts_from_the_next_call(kind: str, files: list[bytes], tmp_path: Path) -> None:
    path = tmp_path / "policy.onnx"
    path.write_bytes(files[1])
    sources: dict[str, Any] = {
        "policy": tp.AdaptedPolicy(files[1]), "bytes": files[1], "path": path, "str": str(path)
    }  # fmt: skip
    with tp.PolicyRunner(tp.AdaptedPolicy(files[0])) as runner:
        before = runner.act(OBSERVATION)
        digest = tp.AdaptedPolicy(files[1]).sha256
        loaded = runner.replace(sources[kind], sha256=digest).result(60)
        assert runner.policy is loaded
        assert loaded.sha256 == digest
        assert runner.act(OBSERVATION) == action_of(files[1]) != before
        assert runner.predict(OBSERVATION, state="s") == (runner.act(OBSERVATION), "s")
    assert runner.act(OBSERVATION) == action_of(files[1])  # a closed runner still acts


def test_a_control_loop_sees_the_policies_in_order(files: list[bytes]) -> None:
    expected = [action_of(onnx) for onnx in files]
    assert len(set(expected)) == len(files)
    done = threading.Event()
    seen: list[float] = []
    with tp.PolicyRunner(tp.AdaptedPolicy(files[0])) as runner:

        def loop() -> None:
            while not done.is_set():
                seen.append(float(runner.act(OBSERVATION)[0]))

        control = threading.Thread(target=loop)
        control.start()
        for onnx, action in zip(files[1:], expected[1:], strict=True):
            runner.replace(onnx).result(60)
            while seen[-1] != action:
                pass
        done.set()
        control.join()
    order = [expected.index(action) for action in seen]  # raises ValueError for an action of no policy
    assert order == sorted(order)
    assert set(order) == set(range(len(files)))


def test_the_runners_thread_releases_the_old_policy(files: list[bytes]) -> None:
    old = tp.AdaptedPolicy(files[0])
    released_by: list[str] = []
    weakref.finalize(old, lambda: released_by.append(threading.current_thread().name))
    alive = weakref.ref(old)
    with tp.PolicyRunner(old) as runner:
        del old
        runner.replace(files[1]).result(60)
        gc.collect()
        assert alive() is not None  # the loop has not acted since
        runner.act(OBSERVATION)
    assert alive() is None
    assert released_by == ["thetaprime-policy-runner"]


def damaged(onnx: bytes) -> bytes:
    """Returns the file with one bit of one weight's exponent flipped."""
    weights = next(
        each.raw_data for each in ModelProto.FromString(onnx).graph.initializer if each.name.startswith("theta.layers")
    )
    changed = bytearray(onnx)
    changed[onnx.index(weights) + 3] ^= 0x40
    return bytes(changed)


def test_a_refused_policy_changes_nothing(files: list[bytes], theta: Theta, tmp_path: Path) -> None:
    good = tp.AdaptedPolicy(files[1])
    with tp.PolicyRunner(tp.AdaptedPolicy(files[0])) as runner:
        before, current = runner.act(OBSERVATION), runner.policy
        refused: list[tuple[Any, str | None, type[Exception], str]] = [
            (files[1], "0" * 64, tp.PolicyVerificationError, "damaged"),
            (damaged(files[1]), good.sha256, tp.PolicyVerificationError, "damaged"),
            (damaged(files[1]), None, tp.PolicyVerificationError, "."),
            (b"not ONNX", None, tp.PolicyVerificationError, "does not follow the ONNX contract, version 1 or 2"),
            (good, "0" * 64, tp.PolicyVerificationError, "sha256"),
            (theta("cart-pole"), None, tp.PolicyVerificationError, "the policy has environment"),
            (tmp_path / "none.onnx", None, FileNotFoundError, "none.onnx"),
        ]
        for source, sha256, kind, words in refused:
            with pytest.raises(kind, match=words):
                runner.replace(source, sha256).result(60)
            assert runner.policy is current
            assert runner.act(OBSERVATION) == before
        assert runner.replace(good, good.sha256).result(60) is good


def test_of_several_replacements_the_last_one_acts(files: list[bytes]) -> None:
    with tp.PolicyRunner(tp.AdaptedPolicy(files[0])) as runner:
        loads = [runner.replace(onnx) for onnx in files[1:]]
    assert all(load.done() for load in loads)  # closing waits for pending replacements
    assert runner.act(OBSERVATION) == action_of(files[-1])


def test_a_replacement_can_be_cancelled_and_a_closed_runner_refuses_replacements(files: list[bytes]) -> None:
    with tp.PolicyRunner(tp.AdaptedPolicy(files[0])) as runner:
        later = [runner.replace(onnx) for onnx in files]
        cancelled = later[-1].cancel()
    assert cancelled == later[-1].cancelled()
    with pytest.raises(tp.InvalidInputError, match="closed"):
        runner.replace(files[1])
    runner.close()
