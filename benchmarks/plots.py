"""Plots as SVG, without a library."""

from pathlib import Path

from benchmarks.targets import Medians


def write_plots(folder: Path, medians: Medians) -> None:
    """Later."""
