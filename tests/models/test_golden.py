import decimal
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from thetaprime.models import (
    BoxAction,
    DiscreteAction,
    EnvironmentContract,
    Parameters,
    Policy,
    PolicySpec,
    digest_bytes,
    load_meta_policy,
)
from thetaprime.models.golden import Decimal50, Float64, evaluate_rounded, golden_actions
from thetaprime.models.rewrite_onnx import rewrite_onnx


def make_policy(
    *, discrete: bool = False, hidden: tuple[int, ...] = (9, 9), activation: str = "tanh", context_size: int = 0
) -> Policy:
    action = DiscreteAction(count=3, start=2) if discrete else BoxAction(low=(-0.5, -np.inf), high=(2.0, np.inf))
    environment = EnvironmentContract(environment_id="any", observation_shape=(4,), action=action, horizon=1)
    spec = {"hidden_sizes": hidden, "activation": activation, "context_size": context_size}
    return Policy(environment, PolicySpec.model_validate(spec))


def make_parameters(policy: Policy, seed: int) -> Parameters:
    rng = np.random.default_rng(seed)
    return {
        name: torch.from_numpy(rng.normal(size=tuple(value.shape)).astype(np.float32))
        for name, value in policy.init(0).items()
    }


networks = given(
    discrete=st.booleans(),
    hidden=st.lists(st.integers(1, 12), max_size=2).map(tuple),
    activation=st.sampled_from(["relu", "tanh"]),
    context_size=st.integers(0, 2),
    seed=st.integers(0, 1000),
)


@networks
@settings(max_examples=40, deadline=None)
def test_golden_actions_are_the_policy_s(seed: int, **network: Any) -> None:
    policy = make_policy(**network)
    parameters = make_parameters(policy, seed)
    observations = np.random.default_rng(seed).normal(size=(5, 4)).astype(np.float32)
    expected = policy.act(parameters, torch.from_numpy(observations)).numpy()
    found = golden_actions(policy, parameters, observations)
    assert found.dtype == expected.dtype
    np.testing.assert_allclose(found, expected, rtol=2e-6, atol=2e-6)


@networks
@settings(max_examples=40, deadline=None)
def test_float64_and_decimals_round_alike(seed: int, **network: Any) -> None:
    policy = make_policy(**network)
    parameters = make_parameters(policy, seed)
    observations = np.random.default_rng(seed).normal(size=(5, 4)).astype(np.float32)
    found = golden_actions(policy, parameters, observations)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Float64, "rounded", lambda self: (self.value * 0, np.ones(self.value.shape, np.bool_)))
        np.testing.assert_array_equal(found, golden_actions(policy, parameters, observations))


def test_golden_actions_do_not_depend_on_the_order_of_sums() -> None:
    policy = make_policy(hidden=(64, 64))
    parameters = make_parameters(policy, 0)
    observations = np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32)
    expected = golden_actions(policy, parameters, observations)
    order = torch.from_numpy(np.random.default_rng(1).permutation(64))
    permuted = dict(parameters)
    for index in (0, 1):
        for name in (f"layers.{index}.weight", f"layers.{index}.bias"):
            permuted[name] = permuted[name][order]
        after = f"layers.{index + 1}.weight"
        permuted[after] = permuted[after][:, order]
    np.testing.assert_array_equal(golden_actions(policy, permuted, observations), expected)


OPERATIONS = {
    "matmul": lambda x: x @ x.of(np.linspace(-2, 3, 15, dtype=np.float32).reshape(5, 3)) + x.of(np.ones(3, np.float32)),
    "tanh": lambda x: (x * x).tanh(),
    "relu": lambda x: (x - x.of(np.float32(0.3))).relu(),
    "exp": lambda x: (x * x).exp(),
    "softmax": lambda x: (x * x).softmax(),
    "clip": lambda x: (x * x).maximum(x.of(np.float32(0.1))).minimum(x.of(np.float32(0.7))),
}


