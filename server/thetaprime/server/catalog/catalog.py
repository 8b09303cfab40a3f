"""The meta-policies that this server offers, and their messages on the wire."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Final

from thetaprime import wire
from thetaprime.models import (
    ArtifactError,
    ArtifactLimits,
    ExportedPolicy,
    MetaPolicy,
    find_meta_policies,
    load_meta_policy,
)
from thetaprime.models.artifact import ONNX_NAME
from thetaprime.models.memory import RecurrentPolicy
from thetaprime.models.spec import BoxAction, EnvironmentContract
from thetaprime.models.verdict import check_calibration, held_out_gains
from thetaprime.server.errors import NotFoundError, PreconditionError, StartupError
from thetaprime.v1 import policy_pb2

_VERSION_KEY: Final = "thetaprime.contract_version"


@dataclasses.dataclass(frozen=True)
class CatalogEntry:
    """One version of a meta-policy.

    Attributes:
        meta_policy: the loaded artifact.
        contract: its environment; trajectories are validated against it.
        message: its description.
        theta: θ as ONNX.
    """

    meta_policy: MetaPolicy
    contract: wire.EnvironmentContract
    message: policy_pb2.MetaPolicy
    theta: policy_pb2.Policy

    @classmethod
    def load(cls, directory: Path, limits: ArtifactLimits) -> "CatalogEntry":
        """Loads and verifies an artifact.

        Args:
            directory: the artifact's folder, ``<zoo>/<name>/<version>``.
            limits: the sizes that it may have.

        Raises:
            ArtifactError: the artifact is damaged, exceeds a limit, or has an unknown schema.
        """
        meta_policy = load_meta_policy(directory, directory.parent.parent, limits)
        _check_onnx(meta_policy)
        _check_verdicts(meta_policy)
        return cls(
            meta_policy=meta_policy,
            contract=wire_contract(meta_policy.manifest.environment),
            message=meta_policy_message(meta_policy),
            theta=policy_message(meta_policy.export(meta_policy.parameters)),
        )

    @property
    def key(self) -> tuple[str, int]:
        """Name and version."""
        return self.message.name, self.message.version

    @property
    def label(self) -> str:
        """Name and version as text."""
        return f"{self.message.name}@{self.message.version}"

    @property
    def directory(self) -> Path:
        """The artifact's folder."""
        return self.meta_policy.directory


def _check_onnx(meta_policy: MetaPolicy) -> None:
    """Checks the ONNX file of an artifact as a client would: users run it from the folder."""
    path = str(meta_policy.directory / ONNX_NAME)
    try:
        file = wire.check_onnx(meta_policy.read_extra(ONNX_NAME))
    except wire.WireError as error:
        raise ArtifactError(path, str(error)) from error
    if (found := file.metadata.get("thetaprime.policy_id")) != meta_policy.policy_id:
        raise ArtifactError(path, f"holds policy {str(found)[:80]!r}; the parameters are {meta_policy.policy_id!r}")


def _check_verdicts(meta_policy: MetaPolicy) -> None:
    """Checks the calibration of verdicts. Otherwise the steps of each session would fail."""
    try:
        check_calibration(meta_policy)
        held_out_gains(meta_policy.reference)
    except ArtifactError as error:
        raise ArtifactError(str(meta_policy.directory / error.file), error.problem) from error


class CatalogConflictError(ValueError):
    """Two artifacts have one name and version; the message names their folders."""


