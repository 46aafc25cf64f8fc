"""What the objects that policies depend on were before they changed, so that a packet is judged by the rules it met.

A change is in force from its commit on, not from its event: until then the object before it counts. A packet is read
after it was logged, and meanwhile its Pod or policies may have changed or gone. Kept is what was replaced in the last
minute; an event costs one look-up before and one after it.

The changes of one commit are one *generation*. An object's entries say up to which generation it was what.

The verdicts of rules that are gone are forgotten at the same time: their packets are judged by these objects.

Pods of other nodes change by the hundred a second in a large cluster. They have a bound of their own, so that they
push out nothing of this node's Pods, of policies, Namespaces and Nodes. The addition of such a Pod is kept too: without
it, its address would be the Pod's before that, and records would name policies that select it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from operator import itemgetter
from typing import Literal, TypeAlias

from nfagent.desired.state import DesiredState
from nfagent.model.admin_policy import Policy, TierPolicy
from nfagent.model.gvk import Item
from nfagent.model.networkpolicy import IpBlock, NetworkPolicy
from nfagent.model.objects import Namespace, Node, ObjectRef, Pod
from nfagent.state.cluster import ClusterState, PodKey

_KEPT_NS = 60 * 10**9
_UNREAD_NS = 2 * 10**9
"""Packets are read this soon after they were logged, and mostly within the 0.1 s for which the kernel keeps them."""
_MOST_WEIGHT = 4_096
"""Replaced objects of so much weight are kept on either side, this node's or other nodes' Pods, the latest ones: some
8 MB each. The last one is kept whatever its weight."""

_LISTED_A_UNIT = 8
"""A unit of weight is 2 KB, a Pod that is gone: as much as so many peers and ports that a policy lists."""

_Replaced: TypeAlias = Pod | Namespace | Node | Policy
_Group: TypeAlias = tuple[Literal["address", "namespace", "node", "policies"], str]
"""Where an object is looked for: at an address, by a Namespace's name, among Nodes, among a Namespace's policies."""

Holders: TypeAlias = tuple[PodKey | None, PodKey | None]
"""The Pods at source and destination; None for an address that no Pod holds."""

_FIRST_KNOWN = 1
"""The generation of the first commit: which rules were in force before isn't known."""


class _Order:
    """Where replaced objects are, in the order of their generations, with what they weigh."""

    def __init__(self) -> None:
        self._entries: deque[tuple[int, _Group, ObjectRef, int]] = deque()
        self._weight = 0

    def __bool__(self) -> bool:
        return bool(self._entries)

    @property
    def oldest(self) -> int:
        return self._entries[0][0]

    @property
    def latest(self) -> int:
        return self._entries[-1][0] if self._entries else -1

    @property
    def is_too_heavy(self) -> bool:
        return self._weight > _MOST_WEIGHT and len(self._entries) > 1

    def append(self, generation: int, group: _Group, ref: ObjectRef, weight: int) -> None:
        self._entries.append((generation, group, ref, weight))
        self._weight += weight

    def pop_first(self) -> tuple[int, _Group, ObjectRef]:
        generation, group, ref, weight = self._entries.popleft()
        self._weight -= weight
        return generation, group, ref


