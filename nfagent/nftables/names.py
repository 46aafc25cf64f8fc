"""Names of nftables objects: readable, unique, bounded in length, stable across restarts.

`/` and `_` are separators: neither can be part of a Kubernetes name, so `a` + `bc` never equals `ab` + `c`. A name that
would be too long ends in a digest of the whole. Every name of policies' objects starts with a fixed word and `/`, so
none is an nft keyword. See docs/semantics.md, edge cases 20 and 21.
"""

from __future__ import annotations

from hashlib import blake2s

import msgspec

from nfagent.model.admin_policy import SHORT_KINDS, NodePeer
from nfagent.model.netaddr import Family
from nfagent.model.networkpolicy import PodPeer
from nfagent.model.objects import Direction, ObjectRef
from nfagent.policy.chain_plan import ChainKey
from nfagent.policy.compiler import CIDRSet, CompiledRule, NamedPorts, PolicySetKey, TierChainKey
from nfagent.policy.merged_peers import AnyOf, PortNumbers

_KINDS = {short: kind for kind, short in SHORT_KINDS.items()}
_LONGEST = 100
_KEPT = 80
_DIGEST_BYTES = 8
AUDIT = "audit/"
"""The beginning of the names of chains of audit mode."""
COMMENT_BYTES = 127
"""Maximum bytes of a comment: the kernel's user data has 128, with a NUL (tried; docs/semantics.md, edge case 21)."""


def set_name(word: str, family: Family) -> str:
    """Return the name of a fixed set: `cluster4`, `pods6`."""
    return f"{word}{family}"


def at_level(name: str, level: int) -> str:
    """Return the name of an object at a level: `forward-egress` at 0, `forward-egress-2` at 1."""
    return f"{name}-{level + 1}" if level else name


def policy_set_map(direction: Direction, family: Family, level: int = 0) -> str:
    """Return the name of the verdict map by Pod address: `egress4`; `egress-2-v4` for the second policy set."""
    return f"{at_level(direction, level)}-v{family}" if level else set_name(direction, family)


def egress_nat_map(family: Family) -> str:
    """Return the name of the verdict map from Pod address to the chain of its EgressNATPolicies: `natpods4`."""
    return set_name("natpods", family)


def egress_nat_chain(policies: tuple[str, ...]) -> str:
    """Return the name of the chain of Pods that these EgressNATPolicies select: `kept/payments_web`."""
    return f"kept/{_short('_'.join(policies))}"


def egress_nat_set(policies: tuple[str, ...], family: Family) -> str:
    """Return the name of the set of destinations that see the addresses of these Pods: `kept4/payments_web`."""
    return f"kept{family}/{_short('_'.join(policies))}"


def gateway_map(family: Family) -> str:
    """Return the name of the verdict map from Pod address to the chain of its gateway policies: `gateways4`."""
    return set_name("gateways", family)


def gateway_policies_chain(policies: tuple[str, ...], addresses: tuple[str, ...], family: Family) -> str:
    """Return the name of the chain of Pods that these policies select and that use these floating addresses.

    Without policies it is that of all Pods. An empty address is that of a group that has none of the family:
    `gateway4/payments/192.0.2.10/none`.
    """
    words = (_address_part(address) if address else "none" for address in addresses)
    return f"gateway{family}/{_short('/'.join((_policy_names(policies), *words)))}"


def gateway_set(policies: tuple[str, ...], group: ObjectRef, family: Family) -> str:
    """Return the name of the set of destinations that these policies reach by the addresses of a group."""
    return f"gateway{family}/{_short('/'.join((_policy_names(policies), group.namespace, group.name)))}"


def _policy_names(policies: tuple[str, ...]) -> str:
    """Return the names of policies as one; `all_` for none, which no policy's name ends like."""
    return "_".join(policies) or "all_"


def floating_chain(address: str) -> str:
    """Return the name of the chain of packets for a floating address: `floating/192.0.2.10`; '' is none."""
    return f"floating/{_address_part(address) if address else 'none'}"


def _address_part(address: str) -> str:
    return address.replace(":", "-")  # nft's names have no colons


_WORDS = {PodPeer: "peers", AnyOf: "peers", NodePeer: "nodes", CIDRSet: "blocks", NamedPorts: "ports"}


def content_name(content: PodPeer | NodePeer | AnyOf | CIDRSet | NamedPorts | PortNumbers, family: Family) -> str:
    """Return the name of a set, which depends on its content: rules with equal peers share a set."""
    if isinstance(content, PortNumbers):
        return f"numbers/{_digest(msgspec.json.encode(content.ranges))}"  # the same for both families
    word = _WORDS[type(content)]
    # The words are the comment of the set. They are part of the name, so that no policy changes the comment of a set
    # that another policy uses.
    named = CIDRSet(content.family(family), content.words) if isinstance(content, CIDRSet) else content
    return f"{word}{family}/{_digest(msgspec.json.encode(named))}"


