"""python -m benchmarks: our hub under each server beside others, on this machine."""

from __future__ import annotations

import sys
from pathlib import Path

import click
from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from .report import Report, describe_machine
from .scenarios import FULL, QUICK, SCENARIOS, Trial
from .targets import SECRET, TARGETS, running_hub
from .transports import transport

ALL = SCENARIOS | {"transport": transport}

_RAISED_LIMIT_OF_FILES = 20_000


@click.command()
@click.argument("scenarios", nargs=-1, type=click.Choice(list(ALL)))
@click.option("--quick", is_flag=True, help="A smoke test of everything, within two minutes.")
@click.option(
    "--target", "chosen", multiple=True, type=click.Choice(list(TARGETS)), help="Only these."
)
@click.option("--rounds", type=click.IntRange(min=1), help="How often each trial is made.")
@click.option("--hub-url", help="A running Mercure hub to put beside.")
@click.option("--hub-publisher-key", default=SECRET, help="Its publishers' secret (HS256).")
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    default=Path("benchmarks/results"),
    show_default=True,
    help="Folder for results.json and the plots.",
)
def main(
    scenarios: tuple[str, ...],
    quick: bool,
    chosen: tuple[str, ...],
    rounds: int | None,
    hub_url: str | None,
    hub_publisher_key: str,
    output: Path,
) -> None:
    """Measure SCENARIOS (all, by default) and report medians and ratios.

    Servers, readers and publishers are separate processes on this machine; nothing else should be
    running on it.
    """
    _allow_many_files()
    size = QUICK if quick else FULL
    targets = [TARGETS[name] for name in chosen or TARGETS]
    if hub_url:
        targets.append(running_hub(hub_url, hub_publisher_key))
    trials = [
        (name, trial) for name in scenarios or tuple(ALL) for trial in ALL[name](targets, size)
    ]
    packages = {"quart-mercure", *(each for target in targets for each in target.packages)}
    report = Report(describe_machine(packages))
    console = Console() if sys.stdout.isatty() else Console(width=200)
    _run(trials, rounds or size.rounds, report, console)
    report.show(console)
    report.save(output)
    console.print(f"Written to {output}")
    sys.exit(1 if report.failures else 0)


def _run(trials: list[tuple[str, Trial]], rounds: int, report: Report, console: Console) -> None:
    """Make every trial once in each round: what the machine does meanwhile meets all alike.

    What takes long and varies little is measured in one round only.
    """
    planned = [
        (number, name, trial)
        for name in dict.fromkeys(name for name, _ in trials)
        for number in range(1 if name in ("idle", "soak", "transport") else rounds)
        for scenario, trial in trials
        if scenario == name
    ]
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("", total=sum(trial.seconds for _, _, trial in planned))
        for number, name, trial in planned:
            what = f"{name}, {trial.row}: {trial.target.name}"
            progress.update(bar, description=f"{what} (round {number + 1})")
            try:
                report.add(name, trial.row, trial.target.name, trial.measure())
            except Exception as error:
                report.failures.append(f"{what}: {error!r}")
            progress.advance(bar, trial.seconds)


def _allow_many_files() -> None:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = min(_RAISED_LIMIT_OF_FILES, hard) if hard >= 0 else _RAISED_LIMIT_OF_FILES
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


if __name__ == "__main__":
    main()