class ObjectHistory:
    """The replaced objects of a desired state; events reach that state through `put` and `remove`."""

    def __init__(self, desired: DesiredState, now_ns: Callable[[], int]) -> None:
        """Start without any; nothing is kept before the first `cover`: no rules of these objects are in force.

        now_ns: returns nanoseconds since the epoch, as packets' timestamps are
        """
        self._desired = desired
        self._now_ns = now_ns
        # Each object's states by the last generation that they were replaced in, oldest first.
        self._replaced: dict[_Group, dict[ObjectRef, dict[int, _Replaced | None]]] = {}
        # In the order of these generations: Pods of other nodes, and all else.
        self._remote = _Order()
        self._near = _Order()
        self._known_from = _FIRST_KNOWN
        # The generation that events belong to, and the last one that a commit covers; 0 is before the first event.
        self._open = 1
        self._covered = -1
        self._covered_retirements = 0
        # Time of a commit, the last generation in force since, and the retirements of verdicts that were computed then;
        # all generations up to `_oldest` are in force before these.
        self._commits: list[tuple[int, int, int]] = []
        self._oldest = 0

    def put(self, item: Item) -> bool:
        """Add or replace an object of the desired state. Return whether anything changed."""
        if self._covered < 0 or not isinstance(item, _Replaced):
            return self._desired.put(item)
        before = self._find(item.ref)
        changed = self._desired.put(item)
        self._note(item.ref, before, self._find(item.ref))
        return changed

    def remove(self, ref: ObjectRef) -> bool:
        """Remove an object of the desired state. Return whether anything changed."""
        if self._covered < 0:
            return self._desired.remove(ref)
        before = self._find(ref)
        changed = self._desired.remove(ref)
        self._note(ref, before, None)
        return changed

    def cover(self) -> None:
        """Note that the next commit contains every change so far."""
        if self._covered < 0 or self._last_replaced == self._open:
            self._covered = self._open
            self._open += 1
        self._covered_retirements = self._desired.verdicts.retirements

    def committed(self) -> None:
        """Note that the covered changes are in force."""
        now = self._now_ns()
        known = self._commits[-1] if self._commits else (0, self._oldest, 0)
        if now < known[0]:  # the clock was set back: earlier times can't be compared with it
            self._commits.clear()
            self._oldest = max(self._covered, known[1])
        elif self._covered > known[1]:
            self._commits.append((now, self._covered, self._covered_retirements))
        expired = bisect_right(self._commits, now - _KEPT_NS, key=itemgetter(0))
        if expired:
            _, self._oldest, retirements = self._commits[expired - 1]
            self._desired.verdicts.forget_retired(retirements)
            del self._commits[:expired]
        for order in (self._remote, self._near):
            while order and order.oldest <= self._oldest:
                self._forget_first(order)

    def generation_at(self, timestamp_ns: int | None) -> int:
        """Return the generation in force at a time, None for now."""
        if not self._commits:
            return self._oldest
        last = self._commits[-1]
        return last[1] if timestamp_ns is None or timestamp_ns >= last[0] else self.generations(timestamp_ns)[0]

    def generations(self, timestamp_ns: int | None) -> tuple[int, int]:
        """Return the generation in force at a time, None for now, and the next one.

        A packet may have met the next one: its time is that of its arrival, and a commit is noted after it took effect.
        """
        position = len(self._commits)
        if timestamp_ns is not None and not self._is_clock_back:
            position = bisect_right(self._commits, timestamp_ns, key=itemgetter(0))
        here = self._commits[position - 1][1] if position else self._oldest
        return here, self._commits[position][1] if position < len(self._commits) else self._open

    def possible_generations(self, timestamp_ns: int | None) -> tuple[int, ...]:
        """Return the generations whose rules can have logged a packet at a time; None for one that is read now.

        The kernel gives packets that the node sends no timestamp.
        """
        generations = self.generations(timestamp_ns)
        if timestamp_ns is None:
            return (self.generation_at(self._now_ns() - _UNREAD_NS), *generations)
        return generations

    def is_present(self, generation: int, source: str, destination: str) -> bool:
        """Return whether both ends, and what policies apply to them, are still what they were in a generation."""
        if self._last_replaced <= generation:
            return True
        groups: set[_Group] = {("address", source), ("address", destination), ("node", ""), ("policies", "")}
        for pod in (*self._present_pods(source), *self._present_pods(destination)):
            groups |= {("namespace", pod.namespace), ("policies", pod.namespace)}
        return not any(self._is_replaced(group, generation) for group in groups)

    def holder_at(self, generation: int, address: str) -> Pod | None:
        """Return the Pod with an address in a generation; the present one where none had it then."""
        holder = self._desired.cluster.holder(address)
        if not self._is_replaced(("address", address), generation):
            return holder
        past = ClusterState(self._desired.cluster.node)
        self._put_pods(past, address, generation)
        return past.holder(address) or holder

    def is_shared(self, generation: int, address: str) -> bool:
        """Return whether several Pods had an address in a generation."""
        group: _Group = ("address", address)
        if group not in self._replaced:
            return len(self._present_pods(address)) > 1
        pods = self._at(group, self._present_pods(address), generation)
        return sum(isinstance(pod, Pod) and address in pod.addresses for pod in pods) > 1

    def holders_at(self, generation: int, source: str, destination: str) -> Holders:
        """Return the Pods with two addresses in a generation."""
        first, second = self.holder_at(generation, source), self.holder_at(generation, destination)
        return _pod_key(first), _pod_key(second)

    def is_known(self, generation: int) -> bool:
        """Return whether everything is kept that this node's Pods and policies were in a generation."""
        return generation >= self._known_from

    def namespace_at(self, generation: int, name: str) -> Namespace | None:
        """Return the Namespace of a name in a generation; None where there was none."""
        known = self._desired.cluster.namespaces.get(name)
        found = self._at(("namespace", name), () if known is None else (known,), generation)
        return next((item for item in found if isinstance(item, Namespace)), None)

    def ends_at(self, generation: int, addresses: Iterable[str]) -> ClusterState:
        """Return a cluster with the Pods of addresses in a generation, their Namespaces, and the addresses' Nodes."""
        present = self._desired.cluster
        past = ClusterState(present.node)
        for address in addresses:
            self._put_pods(past, address, generation)
            if address not in past.by_address:
                for node in self._at(("node", ""), present.nodes.values(), generation):
                    if isinstance(node, Node) and address in node.addresses:
                        past.put(node)
        for name in {pod.namespace for pod in past.pods.values()}:
            namespace = self.namespace_at(generation, name)
            if namespace is not None:
                past.put(namespace)
        return past

    def policies_at(self, generation: int, namespaces: Iterable[str]) -> list[Policy]:
        """Return the policies of Namespaces in a generation; '' has those of the tiers."""
        index = self._desired.index
        found = (self._at(("policies", name), index.in_namespace(name), generation) for name in namespaces)
        return [policy for group in found for policy in group if isinstance(policy, NetworkPolicy | TierPolicy)]

    def _put_pods(self, past: ClusterState, address: str, generation: int) -> None:
        for pod in self._at(("address", address), self._present_pods(address), generation):
            if isinstance(pod, Pod) and address in pod.addresses:
                past.put(pod)

    def _at(self, group: _Group, present: Iterable[_Replaced], generation: int) -> Iterable[_Replaced]:
        """Return the objects of a group in a generation: the present ones, without what replaced others since."""
        replaced = self._replaced.get(group)
        if replaced is None:
            return present
        objects: dict[ObjectRef, _Replaced | None] = {item.ref: item for item in present}
        for ref, entries in replaced.items():
            later = next((number for number in entries if number > generation), None)
            if later is not None:
                objects[ref] = entries[later]
        return [item for item in objects.values() if item is not None]

    def _is_replaced(self, group: _Group, generation: int) -> bool:
        replaced = self._replaced.get(group)
        return replaced is not None and any(next(reversed(entries)) > generation for entries in replaced.values())

    def _present_pods(self, address: str) -> tuple[Pod, ...]:
        return self._desired.cluster.by_address.get(address, ())

    def _find(self, ref: ObjectRef) -> _Replaced | None:
        found = self._desired.find(ref)
        return found if isinstance(found, _Replaced) else None

    def _note(self, ref: ObjectRef, before: _Replaced | None, after: _Replaced | None) -> None:
        if before is after or before == after:
            return
        versions = [item for item in (before, after) if item is not None]
        is_remote = all(isinstance(item, Pod) and item.node != self._desired.cluster.node for item in versions)
        order = self._remote if is_remote else self._near
        for group in {group for item in versions for group in _groups(item)}:
            entries = self._replaced.setdefault(group, {}).setdefault(ref, {})
            if self._open not in entries:
                entries[self._open] = before
                order.append(self._open, group, ref, _weight(before))
        while order.is_too_heavy:
            if not is_remote:
                self._known_from = max(self._known_from, order.oldest)
            self._forget_first(order)

    @property
    def _is_clock_back(self) -> bool:
        """Whether the clock was set back since the last commit: times can't be compared with those of commits."""
        return bool(self._commits) and self._now_ns() < self._commits[-1][0]

    @property
    def _last_replaced(self) -> int:
        """The last generation in which something was replaced that is kept."""
        return max(self._remote.latest, self._near.latest)

    def _forget_first(self, order: _Order) -> None:
        generation, group, ref = order.pop_first()
        objects = self._replaced[group]
        del objects[ref][generation]
        if not objects[ref]:
            del objects[ref]
        if not objects:
            del self._replaced[group]


def _pod_key(pod: Pod | None) -> PodKey | None:
    return None if pod is None else (pod.namespace, pod.name)


def _weight(item: _Replaced | None) -> int:
    """Return what is kept of an object, in units of a Pod."""
    if not isinstance(item, NetworkPolicy | TierPolicy):
        return 1
    listed = 0
    for rule in (*item.ingress, *item.egress):
        excepted = sum(len(peer.excepts) for peer in rule.peers if isinstance(peer, IpBlock))
        listed += 1 + len(rule.peers) + len(rule.ports) + excepted
    return 1 + listed // _LISTED_A_UNIT


def _groups(item: _Replaced) -> Iterator[_Group]:
    match item:
        case Pod():
            yield from (("address", address) for address in item.addresses)
        case Namespace():
            yield "namespace", item.name
        case Node():
            yield "node", ""
        case _:
            yield "policies", item.ref.namespace
