"""The format of the saved ruleset, and which one may be restored."""

from __future__ import annotations

import sys
import zlib
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nfagent.checkpoint.restore_result import RestoreResult, enforced_rules, read_result, write_result
from nfagent.checkpoint.ruleset_checks import clock_warning, refusal
from nfagent.checkpoint.ruleset_codec import (
    LAYOUT,
    SavedHeader,
    SavedRuleset,
    decode_saved,
    encode_batches,
    encode_saved,
)
from nfagent.checkpoint.ruleset_file import read_saved, write_saved
from nfagent.desired.state import DesiredState
from nfagent.errors import DecodeError, HostError, WireError
from nfagent.netlink import codec
from nfagent.netlink.nft_batch import encode_batch
from nfagent.netlink.nft_messages import TABLE_ATTRIBUTE
from nfagent.netlink.saved_batch import decode_saved_batch
from nfagent.nftables.objects import Ruleset
from nfagent.nftables.transaction import AddCounter, AddTable, Delete
from tests.support.two_node_cluster import decoded, node, pod, policy

HEADER = SavedHeader(
    version="0.1",
    node="a",
    boot_id="x",
    written_at=1e9,
    pod_ranges=("10.64.0.0/24",),
    holds_unknown=False,
)
DAY = 86400.0


def ruleset(pods: int = 3) -> Ruleset:
    desired = DesiredState("a")
    for document in (node("a"), policy("shop/closed"), *(pod(f"shop/p{n}", "a", 10 + n) for n in range(pods))):
        desired.put(decoded(document))
    return desired.ruleset()


BATCHES, CONTENT = encode_batches(ruleset())
SAVED = encode_saved(HEADER, BATCHES)


def test_a_saved_ruleset_is_decoded_as_it_was_encoded() -> None:
    saved = decode_saved(SAVED)
    assert saved == SavedRuleset(HEADER, BATCHES)
    assert [batch.data for batch in saved.decoded()] == list(map(zlib.decompress, BATCHES))


def test_equal_rulesets_have_the_same_content_and_others_have_not() -> None:
    assert encode_batches(ruleset()) == (BATCHES, CONTENT)
    assert encode_batches(ruleset(4))[1] != CONTENT


def test_a_large_ruleset_is_cut_into_batches_of_which_only_the_last_is_reached_by_packets() -> None:
    desired = DesiredState("a")
    for document in (node("a"), node("b"), policy("shop/from-all", ingress=[{"from": [{"podSelector": {}}]}])):
        desired.put(decoded(document))
    desired.put(decoded(pod("shop/here", "a", 10)))
    for number in range(12_000):
        far = pod("shop/far", "b", 11)
        far["metadata"]["name"] = f"far-{number}"
        far["status"]["podIPs"] = [{"ip": f"10.65.{number // 250}.{number % 250 + 1}"}]
        desired.put(decoded(far))
    batches, _ = encode_batches(desired.ruleset())
    assert len(batches) > 1
    hook = b"forward-egress"
    assert [hook in zlib.decompress(each) for each in batches] == [*(False for _ in batches[1:]), True]
    assert len(list(SavedRuleset(HEADER, batches).decoded())) == len(batches)


@given(st.binary(max_size=400))
def test_any_bytes_are_a_value_or_an_error(content: bytes) -> None:
    for given_ in (content, b"nfagent saved ruleset\n" + content):
        with pytest.raises(DecodeError):
            decode_saved(given_)


@given(st.integers(0, len(SAVED) - 1), st.integers(1, 255))
def test_no_changed_byte_goes_unnoticed(at: int, flip: int) -> None:
    with pytest.raises(DecodeError):
        decode_saved(SAVED[:at] + bytes((SAVED[at] ^ flip,)) + SAVED[at + 1 :])
    with pytest.raises(DecodeError):
        decode_saved(SAVED[:at])


@given(st.binary(max_size=300), st.lists(st.binary(min_size=1, max_size=60), max_size=3))
def test_a_whole_file_with_any_header_and_batches_is_a_value_or_an_error(header: bytes, batches: list[bytes]) -> None:
    class AnyHeader(msgspec.Struct):
        text: str

    for first in (HEADER, AnyHeader(header.decode("latin-1"))):
        content = encode_saved(first, batches)  # type: ignore[arg-type]
        try:
            saved = decode_saved(content)
        except DecodeError:
            continue
        with pytest.raises(DecodeError):
            list(saved.decoded())


REFUSED_FILES = {
    "nothing": (b"", "it is no saved ruleset"),
    "another format": (
        encode_saved(msgspec.structs.replace(HEADER, format=9), BATCHES),
        "it has format 9; this version of nfagent reads formats 1 and 2",
    ),
    "another byte order": (
        encode_saved(
            msgspec.structs.replace(HEADER, byte_order="big" if sys.byteorder == "little" else "little"), BATCHES
        ),
        "-endian machine",
    ),
    "no rules": (encode_saved(HEADER, ()), "it has no rules"),
    "cut short": (SAVED[:-100], "it is damaged"),
}


