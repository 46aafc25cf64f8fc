"""GET /v1/names?kind=KIND&prefix=TEXT: names that begin with a text, for the completion of shells.

kind: `pods`, `policies` or `namespaces`. Answer: `{"names": [...]}`, sorted, 1,000 at most. Pods and NetworkPolicies
are NAMESPACE/NAME. Where a prefix without a slash fits several namespaces, the answer has these, as `shop/`: a cluster
has too many Pods to list.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable
from heapq import nsmallest

import msgspec
from aiohttp import web

from nfagent.desired.state import DesiredState
from nfagent.errors import UsageError
from nfagent.time_slices import TimeSlices

KINDS = ("pods", "policies", "namespaces")
_MOST = 1000
_KEPT = 4 * _MOST
"""So many names are kept before those that come last are dropped: sorting all at the end would take too long."""
_A_STEP = 1000


def names_route(desired: DesiredState, time_slices: TimeSlices) -> web.RouteDef:
    """Return the route. time_slices: in which the names are looked through."""

    async def names(request: web.Request) -> web.Response:
        kind, prefix = request.query.get("kind", ""), request.query.get("prefix", "")
        found = await time_slices.result(find_names(_keys(desired, kind), prefix))
        return web.Response(body=msgspec.json.encode({"names": found}), content_type="application/json")

    return web.get("/v1/names", names)


def find_names(keys: Iterable[tuple[str, str]], prefix: str) -> Generator[None, None, list[str]]:
    """Return the names that begin with a prefix, sorted; or namespaces with a slash, where several fit. In steps.

    keys: namespace and name of each object; '' where it has no namespace
    """
    namespaces, names = set[str](), list[str]()
    for number, (namespace, name) in enumerate(keys):
        if number % _A_STEP == 0:
            yield
        path = f"{namespace}/{name}" if namespace else name
        if path.startswith(prefix):
            names.append(path)
            if len(names) > _KEPT:
                names = nsmallest(_MOST, names)
            namespaces.add(f"{namespace}/" if namespace else name)
    if "/" in prefix or sum(each.endswith("/") for each in namespaces) < 2:
        return nsmallest(_MOST, names)
    return nsmallest(_MOST, namespaces)


def _keys(desired: DesiredState, kind: str) -> list[tuple[str, str]]:
    # Copied: objects may come and go between two steps.
    match kind:
        case "pods":
            return list(desired.cluster.pods)
        case "policies":
            return [(ref.namespace, ref.name) for ref in desired.index.policies]
        case "namespaces":
            known = {namespace for namespace, _ in desired.cluster.pods} | set(desired.cluster.namespaces)
            return [("", name) for name in known]
    raise UsageError(f"kind={kind!r}: write {', '.join(KINDS)}")
