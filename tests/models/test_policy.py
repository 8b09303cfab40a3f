import warnings

import numpy as np
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributions import Independent, Normal

from thetaprime.models import (
    BoxAction,
    DiscreteAction,
    EnvironmentContract,
    OnnxTemplate,
    Parameters,
    Policy,
    PolicySpec,
)


def test_log_probabilities_are_summed_over_action_dimensions() -> None:
    policy = _policy((2,), BoxAction(low=(-1.0,) * 3, high=(1.0,) * 3))
    parameters = policy.init(0)
    observations, actions = torch.randn(5, 2), torch.randn(5, 3)
    mean = policy.head(parameters, observations)
    expected = Normal(mean, parameters["log_std"].exp()).log_prob(actions).sum(-1)
    torch.testing.assert_close(policy.distribution(parameters, observations).log_prob(actions), expected)


@pytest.mark.parametrize("action", [BoxAction(low=(-1.0,) * 3, high=(1.0,) * 3), DiscreteAction(count=4)])
@pytest.mark.parametrize("tasks", [0, 5])
def test_log_probabilities_are_the_distributions(action: BoxAction | DiscreteAction, tasks: int) -> None:
    policy = _policy((2,), action)
    parameters = policy.init(0)
    if policy.continuous:
        parameters["log_std"] = torch.tensor([-1.5, 0.0, 0.7])
    observations = torch.randn(7, 2)
    if tasks:
        parameters = {
            name: torch.stack([value * (1 + task) for task in range(tasks)]) for name, value in parameters.items()
        }
        observations = torch.randn(tasks, 7, 2)
    outputs = policy.outputs(parameters, observations)
    actions = policy.distribution_of(outputs).sample()
    torch.testing.assert_close(
        policy.log_prob(outputs, actions), policy.distribution_of(outputs).log_prob(actions), rtol=1e-5, atol=1e-5
    )


def test_task_axis_gives_each_task_its_own_parameters() -> None:
    policy = _policy((4,), DiscreteAction(count=3))
    each = [policy.init(seed) for seed in range(3)]
    stacked = {name: torch.stack([p[name] for p in each]) for name in each[0]}
    observations = torch.randn(3, 7, 4)
    expected = torch.stack([policy.head(p, o) for p, o in zip(each, observations, strict=True)])
    torch.testing.assert_close(policy.head(stacked, observations), expected)


def test_samples_follow_the_distribution() -> None:
    generator = torch.Generator().manual_seed(0)
    box = _policy((2,), BoxAction(low=(-1.0,), high=(1.0,)), init_log_std=-0.5)
    parameters = box.init(1)
    observation = torch.tensor([[0.3, -0.7]])
    draws = box.sample(parameters, observation.expand(40_000, 2), generator)
    assert draws.mean().item() == pytest.approx(box.head(parameters, observation).item(), abs=0.015)
    assert draws.std().item() == pytest.approx(np.exp(-0.5), rel=0.02)

    discrete = _policy((2,), DiscreteAction(count=4, start=7))
    parameters = discrete.init(1)
    chosen = discrete.sample(parameters, observation.expand(40_000, 2), generator)
    expected = discrete.head(parameters, observation).softmax(-1)[0].detach()
    torch.testing.assert_close(chosen.bincount(minlength=4) / 40_000, expected, atol=0.012, rtol=0.0)
    assert discrete.to_environment(chosen).min() >= 7


def test_the_policy_normalizes_observations() -> None:
    action = BoxAction(low=(-1.0,), high=(1.0,))
    plain = _policy((2,), action)
    normalizing = _policy((2,), action, observation_mean=(1.0, -1.0), observation_std=(2.0, 0.5))
    parameters = plain.init(0)
    raw = torch.tensor([[3.0, -1.5], [1.0, 0.0]])
    torch.testing.assert_close(
        normalizing.head(parameters, raw), plain.head(parameters, torch.tensor([[1.0, -1.0], [0.0, 2.0]]))
    )
    with pytest.raises(ValueError, match=r"policy\.observation_std has 3 numbers; the observation has 2"):
        _policy((2,), action, observation_std=(1.0, 1.0, 1.0))


def test_log_std_has_a_floor() -> None:
    policy = _policy((2,), BoxAction(low=(-1.0,), high=(1.0,)), min_log_std=-2.0)
    parameters = policy.init(0)
    parameters["log_std"] = torch.tensor([-9.0])
    distribution = policy.distribution(parameters, torch.zeros(1, 2))
    assert isinstance(distribution, Independent)
    assert distribution.stddev.item() == pytest.approx(np.exp(-2.0))


def test_only_bounded_dimensions_are_scaled_and_clipped() -> None:
    policy = _policy((2,), BoxAction(low=(-0.1, 0.0, -np.inf), high=(0.1, 4.0, np.inf)))
    raw = torch.tensor([[0.5, 0.5, 7.0], [-3.0, 3.0, -7.0]])
    expected = torch.tensor([[0.05, 3.0, 7.0], [-0.1, 4.0, -7.0]])
    torch.testing.assert_close(policy.to_environment(raw), expected)


