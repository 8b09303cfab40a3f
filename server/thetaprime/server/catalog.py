"""The meta-policies that this server adapts, loaded and verified once, at the start."""

import dataclasses
from collections.abc import Iterable, Iterator
from pathlib import Path

from thetaprime import wire
from thetaprime.models import ArtifactError, MetaPolicy, find_meta_policies, load_meta_policy
from thetaprime.server import convert
from thetaprime.server.errors import NotFoundError, StartupError
from thetaprime.v1 import policy_pb2


@dataclasses.dataclass(frozen=True)
class CatalogEntry:
    """One version of a meta-policy.

    Attributes:
        meta_policy: the loaded artifact.
        contract: its environment, as trajectories are held against it.
        message: its description on the wire.
        theta: θ on the wire, as ONNX.
    """

    meta_policy: MetaPolicy
    contract: wire.EnvironmentContract
    message: policy_pb2.MetaPolicy
    theta: policy_pb2.Policy


class Catalog:
    """Meta-policies by name and version."""

    def __init__(self, entries: Iterable[CatalogEntry]) -> None:
        self._entries: dict[tuple[str, int], CatalogEntry] = {}
        for entry in entries:
            key = (entry.message.name, entry.message.version)
            if key in self._entries:
                first, second = self._entries[key].meta_policy.directory, entry.meta_policy.directory
                raise StartupError(f"meta-policy {key[0]}@{key[1]} is there twice: {first} and {second}")
            self._entries[key] = entry

    @classmethod
    def load(cls, zoo: Iterable[Path]) -> "Catalog":
        """Loads every meta-policy of the zoo folders.

        Raises:
            StartupError: a folder is missing, an artifact is damaged or of an unknown schema, or two have the
                same name and version.
        """
        return cls(_load_entries(zoo))

    def __iter__(self) -> Iterator[CatalogEntry]:
        """By name, then version."""
        return iter([self._entries[key] for key in sorted(self._entries)])

    def __len__(self) -> int:
        return len(self._entries)

    def find(self, name: str, version: int) -> CatalogEntry:
        """One meta-policy.

        Args:
            name: its name.
            version: its version; 0 for the newest.

        Raises:
            NotFoundError: there is none.
        """
        wanted = version or max((v for n, v in self._entries if n == name), default=0)
        entry = self._entries.get((name, wanted))
        if entry is None:
            raise NotFoundError("meta-policy", f"{name}@{version}" if version else name)
        return entry

    def describe(self, name: str, version: int) -> policy_pb2.MetaPolicy:
        """The description of a meta-policy, or its name and version alone where it has left the catalog."""
        entry = self._entries.get((name, version))
        return policy_pb2.MetaPolicy(name=name, version=version) if entry is None else entry.message


def _load_entries(zoo: Iterable[Path]) -> Iterator[CatalogEntry]:
    for folder in zoo:
        if not folder.is_dir():
            raise StartupError(f"zoo {folder}: there is no such folder")
        for directory in find_meta_policies(folder):
            try:
                meta_policy = load_meta_policy(directory)
            except ArtifactError as error:
                raise StartupError(f"meta-policy {error}") from error
            yield CatalogEntry(
                meta_policy=meta_policy,
                contract=convert.wire_contract(meta_policy.manifest.environment),
                message=convert.meta_policy_message(meta_policy),
                theta=convert.policy_message(meta_policy.export(meta_policy.parameters)),
            )
