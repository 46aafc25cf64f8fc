"""`nfagent status`: whether all is well on this node, in ten lines."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from nfagent.cli.options import color_option, config_option, output_option, settings_of

if TYPE_CHECKING:
    from nfagent.introspection.status_view import DeniedCount, StatusView

_NAMED = 3
_MINUTE, _HOUR, _DAY = 60, 3600, 86400


@click.command(epilog="Example: nfagent status || nfagent dump state")
@config_option
@color_option
@output_option("text", "json")
@click.pass_context
def status(context: click.Context, *, config: Path | None, output: str) -> None:
    """Show whether all is well on this node: rules in force, source, policies, what was denied, log, health.

    Packets denied are those of the last five minutes, by the kernel's counters; the three lines below have the most
    packets. They are from the verdict log where denied connections are logged, else from the policies' counters, which
    name no ends.

    Exit code 0: all is well; 1: degraded, the last lines say why; 2: no agent answers.
    """
    import msgspec

    from nfagent.cli.output import emit, write_lines
    from nfagent.errors import UsageError
    from nfagent.introspection.agent_client import NoAgentError, get_json
    from nfagent.introspection.answer_format import answer_format
    from nfagent.introspection.status_view import StatusView

    try:
        content = get_json(settings_of(config).socket_path, "/v1/status", {})
    except NoAgentError as error:
        raise UsageError(
            str(error), hint="see: systemctl status nfagent; `nfagent check` says what this node lacks"
        ) from None
    with answer_format("the running agent's status has"):
        view = msgspec.convert(content, StatusView)
    if output == "json":
        emit(content, "json")
    else:
        write_lines(status_lines(view))
    context.exit(0 if view.health == "ok" else 1)


def status_lines(view: StatusView) -> list[str]:
    """Return the lines."""
    from nfagent.cli.tables import facts, paint
    from nfagent.model.plurals import counted

    health = [("health", paint("ok"))]
    if view.health != "ok":
        health = [("health", f"{paint('FAIL')}, degraded"), *((" ", text) for text in view.problems)]
    so_far = "" if view.source.synced else ", as far as it was read"
    drift = counted(view.drift_repairs, "repair") + (f", last by {view.drift_by}" if view.drift_by else "")
    return facts(
        [
            ("agent", f"nfagent {view.version}, node {view.node}, up {span(view.uptime_seconds)}"),
            ("source", _source(view)),
            ("in sync", _sync(view)),
            *([("backend", view.backend)] if view.backend else []),
            ("Pods", f"{view.local_pods} here, {view.pods} in the cluster{so_far}"),
            ("policies", f"{_policies(view)}{so_far}"),
            *_denied(view),
            ("log loss", _loss(view)),
            ("drift", drift),
            *health,
        ]
    )


def span(seconds: float) -> str:
    """Return a time span in words: `12 s`, `5 min`, `3 h 20 min`, `2 d 4 h`."""
    whole = int(seconds)
    if whole < _MINUTE:
        return f"{whole} s"
    if whole < _HOUR:
        return f"{whole // _MINUTE} min"
    if whole < _DAY:
        return f"{whole // _HOUR} h {whole % _HOUR // _MINUTE} min"
    return f"{whole // _DAY} d {whole % _DAY // _HOUR} h"


def _last(seconds: float) -> str:
    """Return the time span that follows "in the last"."""
    words = span(seconds)
    return "minute" if words == "1 min" else words


def _source(view: StatusView) -> str:
    from nfagent.cli.tables import paint

    source = view.source
    # Which API server it is may not be known yet: its kubeconfig may be missing.
    name = f"API server {source.name}".strip() if source.kind == "apiserver" else f"manifests in {source.name}"
    if not source.synced:
        return f"{paint('warn')}, {name}: not read whole yet"
    if source.age_seconds is None:
        return name
    return f"{name}, {'last heard' if source.kind == 'apiserver' else 'last change'} {span(source.age_seconds)} ago"


def _sync(view: StatusView) -> str:
    from nfagent.cli.tables import paint

    if not view.in_sync:
        enforced = f"; enforced until then: {view.enforced}" if view.enforced else ""
        return f"{paint('FAIL')}, the kernel doesn't hold the rules{enforced}"
    since = f", for {span(view.in_sync_seconds)}" if view.in_sync_seconds is not None else ""
    return f"{paint('ok')}{since}"


def _policies(view: StatusView) -> str:
    from nfagent.cli.tables import paint

    closed, count = view.failing_closed_in_all, view.policies or "none"
    if not closed:
        return f"{count}, none fails closed" if view.policies else str(count)
    more = f" and {closed - _NAMED} more" if closed > _NAMED else ""
    return f"{count}, {closed} {paint('FAIL CLOSED')}: {', '.join(view.failing_closed[:_NAMED])}{more}"


def _denied(view: StatusView) -> Iterator[tuple[str, str]]:
    from nfagent.model.plurals import counted

    denied = view.denied
    if not denied.seconds:
        yield "denied", "not counted yet"
        return
    by = "" if denied.by == "log" or not denied.top else "; by counters: denied connections aren't all logged"
    yield "denied", f"{counted(denied.packets, 'packet')} in the last {_last(denied.seconds)}{by}"
    for item in denied.top:
        yield " ", f"{item.packets} {_denied_text(item)}"


def _denied_text(item: DeniedCount) -> str:
    if item.reason:
        return f"without a policy: {item.reason}"
    ends = f"{item.source} -> {item.destination} " if item.source else ""
    return f"{ends}by {', '.join(item.policies) or 'no policy'}"


def _loss(view: StatusView) -> str:
    from nfagent.cli.tables import paint
    from nfagent.model.plurals import counted

    loss = view.log_loss
    found = [
        f"{counted(loss.unread, 'packet')} not read in time" if loss.unread else "",
        f"{counted(loss.unwritten, 'record')} not written" if loss.unwritten else "",
        f"{counted(loss.dropped, 'record')} beyond the rate limit" if loss.dropped else "",
    ]
    text = ", ".join(filter(None, found))
    if loss.problem:
        return f"{paint('FAIL')}, {text + ': ' if text else ''}{loss.problem}"
    return f"{paint('warn')}, {text}, since the start" if text else "none since the start"
