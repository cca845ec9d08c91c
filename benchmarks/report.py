"""One table, and the same as JSON."""

import json
from pathlib import Path

from benchmarks.load.target import Figures
from benchmarks.measures import Measure, Shown
from benchmarks.peers import RELAY
from benchmarks.runner import Results
from benchmarks.targets import Medians, Verdict, verdicts

_BEGIN, _END = "<!-- figures: begin -->", "<!-- figures: end -->"
_TITLE = 34  # columns
_CELL = 19


def table(measures: list[Measure], peers: list[str], medians: Medians) -> str:
    """Rows are figures, columns are proxies; behind each peer's figure relay's divided by it."""
    lines = [" " * _TITLE + "".join(f"{peer:>{_CELL}}" for peer in peers)]
    for measure in measures:
        if not measure.shown:
            continue
        lines += ["", f"{measure.name}: {measure.what}"]
        by_peer = medians.get(measure.name, {})
        for shown in measure.shown:
            cells = [_cell(shown, peer, by_peer) for peer in peers]
            lines.append(f"  {shown.title:<{_TITLE - 2}}" + "".join(f"{c:>{_CELL}}" for c in cells))
    return "\n".join(lines)


def verdict_table(medians: Medians) -> str:
    """The targets of the measures that were run, with what was found."""
    lines = [f"{'target':<50}{'wanted':>10}{'found':>12}"]
    for verdict in verdicts(medians):
        wanted = verdict.wanted
        if wanted.measure not in medians:
            continue
        limit = f"{'≥' if wanted.at_least else '≤'} {wanted.limit:g}"
        lines.append(f"{wanted.title:<50}{limit:>10}{_found(verdict):>12}  {_word(verdict)}")
    return "\n".join(lines)


def save(
    path: Path, machine: dict[str, object], versions: dict[str, str], results: Results
) -> None:
    """Everything, each run included."""
    medians = results.medians()
    document = {
        "machine": machine,
        "versions": versions,
        "medians": medians,
        "targets": [
            {
                "title": verdict.wanted.title,
                "limit": verdict.wanted.limit,
                "at_least": verdict.wanted.at_least,
                "found": verdict.found,
                "met": verdict.met,
            }
            for verdict in verdicts(medians)
        ],
        "runs": results.runs,
        "failures": results.failures,
        "warnings": results.warnings,
    }
    path.write_text(json.dumps(document, indent=1) + "\n")


def write_figures(page: Path, text: str) -> None:
    """Replace what stands between the two marks of a documentation page.

    Raises:
        ValueError: the page has no such marks.
    """
    before, begin, rest = page.read_text().partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not begin or not end:
        raise ValueError(f"{page} has no {_BEGIN} … {_END}")
    page.write_text(f"{before}{begin}\n```text\n{text}\n```\n{end}{after}")


def _cell(shown: Shown, peer: str, by_peer: "dict[str, Figures] | object") -> str:
    assert isinstance(by_peer, dict)
    value = by_peer.get(peer, {}).get(shown.key)
    if value is None:
        return "-"
    text = f"{value:,.{shown.digits}f}"
    own = by_peer.get(RELAY, {}).get(shown.key)
    if peer == RELAY or not own or not value:
        return text
    return f"{text} (×{own / value:.2f})"


def _found(verdict: Verdict) -> str:
    return "-" if verdict.found is None else f"{verdict.found:,.2f}"


def _word(verdict: Verdict) -> str:
    return {None: "not measured", True: "met", False: "NOT MET"}[verdict.met]
