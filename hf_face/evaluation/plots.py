"""Plots of evaluation results. Each function returns a matplotlib `Figure` and does not use pyplot's global state."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from .metrics import ROC, ErrorDiscard

GENUINE, IMPOSTOR = "tab:blue", "tab:orange"


def save_figure(figure: Figure, path: str | Path):
    """Save the figure as PNG, creating the folder if necessary."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def plot_roc(curves: dict[str, ROC]) -> Figure:
    """TAR over FAR on a logarithmic axis, one line per named curve, each starting at one impostor."""
    figure, axes = _new_figure("False accept rate (FAR)", "True accept rate (TAR)")
    left = _left(curves)
    for name, roc in curves.items():
        label = f"{name} (AUC {roc.auc:.4f})" if roc.far[-1] == 1 else name  # all pairs: only the low end is known
        axes.step(np.maximum(roc.far, left), roc.tar, where="post", label=label)
    axes.set(xscale="log", xlim=(left, 1), ylim=(0, 1.01))
    axes.legend(loc="lower right")
    return figure


def plot_det(curves: dict[str, ROC]) -> Figure:
    """Detection error trade-off: false reject over false accept rate, both logarithmic, with the EER marked if the
    curve reaches it."""
    figure, axes = _new_figure("False accept rate (FAR)", "False reject rate (FRR)")
    left = _left(curves)
    for name, roc in curves.items():
        frr = np.where(roc.tar < 1, 1 - roc.tar, np.nan)
        complete = roc.far[-1] == 1  # all pairs: only the low end is known
        label = f"{name} (EER {roc.eer:.4f})" if complete else name
        line = axes.step(np.maximum(roc.far, left), frr, where="post", label=label)[0]
        if complete:
            axes.plot(roc.eer, roc.eer, "o", color=line.get_color())
    bottom = min(0.5 / roc.num_genuine for roc in curves.values())
    axes.plot([left, 1], [left, 1], linestyle=":", color="gray", label="FAR = FRR")
    axes.set(xscale="log", yscale="log", xlim=(left, 1), ylim=(bottom, 1))
    axes.legend(loc="lower left")
    return figure


def plot_scores(genuine: np.ndarray, impostors: np.ndarray, name: str) -> Figure:
    """Histograms of genuine and impostor scores with shared bins."""
    figure, axes = _new_figure("Similarity", "Density")
    ends = [min(genuine.min(), impostors.min()), max(genuine.max(), impostors.max())]
    bins = np.histogram_bin_edges(ends, bins=60)
    axes.hist(impostors, bins, density=True, alpha=0.6, color=IMPOSTOR, label=f"{len(impostors):,} impostor pairs")
    axes.hist(genuine, bins, density=True, alpha=0.6, color=GENUINE, label=f"{len(genuine):,} genuine pairs")
    axes.set_title(name)
    axes.legend()
    return figure


def plot_error_discard(curves: dict[str, ErrorDiscard], ylabel: str = "False non-match rate (FNMR)") -> Figure:
    """Error of the remaining comparisons over the share discarded for low quality, one line per quality measure."""
    figure, axes = _new_figure("Share of comparisons discarded", ylabel)
    for name, curve in curves.items():
        discarded, error = np.append(curve.discarded, 1.0), np.append(curve.error, curve.error[-1])
        axes.step(discarded, error, where="post", label=f"{name} (area {curve.area():.4f})")
    axes.set(xlim=(0, 1), ylim=(0, None))
    axes.legend()
    return figure


def plot_cmc(curves: dict[str, np.ndarray]) -> Figure:
    """Cumulative match characteristics, each (max_rank,): the share of mated probes of this rank or better."""
    figure, axes = _new_figure("Rank", "Share of mated probes found")
    for name, shares in curves.items():
        axes.plot(np.arange(1, len(shares) + 1), shares, marker=".", label=f"{name} (rank 1: {shares[0]:.4f})")
    axes.set(xscale="log", ylim=(None, 1.005))
    axes.legend(loc="lower right")
    return figure


def _new_figure(xlabel: str, ylabel: str):
    figure = Figure(layout="constrained")
    axes = figure.subplots()
    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.grid(which="both", alpha=0.3)
    return figure, axes


def _left(curves: dict[str, ROC]) -> float:
    """Left end of a logarithmic FAR axis: half an impostor, which represents a FAR of zero."""
    return min(roc.finest_far for roc in curves.values()) / 2
