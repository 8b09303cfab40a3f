"""The artifact of one meta-policy version: writing, verified reading, and ONNX export."""

import dataclasses
import functools
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError

from thetaprime.models.artifact_files import ArtifactFiles, ArtifactLimits
from thetaprime.models.errors import ArtifactError, MemoryUnsupportedError
from thetaprime.models.exported import ExportedPolicy, export_policy
from thetaprime.models.manifest import MANIFEST_NAME, MAX_MANIFEST_BYTES, Manifest, Provenance
from thetaprime.models.memory import RecurrentPolicy
from thetaprime.models.module.policy import ModulePolicy
from thetaprime.models.module.program import PROGRAM_NAME, Program
from thetaprime.models.onnx import OnnxTemplate
from thetaprime.models.onnx.golden_sequences import sequence_actions
from thetaprime.models.onnx.source import DefaultForm
from thetaprime.models.parameters import (
    Parameters,
    digest_bytes,
    parameters_digest,
    parameters_from_bytes,
    parameters_to_bytes,
)
from thetaprime.models.policy import Policy, parameter_shapes
from thetaprime.models.spec import AdaptationSpec, EnvironmentContract, PolicySpec

THETA_NAME: Final = "theta.safetensors"
REFERENCE_NAME: Final = "reference.safetensors"
ONNX_NAME: Final = "policy.onnx"
_STEP_SIZE_PREFIX: Final = "step_size."
_GOLDEN_KEY: Final = "golden_observations"
_MAX_HEADER_BYTES: Final = 1 << 20
_MAX_UNITS: Final = 1 << 18
_MAX_GOLDEN: Final = 1024
_SHOWN: Final = 300
_TOLERANCE: Final = 1e-5


@dataclasses.dataclass(frozen=True, eq=False)
class MetaPolicy:
    """A meta-policy, read from its artifact.

    Attributes:
        directory: the folder of the artifact.
        manifest: its specification and provenance.
        network: its network.
        parameters: θ.
        step_sizes: a learned step size for each parameter that moves, or None.
        reference: statistics of the meta-training tasks, by name.
        policy_id: id of θ.
        files: its files.
    """

    directory: Path
    manifest: Manifest
    network: Policy | RecurrentPolicy
    parameters: Parameters
    step_sizes: Parameters | None
    reference: Parameters
    policy_id: str
    files: ArtifactFiles

    @property
    def label(self) -> str:
        """``name@version``."""
        return f"{self.manifest.name}@{self.manifest.version}"

    @property
    def recurrent(self) -> bool:
        """Whether the policy carries a memory."""
        return isinstance(self.network, RecurrentPolicy)

    @property
    def policy(self) -> Policy:
        """Its network without a memory, for everything that adapts by gradient.

        Raises:
            MemoryUnsupportedError: the policy carries a memory.
        """
        if isinstance(self.network, RecurrentPolicy):
            raise MemoryUnsupportedError(self.label, self.network.memory.cell)
        return self.network

    @functools.cached_property
    def template(self) -> OnnxTemplate:
        """The ONNX graph of θ and every θ′."""
        return OnnxTemplate(self.network, self.label)

    def export(self, parameters: Parameters, parent_id: str = "") -> ExportedPolicy:
        """The ONNX form of a policy of this architecture.

        Args:
            parameters: θ or a θ′.
            parent_id: id of the policy it was adapted from, or empty.
        """
        return export_policy(self.network, self.template, self.reference[_GOLDEN_KEY], parameters, parent_id)

    def read_extra(self, name: str) -> bytes:
        """A verified file of the artifact.

        Raises:
            ArtifactError: the manifest does not list the file, or it is missing or damaged.
        """
        return _read(self.files, name, self.manifest.files)


