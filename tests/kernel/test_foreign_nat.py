"""Masquerade rules of other programs, read from the kernel."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from nfagent.clock import SystemClock
from nfagent.errors import KernelError
from nfagent.kernel import nft_child
from nfagent.kernel.foreign_nat import NatConflictWatch, read_foreign_nat
from nfagent.kernel.iptables_save import saved_rules
from nfagent.model.netaddr import Family, parse_cidr
from nfagent.netlink.codec import attribute, nested
from nfagent.netlink.nft_messages import FAMILY_NUMBERS
from nfagent.nftables.foreign_nat import TranslatedTraffic, find_conflicts
from nfagent.nftables.objects import ABSENT, Chain, Hook, NamedSet, Ruleset
from tests.support.own_namespace import own_namespace
from tests.support.raw_rules import UNLISTABLE, add_postrouting_chain, add_rule, expression, number

pytestmark = pytest.mark.kernel

_NET_ADMIN, _CAPABILITY_VERSION_3 = 1 << 12, 0x20080522
"""CAP_NET_ADMIN as a bit, and the version of the structures of capset(2) (linux/capability.h)."""
PODS: dict[Family, str] = {4: "10.244.1.0/24", 6: "fd00:244:1::/64"}
KEPT: dict[Family, str] = {4: "10.0.0.0/8", 6: "fd00::/8"}
TRAFFIC = TranslatedTraffic(tuple(map(parse_cidr, PODS.values())), tuple(map(parse_cidr, KEPT.values())))
KEEPS = Ruleset(
    sets={
        f"{word}{family}": NamedSet("range", family, frozenset({parse_cidr(cidrs[family])}))
        for word, cidrs in (("pods", PODS), ("cluster", KEPT))
        for family in PODS
    },
    chains={"masquerade-pods": Chain((), Hook("nat", "postrouting", 100))},
)
BASE = "type nat hook postrouting priority {}; policy accept;"
KUBE_PROXY = """table ip kube-proxy {{
  chain masquerading {{
    meta mark & 0x00004000 == 0x00000000 return
    meta mark set meta mark ^ 0x00004000
    masquerade fully-random
  }}
  chain nat-postrouting {{ {} jump masquerading; }}
}}"""


@pytest.fixture(autouse=True)
def _namespace() -> Iterator[None]:
    with own_namespace("foreign"):
        yield


def load(text: str) -> None:
    subprocess.run(["nft", "-f", "-"], input=text, text=True, check=True)


def table(rules: str, *, family: str = "ip", priority: int = 100, more: str = "") -> str:
    return f"table {family} theirs {{ {more}\n chain post {{ {BASE.format(priority)} {rules}; }}\n}}"


def found() -> list[tuple[str, str, str, bool]]:
    read = read_foreign_nat()
    assert read.problems == ()
    return [(item.chain, item.effect, item.destinations, item.certain) for item in find_conflicts(read.tables, TRAFFIC)]


@pytest.mark.parametrize("text", [b"r\xe9seau", b"\xff\xfe", "\u2028".encode()], ids=repr)
def test_a_comment_that_is_no_unicode_text_hides_no_rule_and_ends_no_watch(text: bytes) -> None:
    """A rule may have any bytes there, and nft prints them."""
    rules = table("masquerade comment X").encode().replace(b"X", b'"' + text + b'"')
    subprocess.run(["nft", "-f", "-"], input=rules, check=True)
    assert found() == [("post", "kept", ALL4, True)]
    watch = NatConflictWatch(lambda: KEEPS, SystemClock())
    asyncio.run(watch.refresh())
    assert [item.chain for item in watch.found] == ["post"]


ALL4, ALL6 = "10.0.0.0/8", "fd00::/8"
SETS = (
    "set p { type ipv4_addr; flags interval; elements = { 10.244.0.0/16, 10.0.0.1-10.0.0.9 }; }\n"
    " set ports { type inet_service; elements = { 80 }; }\n"
    " chain more { masquerade; }\n"
    " map byport { type inet_service : verdict; elements = { 80 : goto more }; }"
)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(KUBE_PROXY.format(BASE.format(100)), id="kube-proxy"),
        pytest.param(table("ip saddr != @p masquerade", more=SETS), id="a set of sources with the Pods, negated"),
        pytest.param(table("ip saddr { 172.17.0.0/16, 172.18.0.1-172.18.0.5 } masquerade"), id="other sources"),
        pytest.param(table("fib saddr type local masquerade"), id="the node's own sources"),
        pytest.param(table('oifname "lo" masquerade'), id="the loopback interface"),
        pytest.param(table("ip daddr 10.0.0.0/8 return; masquerade"), id="only what nfagent masquerades"),
        pytest.param(table("ip daddr 192.0.2.0/24 snat to 192.0.2.9", priority=110), id="SNAT in a later chain"),
        pytest.param(table("meta mark and 0x2000 == 0x2000 masquerade"), id="marked packets"),
        pytest.param(table("masquerade", more="flags dormant;"), id="a dormant table"),
        pytest.param(
            table("ip saddr 10.244.1.9 ip daddr 10.244.1.9 tcp dport 80 masquerade"), id="Docker's rule for a hairpin"
        ),
        pytest.param("table ip theirs { chain pre { type nat hook prerouting priority -100; }\n}", id="another hook"),
    ],
)
def test_a_rule_in_the_kernel_is_no_conflict(text: str) -> None:
    load(text)
    assert found() == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param(
            table("masquerade", family="inet"), [("post", "kept", f"{ALL4}, {ALL6}", True)], id="both families at once"
        ),
        pytest.param(table("masquerade", family="ip6"), [("post", "kept", ALL6, True)], id="IPv6"),
        pytest.param(
            table("meta nfproto ipv6 masquerade", family="inet"),
            [("post", "kept", ALL6, True)],
            id="IPv6 in an inet table",
        ),
        pytest.param(table("masquerade", priority=300), [("post", "kept", ALL4, True)], id="a later chain"),
        pytest.param(table("ip saddr @p masquerade", more=SETS), [("post", "kept", ALL4, True)], id="a named set"),
        pytest.param(
            table("tcp dport @ports ip daddr 10.2.0.0/16 masquerade", more=SETS),
            [("post", "kept", "10.2.0.0/16", False)],
            id="ports",
        ),
        pytest.param(
            table("tcp dport vmap @byport", more=SETS), [("more", "kept", ALL4, False)], id="a named verdict map"
        ),
        pytest.param(
            table("tcp dport vmap { 80 : jump more, 81 : accept }", more=SETS),
            [("more", "kept", ALL4, False)],
            id="a verdict map in the rule",
        ),
        pytest.param(
            table("ip daddr { 192.0.2.0/24, 198.51.100.7 } snat to 192.0.2.9"),
            [("post", "source", "192.0.2.0/24, 198.51.100.7", True)],
            id="SNAT to an address of its own",
        ),
    ],
)
def test_a_rule_in_the_kernel_is_a_conflict(text: str, expected: list[tuple[str, str, str, bool]]) -> None:
    load(text)
    assert found() == expected


TYPES = struct.Struct("=HHI")
OWN_SOURCE, OWN_DESTINATION, INVERTED_DESTINATION = (4, 0, 0), (0, 4, 0), (0, 4, 2)


def add_rule_of_iptables(name: str, revision: int, info: bytes) -> None:
    """Add `-m NAME` and masquerade to chain post of table ip theirs, as iptables-nft adds it."""
    match = expression("match", attribute(1, name.encode() + b"\0"), number(2, revision), attribute(3, info))
    add_rule(FAMILY_NUMBERS["ip"], "theirs", "post", match, nested(1, attribute(1, b"masq\0")))


@pytest.mark.parametrize(
    ("types", "expected"),
    [
        pytest.param(OWN_SOURCE, [], id="the node's own sources, as Docker's"),
        pytest.param(OWN_DESTINATION, [], id="the node's own destinations"),
        pytest.param(INVERTED_DESTINATION, [("post", "kept", ALL4, True)], id="all but them, as ip-masq-agent's"),
    ],
)
def test_types_of_addresses_in_a_rule_of_iptables_nft_are_read_from_the_kernel(
    types: tuple[int, int, int], expected: list[tuple[str, str, str, bool]]
) -> None:
    load("table ip theirs { chain post { type nat hook postrouting priority 100; }\n}")
    add_rule_of_iptables("addrtype", 1, TYPES.pack(*types))
    assert found() == expected


def test_a_match_of_iptables_nft_that_is_not_read_may_translate() -> None:
    load("table ip theirs { chain post { type nat hook postrouting priority 100; }\n}")
    add_rule_of_iptables("pkttype", 0, struct.pack("=ii", 0, 0))
    assert found() == [("post", "kept", ALL4, False)]


def test_the_message_shows_the_rule_as_nft_does() -> None:
    load(table('ip daddr 10.1.0.0/16 counter masquerade comment "office"'))
    [conflict] = find_conflicts(read_foreign_nat().tables, TRAFFIC)
    assert str(conflict) == (
        'table ip theirs, chain post: rule `ip daddr 10.1.0.0/16 counter masquerade comment "office"` translates '
        "traffic of Pods to 10.1.0.0/16, which should keep the Pod's address"
    )


def test_a_conflict_is_logged_once_and_when_it_ends(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    ruleset = KEEPS
    watch = NatConflictWatch(lambda: ruleset, SystemClock())

    async def compare() -> None:
        load(table("ip daddr @other return; masquerade", more="set other { type ipv4_addr; flags interval; }"))
        await watch.refresh()
        await watch.refresh()
        assert len(watch.status()["conflicts"]) == 1
        [report] = watch.reports
        load("add element ip theirs other { 10.1.0.0/16 }")
        await watch.refresh()
        assert watch.found[0].destinations != ALL4
        assert watch.reports == (report,)
        load("flush chain ip theirs post")
        await watch.refresh()

    asyncio.run(compare())
    assert (watch.found, watch.reports) == ((), ())
    assert [record.getMessage().partition(",")[0] for record in caplog.records] == [
        "table ip theirs",
        "resolved: table ip theirs",
    ]


def test_of_many_rules_ten_are_logged_and_the_others_counted(caplog: pytest.LogCaptureFixture) -> None:
    load(table("; ".join(f"ip saddr 10.244.1.{number} masquerade" for number in range(1, 31))))
    watch = NatConflictWatch(lambda: KEEPS, SystemClock())
    asyncio.run(watch.refresh())
    assert len(watch.found) == 30
    lines = [record.getMessage() for record in caplog.records]
    assert lines[10:] == ["20 more rules like these: nfagent dump state shows them"]


def test_without_masquerade_nothing_is_a_conflict() -> None:
    load(table("masquerade"))
    watch = NatConflictWatch(lambda: ABSENT, SystemClock())
    asyncio.run(watch.refresh())
    assert watch.found == ()


def test_chains_that_are_not_read_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nfagent.kernel.foreign_nat._MOST_CHAINS", 2)
    load(table("jump a; jump b", more="chain a { counter; }\n chain b { masquerade; }"))
    assert read_foreign_nat().problems == ("table ip theirs: only 2 chains from post were read",)


def test_a_rule_at_which_nft_crashes_is_a_problem_of_its_table_and_hides_no_other_table() -> None:
    load("table ip theirs { chain post { type nat hook postrouting priority 100; }\n}")
    load(f"table ip others {{ chain post {{ {BASE.format(101)} masquerade; }}\n}}")
    add_rule(FAMILY_NUMBERS["ip"], "theirs", "post", *UNLISTABLE)
    read = read_foreign_nat()
    assert [item.table for item in find_conflicts(read.tables, TRAFFIC)] == ["table ip others"]
    [problem] = read.problems
    assert "table ip theirs can't be read: `nft --json list chain ip theirs post` was ended by SIGABRT" in problem
    assert "remove the rules that this nft can't list, or install a later one" in problem


def test_a_name_with_a_command_of_nft_is_a_problem_and_no_command() -> None:
    load("table ip theirs { chain post { }\n }\ntable ip victim { }")
    add_postrouting_chain(FAMILY_NUMBERS["ip"], "theirs", "post; delete table ip victim")
    assert read_foreign_nat().problems == (
        "table ip theirs can't be read: nft can't name its chain 'post; delete table ip victim'",
    )
    assert "victim" in subprocess.run(["nft", "list", "tables"], capture_output=True, text=True, check=True).stdout


def test_rules_of_iptables_legacy_that_the_service_may_not_read_are_a_problem_that_names_the_missing_right() -> None:
    if shutil.which("iptables-legacy-save") is None:
        pytest.skip("iptables-legacy-save is missing; run: apt-get install iptables")
    subprocess.run(["iptables-legacy", "-t", "nat", "-N", "others"], check=True, timeout=60)
    program = (
        "from nfagent.kernel.foreign_nat import read_foreign_nat\n"
        "from nfagent.kernel.foreign_logs import read_log_uses\n"
        "print(*read_foreign_nat().problems)\n"
        "read_log_uses(100)\n"
    )
    command = ["setpriv", "--bounding-set=-all,+net_admin", sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    for said in (done.stdout, done.stderr.splitlines()[-1]):
        assert "can't be read" in said
        assert "CapabilityBoundingSet=CAP_NET_RAW" in said
    assert read_foreign_nat().problems == ()


def test_tables_of_iptables_legacy_that_the_kernel_does_not_name_here_are_a_problem_and_not_none() -> None:
    if shutil.which("iptables-legacy") is None:
        pytest.skip("iptables-legacy is missing; run: apt-get install iptables")
    subprocess.run(["iptables-legacy", "-t", "nat", "-N", "others"], check=True, timeout=60)
    # Another user than root, who owns /proc/net/ip_tables_names: with the one right that the service has. Until all is
    # imported it may read any file, since a checkout may lie where only root can read; so may its Python.
    rights = "+net_admin,+dac_read_search"
    other_user = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", f"--inh-caps={rights}"]
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        child = shutil.copy(nft_child.__file__, folder)
        Path(child).chmod(0o644)
        program = (
            "import ctypes, sys\n"
            "from nfagent.kernel import foreign_nat, listing_process\n"
            "foreign_nat.read_foreign_nat()\n"
            f"sys.executable, listing_process._CHILD = {os.path.realpath(sys.executable)!r}, {child!r}\n"
            f"net_admin = (ctypes.c_uint32 * 6)({_NET_ADMIN}, {_NET_ADMIN}, {_NET_ADMIN})\n"
            f"assert not ctypes.CDLL(None).capset((ctypes.c_uint32 * 2)({_CAPABILITY_VERSION_3}, 0), net_admin)\n"
            "print(*foreign_nat.read_foreign_nat().problems, sep='\\n')\n"
        )
        command = [*other_user, f"--ambient-caps={rights}", sys.executable, "-c", program]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert "the tables of iptables-legacy can't be read: " in done.stdout, done.stderr
    assert read_foreign_nat().problems == ()


@pytest.mark.parametrize("name", ["iptables-legacy", "ip6tables-legacy"])
def test_rules_of_iptables_legacy_without_its_program_are_a_problem_where_it_has_tables(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if shutil.which(name) is None:
        pytest.skip(f"{name} is missing; run: apt-get install iptables")
    subprocess.run([name, "-t", "nat", "-N", "others"], check=True, timeout=60)
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(KernelError, match=f"the rules of {name} can't be read: {name}-save is missing"):
        saved_rules(name)
    assert saved_rules("iptables-nft") == ""
