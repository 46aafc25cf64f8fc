"""What nfagent needs of an API server: who may do what with which resources, and what it costs where that isn't so.

`deploy/rbac.yaml` grants just this, and `nfagent check --cluster` asks for just this; a test holds them together.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from nfagent.model.gvk import RESOURCES, SERVICES, Resource

OLDEST_MINOR = 23
"""The oldest API server that nfagent is made for: 1.23."""

TESTED_MINOR = 34
"""The newest that its tests run with."""

LEASES_NAMESPACE = "nfagent"
LEASE = "nfagent"
_BY_NAME = "metadata.name="
_GKE = "networking.gke.io"


class Permission(msgspec.Struct, frozen=True, order=True):
    """One thing to be allowed, as authorization.k8s.io/v1 ResourceAttributes have it.

    group:     '' for the core group
    resource:  its plural; with a subresource as RBAC writes it, `egressnatpolicies/status`
    namespace: '' for all of them, and for what is in none
    name:      '' for all
    """

    group: str
    resource: str
    verb: str
    namespace: str = ""
    name: str = ""


class RBACRequirement(msgspec.Struct, frozen=True, kw_only=True):
    """Verbs on a resource that stand and fall together.

    cost:  what is lost where one of them is denied, in words
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
        """Give a permission for each verb."""
        return (Permission(self.group, self.resource, verb, self.namespace, self.name) for verb in self.verbs)


def _following(resource: Resource) -> RBACRequirement:
    # Optional kinds too: of what isn't granted the API server says 403, whether it is served or not, and who is
    # refused can't know that there is none.
    return RBACRequirement(
        group=resource.group,
        resource=resource.plural,
        verbs=("list", "watch"),
        namespace=resource.namespace,
        name=_name(resource),
        cost="nothing is enforced before they could be read",
        vital=True,
    )


def _reporting(resource: Resource) -> RBACRequirement:
    has_conditions = resource.plural in _WITH_CONDITIONS
    return RBACRequirement(
        group=resource.group,
        resource=resource.plural,
        verbs=("get",),
        namespace=resource.namespace,
        name=_name(resource),
        cost="their status says nothing" if has_conditions else "kubectl describe shows no Events about them",
    )


def _name(resource: Resource) -> str:
    """Give the one object that is asked for: to an API server, a list by one name is a request for that name."""
    return resource.field_selector.removeprefix(_BY_NAME) if resource.field_selector.startswith(_BY_NAME) else ""


_WITH_CONDITIONS = ("egressnatpolicies", "networkgatewaygroups")
_SPEAKING = "this agent is never elected to say what concerns the whole cluster"

NEEDS = (
    *map(_following, RESOURCES),
    *map(_reporting, RESOURCES),
    RBACRequirement(
        group=SERVICES.group,
        resource=SERVICES.plural,
        verbs=("list",),
        cost="nfagent explain doesn't know who is behind a Service",
    ),
    RBACRequirement(
        group="",
        resource="events",
        verbs=("create", "patch"),
        cost="no Event says on an object what is wrong with it",
    ),
    *(
        RBACRequirement(group=_GKE, resource=f"{plural}/status", verbs=("patch",), cost="their status says nothing")
        for plural in _WITH_CONDITIONS
    ),
    RBACRequirement(
        group="coordination.k8s.io",
        resource="leases",
        verbs=("create",),
        namespace=LEASES_NAMESPACE,
        cost=_SPEAKING,
    ),
    RBACRequirement(
        group="coordination.k8s.io",
        resource="leases",
        verbs=("get", "update"),
        namespace=LEASES_NAMESPACE,
        name=LEASE,
        cost=_SPEAKING,
    ),
)
"""Everything. What every authenticated user may do (discovery, /version, reviews of oneself) isn't among it."""
