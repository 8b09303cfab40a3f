"""The Node example runs policies: actions, samples and verification."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime
import pytest
import torch

from tests.support.artifacts import write_untrained
from thetaprime import models, wire
from thetaprime.client._policy.inference import Exploration
from thetaprime.server.catalog import catalog
from thetaprime.v1 import policy_pb2

if TYPE_CHECKING:
    from tests.support.node import Talk

SAMPLES = 4000
ENVIRONMENTS = {
    "box": models.EnvironmentContract(
        environment_id="box",
        observation_shape=(2, 3),
        action=models.BoxAction(low=(-1.0, 0.0, -float("inf")), high=(1.0, 10.0, 5.0)),
        horizon=10,
    ),
    "discrete": models.EnvironmentContract(
        environment_id="discrete", observation_shape=(2,), action=models.DiscreteAction(count=4, start=5), horizon=10
    ),
}
Served = dict[str, tuple[models.MetaPolicy, policy_pb2.Policy]]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Served:
    """Untrained policies, each with its message from a server."""
    root, found = tmp_path_factory.mktemp("zoo"), {}
    for name, environment in ENVIRONMENTS.items():
        made = write_untrained(root, name, environment)
        found[name] = made, catalog.policy_message(made.export(made.parameters))
    return found


def _observations(name: str) -> "np.ndarray[Any, np.dtype[np.float32]]":
    size = catalog.wire_contract(ENVIRONMENTS[name]).observation_size
    return np.random.default_rng(2).normal(size=(5, size)).astype(np.float32)


def _ask(talk: "Talk", name: str, message: policy_pb2.Policy, samples: int = 0) -> dict[str, Any]:
    environment = wire.contract_to_message(catalog.wire_contract(ENVIRONMENTS[name]))
    return talk.ask(
        "act",
        policy=message.SerializeToString().hex(),
        environment=environment.SerializeToString().hex(),
        observations=_observations(name).tolist(),
        samples=samples,
    )


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_its_actions_equal_torchs(name: str, talk: "Talk", served: Served) -> None:
    made, message = served[name]
    expected = made.policy.act(made.parameters, torch.from_numpy(_observations(name))).numpy()
    np.testing.assert_allclose(_ask(talk, name, message)["actions"], expected, rtol=1e-5, atol=1e-5)


def test_continuous_samples_have_the_policys_mean_and_spread(talk: "Talk", served: Served) -> None:
    _, message = served["box"]
    contract = catalog.wire_contract(ENVIRONMENTS["box"])
    sampled = _ask(talk, "box", message, SAMPLES)["sampled"]
    taken, recorded = (np.array(column, np.float32) for column in zip(*sampled, strict=True))
    mean, log_std = onnxruntime.InferenceSession(message.onnx).run(
        ["mean", "log_std"], {"obs": _observations("box")[:1]}
    )
    standard = (recorded - mean) / np.exp(log_std)
    assert np.abs(standard.mean(axis=0)).max() < 5 / SAMPLES**0.5
    assert np.abs(standard.std(axis=0) - 1).max() < 5 / (2 * SAMPLES) ** 0.5
    np.testing.assert_array_equal(taken, Exploration(contract, log_std).to_environment(recorded))


def test_discrete_samples_have_the_policys_probabilities(talk: "Talk", served: Served) -> None:
    _, message = served["discrete"]
    taken, recorded = np.array(_ask(talk, "discrete", message, SAMPLES)["sampled"]).T
    (logits,) = onnxruntime.InferenceSession(message.onnx).run(["logits"], {"obs": _observations("discrete")[:1]})
    expected = torch.from_numpy(logits[0]).softmax(0).numpy()
    found = np.bincount(recorded, minlength=4) / SAMPLES
    assert np.abs(found - expected).max() < 5 * 0.5 / SAMPLES**0.5
    np.testing.assert_array_equal(taken, recorded + 5)


def _other_bytes(message: policy_pb2.Policy) -> None:
    message.onnx = message.onnx[:-1] + bytes([message.onnx[-1] ^ 1])


def _no_onnx(message: policy_pb2.Policy) -> None:
    message.onnx = b"no ONNX file"
    message.onnx_sha256 = wire.sha256_hex(message.onnx)


def _other_contract(message: policy_pb2.Policy) -> None:
    message.metadata["thetaprime.contract_version"] = "2"


def _other_id(message: policy_pb2.Policy) -> None:
    message.policy_id = "0" * 64


def _other_actions(message: policy_pb2.Policy) -> None:
    actions = wire.array_from_message(message.golden.actions, "actions").copy()
    actions[-1] += actions.dtype.type(1e-3) if actions.dtype.kind == "f" else 1
    message.golden.actions.CopyFrom(wire.array_to_message(actions))


def _no_golden(message: policy_pb2.Policy) -> None:
    message.ClearField("golden")


@pytest.mark.parametrize("name", ENVIRONMENTS)
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_other_bytes, "sha256 of the policy is"),
        (_no_onnx, "onnxruntime cannot load the policy"),
        (_other_contract, "contract_version is 2; this client reads 1"),
        (_other_id, "the reply has policy_id 000"),
        (_other_actions, "fails its golden vectors: for observation 2"),
        (_no_golden, "golden.observations: missing"),
    ],
)
def test_a_policy_that_fails_its_verification_is_refused(
    change: Callable[[policy_pb2.Policy], None], said: str, name: str, talk: "Talk", served: Served
) -> None:
    message = policy_pb2.Policy()
    message.CopyFrom(served[name][1])
    change(message)
    assert said in _ask(talk, name, message)["error"]


def test_the_policy_of_another_environment_is_refused(talk: "Talk", served: Served) -> None:
    error = _ask(talk, "discrete", served["box"][1])["error"]
    assert "PolicyVerificationError: the graph's obs is float32 [batch,6]; expected float32 [..., 2]" in error