class Catalog:
    """Meta-policies by name and version. The artifact of a name and version never changes while the process runs.

    One thread may change the catalog while others read it: each change replaces a whole dictionary.

    Attributes:
        rescan: called when a session's version is unknown here: another process of the server may have seen it in its
            folder first. Blocks.
    """

    def __init__(self, entries: Iterable[CatalogEntry] = ()) -> None:
        self.rescan: Callable[[], object] = lambda: None
        self._listed: dict[tuple[str, int], CatalogEntry] = {}
        # Withdrawn versions included: their sessions continue.
        self._known: dict[tuple[str, int], CatalogEntry] = {}
        for entry in entries:
            self.add(entry)

    @classmethod
    def load(cls, zoo: Iterable[Path], limits: ArtifactLimits | None = None) -> "Catalog":
        """Loads every meta-policy of the zoo folders.

        Args:
            zoo: the folders.
            limits: the sizes that an artifact may have; None for the defaults.

        Raises:
            StartupError: a folder is missing, an artifact is damaged or has an unknown schema, or two artifacts have
                one name and version.
        """
        try:
            return cls(_load_entries(zoo, limits or ArtifactLimits()))
        except CatalogConflictError as error:
            raise StartupError(str(error)) from error

    def __iter__(self) -> Iterator[CatalogEntry]:
        """Iterates over the offered versions, by name, then version."""
        listed = self._listed
        return iter([listed[key] for key in sorted(listed)])

    def __len__(self) -> int:
        return len(self._listed)

    def add(self, entry: CatalogEntry) -> None:
        """Offers a version to new sessions. A withdrawn version may return.

        Raises:
            CatalogConflictError: its name and version are taken, or were another artifact's before.
        """
        if (same := self._listed.get(entry.key)) is not None:
            raise CatalogConflictError(
                f"meta-policy {entry.label} exists twice: {same.directory} and {entry.directory}"
            )
        known = self._known.get(entry.key, entry)
        if known.meta_policy.manifest != entry.meta_policy.manifest:
            raise CatalogConflictError(
                f"meta-policy {entry.label} in {entry.directory} differs from the one served before"
            )
        self._known = {**self._known, entry.key: known}
        self._listed = {**self._listed, entry.key: known}

    def withdraw(self, entry: CatalogEntry) -> None:
        """Stops offering a version to new sessions; its sessions continue."""
        self._listed = {key: listed for key, listed in self._listed.items() if key != entry.key}

    def find(self, name: str, version: int) -> CatalogEntry:
        """Returns a version that a new session may adapt.

        Args:
            name: the meta-policy's name.
            version: its version; 0 for the newest.

        Raises:
            NotFoundError: it is not offered.
        """
        listed = self._listed
        wanted = version or max((v for n, v in listed if n == name), default=0)
        entry = listed.get((name, wanted))
        if entry is None:
            raise NotFoundError("meta-policy", f"{name}@{version}" if version else name)
        return entry

    def recall(self, name: str, version: int) -> CatalogEntry:
        """Returns the version of an existing session, also where it was withdrawn since.

        Blocks: scans the folders for a version that this process has not seen. Never call it on the event loop.

        Raises:
            NotFoundError: this process has never seen the version.
        """
        entry = self._known.get((name, version))
        if entry is None:
            self.rescan()
            entry = self._known.get((name, version))
        if entry is None:
            raise NotFoundError("meta-policy", f"{name}@{version}")
        return entry

    def describe(self, name: str, version: int) -> policy_pb2.MetaPolicy:
        """Returns the description of a version; name and version alone where this process has never seen it."""
        entry = self._known.get((name, version))
        return policy_pb2.MetaPolicy(name=name, version=version) if entry is None else entry.message


def _load_entries(zoo: Iterable[Path], limits: ArtifactLimits) -> Iterator[CatalogEntry]:
    for folder in zoo:
        if not folder.is_dir():
            raise StartupError(f"zoo {folder}: the folder does not exist")
        try:
            for directory in find_meta_policies(folder):
                yield CatalogEntry.load(directory, limits)
        except ArtifactError as error:
            raise StartupError(f"meta-policy {error}") from error


