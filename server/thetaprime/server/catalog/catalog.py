"""The meta-policies that this server adapts."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from thetaprime import wire
from thetaprime.models import ArtifactError, MetaPolicy, find_meta_policies, load_meta_policy
from thetaprime.server.errors import NotFoundError, StartupError
from thetaprime.server.sessions import messages as convert
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

    @classmethod
    def load(cls, directory: Path) -> "CatalogEntry":
        """Loads and verifies an artifact.

        Raises:
            ArtifactError: it is damaged, or of an unknown schema.
        """
        meta_policy = load_meta_policy(directory)
        return cls(
            meta_policy=meta_policy,
            contract=convert.wire_contract(meta_policy.manifest.environment),
            message=convert.meta_policy_message(meta_policy),
            theta=convert.policy_message(meta_policy.export(meta_policy.parameters)),
        )

    @property
    def key(self) -> tuple[str, int]:
        """Name and version."""
        return self.message.name, self.message.version

    @property
    def label(self) -> str:
        """Name and version, for people."""
        return f"{self.message.name}@{self.message.version}"

    @property
    def directory(self) -> Path:
        """Where it was loaded from."""
        return self.meta_policy.directory


class CatalogConflictError(ValueError):
    """A name and version would stand for two things; the message says where they are."""


class Catalog:
    """Meta-policies by name and version. What a name and version stand for never changes while the process lasts.

    One thread may change it while others read: each change puts a new dictionary in the place of the old one.

    Attributes:
        look: called when a session turns out to have begun from a version that is not known here: another process of
            the server may have seen it come to its folder first. Blocks.
    """

    def __init__(self, entries: Iterable[CatalogEntry] = ()) -> None:
        self.look: Callable[[], object] = lambda: None
        self._listed: dict[tuple[str, int], CatalogEntry] = {}
        # With those that were withdrawn: sessions that began from them go on.
        self._known: dict[tuple[str, int], CatalogEntry] = {}
        for entry in entries:
            self.add(entry)

    @classmethod
    def load(cls, zoo: Iterable[Path]) -> "Catalog":
        """Loads every meta-policy of the zoo folders.

        Raises:
            StartupError: a folder is missing, an artifact is damaged or of an unknown schema, or two have the
                same name and version.
        """
        try:
            return cls(_load_entries(zoo))
        except CatalogConflictError as error:
            raise StartupError(str(error)) from error

    def __iter__(self) -> Iterator[CatalogEntry]:
        """By name, then version."""
        listed = self._listed
        return iter([listed[key] for key in sorted(listed)])

    def __len__(self) -> int:
        return len(self._listed)

    def add(self, entry: CatalogEntry) -> None:
        """Offers a version to new sessions; one that was withdrawn may come back.

        Raises:
            CatalogConflictError: its name and version are taken, or stood for something else before.
        """
        if (same := self._listed.get(entry.key)) is not None:
            raise CatalogConflictError(
                f"meta-policy {entry.label} is there twice: {same.directory} and {entry.directory}"
            )
        known = self._known.get(entry.key, entry)
        if known.meta_policy.manifest != entry.meta_policy.manifest:
            raise CatalogConflictError(f"meta-policy {entry.label} in {entry.directory} is not what it was before")
        self._known = {**self._known, entry.key: known}
        self._listed = {**self._listed, entry.key: known}

    def withdraw(self, entry: CatalogEntry) -> None:
        """Offers a version to no more sessions; those that began from it go on."""
        self._listed = {key: listed for key, listed in self._listed.items() if key != entry.key}

    def find(self, name: str, version: int) -> CatalogEntry:
        """A meta-policy that a session may begin from.

        Args:
            name: its name.
            version: its version; 0 for the newest.

        Raises:
            NotFoundError: there is none.
        """
        listed = self._listed
        wanted = version or max((v for n, v in listed if n == name), default=0)
        entry = listed.get((name, wanted))
        if entry is None:
            raise NotFoundError("meta-policy", f"{name}@{version}" if version else name)
        return entry

    def recall(self, name: str, version: int) -> CatalogEntry:
        """A meta-policy that a session has begun from, also where it was withdrawn since. May block.

        Raises:
            NotFoundError: it was not there when this process started, or later.
        """
        entry = self._known.get((name, version))
        if entry is None:
            self.look()
            entry = self._known.get((name, version))
        if entry is None:
            raise NotFoundError("meta-policy", f"{name}@{version}")
        return entry

    def describe(self, name: str, version: int) -> policy_pb2.MetaPolicy:
        """The description of a meta-policy, or its name and version alone where this process never had it."""
        entry = self._known.get((name, version))
        return policy_pb2.MetaPolicy(name=name, version=version) if entry is None else entry.message


def _load_entries(zoo: Iterable[Path]) -> Iterator[CatalogEntry]:
    for folder in zoo:
        if not folder.is_dir():
            raise StartupError(f"zoo {folder}: there is no such folder")
        for directory in find_meta_policies(folder):
            try:
                yield CatalogEntry.load(directory)
            except ArtifactError as error:
                raise StartupError(f"meta-policy {error}") from error