@settings(max_examples=25, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 17), min_size=1, max_size=3),
    observation_shape=st.lists(st.integers(1, 5), min_size=1, max_size=2),
    activation=st.sampled_from(["relu", "tanh"]),
    discrete=st.booleans(),
    batch=st.integers(1, 4),
    normalized=st.booleans(),
    context_size=st.integers(0, 3),
    seed=st.integers(0, 2**16),
)
def test_onnx_equals_torch(
    sizes: list[int],
    observation_shape: list[int],
    activation: str,
    discrete: bool,
    batch: int,
    normalized: bool,
    context_size: int,
    seed: int,
) -> None:
    action = DiscreteAction(count=3, start=-1) if discrete else BoxAction(low=(-0.5, -np.inf), high=(2.0, np.inf))
    size = int(np.prod(observation_shape))
    normalizer = {"observation_mean": (0.5,) * size, "observation_std": (3.0,) * size} if normalized else {}
    policy = _policy(
        tuple(observation_shape),
        action,
        hidden_sizes=tuple(sizes),
        activation=activation,
        context_size=context_size,
        **normalizer,
    )
    parameters = policy.init(seed)
    if context_size:
        parameters["context"] = torch.linspace(-1, 1, context_size)
    observations = np.random.default_rng(seed).normal(size=(batch, policy.layer_sizes[0]), scale=3).astype(np.float32)
    outputs = _run(policy, parameters, observations)
    with torch.no_grad():
        head = policy.head(parameters, torch.from_numpy(observations)).numpy()
        actions = policy.act(parameters, torch.from_numpy(observations)).numpy()
    np.testing.assert_allclose(outputs["logits" if discrete else "mean"], head, atol=1e-5, rtol=1e-5)
    if discrete:
        # Where two logits tie to within rounding, either is right.
        clear = np.diff(np.sort(head, axis=1)[:, -2:], axis=1)[:, 0] > 1e-4
        np.testing.assert_array_equal(outputs["actions"][clear], actions[clear])
    else:
        np.testing.assert_allclose(outputs["actions"], actions, atol=1e-5)
        np.testing.assert_allclose(outputs["log_std"], parameters["log_std"].numpy())


@pytest.mark.slow
def test_onnx_equals_torch_onnx_export(tmp_path_factory: pytest.TempPathFactory) -> None:
    """torch.onnx.export is the oracle."""
    policy = _policy((17,), BoxAction(low=(-1.0,) * 6, high=(1.0,) * 6), hidden_sizes=(100, 100))
    parameters = policy.init(3)

    class Module(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.values = torch.nn.ParameterList(parameters.values())

        def forward(self, obs: torch.Tensor) -> torch.Tensor:
            return policy.act(dict(zip(parameters, self.values, strict=True)), obs)

    path = tmp_path_factory.mktemp("oracle") / "oracle.onnx"
    example = torch.randn(3, 17)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own
        torch.onnx.export(
            Module().eval(), (example,), str(path), input_names=["obs"], output_names=["actions"], verbose=False
        )
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    expected = session.run(["actions"], {"obs": example.numpy()})[0]
    np.testing.assert_allclose(_run(policy, parameters, example.numpy())["actions"], expected, atol=1e-5)


def test_onnx_template_refuses_other_parameters() -> None:
    policy = _policy((2,), BoxAction(low=(-1.0,), high=(1.0,)))
    template = OnnxTemplate(policy, "test@1")
    parameters = policy.init(0)
    with pytest.raises(ValueError, match=r"layers\.0\.bias has shape \[1\]"):
        template.write({**parameters, "layers.0.bias": torch.zeros(1)}, policy_id="", parent_id="", golden={})
    del parameters["log_std"]
    with pytest.raises(ValueError, match="log_std"):
        template.write(parameters, policy_id="", parent_id="", golden={})


def _run(policy: Policy, parameters: Parameters, observations: np.ndarray) -> dict[str, np.ndarray]:
    data, _ = OnnxTemplate(policy, "test@1").write(parameters, policy_id="a", parent_id="", golden={})
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {"obs": observations}), strict=True))


def _policy(observation_shape: tuple[int, ...], action: BoxAction | DiscreteAction, **spec: object) -> Policy:
    environment = EnvironmentContract(
        environment_id="test", observation_shape=observation_shape, action=action, horizon=10
    )
    return Policy(environment, PolicySpec.model_validate({"hidden_sizes": (8,), **spec}))


def test_a_context_equals_more_observations() -> None:
    contextual = _policy((3,), BoxAction(low=(-1.0,), high=(1.0,)), context_size=2, observation_std=(1.0, 2.0, 3.0))
    wider = _policy((5,), BoxAction(low=(-1.0,), high=(1.0,)), observation_std=(1.0, 2.0, 3.0, 1.0, 1.0))
    parameters = _with_context(contextual.init(0), torch.tensor([0.7, -1.3]))
    joined = dict(parameters)
    context, weight = joined.pop("context"), joined.pop("context.weight")
    joined["layers.0.weight"] = torch.cat([parameters["layers.0.weight"], weight], dim=1)
    observations = torch.randn(6, 3)
    extended = torch.cat([observations, context.expand(6, 2)], dim=1)
    torch.testing.assert_close(contextual.head(parameters, observations), wider.head(joined, extended))


def test_a_new_context_is_zero_and_changes_no_other_parameter() -> None:
    action = BoxAction(low=(-1.0,), high=(1.0,))
    plain, contextual = _policy((3,), action).init(5), _policy((3,), action, context_size=4).init(5)
    assert all(torch.equal(value, contextual[name]) for name, value in plain.items())
    assert set(contextual) - set(plain) == {"context", "context.weight"}
    assert not contextual["context"].any()


def test_context_takes_a_task_axis() -> None:
    policy = _policy((4,), DiscreteAction(count=3), context_size=2)
    each = [_with_context(policy.init(seed), torch.randn(2)) for seed in range(3)]
    stacked = {name: torch.stack([p[name] for p in each]) for name in each[0]}
    observations = torch.randn(3, 7, 4)
    expected = torch.stack([policy.head(p, o) for p, o in zip(each, observations, strict=True)])
    torch.testing.assert_close(policy.head(stacked, observations), expected)


def _with_context(parameters: Parameters, context: torch.Tensor) -> Parameters:
    return {**parameters, "context": context}
