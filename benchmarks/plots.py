"""Plots as SVG, written by hand: lines over two axes, legible on light and on dark pages.

Colours are chosen for both backgrounds (contrast above 3:1 on white and on #0d1117) and each line
also carries its name at its end, so that nothing depends on telling colours apart.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.load.target import Figures
from benchmarks.targets import Medians

WIDTH, HEIGHT = 720, 400  # of the picture, in px
LEFT, RIGHT, TOP, BOTTOM = 64, 120, 40, 52  # margins; the right one holds the names of the lines
_COLOURS = {
    "relay": "#d9480f",
    "nginx": "#2f9e44",
    "haproxy": "#1c7ed6",
    "caddy": "#7950f2",
    "node": "#868e96",
    "aiohttp": "#c2255c",
    "hypercorn": "#0c8599",
    "uvicorn": "#a9791c",
    "plain": "#5c7cfa",
}
_STYLE = """
  text { font: 12px system-ui, sans-serif; fill: #343a40; }
  .title { font-size: 15px; font-weight: 600; }
  .grid { stroke: #adb5bd; stroke-opacity: .4; }
  .axis { stroke: #868e96; }
  .line { fill: none; stroke-width: 1.6; }
  .own { stroke-width: 3; }
  @media (prefers-color-scheme: dark) { text { fill: #ced4da; } .grid { stroke-opacity: .25; } }
"""

Lines = Mapping[str, list[tuple[float, float]]]
"""Name of a line → its points, x rising."""


@dataclass(frozen=True, slots=True)
class Axis:
    """Where a value lies: logarithmic from ``low`` to ``high`` on ``start`` to ``end`` px."""

    low: float
    high: float
    start: float
    end: float

    def at(self, value: float) -> float:
        span = math.log(self.high / self.low) or 1.0
        return self.start + math.log(value / self.low) / span * (self.end - self.start)

    def ticks(self) -> list[float]:
        """1, 2 and 5 of each power of ten inside."""
        powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        marks = [step * 10.0**power for power in powers for step in (1, 2, 5)]
        return [mark for mark in marks if self.low <= mark <= self.high]


def write_plots(folder: Path, medians: Medians) -> list[Path]:
    """Write what was measured of the plots; returns the files."""
    written = []
    for name, measure, prefix, title, x_title, y_title in (
        ("latency-p50", "rates", "p50_us_", "Median latency", "events a second, 500 streams", "µs"),
        (
            "latency-p99",
            "rates",
            "p99_us_",
            "99th percentile",
            "events a second, 500 streams",
            "µs",
        ),
        ("memory", "memory", "mib_", "Memory of silent streams", "streams", "MiB"),
        ("growth", "growing", "cpu_us_", "CPU per event, same total rate", "streams", "µs"),
    ):
        lines = {
            peer: points
            for peer, figures in medians.get(measure, {}).items()
            if len(points := _points(figures, prefix)) > 1
        }
        if lines:
            folder.mkdir(parents=True, exist_ok=True)
            path = folder / f"{name}.svg"
            path.write_text(plot(title, x_title, y_title, lines))
            written.append(path)
    return written


def plot(title: str, x_title: str, y_title: str, lines: Lines) -> str:
    """One picture; both axes are logarithmic."""
    xs = [x for points in lines.values() for x, _ in points]
    ys = [y for points in lines.values() for _, y in points]
    x = Axis(min(xs), max(xs), LEFT, WIDTH - RIGHT)
    y = Axis(min(ys) * 0.8, max(ys) * 1.2, HEIGHT - BOTTOM, TOP)
    body = [f'<text class="title" x="{LEFT}" y="22">{title}, {y_title}</text>']
    for mark in y.ticks():
        at = y.at(mark)
        body.append(
            f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>'
            f'<text x="{LEFT - 8}" y="{at + 4:.1f}" text-anchor="end">{mark:,g}</text>'
        )
    bottom = HEIGHT - BOTTOM
    for value in sorted(set(xs)):
        at = x.at(value)
        body.append(
            f'<line class="axis" x1="{at:.1f}" x2="{at:.1f}" y1="{bottom}" y2="{bottom + 5}"/>'
            f'<text x="{at:.1f}" y="{bottom + 20}" text-anchor="middle">{value:,g}</text>'
        )
    body.append(
        f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 10}" '
        f'text-anchor="middle">{x_title}</text>'
    )
    heights = _apart({name: y.at(points[-1][1]) for name, points in lines.items()})
    for name, points in lines.items():
        colour = _COLOURS.get(name, "#868e96")
        path = " ".join(f"{x.at(px):.1f},{y.at(py):.1f}" for px, py in points)
        own = " own" if name == "relay" else ""
        body.append(f'<polyline class="line{own}" stroke="{colour}" points="{path}"/>')
        body.append(
            f'<text style="fill:{colour}" x="{x.at(points[-1][0]) + 8:.1f}" '
            f'y="{heights[name] + 4:.1f}">{name}</text>'
        )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{title} against {x_title}">\n<style>{_STYLE}</style>\n'
        + "\n".join(body)
        + "\n</svg>\n"
    )


def _points(figures: Figures, prefix: str) -> list[tuple[float, float]]:
    """``p50_us_1000: 60.0`` is the point (1000, 60); zero has no place on a logarithmic axis."""
    found = [
        (float(key.removeprefix(prefix)), value)
        for key, value in figures.items()
        if key.startswith(prefix) and value > 0
    ]
    return sorted(point for point in found if point[0] > 0)


def _apart(heights: dict[str, float], gap: float = 14.0) -> dict[str, float]:
    """Move names down until they do not cover each other."""
    placed: dict[str, float] = {}
    last = -math.inf
    for name, height in sorted(heights.items(), key=lambda item: item[1]):
        last = max(height, last + gap)
        placed[name] = last
    return placed