def write_meta_policy(
    directory: Path,
    *,
    name: str,
    version: int,
    description: str,
    environment: EnvironmentContract,
    policy_spec: PolicySpec,
    adaptation: AdaptationSpec,
    parameters: Parameters,
    provenance: Provenance,
    golden_observations: npt.NDArray[Any],
    step_sizes: Parameters | None = None,
    program: Program | None = None,
    reference: Mapping[str, torch.Tensor] | None = None,
    extra_files: Mapping[str, bytes] | None = None,
) -> MetaPolicy:
    """Writes an artifact and reads it back. The manifest is written last, so an interrupted call leaves no artifact.

    Args:
        directory: created if it does not exist.
        name: of the meta-policy.
        version: counted from 1.
        description: one line.
        environment: the contract of the environment.
        policy_spec: the network.
        adaptation: the inner loop.
        parameters: θ.
        provenance: the origin of θ.
        golden_observations: [K, *observation_shape]; every export includes the actions at these.
        step_sizes: a learned step size for each parameter that moves, or None.
        program: the forward pass of the module that `policy_spec` names; None for the built-in network.
        reference: statistics of the meta-training tasks.
        extra_files: other files by plain name: the model card, figures, comparisons.
    """
    policy = _policy(environment, policy_spec, program)
    tensors = dict(parameters)
    for key, value in (step_sizes or {}).items():
        tensors[_STEP_SIZE_PREFIX + key] = value
    golden = torch.from_numpy(np.asarray(golden_observations, dtype=np.float32))
    template = OnnxTemplate(policy, f"{name}@{version}")
    files = {
        THETA_NAME: parameters_to_bytes(tensors),
        ONNX_NAME: export_policy(policy, template, golden, parameters, "").onnx,
        REFERENCE_NAME: parameters_to_bytes({**(reference or {}), _GOLDEN_KEY: golden}),
        **({PROGRAM_NAME: program.to_bytes()} if program else {}),
        **(extra_files or {}),
    }
    manifest = Manifest(
        name=name,
        version=version,
        description=description,
        environment=environment,
        policy=policy_spec,
        adaptation=adaptation,
        provenance=provenance,
        files={file: digest_bytes(data) for file, data in sorted(files.items())},
    )
    sealed = manifest.complete().sealed()
    directory.mkdir(parents=True, exist_ok=True)
    (directory / MANIFEST_NAME).unlink(missing_ok=True)
    for file, data in files.items():
        (directory / file).write_bytes(data)
    (directory / MANIFEST_NAME).write_bytes(sealed.to_bytes())
    return load_meta_policy(directory)


def load_meta_policy(directory: Path, zoo: Path | None = None, limits: ArtifactLimits | None = None) -> MetaPolicy:
    """Reads an artifact and verifies every file.

    Args:
        directory: the artifact's folder. Its files are regular, or links to regular files in it.
        zoo: a folder of artifacts that links may also lead to; None for no other folder.
        limits: the sizes that the artifact may have; None for the defaults of `ArtifactLimits`.

    Raises:
        ArtifactError: a file is missing, damaged, not regular, outside the folders, too large, or of a newer schema;
            the error gives its path.
    """
    try:
        return _load(ArtifactFiles(directory, zoo, limits))
    except ArtifactError as error:
        raise ArtifactError(str(directory / error.file), error.problem) from error


def _load(files: ArtifactFiles) -> MetaPolicy:
    manifest = Manifest.from_bytes(files.read(MANIFEST_NAME, MAX_MANIFEST_BYTES))
    for required in (THETA_NAME, ONNX_NAME, REFERENCE_NAME):
        if required not in manifest.files:
            raise ArtifactError(MANIFEST_NAME, f"files does not list {required}")
    program = _read_program(files, manifest)
    _check_size(manifest, files.limits, program)
    tensors = read_tensors(_read(files, THETA_NAME, manifest.files), THETA_NAME)
    reference = read_tensors(_read(files, REFERENCE_NAME, manifest.files), REFERENCE_NAME)
    for name, digest in manifest.files.items():
        if name not in (THETA_NAME, REFERENCE_NAME, PROGRAM_NAME):
            _check_digest(name, files.digest(name), digest)
    _check_golden(reference, manifest.environment)
    try:
        policy = _policy(manifest.environment, manifest.policy, program)
    except ValueError as error:
        raise ArtifactError(PROGRAM_NAME if program else MANIFEST_NAME, str(error)) from error
    parameters = {key: value for key, value in tensors.items() if not key.startswith(_STEP_SIZE_PREFIX)}
    step_sizes = {
        key.removeprefix(_STEP_SIZE_PREFIX): value
        for key, value in tensors.items()
        if key.startswith(_STEP_SIZE_PREFIX)
    }
    check_parameters(policy, parameters, THETA_NAME)
    if step_sizes:
        # Parameters without a step size do not move.
        check_parameters(policy, {**parameters, **step_sizes}, f"{THETA_NAME} ({_STEP_SIZE_PREFIX}*)")
    if isinstance(policy, RecurrentPolicy):
        _check_memory(policy, parameters, _read(files, ONNX_NAME, manifest.files))
    elif program is not None:
        _check_program(policy, parameters, reference[_GOLDEN_KEY], _read(files, ONNX_NAME, manifest.files))
    return MetaPolicy(
        directory=files.directory,
        manifest=manifest,
        network=policy,
        parameters=parameters,
        step_sizes=step_sizes or None,
        reference=reference,
        policy_id=parameters_digest(parameters),
        files=files,
    )


