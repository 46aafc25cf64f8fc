"""What encoders keep of rules that are gone."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

from nfagent.netlink.nft_batch import encode_batch
from nfagent.nftables.matches import AddressInSet, IpAddress
from nfagent.nftables.objects import Accept, Rule
from nfagent.nftables.transaction import AddRule, ChangeElements, ChangeMapElements, Command

RULES = 3_000
MOST_BYTES = 400 * 1024
MOST_BYTES_OF_NAMES = 100 * 1024


def test_encoders_keep_little_of_thousands_of_names_of_chains_and_sets() -> None:
    with ProcessPoolExecutor(max_workers=1, mp_context=get_context("spawn")) as process:
        held = process.submit(held_bytes, _elements).result()
    assert held < MOST_BYTES_OF_NAMES, f"{held:,} bytes after {RULES:,} names"


def test_encoders_keep_little_of_thousands_of_different_rules() -> None:
    # In a process of its own: here the caches have what tests before this one have put there.
    with ProcessPoolExecutor(max_workers=1, mp_context=get_context("spawn")) as process:
        held = process.submit(held_bytes, _rule).result()
    assert held < MOST_BYTES, f"{held:,} bytes after {RULES:,} rules"


def held_bytes(commands: Callable[[int], tuple[Command, ...]]) -> int:
    """Return the memory that is allocated while commands with these numbers are encoded, and not freed."""
    encode_batch(commands(0), 1)
    gc.collect()
    tracemalloc.start(1)
    for number in range(1, RULES):
        encode_batch(commands(number), 1)
    gc.collect()
    held, _ = tracemalloc.get_traced_memory()
    return held


def _rule(number: int) -> tuple[Command, ...]:
    match = AddressInSet(IpAddress("saddr", 4), f"peers-{number}")
    return (AddRule("forward", Rule((match,), verdict=Accept())),)


def _elements(number: int) -> tuple[Command, ...]:
    chain = ChangeMapElements("add", "egress4", (("10.0.0.1", f"egress/shop/web-{number}"),))
    return (chain, ChangeElements("add", f"peers-{number}", ("10.0.0.1",)))
