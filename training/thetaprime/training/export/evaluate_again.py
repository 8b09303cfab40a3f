"""Evaluates artifacts again, for an inner loop that has changed since they were exported.

Run ``python -m thetaprime.training.export.evaluate_again FOLDER ...``. It repeats the evaluations of each artifact,
with the same tasks, seeds and settings of the comparisons, and writes evaluation.json, the figure and the tables of
the model card. Every other file stays unchanged.
"""

import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from thetaprime.models import ArtifactError, MetaPolicy, load_meta_policy
from thetaprime.models.manifest import MANIFEST_NAME
from thetaprime.models.parameters import digest_bytes
from thetaprime.training.evaluation.comparisons import EVALUATION_NAME
from thetaprime.training.evaluation.evaluation import EvaluationPlan, evaluate, held_methods
from thetaprime.training.evaluation.figures import curves_png
from thetaprime.training.evaluation.scores import Evaluation
from thetaprime.training.export.model_card import CARD_NAME, FIGURE_NAME, budgets_table, returns_table
from thetaprime.training.export.request import evaluation_bytes

_TABLES = re.compile(r"(?:^\|.*\n)+", re.MULTILINE)


def main(folders: Sequence[str]) -> None:
    """Evaluates some artifacts."""
    for directory in map(Path, folders):
        for name, evaluation in evaluate_again(directory).items():
            measured = evaluation.scores() if evaluation.scored else evaluation.returns["maml"].mean(1)
            numbers = ", ".join(f"{number:.3f}" for number in measured)
            sys.stdout.write(f"{directory}: {name}: {'S_k' if evaluation.scored else 'R_k'} {numbers}\n")


def evaluate_again(directory: Path) -> dict[str, Evaluation]:
    """Repeats the evaluations of an artifact, and writes them into it.

    Returns:
        The evaluations by the name of their file.

    Raises:
        ArtifactError: the artifact is damaged, or has no evaluation.
    """
    meta_policy = load_meta_policy(directory)
    names = [
        name for name in sorted(meta_policy.manifest.files) if name.startswith("evaluation") and name.endswith(".json")
    ]
    if EVALUATION_NAME not in names:
        raise ArtifactError(str(directory), "the artifact has no evaluation to repeat")
    names.sort(key=lambda name: name != EVALUATION_NAME)
    evaluations = {name: evaluate(meta_policy, _plan(meta_policy, name)) for name in names}
    first, *more = evaluations.values()
    changed = {name: evaluation_bytes(evaluation) for name, evaluation in evaluations.items()}
    changed[FIGURE_NAME] = curves_png(first)
    changed[CARD_NAME] = _with_tables(meta_policy.read_extra(CARD_NAME).decode(), first, more).encode()
    files = dict(meta_policy.manifest.files)
    for name, content in changed.items():
        (directory / name).write_bytes(content)
        files[name] = digest_bytes(content)
    manifest = meta_policy.manifest.model_copy(update={"files": files})
    (directory / MANIFEST_NAME).write_bytes(manifest.sealed().to_bytes())
    load_meta_policy(directory)
    return evaluations


def _plan(meta_policy: MetaPolicy, name: str) -> EvaluationPlan:
    """The plan of an evaluation that the artifact contains."""
    found: dict[str, Any] = json.loads(meta_policy.read_extra(name))
    seeds = tuple(found["seeds"])
    return EvaluationPlan(
        tasks=found["tasks"] // len(seeds),
        seeds=seeds,
        methods=held_methods(meta_policy),
        trajectories=None if name == EVALUATION_NAME else found["trajectories"],
        budgets=tuple(found["budgets"]),
    )


def _with_tables(card: str, first: Evaluation, more: Sequence[Evaluation]) -> str:
    """The card with the tables of other evaluations, in the order of `model_card`."""
    returns = iter([returns_table(first), *(returns_table(each) for each in more)])

    def replaced(match: re.Match[str]) -> str:
        table = match.group()
        if table.startswith("| gradient steps |"):
            return f"{next(returns)}\n"
        return f"{budgets_table(first)}\n" if table.startswith("| trajectories |") else table

    return _TABLES.sub(replaced, card)


if __name__ == "__main__":
    main(sys.argv[1:])
