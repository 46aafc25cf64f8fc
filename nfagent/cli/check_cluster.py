"""The checks of the API server, for `nfagent check --cluster`.

They change nothing: SelfSubjectReview and SelfSubjectAccessReview leave no object.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from nfagent.cli.check_crds import kind_checks
from nfagent.cli.check_node_object import node_checks
from nfagent.cli.check_rbac import permission_checks
from nfagent.cli.check_result import Check, CheckResult
from nfagent.config import Settings
from nfagent.errors import ClusterError, DecodeError, NfagentError
from nfagent.kube.certificate_expiry import Validity, certificate_validity, token_validity
from nfagent.kube.client import ApiClient, ApiResponse
from nfagent.kube.client_errors import server_prefix
from nfagent.kube.credentials import ClientConfig, find_client_config
from nfagent.kube.rbac import OLDEST_MINOR, TESTED_MINOR
from nfagent.kube.self_review import (
    SELF_REVIEW_BODY,
    SELF_REVIEW_PATH,
    VERSION_PATH,
    User,
    Version,
    decode_user,
    decode_version,
)
from nfagent.kube.watch_codec import decode_status
from nfagent.model.plurals import counted
from nfagent.system.regular_file import read_regular

_SECONDS = 10.0
"""Deadline of one request: a user waits at the terminal."""

_OK = 200
_UNAUTHORIZED = 401
_ANONYMOUS = "system:anonymous"
_NOT_READY = re.compile(r"^\[-\](\S+)", re.MULTILINE)
_UNITS = (("day", 86400), ("hour", 3600), ("minute", 60))


def run_cluster_checks(settings: Settings) -> list[Check]:
    """Check the API server of the settings; a failure that rules out the other checks is the last result."""
    # The checks report what the client would log.
    logging.getLogger("nfagent").addHandler(logging.NullHandler())
    return asyncio.run(_run(settings))


async def _run(settings: Settings) -> list[Check]:
    find = partial(find_client_config, settings.kubeconfig, settings.context, settings.token_file)
    server = ApiClient(find, seconds=_SECONDS)
    try:
        return await ask_cluster(server, settings)
    finally:
        await server.close()


async def ask_cluster(server: ApiClient, settings: Settings) -> list[Check]:
    """Run the checks against one API server, for the node of the settings; a refusal is a result, and not raised."""
    try:
        access = await server.client_config()
    except ClusterError as error:
        return [Check("credentials", "FAIL", error.reason, error.hint)]
    found = [_credentials(access, time.time())]
    try:
        ready, reply = [await server.request("GET", path) for path in ("/readyz", VERSION_PATH)]
        user, identity = await _identity(server)
    except ClusterError as error:
        return [*found, Check("API server", "FAIL", f"{access.server}: {_shortened(error, access)}", error.hint)]
    found += [_api_server(access, ready), identity]
    if identity.result == "FAIL":
        return found
    version, version_check = _version(reply)
    found.append(version_check)
    sections: tuple[tuple[str, Callable[[], Awaitable[list[Check]]]], ...] = (
        ("permissions", partial(permission_checks, server, user)),
        ("kinds", partial(kind_checks, server, version)),
        ("node", partial(node_checks, server, settings)),
    )
    for name, run in sections:
        try:
            found += await run()
        except (ClusterError, DecodeError) as error:
            found.append(Check(name, "FAIL", f"not checked: {_shortened(error, access)}", error.hint))
    return found


def _shortened(error: NfagentError, access: ClientConfig) -> str:
    """Return the reason without the API server and the kubeconfig: the lines above name them."""
    return error.reason.removeprefix(server_prefix(access))


def _credentials(access: ClientConfig, now: float) -> Check:
    words = f"{access.origin}: {access.auth_method or 'none'}"
    ends = list(_ends(access, now))
    found = "; ".join([words, *(text for text, _ in ends)])
    if not access.auth_method:
        fix = "give its user a token, a client certificate or an exec plugin, or set token_file"
        return Check("credentials", "warn", f"{found}: requests are anonymous", fix)
    if any(soon for _, soon in ends):
        return Check("credentials", "warn", found, "renew them; nfagent reads changed files again")
    return Check("credentials", "ok", found)


def _ends(access: ClientConfig, now: float) -> Iterator[tuple[str, bool]]:
    """Return when each credential expires, and whether a user must renew it."""
    if access.expires is not None:
        yield f"{_when(access.expires, now)}, then the exec plugin runs again", False
        return
    token = access.authorization.removeprefix("Bearer ")
    if access.token_file:
        token = _text(access.token_file) or token
    known: tuple[tuple[str, Validity | None, bool], ...] = (
        ("token", token_validity(token), bool(access.token_file)),
        ("certificate", certificate_validity(access.certificate or _text(access.certificate_file)), False),
    )
    for what, validity, rotated in known:
        if validity is not None:
            yield f"{what} {_when(validity.end, now)}", validity.ends_soon(now, rotated=rotated)


def _text(path: str) -> str:
    with suppress(OSError, ValueError):
        return read_regular(Path(path)).decode().strip() if path else ""
    return ""


def _when(end: float, now: float) -> str:
    moment = datetime.fromtimestamp(end, UTC).strftime("%Y-%m-%d %H:%M UTC")
    left = end - now
    if left <= 0:
        return f"ended {moment}"
    unit, seconds = next((found for found in _UNITS if left >= 2 * found[1]), _UNITS[-1])
    return f"ends {moment}, in {counted(max(1, int(left // seconds)), unit)}"


def _api_server(access: ClientConfig, ready: ApiResponse) -> Check:
    """Check that the API server is ready, and that its certificate is verified."""
    result: CheckResult = "ok"
    fix = ""
    # Where /readyz is refused, the API server counts as ready, as it does for the agent.
    said = "ready" if ready.status == _OK else "answers"
    if ready.status >= 500:
        missing = ", ".join(_NOT_READY.findall(ready.body.decode("utf-8", "replace"))) or str(ready.status)
        result, said, fix = "warn", f"answers, but isn't ready: {missing}", "see its log"
    if not access.server.startswith("https://"):
        return Check("API server", result, f"{access.server}: {said}; without TLS", fix)
    if access.insecure:
        said = f"{said}, but its certificate isn't verified: an attacker on the network can read and change everything"
        result, fix = "warn", "set certificate-authority instead of insecure-skip-tls-verify"
    return Check("API server", result, f"{access.server}: {said}", fix)


async def _identity(server: ApiClient) -> tuple[User | None, Check]:
    """Return the user of the credentials; API servers before 1.28 don't report it. Raises ClusterError."""
    answer = await server.request("POST", SELF_REVIEW_PATH, body=SELF_REVIEW_BODY)
    if answer.status == _UNAUTHORIZED:
        fix = "renew the credentials: the token or certificate has expired, or its account was deleted"
        return None, Check("identity", "FAIL", "the API server refuses the credentials: 401 Unauthorized", fix)
    try:
        user = decode_user(answer.body)
    except DecodeError:
        return None, Check("identity", "ok", "credentials accepted; API servers before 1.28 don't report the user")
    groups = ", ".join(filter(None, user.groups))
    words = f"{user} ({groups})" if groups else str(user)
    if user.username == _ANONYMOUS:
        return user, Check("identity", "warn", f"{words}: no credentials were sent", "set kubeconfig or token_file")
    if user.node:
        words += "; with NodeRestriction, this agent is never elected cluster reporter"
    return user, Check("identity", "ok", words)


def _version(answer: ApiResponse) -> tuple[Version | None, Check]:
    try:
        version = decode_version(answer.body)
    except DecodeError as error:
        said = str(error) if answer.status < 300 else f"unknown: {decode_status(answer.body, answer.status)}"
        return None, Check("version", "warn", said, "check that this is an API server: kubectl version")
    if version.minor < OLDEST_MINOR:
        found = f"{version.name}: older than 1.{OLDEST_MINOR}, the oldest supported version"
        return version, Check("version", "warn", found, "upgrade the control plane")
    newer = f"newer than 1.{TESTED_MINOR}, the newest tested version"
    made = f"supported from 1.{OLDEST_MINOR} on, tested up to 1.{TESTED_MINOR}"
    return version, Check("version", "ok", f"{version.name}; {newer if version.minor > TESTED_MINOR else made}")
