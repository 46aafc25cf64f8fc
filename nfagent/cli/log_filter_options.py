"""The options of `nfagent logs` that filter records, by the names that Hubble has for them.

The same option several times: one of the values; different options: all of them. `--not` reverses the one behind it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import click
import msgspec

from nfagent.cli.complete_names import complete_names
from nfagent.errors import UsageError
from nfagent.verdicts.record_filter import Clause, Field, RecordFilter
from nfagent.verdicts.record_terms import parse_peer, parse_policy, parse_ports

_Command = TypeVar("_Command", bound=Callable[..., Any])
_KEPT = "nfagent.cli.log_filter_options"
_PEER = "Pod, namespace, label selector, CIDR, `node` or `world`"
_OTHER_VERDICTS = {
    "forwarded": "allow",
    "allowed": "allow",
    "dropped": "deny",
    "denied": "deny",
    "audit": "audit-deny",
}
"""Names that Hubble and `explain` have for verdicts."""


class _Verdict(click.Choice[str]):
    """A verdict, by its name in records or another one."""

    def __init__(self) -> None:
        """Offer the names in records."""
        super().__init__(("allow", "deny", "audit-deny"))

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the name in records."""
        return super().convert(_OTHER_VERDICTS.get(str(value).lower(), value), param, ctx)


class _Option(msgspec.Struct, frozen=True):
    """One option: its names, the field that it is about, what stands before its values in terms, and its type."""

    names: tuple[str, ...]
    field: Field
    help: str
    metavar: str | None = None
    prefix: str = ""
    type: Any = None
    flag: str = ""

    @property
    def key(self) -> str:
        """The long name without its dashes."""
        return self.names[-1 if self.names[0].count("-") == 1 else 0].removeprefix("--")


def _of_end(end: str, field: Field, where: str) -> Iterator[_Option]:
    yield _Option((f"--{end}pod",), field, f"Pod {where}, or Pods by a prefix: 'shop/web-*'.", "NS/POD", "pod:")
    yield _Option(
        ("-n", "--namespace") if not end else (f"--{end}namespace",),
        field,
        f"Namespace {where}.",
        "NS",
        "namespace:",
    )
    yield _Option(
        ("-l", "--label") if not end else (f"--{end}label",), field, f"Labels of a Pod {where}.", "SELECTOR", "label:"
    )
    yield _Option((f"--{end}ip",), field, f"Address or CIDR {where}.", "CIDR", "ip:")


OPTIONS = (
    _Option(("--from",), "from", f"Where connections come from: {_PEER}.", "PEER"),
    _Option(("--to",), "to", f"Where they go: {_PEER}.", "PEER"),
    *_of_end("", "peer", "at either end"),
    *_of_end("from-", "from", "that connections come from"),
    *_of_end("to-", "to", "that they go to"),
    _Option(("--port",), "port", "Port at either end, or a range: 8000-8100.", "PORT"),
    _Option(("--from-port",), "from_port", "Source port.", "PORT"),
    _Option(("--to-port",), "to_port", "Destination port.", "PORT"),
    _Option(
        ("--protocol",),
        "protocol",
        "Protocol.",
        type=click.Choice(("tcp", "udp", "sctp", "icmp", "icmpv6", "unknown"), case_sensitive=False),
    ),
    _Option(
        ("--direction", "--traffic-direction"),
        "direction",
        "Direction, seen from the Pod whose policies decided.",
        type=click.Choice(("ingress", "egress"), case_sensitive=False),
    ),
    _Option(("--verdict",), "verdict", "Verdict; also as dropped, forwarded, audit.", type=_Verdict()),
    _Option(("--policy",), "policy", "Policy that decided: NAMESPACE/NAME, or a name of the tiers.", "NS/NAME"),
    _Option(("-4", "--ipv4"), "family", "IPv4 alone.", flag="4"),
    _Option(("-6", "--ipv6"), "family", "IPv6 alone.", flag="6"),
)
_COMPLETED = {"PEER": "pods", "NS/POD": "pods", "NS": "namespaces", "NS/NAME": "policies"}
"""Which names of the running agent complete a value, by the option's metavar."""

_BY_NAME = {name: option for option in OPTIONS for name in option.names}


def filter_options(command: _Command) -> _Command:
    """Add the options, each with its reverse, and `--not`."""
    for option in reversed(OPTIONS):
        command = _click_option(option, (f"--not-{option.key}",), "none", hidden=True)(command)
        command = _click_option(option, option.names, "all", hidden=False)(command)
    return click.option(
        "--not", is_flag=True, expose_value=False, help="Reverse the filter behind it: --not --to-port 53."
    )(command)


def _click_option(
    option: _Option, names: tuple[str, ...], which: str, *, hidden: bool
) -> Callable[[_Command], _Command]:
    def keep(context: click.Context, _parameter: click.Parameter, value: tuple[str, ...] | bool) -> None:  # noqa: FBT001 - click's
        if value:
            given = (option.flag,) if isinstance(value, bool) else value
            terms = tuple(f"{option.prefix}{term}" for term in given)
            _check(option.field, terms)
            context.meta.setdefault(f"{_KEPT}.{which}", []).append(Clause(option.field, terms))

    name = f"{which}_{option.key.replace('-', '_')}"
    common: dict[str, Any] = {"callback": keep, "expose_value": False, "hidden": hidden, "help": option.help}
    if option.flag:
        return click.option(*names, name, is_flag=True, **common)
    if option.metavar in _COMPLETED:
        common["shell_complete"] = complete_names(_COMPLETED[option.metavar])
    return click.option(*names, name, multiple=True, metavar=option.metavar, type=option.type, **common)


def _check(field: Field, terms: Sequence[str]) -> None:
    parsers: dict[str, Callable[[str], object]] = {
        **dict.fromkeys(("from", "to", "peer"), parse_peer),
        **dict.fromkeys(("port", "from_port", "to_port"), parse_ports),
        "policy": parse_policy,
    }
    try:
        for term in terms:
            parsers.get(field, str)(term)
    except UsageError as error:
        raise click.BadParameter(str(error)) from None


def filter_of(context: click.Context, since: str, until: str) -> RecordFilter:
    """Return the filter of the command's options; since, until: as in RecordFilter."""
    required = _merged(context.meta.get(f"{_KEPT}.all", ()))
    return RecordFilter(required, tuple(context.meta.get(f"{_KEPT}.none", ())), since, until)


def _merged(clauses: Sequence[Clause]) -> tuple[Clause, ...]:
    """Return clauses with -4 and -6 together as either of them."""
    families = tuple(term for clause in clauses if clause.field == "family" for term in clause.terms)
    others = tuple(clause for clause in clauses if clause.field != "family")
    return (*others, Clause("family", families)) if families else others


class FilterCommand(click.Command):
    """A command with `--not` before an option."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read `--not --from X` as the reverse of `--from`."""
        return super().parse_args(ctx, list(_reversed(ctx, args)))


def _reversed(context: click.Context, arguments: Sequence[str]) -> Iterator[str]:
    rest = iter(arguments)
    for argument in rest:
        if argument != "--not":
            yield argument
            continue
        following = next(rest, "")
        name, equals, value = following.partition("=")
        if not following.startswith("--"):
            name, equals, value = following[:2], "=" if following[2:] else "", following[2:]
        option = _BY_NAME.get(name)
        if option is None:
            found = f"{following!r} isn't" if following else "there is none"
            context.fail(f"--not reverses the filter behind it, and {found}; write it like --not --to-port 53")
        yield f"--not-{option.key}{equals}{value}"