@pytest.mark.parametrize("operation", OPERATIONS)
@given(seed=st.integers(0, 1000), scale=st.sampled_from([1e-3, 1.0, 5.0]))
@settings(max_examples=15, deadline=None)
def test_a_bound_covers_the_distance_to_the_exact_result(operation: str, seed: int, scale: float) -> None:
    rows = (np.random.default_rng(seed).normal(size=(3, 5)) * scale).astype(np.float32)
    found = OPERATIONS[operation](Float64.of(rows))
    with decimal.localcontext(prec=50):
        exact = OPERATIONS[operation](Decimal50.of(rows)).value
        distance = np.abs(np.frompyfunc(decimal.Decimal, 1, 1)(found.value.astype(object)) - exact)
    assert (distance.astype(np.float64) <= found.error).all()
    assert np.max(found.error / np.maximum(np.abs(found.value), 1e-3)) < 1e-10


def rounded(value: float, error: float) -> tuple[float, int]:
    """The value that a number is rounded to, and the number of evaluations with decimals."""
    asked = []

    def network(number: type[Any], inputs: Mapping[str, npt.NDArray[Any]]) -> dict[str, Any]:
        asked.append(number)
        if number is Decimal50:
            return {"y": number.of(inputs["x"]) + Decimal50(np.array([decimal.Decimal(value)], object))}
        return {"y": Float64(np.array([value]), np.array([error]))}

    (found,) = evaluate_rounded(network, {"x": np.zeros(1, np.float32)})["y"]
    return float(found), asked.count(Decimal50)


def test_decimals_decide_near_the_middle_of_two_roundings() -> None:
    spacing = 2.0**-22
    assert rounded(0.3, 1e-12) == (round(0.3 / spacing) * spacing, 0)
    assert rounded(3.5 * spacing, 1e-15) == (4 * spacing, 1)
    assert rounded(4.5 * spacing, 1e-15) == (4 * spacing, 1)
    assert rounded(4.5 * spacing + 1e-15, 1e-14) == (5 * spacing, 1)
    assert rounded(4.5 * spacing - 1e-15, 1e-14) == (4 * spacing, 1)
    assert rounded(4.5 * spacing - 1e-12, 1e-14) == (4 * spacing, 0)
    assert rounded(1e300, 1e299) == (float("inf"), 1)  # beyond float32, as in the network itself


def test_of_equal_logits_the_first_is_chosen() -> None:
    policy = make_policy(discrete=True, hidden=())
    parameters = make_parameters(policy, 3)
    parameters["layers.0.weight"][1:] = parameters["layers.0.weight"][0]
    parameters["layers.0.bias"][:] = 0.25
    assert golden_actions(policy, parameters, np.ones((2, 4), np.float32)).tolist() == [2, 2]


def test_an_artifact_s_onnx_file_is_rewritten_and_nothing_else(point_artifact: Path, tmp_path: Path) -> None:
    directory = tmp_path / "1"
    shutil.copytree(point_artifact / "point-navigation" / "1", directory)
    before = {path.name: path.read_bytes() for path in directory.iterdir()}
    assert not rewrite_onnx(directory)
    assert {path.name: path.read_bytes() for path in directory.iterdir()} == before
    # As an earlier version wrote it.
    meta_policy = load_meta_policy(directory)
    golden = {"observations": [[0.0, 0.0]], "actions": [[0.125, 0.125]]}
    other, _ = meta_policy.template.write(meta_policy.parameters, policy_id="", parent_id="", golden=golden)
    (directory / "policy.onnx").write_bytes(other)
    files = {**meta_policy.manifest.files, "policy.onnx": digest_bytes(other)}
    manifest = meta_policy.manifest.model_copy(update={"files": files}).sealed()
    (directory / "manifest.json").write_bytes(manifest.to_bytes())
    assert rewrite_onnx(directory)
    assert {path.name: path.read_bytes() for path in directory.iterdir()} == before
