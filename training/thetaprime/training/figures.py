"""Figures of evaluations, drawn without a display."""

import io
from collections.abc import Mapping
from typing import Final

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from thetaprime.training.history import History
from thetaprime.training.scores import Evaluation

_STYLE: Final = {
    "maml": ("#1b6ca8", "o", "meta-policy"),
    "pretrained": ("#d1772e", "s", "pretrained"),
    "oracle": ("#2e7d4f", "D", "oracle"),
    "random": ("#7a7a7a", "^", "random initialisation"),
}


def curves_png(evaluation: Evaluation) -> bytes:
    """The four-way curve: return over gradient steps, with 95 % bootstrap intervals over tasks, as PNG bytes."""
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for method, curve in evaluation.returns.items():
        color, marker, label = _STYLE[method]
        steps = range(len(curve))
        low, high = evaluation.return_interval(method)
        axes.plot(steps, curve.mean(1), color=color, marker=marker, label=label)
        axes.fill_between(steps, low, high, color=color, alpha=0.18, linewidth=0)
    axes.axhline(float(evaluation.oracle.mean()), color="#2e7d4f", linestyle="--", label="oracle")
    axes.set_xticks(range(len(evaluation.returns["maml"])))
    axes.set_xlabel(f"gradient steps ({evaluation.trajectories} trajectories each)")
    axes.set_ylabel("undiscounted return")
    axes.set_title(f"{evaluation.meta_policy}: {len(evaluation.tasks)} held-out tasks")
    axes.grid(alpha=0.25)
    axes.legend(loc="lower right", frameon=False)
    return _png(figure)


def learning_png(title: str, histories: Mapping[str, History | None]) -> bytes:
    """Return over environment steps of every run, as PNG bytes.

    Args:
        title: of the figure.
        histories: by method; None where a run's logs are lost.
    """
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for method, history in histories.items():
        if history is None:
            continue
        color, _, label = _STYLE[method]
        steps = history.environment_steps / 1e6
        if method == "maml":
            axes.plot(
                steps, history.pre_return, color=color, alpha=0.45, linewidth=1, label=f"{label}, before adapting"
            )
            label += ", after adapting"
        axes.plot(steps, history.post_return, color=color, linewidth=1.4, label=label)
    axes.set_xlabel("environment steps, millions")
    axes.set_ylabel("undiscounted return")
    axes.set_title(f"{title}: training")
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)
    return _png(figure)


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    # Without the software's name, the same figure has the same bytes whatever version drew it.
    figure.savefig(buffer, format="png", dpi=140, metadata={"Software": None})
    return buffer.getvalue()
