"""`nfagent explain`: the verdict on a connection, with its reasons."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nfagent.cli.complete_names import complete_names
from nfagent.cli.options import config_option, manifests_option, node_option, output_option, view_settings_of

if TYPE_CHECKING:
    from nfagent.policy.evaluator import Flow
    from nfagent.verdicts.records import Record

_PORTLESS = {"icmp", "icmpv6"}
_VERDICTS = {"allowed", "denied"}


@click.command(epilog="Example: nfagent explain shop/web shop/db:5432/tcp")
@click.argument("source", required=False, metavar="[SRC", shell_complete=complete_names("pods"))
@click.argument("destination", required=False, metavar="DST]", shell_complete=complete_names("pods"))
@click.option(
    "--from-log", "record", metavar="RECORD", help="Explain a record of the verdict log: its JSON, or - for stdin."
)
@manifests_option
@node_option
@config_option
@output_option("text", "json", "yaml")
@click.pass_context
def explain(
    context: click.Context,
    *,
    source: str | None,
    destination: str | None,
    record: str | None,
    manifests: Path | None,
    node: str,
    config: Path | None,
    output: str,
) -> None:
    """Explain why a connection from SRC to DST is allowed or denied, and which change would flip the verdict.

    SRC and DST are NAMESPACE/POD or an address; DST may be a Service, svc/NAMESPACE/NAME. DST may name a port:
    shop/db:5432/tcp, shop/db:postgres, svc/shop/db:sql, 10.0.0.7:53/udp, [2001:db8::7]:443. Without a port, ICMP
    echo (ping) is evaluated.

    A Service, by its name, its address, or a node's address with its node port, stands for the Pods behind it: each of
    them is evaluated.

    For an address outside the cluster, the last line has the source address that is seen there, and what decides it.

    Exit code 0: allowed; 1: denied, by at least one of a Service's Pods, or because it has none; 2: the verdict is
    unknown, and stderr has the reason.
    """
    from nfagent.cli.backends import find_backend
    from nfagent.cli.output import emit, write_freshness, write_lines

    logged = None
    if record is not None and source is None:
        logged = _read_record(record)
        ends = _ends(logged)
    elif record is None and source is not None and destination is not None:
        ends = (source, destination)
    else:
        context.fail("give both ends, as in `nfagent explain shop/web shop/db:5432/tcp`, or --from-log alone")
    backend = find_backend(view_settings_of(config, manifests, node), from_files=manifests is not None)
    found = backend.explain(*ends)
    changed = logged is not None and _contradicts(found, logged)
    if output == "text":
        write_lines(_text(found))
    else:
        emit(found, output)
    if logged is not None and changed:
        _remark_change(logged)
    known = write_freshness(found)
    context.exit((0 if found["allowed"] else 1) if known else 2)


def _text(found: dict[str, Any]) -> list[str]:
    from nfagent.cli.tables import paint, strong

    verdict, _, rest = found["verdict"].partition(" ")
    shown = f"{paint(verdict.upper())} {rest}" if verdict in _VERDICTS else strong(found["verdict"])
    return [f"{found['connection']}: {shown.rstrip()}", *map(_painted, found["lines"])]


def _painted(line: str) -> str:
    """Return a line with the verdict at its end coloured."""
    from nfagent.cli.tables import paint

    said, colon, verdict = line.rpartition(": ")
    return f"{said}{colon}{paint(verdict)}" if verdict in _VERDICTS else line


def _read_record(text: str) -> Record:
    from nfagent.errors import UsageError
    from nfagent.verdicts.records import decode

    line = sys.stdin.readline() if text == "-" else text
    if not line.strip():
        raise UsageError("--from-log has no record; give a line of `nfagent logs -o json`")
    return decode(line.encode())


def _ends(record: Record) -> tuple[str, str]:
    from nfagent.errors import UsageError
    from nfagent.model.netaddr import endpoint
    from nfagent.verdicts.attribution import flow_of

    flow: Flow = flow_of(record)
    if flow.protocol in _PORTLESS:
        return flow.source, f"packet:{flow.destination}"
    if flow.port is None or flow.protocol == "unknown":
        raise UsageError(f"the record has no {'protocol' if flow.protocol == 'unknown' else 'port'} to evaluate")
    return flow.source, f"packet:{endpoint(flow.destination, flow.port)}/{flow.protocol}"


def _contradicts(found: dict[str, Any], record: Record) -> bool:
    # A record has the verdict of one end; that of the other end may differ.
    side = found["judged"][0]["judgement"][record.connection.direction]  # codespell:ignore judgement
    return (side is None or side["allowed"]) != (record.disposition != "deny")


def _remark_change(record: Record) -> None:
    from nfagent.cli.output import write_remark

    verdict = "denied" if record.disposition == "deny" else "allowed"
    write_remark("note", f"the connection was {verdict} at {record.timestamp}; Pods or policies have changed since")
