"""The checks of RBAC permissions, for `nfagent check --cluster`."""

from __future__ import annotations

import asyncio
import re
import shlex
from itertools import groupby

from nfagent.cli.check_result import Check
from nfagent.errors import ClusterError
from nfagent.kube.client import ApiClient
from nfagent.kube.rbac import REQUIREMENTS, Permission, RBACRequirement
from nfagent.kube.self_review import ACCESS_REVIEW_PATH, User, access_review, decode_access_review
from nfagent.kube.watch_codec import decode_status

ACCOUNT = ("nfagent", "nfagent")
"""Namespace and name of the service account that deploy/rbac.yaml makes and binds."""

_APPLY = "kubectl apply -k deploy"
_CONCURRENT_REVIEWS = 8
_CREATED = {200, 201}
_NO_NAME = re.compile(r"[^A-Za-z0-9.:-]+")


async def permission_checks(server: ApiClient, user: User | None) -> list[Check]:
    """Check every permission that nfagent needs. Raises ClusterError, DecodeError."""
    wanted = [(need, permission) for need in REQUIREMENTS for permission in need.permissions]
    slots = asyncio.Semaphore(_CONCURRENT_REVIEWS)
    allowed = await asyncio.gather(*(_ask(server, permission, slots) for _, permission in wanted))
    denied = [pair for pair, is_allowed in zip(wanted, allowed, strict=True) if not is_allowed]
    return _report(denied, len(wanted), user)


async def _ask(server: ApiClient, permission: Permission, slots: asyncio.Semaphore) -> bool:
    async with slots:
        answer = await server.request("POST", ACCESS_REVIEW_PATH, body=access_review(permission))
    if answer.status not in _CREATED:
        raise ClusterError(str(decode_status(answer.body, answer.status)), hint=_APPLY)
    return decode_access_review(answer.body)


def _report(denied: list[tuple[RBACRequirement, Permission]], total: int, user: User | None) -> list[Check]:
    whom = str(user) if user is not None else "the user of these credentials"
    if not denied:
        return [Check("permissions", "ok", f"all {total} are granted to {whom}")]
    vital = any(need.vital for need, _ in denied)
    if len(denied) == total:
        found = f"none of {total} is granted to {whom}: nothing is enforced"
        return [Check("permissions", "FAIL", found, _binding({permission.namespace for _, permission in denied}, user))]
    allowed = total - len(denied)
    found = f"{allowed} of {total} {'is' if allowed == 1 else 'are'} granted to {whom}; these are not:"
    lines = [_denial(list(group), user) for _, group in groupby(sorted(denied, key=_place_and_verb), key=_place)]
    lines.sort(key=lambda line: line.result != "FAIL")
    return [Check("permissions", "FAIL" if vital else "warn", found), *lines]


def _denial(denied: list[tuple[RBACRequirement, Permission]], user: User | None) -> Check:
    """Return the check of one resource: the denied verbs, and what doesn't work without them."""
    needs, permissions = zip(*denied, strict=True)
    vital = any(need.vital for need in needs)
    # Where nothing is enforced, the other costs don't matter.
    costs = dict.fromkeys(need.cost for need in needs if need.vital or not vital)
    verbs = ", ".join(permission.verb for permission in permissions)
    found = f"{verbs} {_resource(permissions[0])}: {'; '.join(costs)}"
    return Check("denied", "FAIL" if vital else "warn", found, _binding({permissions[0].namespace}, user))


def _place(pair: tuple[RBACRequirement, Permission]) -> tuple[str, str, str]:
    _, permission = pair
    return permission.namespace, permission.group, permission.resource


def _place_and_verb(pair: tuple[RBACRequirement, Permission]) -> tuple[tuple[str, str, str], str]:
    return _place(pair), pair[1].verb


def _resource(permission: Permission) -> str:
    """Return the name of a resource in kubectl's form."""
    plural, _, subresource = permission.resource.partition("/")
    named = f"{plural}.{permission.group}" if permission.group else plural
    named += f"/{subresource}" if subresource else ""
    return f"{named} in {permission.namespace}" if permission.namespace else named


def _binding(namespaces: set[str], user: User | None) -> str:
    """Return the commands that grant the permissions, cluster-wide ('') or in namespaces."""
    if user is None:
        return f"{_APPLY}\nand bind its roles to the user of these credentials"
    if user.service_account == ACCOUNT:
        return _APPLY
    if user.node:
        return f"{_APPLY}\n{_APPLY}/node-credentials"
    subject = f"--user={user.username}"
    if user.service_account is not None:
        subject = f"--serviceaccount={':'.join(user.service_account)}"
    name = _NO_NAME.sub("-", f"nfagent-{user.username}")
    lines = [_APPLY]
    for namespace in sorted(namespaces):
        where = ["-n", namespace, "create", "rolebinding"] if namespace else ["create", "clusterrolebinding"]
        role = "--role=nfagent" if namespace else "--clusterrole=nfagent"
        lines.append(shlex.join(["kubectl", *where, name, role, subject]))
    return "\n".join(lines)
