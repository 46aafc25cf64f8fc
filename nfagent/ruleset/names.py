"""Names of what we put into the kernel: readable, unique, short enough, stable across restarts.

`/` and `_` separate: neither can be part of a Kubernetes name, so `a` + `bc` never meets `ab` + `c`
(corner-cases.md 20). Names that grow too long for people or the kernel end in a digest of the whole (21).
Every name starts with a word of ours and holds a `/`, so none is an nft keyword (21).
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from hashlib import blake2s

import msgspec

from nfagent.cluster.address import Family
from nfagent.cluster.model import Direction, Ref
from nfagent.policy.compile import Blocks, ClassKey, NamedPorts
from nfagent.policy.model import PodPeer

_LONGEST = 100
_KEPT = 80
_DIGEST_BYTES = 8
COMMENT_BYTES = 127
"""What a comment can hold: the kernel's user data ends at 128 bytes with a NUL (tried, corner-cases.md 21)."""


def set_name(word: str, family: Family) -> str:
    """Name one of the fixed sets: `cluster4`, `pods6`."""
    return f"{word}{family}"


@lru_cache(maxsize=65536)
def content_name(content: PodPeer | Blocks | NamedPorts, family: Family) -> str:
    """Name a set by what it means: equal peers share a set, whichever rules name them."""
    word = {PodPeer: "peers", Blocks: "blocks", NamedPorts: "ports"}[type(content)]
    # The words are a set's comment: with them in its name, no policy changes the comment of another's set.
    meant = Blocks(content.family(family), content.words) if isinstance(content, Blocks) else content
    return f"{word}{family}/{_digest(msgspec.json.encode(meant))}"


def class_chain(key: ClassKey) -> str:
    """Name the chain of a class: `ingress/shop/db_default-deny`."""
    return f"{key.direction}/{policies_name(key.policies)}"


def deny_counter(key: ClassKey) -> str:
    """Name the counter of what a class denies."""
    return f"deny/{class_chain(key)}"


def allow_chain(direction: Direction, policy: Ref) -> str:
    """Name the chain, and the counter in it, of what a policy allows: `allow/ingress/shop/db`."""
    return f"allow/{direction}/{policies_name((policy,))}"


def log_prefix(verdict: str, direction: Direction, policies: Iterable[Ref]) -> str:
    """Make the NFLOG prefix of a verdict: `deny ingress shop/db_default-deny`, at most 127 bytes (21)."""
    return f"{verdict} {direction} {policies_name(tuple(policies))}"


@lru_cache(maxsize=65536)
def policies_name(policies: tuple[Ref, ...]) -> str:
    """Join policies of one namespace: `shop/db_default-deny`, cut and ended by a digest where too long."""
    whole = f"{policies[0].namespace}/{'_'.join(ref.name for ref in policies)}"
    return whole if len(whole) <= _LONGEST else f"{whole[:_KEPT]}__{_digest(whole.encode())}"


def comment(words: str) -> str:
    """Make words fit for an nft comment: no quotes, at most 127 bytes."""
    clean = words.replace('"', "'")
    return (
        clean
        if len(clean.encode()) <= COMMENT_BYTES
        else clean.encode()[: COMMENT_BYTES - 3].decode("utf-8", "ignore") + "..."
    )


def _digest(content: bytes) -> str:
    return blake2s(content, digest_size=_DIGEST_BYTES).hexdigest()
