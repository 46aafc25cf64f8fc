"""Names of what we put into the kernel: readable, unique, short enough, stable across restarts.

`/` and `_` separate: neither can be part of a Kubernetes name, so `a` + `bc` never meets `ab` + `c`
(corner-cases.md 20). Names that grow too long for people or the kernel end in a digest of the whole (21).
Every name starts with a word of ours and holds a `/`, so none is an nft keyword (21).
"""

from __future__ import annotations

from hashlib import blake2s

import msgspec

from nfagent.model.admin_policy import SHORT_KINDS, NodePeer
from nfagent.model.netaddr import Family
from nfagent.model.networkpolicy import PodPeer
from nfagent.model.objects import Direction, ObjectRef
from nfagent.policy.compiler import CIDRSet, CompiledRule, NamedPorts, PolicySetKey, TierChainKey
from nfagent.policy.merged_peers import AnyOf, PortNumbers

_LONGEST = 100
_KEPT = 80
_DIGEST_BYTES = 8
COMMENT_BYTES = 127
"""What a comment can hold: the kernel's user data ends at 128 bytes with a NUL (tried, corner-cases.md 21)."""


def set_name(word: str, family: Family) -> str:
    """Name one of the fixed sets: `cluster4`, `pods6`."""
    return f"{word}{family}"


def at_level(name: str, level: int) -> str:
    """Name what does the same at a further level (see `levels`): beside `forward-egress`, `forward-egress-2`."""
    return f"{name}-{level + 1}" if level else name


def class_map(direction: Direction, family: Family, level: int = 0) -> str:
    """Name the map from addresses to classes: `egress4`; `egress-2-v4` for the second class of an address."""
    return f"{at_level(direction, level)}-v{family}" if level else set_name(direction, family)


_WORDS = {PodPeer: "peers", AnyOf: "peers", NodePeer: "nodes", CIDRSet: "blocks", NamedPorts: "ports"}


def content_name(content: PodPeer | NodePeer | AnyOf | CIDRSet | NamedPorts | PortNumbers, family: Family) -> str:
    """Name a set by what it means: equal peers share a set, whichever rules name them."""
    if isinstance(content, PortNumbers):
        return f"numbers/{_digest(msgspec.json.encode(content.ranges))}"  # the same for both families
    word = _WORDS[type(content)]
    # The words are a set's comment: with them in its name, no policy changes the comment of another's set.
    meant = CIDRSet(content.family(family), content.words) if isinstance(content, CIDRSet) else content
    return f"{word}{family}/{_digest(msgspec.json.encode(meant))}"


def class_chain(key: PolicySetKey) -> str:
    """Name the chain of a class: `ingress/shop/db_default-deny`, with tiers `ingress/admin_anp.guard/shop/db`.

    A tier's part begins with its name and `_`, which no Namespace's name can hold.
    """
    parts = [_tier_part("admin", key.admin)] if key.admin else []
    parts += [_policies(key.policies)] if key.policies else []
    parts += [_tier_part("baseline", key.baseline)] if key.baseline else []
    return f"{key.direction}/{_short('/'.join(parts))}"


def section_chain(key: TierChainKey) -> str:
    """Name the chain of a part of classes: `admin/ingress/anp.guard_cnp.base`, `policy/ingress/shop/db`."""
    return f"{key.tier}/{key.direction}/{policies_name(key.policies)}"


def stray_chain(chain: str) -> str:
    """Name the chain that judges packets without a conntrack entry in a class's or section's place."""
    return f"stray/{chain}"


def outcome_name(disposition: str, direction: Direction, policies: tuple[ObjectRef, ...]) -> str:
    """Name an outcome's chain, and the counter in it: `allow/ingress/shop/db`, `deny/egress/anp.guard`."""
    return f"{disposition}/{direction}/{policies_name(policies)}"


def log_prefix(disposition: str, direction: Direction, policies: tuple[ObjectRef, ...]) -> str:
    """Make the NFLOG prefix of a verdict: `deny ingress shop/db_default-deny`, at most 127 bytes (21)."""
    return f"{disposition} {direction} {policies_name(policies)}"


def policies_name(policies: tuple[ObjectRef, ...]) -> str:
    """Join NetworkPolicies of one Namespace, or policies of a tier: `shop/db_default-deny`, `anp.guard_cnp.base`.

    What is too long is cut, and ended by a digest.
    """
    return _short(_policies(policies))


def _policies(policies: tuple[ObjectRef, ...]) -> str:
    if policies[0].kind in SHORT_KINDS:
        return "_".join(map(tier_name, policies))
    return f"{policies[0].namespace}/{'_'.join(ref.name for ref in policies)}"


def _tier_part(tier: str, policies: tuple[ObjectRef, ...]) -> str:
    return f"{tier}_{_policies(policies)}"


def tier_name(policy: ObjectRef) -> str:
    """Write a policy of the tiers shortly: `anp.guard`. No Namespace's name holds a dot, so none is taken for it."""
    return f"{SHORT_KINDS[policy.kind]}.{policy.name}"


def _short(whole: str) -> str:
    return whole if len(whole) <= _LONGEST else f"{whole[:_KEPT]}__{_digest(whole.encode())}"


def rule_comment(direction: Direction, rule: CompiledRule) -> str:
    """Say which rule of which policy a rule is: `shop/db ingress[0]`, `anp.guard egress[2] 'no metadata service'`."""
    owner = tier_name(rule.policy) if rule.policy.kind in SHORT_KINDS else rule.policy.path
    return comment(f"{owner} {direction}[{rule.index}]" + (f" '{rule.name}'" if rule.name else ""))


def comment(words: str) -> str:
    """Make words fit for an nft comment: one line, no quotes, at most 127 bytes (21)."""
    # A rule's hundreds of peers are its set's words: what is too long is cut before it is looked at.
    clean = "".join(char if char.isprintable() else " " for char in words[: COMMENT_BYTES + 1]).replace('"', "'")
    return (
        clean
        if len(clean.encode()) <= COMMENT_BYTES
        else clean.encode()[: COMMENT_BYTES - 3].decode("utf-8", "ignore") + "..."
    )


def _digest(content: bytes) -> str:
    return blake2s(content, digest_size=_DIGEST_BYTES).hexdigest()
