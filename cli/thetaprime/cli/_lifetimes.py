"""What the commands show of a policy that remembers, by episode of experience."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table

    from thetaprime.training.evaluation.lifetimes import LifetimeEvaluation


def lifetimes_table(evaluation: "LifetimeEvaluation") -> "Table":
    """Tabulates the return and the score of each episode, in memory and by gradient. It fits into 80 columns."""
    from rich.table import Table

    count = len(evaluation.returns)
    columns = {
        "episode": [str(episode) for episode in range(1, count + 1)],
        "in memory": [f"{row.mean():.2f} ± {row.std():.2f}" for row in evaluation.returns],
    }
    if evaluation.scored:
        low, high = evaluation.score_interval()
        columns["S"] = [f"{score:.3f}" for score in evaluation.scores()]
        columns["95 % interval"] = [f"{a:.3f}..{b:.3f}" for a, b in zip(low, high, strict=True)]
    if evaluation.gradient is not None:
        by_episode = evaluation.gradient.by_episode(count)
        columns["by gradient"] = [f"{row.mean():.2f}" for row in by_episode]
        if evaluation.scored:
            columns["its S"] = [f"{score:.3f}" for score in evaluation.scores(by_episode)]
    compared = [f"{name} {each.mean():.2f} ± {each.std():.2f}" for name, each in evaluation.comparisons.items()]
    table = Table(
        *columns,
        title=f"{evaluation.meta_policy}: {len(evaluation.tasks)} held-out tasks, one lifetime each",
        caption="mean return ± sd over tasks" + "".join(f"; {each}" for each in compared),
    )
    for row in zip(*columns.values(), strict=True):
        table.add_row(*row)
    return table
