"""Untrained meta-policies, written as artifacts."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
import pydantic

from tests.support.point_navigation import NAME
from thetaprime.models import (
    AdaptationSpec,
    BoxAction,
    EnvironmentContract,
    Manifest,
    MetaPolicy,
    Policy,
    PolicySpec,
    Provenance,
    RecurrentPolicy,
    digest_bytes,
    write_meta_policy,
)

POINT_NAVIGATION: Final = EnvironmentContract(
    environment_id="thetaprime/PointNavigation-v0",
    observation_shape=(2,),
    action=BoxAction(low=(-0.1, -0.1), high=(0.1, 0.1)),
    horizon=100,
)


def write_untrained(
    root: Path,
    name: str,
    environment: EnvironmentContract,
    *,
    version: int = 1,
    description: str = "",
    spec: PolicySpec | None = None,
    adaptation: AdaptationSpec | None = None,
    seed: int = 0,
    **more: Any,
) -> MetaPolicy:
    """Writes `root/name/version`: a meta-policy with freshly initialized parameters.

    Args:
        seed: for the parameters.
        more: other arguments of `write_meta_policy`.
    """
    spec = spec or PolicySpec(hidden_sizes=(8, 8))
    return write_meta_policy(
        root / name / str(version),
        name=name,
        version=version,
        description=description or f"{name}, untrained",
        environment=environment,
        policy_spec=spec,
        adaptation=adaptation or AdaptationSpec(),
        parameters=(RecurrentPolicy if spec.memory else Policy)(environment, spec).init(seed),
        provenance=Provenance.untrained(name),
        golden_observations=np.random.default_rng(1).normal(size=(3, *environment.observation_shape)),
        **more,
    )


def write_point_artifact(root: Path, version: int = 1, seed: int = 0) -> MetaPolicy:
    """Writes an untrained point-navigation policy."""
    adaptation = AdaptationSpec(inner_lr=0.1)
    return write_untrained(root, NAME, POINT_NAVIGATION, version=version, adaptation=adaptation, seed=seed)


def reseal(artifact: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Changes a manifest, whose digests then hold again."""
    raw = json.loads((artifact / "manifest.json").read_bytes())
    change(raw)
    try:
        data = Manifest.model_validate(raw).sealed().to_bytes()
    except pydantic.ValidationError:
        # The fields are checked before the digest.
        data = json.dumps(raw).encode()
    (artifact / "manifest.json").write_bytes(data)


def replace(artifact: Path, name: str, data: bytes) -> None:
    """Writes a file of an artifact, whose digests then hold again."""
    (artifact / name).write_bytes(data)
    reseal(artifact, lambda raw: raw["files"].update({name: digest_bytes(data)}))
