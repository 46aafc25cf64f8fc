"""What encoders keep of rules that are gone."""

from __future__ import annotations

import gc
import tracemalloc
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

from nfagent.netlink.nft_batch import encode_batch
from nfagent.nftables.matches import AddressInSet, IpAddress
from nfagent.nftables.objects import Accept, Rule
from nfagent.nftables.transaction import AddRule

RULES = 3_000
MOST_BYTES = 400 * 1024


def test_encoders_keep_little_of_thousands_of_different_rules() -> None:
    # In a process of its own: here the caches have what tests before this one have put there.
    with ProcessPoolExecutor(max_workers=1, mp_context=get_context("spawn")) as process:
        held = process.submit(held_bytes).result()
    assert held < MOST_BYTES, f"{held:,} bytes after {RULES:,} rules"


def held_bytes() -> int:
    """Return the memory that is allocated while these rules are encoded, and not freed."""
    encode_batch((_rule(0),), 1)
    gc.collect()
    tracemalloc.start(1)
    for number in range(1, RULES):
        encode_batch((_rule(number),), 1)
    gc.collect()
    held, _ = tracemalloc.get_traced_memory()
    return held


def _rule(number: int) -> AddRule:
    return AddRule("forward", Rule((AddressInSet(IpAddress("saddr", 4), f"peers-{number}"),), verdict=Accept()))
