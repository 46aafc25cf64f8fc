"""`python -m tests.fuzz_decoders`: fuzzes the targets, or replays one input."""

from __future__ import annotations

import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import click

from tests.fuzz_decoders import report
from tests.fuzz_decoders.run import FuzzResult, run_target
from tests.fuzz_decoders.targets import TARGETS

_REPORT_SECONDS = 10.0
_NAMES = [target.name for target in TARGETS]


class _Progress:
    """Writes a line about a target now and then."""

    def __init__(self, inputs: int) -> None:
        self._inputs = inputs
        self._written = time.monotonic()

    def report(self, result: FuzzResult) -> None:
        if time.monotonic() - self._written >= _REPORT_SECONDS:
            self._written = time.monotonic()
            done = 100 * result.inputs // self._inputs
            click.echo(
                f"    {result.name}: {result.inputs} inputs ({done} %), {result.coverage} branches, "
                f"{result.peak_mb} MiB, longest input {result.longest_ms:.1f} ms"
            )


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option("--inputs", default=1_000_000, show_default=True, help="Inputs of each target.")
@click.option("--seconds", default=0, help="Seconds of each target, where that ends before; 0 for any number.")
@click.option("--only", multiple=True, type=click.Choice(_NAMES), help="Fuzz this target alone; may be repeated.")
@click.option("--jobs", default=1, show_default=True, type=click.IntRange(1), help="Targets at once.")
@click.option("--replay", type=click.Path(path_type=Path, exists=True), help="Decode this input again, alone.")
@click.option("--write", type=click.Path(path_type=Path, exists=True), help="Write each target's last result here.")
@click.option("--build", default="build/fuzz-decoders", show_default=True, type=click.Path(path_type=Path))
def main(
    *, inputs: int, seconds: int, only: tuple[str, ...], jobs: int, replay: Path | None, write: Path | None, build: Path
) -> None:
    """Fuzz every decoder by atheris, from seeds that are made here and the corpus of earlier runs.

    Exit code: 0 where no input failed, 1 where one did.
    """
    if replay is not None:
        _replay(replay)
        return

    def fuzz(name: str) -> FuzzResult:
        click.echo(f"==> {name}")
        result = run_target(name, inputs, build / name, _Progress(inputs).report, seconds)
        report.save(result, build / name)
        _show(result)
        return result

    # What waits for its turn isn't started after Ctrl-C, which ends the workers too.
    pool = ThreadPoolExecutor(jobs)
    try:
        results = list(pool.map(fuzz, only or _NAMES))
    finally:
        pool.shutdown(cancel_futures=True)
    click.echo(report.text(results))
    if write is not None:
        table = report.markdown(report.saved(build, _NAMES))
        write.write_text(report.insert(write.read_text("utf-8"), table), "utf-8")
    sys.exit(any(result.failed for result in results))


def _replay(path: Path) -> None:
    """Decode an input of the target that its folder is named after."""
    target = next((target for target in TARGETS if target.name == path.absolute().parent.name), None)
    if target is None:
        raise click.UsageError(f"{path} is in no folder of a target: {', '.join(_NAMES)}")
    content = path.read_bytes()
    click.echo(f"{target.name}: {content!r}")
    click.echo("decoded" if target.accept(content) else "refused, as it should be")


def _show(result: FuzzResult) -> None:
    click.echo(f"{result.name}: {result.inputs} inputs in {result.seconds:.0f} s of CPU")
    if result.failed:
        click.echo("\n".join(result.lines))
    if result.found:
        click.echo(f"    input: {Path(result.found).read_bytes()!r}")
        click.echo(f"    again: make fuzz-decoders REPLAY={result.found}")


if __name__ == "__main__":
    main()
