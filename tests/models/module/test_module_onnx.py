"""The ONNX file of a module policy, and its artifact."""

import base64
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnxruntime
import pytest
import torch
from onnx.reference import ReferenceEvaluator
from torch import nn
from torch.nn import functional

from tests.support.models import modules
from thetaprime import wire
from thetaprime.models import (
    AdaptationSpec,
    ArtifactError,
    BoxAction,
    DiscreteAction,
    EnvironmentContract,
    MetaPolicy,
    OnnxTemplate,
    Parameters,
    PolicySpec,
    Provenance,
    derive_form,
    digest_bytes,
    load_meta_policy,
    write_meta_policy,
)
from thetaprime.models.manifest import MANIFEST_NAME, Manifest
from thetaprime.models.module.capture import capture_module
from thetaprime.models.module.operations import OPERATIONS
from thetaprime.models.module.policy import ModulePolicy
from thetaprime.models.module.program import CONSTANT, CONTEXTS, OBSERVATIONS, PARAMETER, PROGRAM_NAME
from thetaprime.models.onnx.golden import evaluate_graph


class Everything(nn.Module):
    """Calls every operation that a program has, or nearly so."""

    def __init__(self, observation_shape: tuple[int, ...], outputs: int) -> None:
        super().__init__()
        self.first = nn.Linear(observation_shape[0], 12, bias=False)
        self.wave = nn.Conv1d(3, 4, 2, padding=1)
        self.pooled = nn.AvgPool2d(2)
        self.mixed = nn.Parameter(0.3 * torch.randn(5, 5))
        self.places: torch.Tensor
        self.register_buffer("places", torch.linspace(-1.0, 1.0, 5))
        self.head = nn.Linear(10, outputs)

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        """[B, O] -> [B, outputs]."""
        values = self.wave(self.first(observations).reshape(-1, 3, 4))
        a, b, c, d = values.unbind(1)
        ratio = functional.elu(a) / (1.0 + functional.softplus(b)) - functional.leaky_relu(c, 0.1).abs()
        risen = torch.exp(-d.square()).clamp(0.1, 0.9).sqrt() * torch.log(1.0 + torch.sigmoid(a))
        chosen = torch.maximum(functional.gelu(b, approximate="tanh"), torch.minimum(c, functional.silu(d)))
        stacked = torch.stack([ratio, risen + self.places, chosen, functional.hardtanh(a)], 1) @ self.mixed
        weighed = functional.softmax(stacked, 1) * stacked
        squares = self.pooled(weighed[:, None, :, :4]).flatten(1)
        joined = torch.cat([squares, stacked.sum(2)[:, :3], weighed.amax(1)[:, 1:4]], -1)
        result: torch.Tensor = self.head(joined)
        return result


_BOX: Final = BoxAction(low=(-0.5, -math.inf, 0.0), high=(0.5, math.inf, 4.0))
_CASES: Final[dict[str, tuple[Any, tuple[int, ...], BoxAction | DiscreteAction, int]]] = {
    "mlp": (modules.Mlp, (6,), _BOX, 0),
    "film": (modules.Film, (6,), _BOX, 3),
    "picture": (modules.Picture, (16, 16, 3), _BOX, 0),
    "objects": (modules.Objects, (5, 4), DiscreteAction(count=4, start=2), 0),
    "token": (modules.Token, (5, 4), _BOX, 0),
    "everything": (Everything, (6,), _BOX, 0),
}


def _case(name: str) -> tuple[ModulePolicy, Parameters]:
    make, shape, action, context_size = _CASES[name]
    environment = EnvironmentContract(environment_id="test", observation_shape=shape, action=action, horizon=20)
    arguments: Any = (shape, action.size, *([context_size] if context_size else []))
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(7)
        program = capture_module(make(*arguments), *arguments)
    size = environment.observation_size
    spec = PolicySpec(
        module=f"tests:{name}",
        context_size=context_size,
        observation_mean=tuple(np.linspace(-0.5, 0.5, size)),
        observation_std=tuple(np.linspace(0.5, 2.0, size)),
    )
    policy = ModulePolicy(environment, spec, program, lambda: make(*arguments))
    generator = torch.Generator().manual_seed(1)
    parameters = {
        key: value + 0.2 * torch.randn(value.shape, generator=generator) for key, value in policy.init(7).items()
    }
    return policy, parameters


@pytest.fixture(scope="module", params=_CASES)
def case(request: pytest.FixtureRequest) -> tuple[ModulePolicy, Parameters]:
    return _case(request.param)