def _policy(environment: EnvironmentContract, spec: PolicySpec, program: Program | None) -> Policy | RecurrentPolicy:
    if bool(spec.module) != (program is not None):
        found = "no program" if spec.module else "a program"
        raise ValueError(
            f"policy.module is {spec.module!r}, with {found}; expected both a module and its program, or none"
        )
    if spec.memory is not None:
        return RecurrentPolicy(environment, spec)
    return Policy(environment, spec) if program is None else ModulePolicy(environment, spec, program)


def _read_program(files: ArtifactFiles, manifest: Manifest) -> Program | None:
    if PROGRAM_NAME not in manifest.files:
        if manifest.policy.module:
            raise ArtifactError(
                MANIFEST_NAME,
                f"policy.module is {_shown(manifest.policy.module)}, and files does not list {PROGRAM_NAME}",
            )
        return None
    return Program.from_bytes(_read(files, PROGRAM_NAME, manifest.files))


@torch.no_grad()
def _check_program(policy: Policy, parameters: Parameters, golden: torch.Tensor, data: bytes) -> None:
    """Compares what a program computes with the golden actions of the ONNX file that was made with it.

    Raises:
        ArtifactError: they differ.
    """
    try:
        expected = DefaultForm.read(data).golden_outputs["actions"]
    except ValueError as error:
        raise ArtifactError(ONNX_NAME, str(error)) from error
    found = policy.act(parameters, golden.flatten(1)).numpy()
    if found.shape != expected.shape or not np.allclose(found, expected, rtol=_TOLERANCE, atol=_TOLERANCE):
        raise ArtifactError(
            PROGRAM_NAME,
            f"at the golden observations it gives {_shown(found.tolist())}; {ONNX_NAME} says "
            f"{_shown(expected.tolist())}",
        )


@torch.no_grad()
def _check_memory(policy: RecurrentPolicy, parameters: Parameters, data: bytes) -> None:
    """Compares what a policy with a memory does over the golden sequences with its ONNX file.

    Raises:
        ArtifactError: they differ, or the file has no golden sequences.
    """
    try:
        source = DefaultForm.read(data)
        found = sequence_actions(policy, parameters, source)
    except ValueError as error:
        raise ArtifactError(ONNX_NAME, str(error)) from error
    expected = source.golden_outputs["actions"]
    if found.shape != expected.shape or not np.allclose(found, expected, rtol=_TOLERANCE, atol=_TOLERANCE):
        raise ArtifactError(
            MANIFEST_NAME,
            f"the policy does not act over the golden sequences as {ONNX_NAME} says: policy or environment was changed",
        )