def policy_set_chain(key: PolicySetKey) -> str:
    """Return the name of a policy set's chain: `ingress/shop/db_default-deny`, `ingress/admin_anp.guard/shop/db`.

    The part of a tier begins with its name and `_`, which the name of a Namespace can't contain. Audit mode of a policy
    doesn't change the name. Where all NetworkPolicies are audited, the enforced policies of the baseline tier follow.
    """
    baseline = key.baseline or tuple(ref for enforced in key.enforced for ref in enforced.baseline)
    parts = [_tier_part("admin", key.admin)] if key.admin else []
    parts += [_policies(key.policies)] if key.policies else []
    parts += [_tier_part("baseline", baseline)] if baseline else []
    return f"{key.direction}/{_short('/'.join(parts))}"


def chain_name(key: ChainKey) -> str:
    """Return the name of a chain that policy sets share: `admin/ingress/anp.a`, `audit/denied/ingress/admin_anp.a`."""
    if isinstance(key, TierChainKey):
        return tier_chain_name(key)
    parts = [_tier_part("admin", key.admin)] if key.admin else []
    parts += [_policies(key.named)] if key.named else []
    parts += [_tier_part("baseline", key.baseline)] if key.baseline else []
    return f"{AUDIT}{key.part}/{key.direction}/{_short('/'.join(parts))}"


def tier_chain_name(key: TierChainKey) -> str:
    """Return the name of a tier chain: `admin/ingress/anp.guard_cnp.base`, `policy/ingress/shop/db`."""
    return f"{key.tier}/{key.direction}/{policies_name(key.policies)}"


def untracked_chain(chain: str) -> str:
    """Return the name of the chain that replaces another one for untracked packets."""
    return f"stray/{chain}"


def verdict_chain_name(disposition: str, direction: Direction, policies: tuple[ObjectRef, ...]) -> str:
    """Return the name of a verdict's chain, and of its counter: `allow/ingress/shop/db`, `deny/egress/anp.guard`."""
    return f"{disposition}/{direction}/{policies_name(policies)}"


def log_prefix(disposition: str, direction: Direction, policies: tuple[ObjectRef, ...]) -> str:
    """Return the NFLOG prefix of a verdict: `deny ingress shop/db_default-deny`, at most 127 bytes."""
    return f"{disposition} {direction} {policies_name(policies)}"


def policies_name(policies: tuple[ObjectRef, ...]) -> str:
    """Return the joined names of policies of a Namespace or tier: `shop/db_default-deny`, `anp.guard_cnp.base`.

    A long result is cut, and ends in a digest.
    """
    return _short(_policies(policies))


def policies_of_name(name: str) -> tuple[ObjectRef, ...]:
    """Return the policies whose joined names these are; none where the name is cut, or is of another form."""
    namespace, slash, joined = name.rpartition("/")
    found = joined.split("_")
    if not all(found) or (slash and not namespace):
        return ()
    if slash:
        return tuple(ObjectRef("NetworkPolicy", namespace, policy) for policy in found)
    tiers = [policy.partition(".") for policy in found]
    if not all(short in _KINDS and policy for short, _, policy in tiers):
        return ()
    return tuple(ObjectRef(_KINDS[short], "", policy) for short, _, policy in tiers)


def _policies(policies: tuple[ObjectRef, ...]) -> str:
    if policies[0].kind in SHORT_KINDS:
        return "_".join(map(tier_name, policies))
    return f"{policies[0].namespace}/{'_'.join(ref.name for ref in policies)}"


def _tier_part(tier: str, policies: tuple[ObjectRef, ...]) -> str:
    return f"{tier}_{_policies(policies)}"


def tier_name(policy: ObjectRef) -> str:
    """Return the short name of a tier policy: `anp.guard`. It has a dot, which the name of a Namespace never has."""
    return f"{SHORT_KINDS[policy.kind]}.{policy.name}"


def _short(whole: str) -> str:
    return whole if len(whole) <= _LONGEST else f"{whole[:_KEPT]}__{_digest(whole.encode())}"


def rule_comment(direction: Direction, rule: CompiledRule) -> str:
    """Return the comment of a policy's rule: `shop/db ingress[0]`, `anp.guard egress[2] 'no metadata service'`."""
    owner = tier_name(rule.policy) if rule.policy.kind in SHORT_KINDS else rule.policy.path
    return comment(f"{owner} {direction}[{rule.index}]" + (f" '{rule.name}'" if rule.name else ""))


def comment(words: str) -> str:
    """Return text as an nft comment: one line, no double quotes, at most 127 bytes."""
    # The text may list hundreds of peers: it is cut before it is searched.
    cut = words[: COMMENT_BYTES + 1]
    if not cut.isprintable():
        cut = "".join(char if char.isprintable() else " " for char in cut)
    clean = cut.replace('"', "'")
    return (
        clean
        if len(clean.encode()) <= COMMENT_BYTES
        else clean.encode()[: COMMENT_BYTES - 3].decode("utf-8", "ignore") + "..."
    )


def _digest(content: bytes) -> str:
    return blake2s(content, digest_size=_DIGEST_BYTES).hexdigest()