def wire_contract(environment: EnvironmentContract) -> wire.EnvironmentContract:
    """Returns the environment of a meta-policy in the form that both ends of the wire use."""
    action = environment.action
    is_box = isinstance(action, BoxAction)
    return wire.EnvironmentContract(
        environment_id=environment.environment_id,
        observation_shape=environment.observation_shape,
        action_kind=wire.ActionKind.BOX if is_box else wire.ActionKind.DISCRETE,
        action_size=action.size,
        action_low=action.low if isinstance(action, BoxAction) else (),
        action_high=action.high if isinstance(action, BoxAction) else (),
        action_start=0 if isinstance(action, BoxAction) else action.start,
        horizon=environment.horizon,
        control_timestep=environment.control_timestep,
        reward=None
        if environment.reward is None
        else wire.RewardContract(
            environment.reward.formula, environment.reward.step_range, environment.reward.return_range
        ),
    )


def meta_policy_message(meta_policy: MetaPolicy) -> policy_pb2.MetaPolicy:
    """Returns the description of a meta-policy."""
    manifest = meta_policy.manifest
    adaptation = manifest.adaptation
    return policy_pb2.MetaPolicy(
        name=manifest.name,
        version=manifest.version,
        description=manifest.description,
        environment=wire.contract_to_message(wire_contract(manifest.environment)),
        adaptation=policy_pb2.AdaptationSpec(
            inner_lr=0.0 if meta_policy.step_sizes else adaptation.inner_lr or adaptation.context_lr,
            trajectories_per_round=adaptation.trajectories_per_round,
            inner_steps=adaptation.inner_steps,
            discount=adaptation.discount,
        ),
        policy_id=meta_policy.policy_id,
        memory=_memory_message(meta_policy),
        parameter_count=sum(value.numel() for value in meta_policy.parameters.values()),
    )


def _memory_message(meta_policy: MetaPolicy) -> policy_pb2.PolicyMemory | None:
    network = meta_policy.network
    if not isinstance(network, RecurrentPolicy):
        return None
    return policy_pb2.PolicyMemory(cell=network.memory.cell, size=network.memory.size)


def require_readable(policy: policy_pb2.Policy, onnx_contract: int) -> None:
    """Refuses a client that cannot read a policy's file.

    Args:
        policy: the policy that a call returns.
        onnx_contract: the newest version of the ONNX contract that the client reads, as it says; 0 for 1.

    Raises:
        PreconditionError: ONNX_CONTRACT.
    """
    needed, found = int(policy.metadata[_VERSION_KEY]), max(onnx_contract, 1)
    if needed > found:
        raise PreconditionError(
            "ONNX_CONTRACT",
            f"{policy.metadata['thetaprime.meta_policy']} carries a memory: its file follows version {needed} of the "
            f"ONNX contract, and this client reads version {found}. Update the client; a client of your own reads the "
            f"file by its metadata, and sets the field onnx_contract to {needed}",
            needed=needed,
            found=found,
        )


def require_gradient(entry: CatalogEntry) -> None:
    """Refuses uploads for a policy that adapts in its memory alone.

    Raises:
        PreconditionError: MEMORY_UNSUPPORTED.
    """
    if entry.meta_policy.recurrent:
        raise PreconditionError(
            "MEMORY_UNSUPPORTED",
            f"{entry.label} carries a memory, and adapts in it from episode to episode, on the robot: it takes no "
            "uploads. A gradient step through a memory is missing in this release: uploads do not say yet where a "
            "lifetime begins",
            meta_policy=entry.label,
        )


def policy_message(policy: ExportedPolicy) -> policy_pb2.Policy:
    """Returns a policy as ONNX, with the golden vectors that a client checks it against."""
    return policy_pb2.Policy(
        policy_id=policy.policy_id,
        parent_id=policy.parent_id,
        onnx=policy.onnx,
        onnx_sha256=policy.onnx_sha256,
        metadata=policy.metadata,
        golden=policy_pb2.GoldenVectors(
            observations=wire.array_to_message(policy.golden_observations),
            actions=wire.array_to_message(policy.golden_actions),
        ),
    )