def _check_size(manifest: Manifest, limits: ArtifactLimits, program: Program | None) -> None:
    """Checks the size of the network that a manifest describes, before there is memory for it."""
    environment, spec = manifest.environment, manifest.policy
    units = environment.observation_size + sum(spec.hidden_sizes) + environment.action.size
    memory = ""
    if spec.memory is not None:
        units += spec.memory.size + sum(spec.memory.encoder_sizes)
        memory = "policy.memory, "
    if units > _MAX_UNITS:
        raise ArtifactError(
            MANIFEST_NAME,
            f"observation_shape, {memory}policy.hidden_sizes and action together have {_shown(units)} units; expected "
            f"at most {_MAX_UNITS}",
        )
    shapes = _parameter_shapes(environment, spec, program)
    count = sum(map(math.prod, shapes.values()))
    if count > limits.parameters:
        if program is not None:
            raise ArtifactError(
                PROGRAM_NAME, f"parameters have {_shown(count)} numbers; expected at most {limits.parameters}"
            )
        raise ArtifactError(
            MANIFEST_NAME,
            f"{memory}policy.hidden_sizes and policy.context_size make {_shown(count)} parameters; expected at most "
            f"{limits.parameters}",
        )


def _parameter_shapes(
    environment: EnvironmentContract, spec: PolicySpec, program: Program | None
) -> Mapping[str, tuple[int, ...]]:
    """The shape of each parameter, without memory for any of them."""
    if program is not None:
        return program.parameters
    if spec.memory is None:
        return parameter_shapes(environment, spec)
    try:
        return RecurrentPolicy(environment, spec).parameter_shapes
    except ValueError as error:
        raise ArtifactError(MANIFEST_NAME, str(error)) from error


def _check_golden(reference: Parameters, environment: EnvironmentContract) -> None:
    golden = reference.get(_GOLDEN_KEY)
    if golden is None:
        raise ArtifactError(REFERENCE_NAME, f"{_GOLDEN_KEY} is missing")
    count = len(golden) if golden.ndim else 0
    expected = (count, *environment.observation_shape)
    if not 0 < count <= _MAX_GOLDEN or golden.shape != expected or golden.dtype != torch.float32:
        raise ArtifactError(
            REFERENCE_NAME,
            f"{_GOLDEN_KEY} is {golden.dtype} {list(golden.shape)}; expected float32 [K, "
            f"{', '.join(map(str, environment.observation_shape))}] with K from 1 to {_MAX_GOLDEN}",
        )
    if not bool(torch.isfinite(golden).all()):
        raise ArtifactError(REFERENCE_NAME, f"{_GOLDEN_KEY} is not finite")


def read_tensors(data: bytes, file: str) -> Parameters:
    """Reads named tensors from safetensors bytes.

    Raises:
        ArtifactError: the bytes are not in safetensors form, or their header is too large.
    """
    header = int.from_bytes(data[:8], "little")
    if header > _MAX_HEADER_BYTES:
        raise ArtifactError(file, f"a header of {header} bytes; expected at most {_MAX_HEADER_BYTES}")
    try:
        return parameters_from_bytes(data)
    except SafetensorError as error:
        raise ArtifactError(file, f"not a safetensors file: {error}") from error


def check_parameters(policy: Policy | RecurrentPolicy, parameters: Parameters, file: str) -> None:
    """Checks the names, shapes, dtypes and numbers of a network's parameters.

    Raises:
        ArtifactError: an unexpected name, shape or dtype, or a number that is not finite.
    """
    expected = policy.parameter_shapes
    if parameters.keys() != expected.keys():
        raise ArtifactError(
            file, f"holds {_shown(sorted(parameters))}; the policy spec takes {_shown(sorted(expected))}"
        )
    for name, value in parameters.items():
        if value.shape != expected[name] or value.dtype != torch.float32:
            raise ArtifactError(
                file, f"{name} is {value.dtype} {list(value.shape)}; expected float32 {list(expected[name])}"
            )
        if not bool(torch.isfinite(value).all()):
            raise ArtifactError(file, f"{name} is not finite")


def _read(files: ArtifactFiles, name: str, digests: Mapping[str, str]) -> bytes:
    if name not in digests:
        raise ArtifactError(name, "the manifest does not list it")
    data = files.read(name)
    _check_digest(name, digest_bytes(data), digests[name])
    return data


def _check_digest(name: str, found: str, expected: str) -> None:
    if found != expected:
        raise ArtifactError(name, f"sha256 {found}; the manifest says {_shown(expected)}")


def _shown(value: object) -> str:
    text = str(value)
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "…"
