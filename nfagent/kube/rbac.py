"""The permissions that nfagent needs on an API server, and what is lost without each of them.

`deploy/rbac.yaml` grants exactly these, and `nfagent check --cluster` checks exactly these; a test compares them.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from nfagent.model.gvk import RESOURCES, SERVICES, Resource

OLDEST_MINOR = 23
"""Minor version of the oldest API server that nfagent supports: 1.23."""

TESTED_MINOR = 34
"""Minor version of the newest API server that the tests run with."""

LEASES_NAMESPACE = "nfagent"
LEASE_NAME = "nfagent"
_BY_NAME = "metadata.name="
_GKE = "networking.gke.io"


class Permission(msgspec.Struct, frozen=True, order=True):
    """One verb on one resource, as in authorization.k8s.io/v1 ResourceAttributes.

    group:     '' for the core group
    resource:  the plural; with a subresource as in RBAC, `egressnatpolicies/status`
    namespace: '' for all namespaces, and for cluster-scoped resources
    name:      '' for all objects
    """

    group: str
    resource: str
    verb: str
    namespace: str = ""
    name: str = ""


class RBACRequirement(msgspec.Struct, frozen=True, kw_only=True):
    """Verbs on a resource that are useful only together.

    cost:  what is lost where one of them is denied, for messages
    vital: nothing is enforced without it
    """

    group: str
    resource: str
    verbs: tuple[str, ...]
    namespace: str = ""
    name: str = ""
    cost: str
    vital: bool = False

    @property
    def permissions(self) -> Iterator[Permission]:
        """One permission for each verb."""
        return (Permission(self.group, self.resource, verb, self.namespace, self.name) for verb in self.verbs)


def _list_and_watch(resource: Resource) -> RBACRequirement:
    # Optional kinds too: without the permission the API server responds 403, whether the kind is served or not, so a
    # client can't tell that it isn't served.
    return RBACRequirement(
        group=resource.group,
        resource=resource.plural,
        verbs=("list", "watch"),
        namespace=resource.namespace,
        name=_name(resource),
        cost="nothing is enforced until they can be read",
        vital=True,
    )


def _report_on(resource: Resource) -> RBACRequirement:
    has_conditions = resource.plural in _WITH_CONDITIONS
    return RBACRequirement(
        group=resource.group,
        resource=resource.plural,
        verbs=("get",),
        namespace=resource.namespace,
        name=_name(resource),
        cost="they get no status conditions" if has_conditions else "they get no Events",
    )


def _name(resource: Resource) -> str:
    """Return the name in a field selector, '' for none: RBAC authorizes a list by one name as a request for it."""
    return resource.field_selector.removeprefix(_BY_NAME) if resource.field_selector.startswith(_BY_NAME) else ""


_WITH_CONDITIONS = ("egressnatpolicies", "networkgatewaygroups")
_ELECTION = "this agent is never elected to report what concerns the whole cluster"

REQUIREMENTS = (
    *map(_list_and_watch, RESOURCES),
    *map(_report_on, RESOURCES),
    RBACRequirement(
        group=SERVICES.group,
        resource=SERVICES.plural,
        verbs=("list",),
        cost="nfagent explain doesn't resolve Services to their endpoints",
    ),
    RBACRequirement(
        group="",
        resource="events",
        verbs=("create", "patch"),
        cost="objects with problems get no Events",
    ),
    *(
        RBACRequirement(group=_GKE, resource=f"{plural}/status", verbs=("patch",), cost="they get no status conditions")
        for plural in _WITH_CONDITIONS
    ),
    RBACRequirement(
        group=_GKE,
        resource="egressnatpolicies",
        verbs=("create",),
        cost="the EgressNATPolicy default isn't created where it is missing",
    ),
    RBACRequirement(
        group="coordination.k8s.io",
        resource="leases",
        verbs=("create",),
        namespace=LEASES_NAMESPACE,
        cost=_ELECTION,
    ),
    RBACRequirement(
        group="coordination.k8s.io",
        resource="leases",
        verbs=("get", "update"),
        namespace=LEASES_NAMESPACE,
        name=LEASE_NAME,
        cost=_ELECTION,
    ),
)
"""All of them, without those of every authenticated user: discovery, /version, self-reviews."""
