"""`nfagent bundle`: what others need to understand this node, in one file, without secrets."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from nfagent.cli.log_times import parse_when
from nfagent.cli.options import config_option, output_option, settings_of

if TYPE_CHECKING:
    from nfagent.cli.bundle_contents import BundleContents


def _when(_context: click.Context, _parameter: click.Parameter, value: str | None) -> tuple[int, str]:
    import time

    return (0, "") if value is None else (parse_when(value, time.time_ns()), value)


@click.command(
    epilog="""\b
Example: nfagent bundle --since 2h
         kubectl -n nfagent exec POD -- nfagent bundle - > node.tar.zst"""
)
@click.argument("path", metavar="[FILE]", type=click.Path(path_type=Path), required=False)
@click.option("--since", metavar="TIME", callback=_when, help="Logs from 2h ago, 10:15 or 2026-01-31T10:15 on.")
@click.option("--no-logs", is_flag=True, help="Leave out the verdict log and the journal.")
@config_option
@output_option("text", "json")
@click.pass_context
def bundle(
    context: click.Context,
    *,
    path: Path | None,
    since: tuple[int, str],
    no_logs: bool,
    config: Path | None,
    output: str,
) -> None:
    """Write state, rulesets, check, settings, metrics, logs and versions into one file, to send to others.

    FILE is nfagent-NODE-TIME.tar.zst in this folder by default; `-` is stdout. It has mode 0600, and exists only once
    it is whole. MANIFEST.json in it says what it has, what couldn't be read, and why. It works without an agent too.

    Removed are contents of kubeconfigs, tokens, keys, certificates, the environment of exec plugins, passwords in
    URLs, and annotations last-applied-configuration. Names, labels and addresses of the cluster stay: look before you
    publish it (zstd -dc FILE | tar x).

    Of the verdict log it has the last 20,000 records, of the journal as many lines, or all since TIME. A member has 64
    MiB at most; MANIFEST.json says where one was cut.

    Exit code 0: all is in it; 1: something couldn't be read; 2: there is no bundle.
    """
    import sys
    import time

    from nfagent.cli.bundle_archive import BundleArchive, new_file, standard_output
    from nfagent.cli.bundle_contents import BundleContents
    from nfagent.cli.bundle_sources import sources
    from nfagent.cli.known_secrets import known_secrets
    from nfagent.cli.output import emit
    from nfagent.cli.running_settings import node_in_use
    from nfagent.errors import UsageError
    from nfagent.system.interrupts import interrupting

    settings = settings_of(config)
    now = int(time.time())
    to_stdout, is_json = path == Path("-"), output == "json"
    if to_stdout and is_json:
        raise UsageError("stdout takes the archive or its list; name a FILE, or leave -o json out")
    node = node_in_use(settings)
    if path is None:
        path = Path(f"nfagent-{node}-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime(now))}.tar.zst")
    with interrupting(), standard_output() if to_stdout else new_file(path) as stream:
        archive = BundleArchive(stream, now)
        contents = BundleContents(
            known_secrets(settings), to_stderr=to_stdout or is_json, is_quiet=is_json and not sys.stderr.isatty()
        )
        for source in sources(settings, config, *since, logs=not no_logs):
            contents.add(archive, source)
        contents.add_manifest(archive, node, now)
        archive.close()
    if is_json:
        emit({"file": str(path), "bytes": path.stat().st_size, **contents.listing()}, "json")
    else:
        _say_where(contents, path, to_stdout=to_stdout)
    context.exit(0 if contents.is_whole else 1)


def _say_where(contents: BundleContents, path: Path, *, to_stdout: bool) -> None:
    from nfagent.cli.bundle_contents import size_text
    from nfagent.model.plurals import counted

    where = "written to stdout" if to_stdout else f"{path}: {size_text(path.stat().st_size)}"
    contents.say(f"{where}; {counted(contents.removed, 'secret')} removed")