def _write(case: tuple[ModulePolicy, Parameters], root: Path) -> MetaPolicy:
    policy, parameters = case
    golden = np.random.default_rng(1).normal(size=(3, *policy.environment.observation_shape))
    return write_meta_policy(
        root / "any" / "1",
        name="any",
        version=1,
        description="any",
        environment=policy.environment,
        policy_spec=policy.spec,
        adaptation=AdaptationSpec(),
        parameters=parameters,
        provenance=Provenance.untrained("any"),
        golden_observations=golden,
        program=policy.program,
    )


def test_the_file_gives_the_numbers_of_torch_in_every_runtime(case: tuple[ModulePolicy, Parameters]) -> None:
    policy, parameters = case
    data, _ = OnnxTemplate(policy, "any@1").write(parameters, policy_id="", parent_id="", golden={})
    checked = wire.check_onnx(data)
    assert checked.work > 100
    observations = torch.randn(70, policy.environment.observation_size, generator=torch.Generator().manual_seed(2))
    head = policy.head(parameters, observations).numpy()
    name = "mean" if policy.continuous else "logits"
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    for runtime, rows in ((session, 70), (session, 1), (ReferenceEvaluator(data), 3)):
        found, actions = runtime.run([name, "actions"], {"obs": observations[:rows].numpy()})
        np.testing.assert_allclose(np.asarray(found), head[:rows], rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(
            np.asarray(actions), policy.act(parameters, observations[:rows]), rtol=1e-5, atol=1e-5
        )


def test_the_shapes_of_a_program_are_those_of_torch(case: tuple[ModulePolicy, Parameters]) -> None:
    policy, parameters = case
    program, rows = policy.program, 7
    values = {PARAMETER + name: parameters[name] for name in program.parameters}
    values |= {CONSTANT + name: value for name, value in program.constants.items()}
    values[OBSERVATIONS] = torch.zeros(rows, *program.observation_shape)
    values[CONTEXTS] = torch.zeros(rows, program.context_size)
    for index, call in enumerate(program.calls):
        found = OPERATIONS[call.operation].run(*(values[name] for name in call.inputs), **call.attributes)
        values[f"%{index}"] = found
        assert tuple(found.shape) == tuple(-rows * each if each < 0 else each for each in program.shapes[index])


def test_golden_actions_are_those_of_torch_in_float64_and_in_decimal(
    case: tuple[ModulePolicy, Parameters], monkeypatch: pytest.MonkeyPatch
) -> None:
    policy, parameters = case
    observations = np.random.default_rng(3).normal(size=(2, policy.environment.observation_size)).astype(np.float32)
    model = OnnxTemplate(policy, "any@1").fill(parameters)
    name = "mean" if policy.continuous else "logits"
    found = evaluate_graph(model, {"obs": observations}, [name])[name]
    expected = policy.head(parameters, torch.from_numpy(observations)).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    # The bound decides nothing: decimal arithmetic computes every row, and rounds to the same numbers.
    monkeypatch.setattr("thetaprime.models.golden._ROUNDOFF", 1.0)
    assert np.array_equal(evaluate_graph(model, {"obs": observations[:1]}, [name])[name], found[:1])


def test_an_artifact_carries_the_program(case: tuple[ModulePolicy, Parameters], tmp_path: Path) -> None:
    policy, parameters = case
    written = _write(case, tmp_path)
    loaded = load_meta_policy(written.directory)
    assert isinstance(loaded.policy, ModulePolicy)
    observations = torch.randn(9, policy.environment.observation_size, generator=torch.Generator().manual_seed(2))
    assert torch.equal(loaded.policy.head(loaded.parameters, observations), policy.head(parameters, observations))
    exported = loaded.export(loaded.parameters)
    assert exported.onnx == (written.directory / "policy.onnx").read_bytes()
    for profile in ("epsilon", "unity-mlagents"):
        wire.check_onnx(derive_form(exported.onnx, profile).onnx)


def _reseal(meta_policy: MetaPolicy, changes: dict[str, bytes]) -> Path:
    """Changes files, and every digest with them: what the owner of a hostile artifact does."""
    folder = meta_policy.directory
    manifest = Manifest.from_bytes((folder / MANIFEST_NAME).read_bytes())
    for name, data in changes.items():
        (folder / name).write_bytes(data)
    digests = {**manifest.files, **{name: digest_bytes(data) for name, data in changes.items()}}
    (folder / MANIFEST_NAME).write_bytes(manifest.model_copy(update={"files": digests}).sealed().to_bytes())
    return folder


def _altered(content: dict[str, Any], path: tuple[Any, ...], value: Any) -> dict[str, Any]:
    changed: dict[str, Any] = json.loads(json.dumps(content))
    place: Any = changed
    for each in path[:-1]:
        place = place[each]
    place[path[-1]] = value
    return changed


_CALL: Final = ("calls", 0)
_HOSTILE: Final = {
    "a function of torch": ((*_CALL, 0), "torch.os.system", "operation 'torch.os.system'; expected one of abs"),
    "an attribute of Python": ((*_CALL, 0), "__import__", "operation '__import__'; expected one of"),
    "an expression": (
        (*_CALL, 2),
        {"shape": ["__import__('os').system('true')"]},
        r"linear takes \[\]; got \['shape'\]",
    ),
    "a later value": ((*_CALL, 1, 0), "%3", r"takes \['%3'\], which nothing before it computes"),
    "a shape of gigabytes": (
        ("parameters", "head.weight"),
        [1 << 20, 1 << 20],
        r"calls\[4\], linear: inputs \[B, 32\], \[1048576, 1048576\]",
    ),
    "a constant of gigabytes": (
        ("constants",),
        {"c": {"shape": [1 << 20, 1 << 10], "data": base64.b64encode(b"0").decode()}},
        "constants.c: more than 1048576 numbers",
    ),
    "another version": (("version",), 2, "version 2; expected 1"),
    "another result": (("calls", 4, 1, 0), "%1", None),
    "a matrix of gigabytes": (
        ("calls", 1),
        ["matmul", ["theta.layers.0.bias", "theta.layers.0.bias"], {}],
        r"calls\[1\], matmul: inputs",
    ),
    "too many calls": (("calls",), [["tanh", ["observations"], {}]] * 600, "expected a list of at most 512"),
    "no calls": (("calls",), [], "calls: empty"),
    "rows that grow": (("calls", 0), ["permute", ["observations"], {"axes": [1, 0]}], r"calls\[1\], tanh|calls\[2\]"),
}


@pytest.mark.parametrize(("path", "value", "message"), _HOSTILE.values(), ids=_HOSTILE)
def test_a_hostile_program_is_refused_by_the_call(
    tmp_path: Path, path: tuple[Any, ...], value: Any, message: str | None
) -> None:
    written = _write(_hostile_case(), tmp_path)
    content = json.loads((written.directory / PROGRAM_NAME).read_bytes())
    folder = _reseal(written, {PROGRAM_NAME: json.dumps(_altered(content, path, value)).encode()})
    expected = message or "at the golden observations it gives"
    with pytest.raises(ArtifactError, match=f"{PROGRAM_NAME}: .*{expected}"):
        load_meta_policy(folder)


_KEPT: list[tuple[ModulePolicy, Parameters]] = []


def _hostile_case() -> tuple[ModulePolicy, Parameters]:
    if not _KEPT:
        _KEPT.append(_case("mlp"))
    return _KEPT[0]


def test_a_program_that_was_damaged_is_refused(tmp_path: Path) -> None:
    written = _write(_hostile_case(), tmp_path)
    file = written.directory / PROGRAM_NAME
    file.write_bytes(file.read_bytes().replace(b"tanh", b"relu"))
    with pytest.raises(ArtifactError, match=f"{PROGRAM_NAME}: sha256"):
        load_meta_policy(written.directory)


def test_a_module_without_its_program_is_refused(tmp_path: Path) -> None:
    written = _write(_hostile_case(), tmp_path)
    folder = written.directory
    manifest = Manifest.from_bytes((folder / MANIFEST_NAME).read_bytes())
    files = {name: digest for name, digest in manifest.files.items() if name != PROGRAM_NAME}
    (folder / MANIFEST_NAME).write_bytes(manifest.model_copy(update={"files": files}).sealed().to_bytes())
    with pytest.raises(ArtifactError, match=r"policy\.module is tests:mlp, and files does not list program"):
        load_meta_policy(folder)


def test_a_server_reads_a_program_without_a_compiler(tmp_path: Path) -> None:
    folder = _write(_hostile_case(), tmp_path).directory
    heavy = ("onnxscript", "sympy", "torch._dynamo", "torch.onnx._internal")
    code = (
        "import sys, pathlib; from thetaprime.models import load_meta_policy; "
        f"found = load_meta_policy(pathlib.Path({str(folder)!r})); found.export(found.parameters); "
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "[]\n"