@pytest.mark.parametrize(("content", "reason"), REFUSED_FILES.values(), ids=REFUSED_FILES)
def test_the_error_says_what_is_wrong_with_a_file(content: bytes, reason: str) -> None:
    with pytest.raises(DecodeError, match=reason):
        decode_saved(content)


def with_second_table() -> bytes:
    """Return a batch whose counter names another table after the own one; the kernel reads the last."""
    begin, *added, end = codec.messages(encode_batch((AddTable(), AddCounter("x")), 1).data)
    second = codec.attribute(TABLE_ATTRIBUTE, b"nfother\0")
    last = msgspec.structs.replace(added[-1], payload=added[-1].payload + second)
    every = (begin, *added[:-1], last, end)
    return b"".join(codec.message(each.type, each.flags, each.sequence, each.payload) for each in every)


REFUSED_BATCHES = {
    "a deletion": encode_batch((AddTable(), Delete("table")), 1).data,
    "another family": encode_batch((AddTable(), AddCounter("x")), 1, family=7).data,
    "another table": encode_batch((AddTable(), AddCounter("x")), 1).data.replace(b"nfagent\0", b"nfother\0"),
    "another table besides": with_second_table(),
    "no end": encode_batch((AddTable(),), 1).data[:-20],
    "no begin": encode_batch((AddTable(),), 1).data[20:],
    "nothing": b"",
}


@pytest.mark.parametrize("content", REFUSED_BATCHES.values(), ids=REFUSED_BATCHES)
def test_a_batch_that_does_more_than_add_to_the_own_table_is_refused(content: bytes) -> None:
    with pytest.raises(WireError):
        decode_saved_batch(content)


@given(st.binary(max_size=200))
def test_any_batch_is_a_value_or_an_error(content: bytes) -> None:
    with pytest.raises(WireError):
        decode_saved_batch(content)


REFUSALS = {
    "this node's, of today": (HEADER, 0.0, ""),
    "another node's": (msgspec.structs.replace(HEADER, node="b"), 0.0, "it is of node b, and this is node a"),
    "a later layout": (msgspec.structs.replace(HEADER, layout=LAYOUT + 1), 0.0, f"table layout {LAYOUT + 1}"),
    "an earlier layout": (msgspec.structs.replace(HEADER, layout=LAYOUT - 1), 0.0, ""),
    "as old as allowed": (HEADER, 30 * DAY, ""),
    "older": (HEADER, 31 * DAY, "it was in force 31.0 days ago; boot.max_age_seconds allows 30.0 days"),
    "of the future": (HEADER, -400 * DAY, ""),
}


@pytest.mark.parametrize(("header", "age", "reason"), REFUSALS.values(), ids=REFUSALS)
def test_what_may_be_restored(header: SavedHeader, age: float, reason: str) -> None:
    found = refusal(header, "a", 1e9, 1e9 + age, 30 * DAY)
    assert (reason in found) if reason else not found
    assert bool(clock_warning(1e9, 1e9 + age)) == (age < 0)


def test_the_file_is_private_and_replaced_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "state" / "saved-ruleset"
    assert not path.parent.exists()
    write_saved(path, b"first")
    write_saved(path, SAVED)
    assert path.stat().st_mode & 0o777 == 0o600
    assert [each.name for each in path.parent.iterdir()] == ["saved-ruleset"]
    stored = read_saved(path)
    assert stored is not None
    assert stored.ruleset.header == HEADER
    assert stored.in_force == path.stat().st_mtime


def test_a_file_that_others_may_have_written_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "saved-ruleset"
    write_saved(path, SAVED)
    tmp_path.chmod(0o777)
    with pytest.raises(HostError, match="is writable by other users"):
        read_saved(path)
    assert read_saved(tmp_path / "none" / "saved-ruleset") is None


ENFORCED = {
    "no table": (None, False, "nothing: Pods are open"),
    "a table of before": (None, True, "the rules of the previous run"),
    "restored": (RestoreResult("saved", 1e9), True, "the saved ruleset of 2001-09-09T01:46:40Z"),
    "restored and flushed since": (RestoreResult("saved", 1e9), False, "nothing: Pods are open"),
    "held": (
        RestoreResult("hold", held=("10.64.0.0/24",), reason="it is too old"),
        True,
        "no policy; unknown Pods of 10.64.0.0/24 are held",
    ),
    "nothing restored": (RestoreResult("none", reason="there is none"), True, "the rules of the previous run"),
}


@pytest.mark.parametrize(("result", "exists", "said"), ENFORCED.values(), ids=ENFORCED)
def test_what_is_enforced_before_the_agent_s_first_commit(
    tmp_path: Path,
    result: RestoreResult | None,
    exists: bool,  # noqa: FBT001 - a column
    said: str,
) -> None:
    if result is not None:
        write_result(str(tmp_path), result)
    assert str(enforced_rules(read_result(str(tmp_path)), table_exists=exists)) == said
