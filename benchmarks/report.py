"""What a run has found: a table in the terminal, JSON, and plots."""

from __future__ import annotations

import json
import platform
import statistics
from collections.abc import Iterable
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from .scenarios import Figures

_UNBOUNDED = {"latency quantiles", "memory"}
"""Figures that are drawn, not shown in a table."""

_COLOURS = {
    "raw writer": "#888888",
    "uvicorn": "#0b6e4f",
    "uvicorn, plain ASGI": "#5cbf9a",
    "granian": "#d1495b",
    "hypercorn": "#edae49",
    "sse-starlette broadcaster": "#00798c",
    "flask-mercure-sse": "#30638e",
    "given hub": "#000000",
}


@dataclass
class Report:
    """All rounds of all trials: scenario -> row -> target -> figures of each round."""

    machine: dict[str, Any]
    results: dict[str, dict[str, dict[str, list[Figures]]]] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)

    def add(self, scenario: str, row: str, target: str, figures: Figures) -> None:
        rows = self.results.setdefault(scenario, {})
        rows.setdefault(row, {}).setdefault(target, []).append(figures)

    def medians(self, scenario: str, row: str) -> dict[str, Figures]:
        return {target: _median(rounds) for target, rounds in self.results[scenario][row].items()}

    def save(self, folder: Path) -> None:
        """Write `results.json`, `report.md` and the plots."""
        folder.mkdir(parents=True, exist_ok=True)
        document = {
            "machine": self.machine,
            "medians": {
                scenario: {row: self.medians(scenario, row) for row in rows}
                for scenario, rows in self.results.items()
            },
            "failures": self.failures,
        }
        (folder / "results.json").write_text(json.dumps(document, indent=1) + "\n")
        (folder / "report.md").write_text(markdown(document))
        _draw(self, folder)

    def show(self, console: Console) -> None:
        """Print a table for each row of each scenario, with ratios to the raw writer's."""
        for scenario, rows in self.results.items():
            for row in rows:
                console.print(_table(f"{scenario}: {row}", self.medians(scenario, row)))
        for failure in self.failures:
            console.print(f"[red]failed:[/] {failure}")


def markdown(document: dict[str, Any]) -> str:
    """Return the tables of a run as Markdown."""
    lines = []
    for scenario, rows in document["medians"].items():
        lines += [f"### {scenario}", ""]
        for row, medians in rows.items():
            names = [name for name in next(iter(medians.values())) if name not in _UNBOUNDED]
            base = medians.get("raw writer", {}).get("CPU us/delivery")
            header = ["", *names, *(["CPU, raw = 1"] if base else [])]
            lines += [f"{row}:", "", f"| {' | '.join(header)} |", "|---" + "|--:" * len(names)]
            lines[-1] += "|--:|" if base else "|"
            for target, figures in medians.items():
                cells = [_shown(figures[name]) for name in names]
                if base:
                    cells.append(f"{figures['CPU us/delivery'] / base:.2f}")
                lines.append(f"| {target} | {' | '.join(cells)} |")
            lines.append("")
    lines += [f"Failed: {failure}" for failure in document["failures"]]
    return "\n".join(lines)


def describe_machine(packages: Iterable[str]) -> dict[str, Any]:
    """Return what a reader must know of the machine and the versions."""
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.processor(),
    )
    cores = Path("/proc/cpuinfo").read_text().count("processor\t:")
    return {
        "processor": model,
        "cores": cores,
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {package: version(package) for package in sorted(packages)},
    }


def _median(rounds: list[Figures]) -> Figures:
    merged: Figures = {}
    for name, first in rounds[0].items():
        values = [each[name] for each in rounds]
        merged[name] = first if name in _UNBOUNDED else round(statistics.median(values), 4)
    return merged


def _table(title: str, medians: dict[str, Figures]) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column("target")
    names = [name for name in next(iter(medians.values())) if name not in _UNBOUNDED]
    for name in names:
        table.add_column(name, justify="right")
    base = medians.get("raw writer", {}).get("CPU us/delivery")
    if base:
        table.add_column("CPU, raw = 1", justify="right")
    for target, figures in medians.items():
        cells = [_shown(figures[name]) for name in names]
        if base:
            cells.append(f"{figures['CPU us/delivery'] / base:.2f}")
        table.add_row(target, *cells)
    return table


def _shown(value: float) -> str:
    if value != value:
        return "-"
    if value == int(value) or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"


# Plots ------------------------------------------------------------------------------------------


def _draw(report: Report, folder: Path) -> None:
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams.update({"font.size": 9, "svg.hashsalt": "quart-mercure", "axes.grid": True})
    mpl.rcParams.update({"grid.alpha": 0.3, "axes.spines.top": False, "axes.spines.right": False})
    for scenario in ("fanout", "overload"):
        for row in report.results.get(scenario, {}):
            name = row.split(" x ")[-1].replace("/s", "")
            _draw_latency(report, scenario, row, folder / f"latency-{scenario}-{name}.svg")
    if "overload" in report.results:
        _draw_throughput(report, folder / "throughput.svg")
    if "soak" in report.results:
        _draw_memory(report, folder / "memory.svg")


def _draw_latency(report: Report, scenario: str, row: str, path: Path) -> None:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 3.6), layout="constrained")
    for target, figures in report.medians(scenario, row).items():
        quantiles = figures["latency quantiles"]
        parts = [100 * each / (len(quantiles) - 1) for each in range(len(quantiles))]
        label = target if figures["delivered"] > 0.999 else f"{target} (not all arrived)"
        axes.plot(parts, quantiles, label=label, color=_COLOURS.get(target), linewidth=1.6)
    axes.set(yscale="log", xlim=(0, 100), xlabel="percentile", ylabel="age on arrival, ms")
    axes.set_title(row, loc="left")
    axes.legend(fontsize=7, frameon=False)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def _draw_throughput(report: Report, path: Path) -> None:
    import matplotlib.pyplot as plt

    row = next(reversed(report.results["overload"]))
    medians = report.medians("overload", row)
    figure, axes = plt.subplots(figsize=(7, 3), layout="constrained")
    names = list(reversed(medians))
    rates = [medians[name]["deliveries/s"] for name in names]
    bars = axes.barh(names, rates, color=[_COLOURS.get(name, "#444444") for name in names])
    axes.bar_label(bars, labels=[f"{rate:,.0f}" for rate in rates], padding=3, fontsize=8)
    axes.set(xlabel="deliveries per second, one process", xlim=(0, max(rates) * 1.15))
    axes.set_title(f"overload: {row}", loc="left")
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def _draw_memory(report: Report, path: Path) -> None:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 3), layout="constrained")
    for row in report.results["soak"]:
        for target, figures in report.medians("soak", row).items():
            at = [second / 60 for second, _ in figures["memory"]]
            axes.plot(
                at, [mb for _, mb in figures["memory"]], label=target, color=_COLOURS.get(target)
            )
        axes.set_title(row, loc="left")
    axes.set(xlabel="minutes", ylabel="RSS, MB", ylim=(0, None))
    axes.legend(fontsize=7, frameon=False)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
