"""`python -m tests.fuzz_decoders`: fuzzes the targets in turn, or replays one input."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import click

from tests.fuzz_decoders.run import FuzzResult, run_target
from tests.fuzz_decoders.targets import TARGETS

_REPORT_SECONDS = 10.0
_NAMES = [target.name for target in TARGETS]


class _Progress:
    """Writes a line about a target now and then."""

    def __init__(self) -> None:
        self._written = time.monotonic()

    def report(self, result: FuzzResult) -> None:
        if time.monotonic() - self._written >= _REPORT_SECONDS:
            self._written = time.monotonic()
            click.echo(f"    {result.inputs} inputs, {result.coverage} branches, {result.peak_mb} MiB")


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option("--inputs", default=1_000_000, show_default=True, help="Inputs of each target.")
@click.option("--only", multiple=True, type=click.Choice(_NAMES), help="Fuzz this target alone; may be repeated.")
@click.option("--replay", type=click.Path(path_type=Path, exists=True), help="Decode this input again, alone.")
@click.option("--build", default="build/fuzz-decoders", show_default=True, type=click.Path(path_type=Path))
def main(*, inputs: int, only: tuple[str, ...], replay: Path | None, build: Path) -> None:
    """Fuzz every decoder by atheris, from seeds that are made here and the corpus of earlier runs.

    Exit code: 0 where no input failed, 1 where one did.
    """
    if replay is not None:
        _replay(replay)
        return
    results = []
    for name in only or _NAMES:
        click.echo(f"==> {name}")
        result = run_target(name, inputs, build / name, _Progress().report)
        results.append(result)
        click.echo(_row(result))
        if result.failed:
            _show_failure(result)
    _show_table(results)
    sys.exit(any(result.failed for result in results))


def _replay(path: Path) -> None:
    """Decode an input of the target that its folder is named after."""
    target = next((target for target in TARGETS if target.name == path.absolute().parent.name), None)
    if target is None:
        raise click.UsageError(f"{path} is in no folder of a target: {', '.join(_NAMES)}")
    content = path.read_bytes()
    click.echo(f"{target.name}: {content!r}")
    click.echo("decoded" if target.accept(content) else "refused, as it should be")


def _show_failure(result: FuzzResult) -> None:
    click.echo("\n".join(result.lines))
    if result.found:
        click.echo(f"    input: {Path(result.found).read_bytes()!r}")
        click.echo(f"    again: make fuzz-decoders REPLAY={result.found}")


def _show_table(results: list[FuzzResult]) -> None:
    click.echo(f"{'target':<20} {'inputs':>9} {'seconds':>8} {'inputs/s':>9} {'branches':>9} {'peak MiB':>9}  result")
    for result in results:
        click.echo(_row(result))


def _row(result: FuzzResult) -> str:
    speed = result.inputs // max(1, result.seconds)
    return (
        f"{result.name:<20} {result.inputs:>9} {result.seconds:>8} {speed:>9} "
        f"{result.coverage:>9} {result.peak_mb:>9}  {'failed' if result.failed else 'no failure'}"
    )


if __name__ == "__main__":
    main()
