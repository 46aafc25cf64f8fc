"""`make vagrant-lab`: from nothing to the report of a lab of virtual machines, without a hand on it.

    python -m nfagent.lab.vagrant.run --nodes 2 --folder build/vagrant-lab [options of `nfagent lab latency`]

Brings the lab up, runs `demo` and `latency` in a worker, writes the report, and destroys the lab, whatever happened. In
the folder are demo.txt, samples.json, the report's files, and lab.json: what was run, and how long each step took.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import msgspec

from nfagent.errors import HostError, NfagentError
from nfagent.lab.latency.samples import SCENARIOS, read_samples
from nfagent.lab.report.folder import write_report
from nfagent.lab.vagrant import driver as vagrant

NAME = "run"
# For emulated machines: enough for ratios, and without the list of 10,000 blocks, which takes six seconds a try there.
_SCENARIOS = tuple(name for name in SCENARIOS if name != "ip-block-10000")
LATENCY = (
    *("--policies", "100", "--pods", "500", "--tries", "200"),
    *(word for name in _SCENARIOS for word in ("--scenario", name)),
)


def _say(text: str) -> None:
    sys.stdout.write(f"==> {text}\n")
    sys.stdout.flush()


class _Steps:
    """The steps of a run, with their seconds."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        began = time.monotonic()
        _say(name)
        yield
        self.seconds[name] = round(time.monotonic() - began, 1)
        _say(f"{name}: {self.seconds[name]:.0f} s")


def run_lab(nodes: int, folder: Path, latency: tuple[str, ...]) -> None:
    """Run all steps. Raises HostError for one that fails, UsageError."""
    folder.mkdir(parents=True, exist_ok=True)
    steps = _Steps()
    samples = folder / "samples.json"
    with steps.step("up"):
        vagrant.up(NAME, nodes, 3, _say)
    try:
        with steps.step("demo"):
            _expect(vagrant.run(NAME, vagrant.WORKER, ["nfagent", "lab", "demo"], folder / "demo.txt"), "lab demo")
            sys.stdout.write((folder / "demo.txt").read_text("utf-8"))
        with steps.step("latency"):
            code = vagrant.latency(NAME, latency, samples)
        with steps.step("facts"):
            facts = {vm: vagrant.facts(NAME, vm) for vm in ("cp", *(f"worker-{each + 1}" for each in range(nodes)))}
    finally:
        with steps.step("down"):
            vagrant.down(NAME, _say)
    # A run of an hour that failed at its end has samples, too.
    if not samples.exists():
        _expect(code or 1, "lab latency")
    with steps.step("report"):
        write_report(read_samples(samples), folder)
    found = {"workers": nodes, "latency": list(latency), "seconds": steps.seconds, "machines": facts}
    (folder / "lab.json").write_bytes(msgspec.json.format(msgspec.json.encode(found)) + b"\n")
    _say(f"the report: {folder}")
    _expect(code, "lab latency")


def _expect(code: int, what: str) -> None:
    if code:
        raise HostError(f"`nfagent {what}` in {vagrant.WORKER} ended with exit code {code}")


@click.command(context_settings={"ignore_unknown_options": True})
@click.option("--nodes", default=2, show_default=True)
@click.option("--folder", default=Path("build/vagrant-lab"), type=click.Path(path_type=Path), show_default=True)
@click.argument("latency", nargs=-1, type=click.UNPROCESSED)
@click.pass_context
def main(context: click.Context, *, nodes: int, folder: Path, latency: tuple[str, ...]) -> None:
    """Run the lab of virtual machines, and write its report."""
    try:
        run_lab(nodes, folder, latency or LATENCY)
    except NfagentError as error:
        sys.stderr.write(f"{error}\n")
        context.exit(2)
    except KeyboardInterrupt:
        context.exit(130)


if __name__ == "__main__":
    main()
