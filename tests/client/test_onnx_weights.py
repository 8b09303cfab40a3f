"""A file that is kept in pieces is still the file, and what a session reads are those pieces."""

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import numpy_helper

import thetaprime.client as tp
from tests.support.contracts import CONTRACTS
from thetaprime import models
from thetaprime.client._policy.shared_weights import KeptFile

Artifact = Callable[[str], models.MetaPolicy]
Theta = Callable[[str], tp.AdaptedPolicy]


def model_of(*weights: np.ndarray[Any, Any]) -> bytes:
    initializers = [numpy_helper.from_array(weight, f"w{index}") for index, weight in enumerate(weights)]
    return onnx.helper.make_model(onnx.helper.make_graph([], "weights", [], [], initializers)).SerializeToString()


@pytest.mark.parametrize("name", CONTRACTS)
def test_every_weight_is_kept_once_and_the_file_is_still_the_file(name: str, artifact: Artifact) -> None:
    meta_policy = artifact(name)
    file = meta_policy.export(meta_policy.parameters).onnx
    kept = KeptFile.of(file)
    assert bytes(kept) == file
    # Its biases, 64 bytes each, are too small to be worth it.
    assert {name for name in kept.weights if "1.weight" in name} == {"theta.layers.1.weight"}
    arrays = [piece.nbytes for piece in kept.pieces if not isinstance(piece, bytes)]
    assert sum(arrays) == sum(
        4 * weight.numel() for name, weight in meta_policy.parameters.items() if weight.numel() >= 32
    )


def test_weights_with_equal_bytes_are_told_apart() -> None:
    zeros, ones = np.zeros((8, 8), np.float32), np.ones((8, 8), np.float32)
    file = model_of(zeros, ones, zeros, zeros[:4], ones)
    kept = KeptFile.of(file)
    assert bytes(kept) == file
    assert list(kept.weights) == ["w0", "w1", "w2", "w3", "w4"]
    np.testing.assert_array_equal(kept.weights["w4"].numpy(), ones)


def test_one_whose_beginning_comes_earlier_is_found() -> None:
    zeros = np.zeros(64, np.float32)
    later = np.concatenate([zeros, np.ones(64, np.float32)])
    # The first is not shared: its numbers are doubles.
    file = model_of(zeros.astype(np.float64), later)
    kept = KeptFile.of(file)
    assert bytes(kept) == file
    np.testing.assert_array_equal(kept.weights["w1"].numpy(), later)


@given(st.binary(max_size=200))
def test_what_is_no_onnx_file_is_kept_as_it_is(data: bytes) -> None:
    assert bytes(KeptFile.of(data)) == data


@given(st.data())
def test_a_damaged_file_is_kept_as_it_is(data: st.DataObject) -> None:
    file = bytearray(model_of(np.arange(64, dtype=np.float32).reshape(8, 8), np.zeros(40, np.float32)))
    for _ in range(data.draw(st.integers(1, 4))):
        file[data.draw(st.integers(0, len(file) - 1))] = data.draw(st.integers(0, 255))
    assert bytes(KeptFile.of(bytes(file))) == bytes(file)


def test_a_policy_acts_by_the_arrays_of_its_file(theta: Theta) -> None:
    policy = theta("pendulum")
    before = policy.act(np.ones(3, np.float32))
    (last,) = [piece for piece in policy._file.pieces if not isinstance(piece, bytes) and piece.shape == (16, 16)]
    last[...] = 0.0
    assert policy.act(np.ones(3, np.float32)) != before, "the session holds a copy of its own"
