"""The collector: series that exist from the start, series beyond the bound, names of others, and text in parts."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from nfagent.clock import SystemClock
from nfagent.controllers.reconcile_status import ReconcileStatus
from nfagent.controllers.sync_latency import SyncLatency
from nfagent.desired.state import DesiredState
from nfagent.errors import ValidationIssue
from nfagent.introspection.agent_status import VerdictLogStatus
from nfagent.kernel.conntrack_usage import ConntrackUsage
from nfagent.kernel.nat_port_watch import NatPortStatus
from nfagent.metrics import collector as collector_module
from nfagent.metrics.collector import NodeCollector
from nfagent.metrics.exposition import MetricsPage, text_parts
from nfagent.metrics.families import FAMILIES
from nfagent.metrics.readings import CountedPackets, InvalidObjects, Readings
from nfagent.model.objects import ObjectRef, Pod
from nfagent.netlink.conntrack_ports import PortUse
from nfagent.nftables.verdict_keys import allowed_by, denied_by
from nfagent.time_slices import TimeSlices
from nfagent.verdicts.log_writer import SinkStatus
from nfagent.verdicts.record_latency import RecordLatency

WEB, DB = ObjectRef("NetworkPolicy", "shop", "web"), ObjectRef("NetworkPolicy", "shop", "db")


IDLE = Readings(
    unready="",
    synced=True,
    uptime=60.0,
    reconcile=ReconcileStatus(),
    sync_latency=SyncLatency(),
    record_latency=RecordLatency(),
    revoked=0,
    resources={},
    invalid={},
    reading_log=True,
    verdict_log=msgspec.to_builtins(VerdictLogStatus(path="/log", sinks={"file": SinkStatus()})),
    own_log_lost=0,
    python_blocks=300_000,
    foreign_nat=0,
    nat_ports=NatPortStatus(available=100),
    conntrack=None,
    counts=CountedPackets(),
)
FLAWS = [
    ValidationIssue(reason="is wrong", object="Pod shop/a", field="spec"),
    ValidationIssue(reason="is wrong", object="Pod shop/a", field="status"),
    ValidationIssue(reason="is no YAML", place="file.yaml:1"),
]


def lines(desired: DesiredState | None = None, **changes: Any) -> list[str]:  # noqa: ANN401 - fields of Readings
    """Return the page's lines for readings that differ from those of an idle agent."""
    readings = msgspec.structs.replace(IDLE, **changes)
    page = b"".join(text_parts(NodeCollector(readings, desired or DesiredState("node-a"))))
    return page.decode().splitlines()


@pytest.mark.parametrize(
    "line",
    [
        'nfagent_transactions_total{outcome="failed"} 0.0',
        'nfagent_verdict_records_total{verdict="audit-deny"} 0.0',
        'nfagent_verdict_records_dropped_total{reason="rate limit"} 0.0',
        'nfagent_dropped_packets_total{reason="not-holder"} 0.0',
        'policy_logging_drop_count{enforcement="cluster",reason="rate limit"} 0.0',
        'nfagent_sync_duration_seconds_bucket{le="0.0005",stage="compare"} 0.0',
        "nfagent_source_age_seconds 0.0",
        'nfagent_verdict_log_lost_lines_total{reason="No space left on device",sink="file"} 0.0',
    ],
)
def test_series_of_known_labels_exist_from_the_start(line: str) -> None:
    assert line in lines()


def test_what_is_not_known_has_no_series() -> None:
    assert not [line for line in lines() if line.startswith(("nfagent_conntrack_entries", "nfagent_nat_ports_used"))]
    busiest = PortUse(protocol=6, translated="192.0.2.1", destination="198.51.100.1", port=443, used=25)
    known = lines(conntrack=ConntrackUsage(7, 100), nat_ports=NatPortStatus(available=100, busiest=busiest))
    assert {"nfagent_conntrack_entries 7.0", "nfagent_nat_ports_used_ratio 0.25"} <= set(known)


def test_packets_are_counted_for_the_pod_with_its_workload_and_for_each_policy_that_isolates() -> None:
    desired = DesiredState("node-a")
    desired.put(Pod(name="web-1", namespace="shop", node="node-a", workload_kind="ReplicaSet", workload_name="web"))
    counts = CountedPackets(
        pods={("shop", "web-1", "ingress", "deny"): 3, ("shop", "gone", "egress", "allow"): 1},
        policies={denied_by("ingress", (WEB, DB)): 3, denied_by("ingress", (WEB,)): 2, allowed_by("egress", (WEB,)): 0},
        drops={"drop/spoofed": 5},
    )
    found = set(lines(desired, counts=counts))
    pod = 'direction="ingress",policy_enforced_namespace="shop",policy_enforced_pod="web-1",verdict="deny"'
    assert f'policy_event_count{{{pod},workload_kind="ReplicaSet",workload_name="web"}} 3.0' in found
    for policy, direction, verdict, packets in (
        ("web", "ingress", "deny", 5),
        ("db", "ingress", "deny", 3),
        ("web", "egress", "allow", 0),
    ):
        labels = f'kind="NetworkPolicy",namespace="shop",policy="{policy}",verdict="{verdict}"'
        assert f'nfagent_policy_packets_total{{direction="{direction}",{labels}}} {packets}.0' in found
    assert 'nfagent_dropped_packets_total{reason="spoofed"} 5.0' in found


@pytest.mark.parametrize(
    ("resource", "synced", "age"),
    [
        pytest.param({"synced": True, "trouble": "", "heard_seconds_ago": 90.0}, 1, 0, id="watched, and quiet"),
        pytest.param({"synced": True, "trouble": "EOF", "heard_seconds_ago": 90.0}, 0, 90, id="watch interrupted"),
        pytest.param({"synced": False, "trouble": "EOF", "heard_seconds_ago": None}, 0, 60, id="never read"),
    ],
)
def test_a_kind_is_synced_while_it_is_watched(resource: dict[str, Any], synced: int, age: int) -> None:
    found = lines(resources={"Pod": resource})
    assert f'nfagent_kind_synced{{kind="Pod"}} {synced}.0' in found
    assert f"nfagent_source_age_seconds {age}.0" in found


def test_an_object_with_several_issues_is_one_object_until_the_last_is_resolved() -> None:
    invalid = InvalidObjects()
    invalid.update(FLAWS, [])
    assert dict(invalid.by_kind) == {"Pod": 1, "other": 1}
    invalid.update([], FLAWS[:1])
    assert invalid.by_kind["Pod"] == 1
    invalid.update([], FLAWS[1:])
    assert dict(invalid.by_kind) == {"Pod": 0, "other": 0}


def test_lines_that_a_sink_lost_have_its_name_and_the_reason() -> None:
    file = SinkStatus(lost_lines=5, lost_by={"Stale file handle": 5})
    status = msgspec.to_builtins(VerdictLogStatus(path="", sinks={"file": file}))
    assert 'nfagent_verdict_log_lost_lines_total{reason="Stale file handle",sink="file"} 5.0' in lines(
        verdict_log=status
    )
    several = lines(verdict_log={**status, "sinks": {"journald": {"lost_by": {"queue full": 3}}}})
    assert 'nfagent_verdict_log_lost_lines_total{reason="queue full",sink="journald"} 3.0' in several
    assert not [line for line in several if 'sink="file"' in line]


def test_series_beyond_the_bound_are_left_out_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collector_module, "MOST_SERIES", 250)
    counts = CountedPackets(pods={("shop", f"web-{number}", "ingress", "deny"): 1 for number in range(300)})
    found = lines(counts=counts)
    assert len([line for line in found if line.startswith("policy_event_count{")]) == 250
    assert 'nfagent_metrics_omitted_series{family="policy_event_count"} 50.0' in found


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        pytest.param('a"b', 'a"b', id="a quote"),
        pytest.param("a\nb", r"a\nb", id="a line break"),
        pytest.param("a\\b", "a\\b", id="a backslash"),
        pytest.param("\x1b[31m", r"\x1b[31m", id="a terminal's escape sequence"),
        pytest.param("\ud800", r"\ud800", id="half a surrogate pair"),
        pytest.param("ü", "ü", id="a letter"),
    ],
)
def test_a_hostile_name_stays_one_label_of_one_line(name: str, shown: str) -> None:
    counts = CountedPackets(pods={("shop", name, "ingress", "deny"): 1})
    page = "\n".join(lines(counts=counts)) + "\n"
    families = {family.name: family for family in text_string_to_metric_families(page)}
    assert [sample.labels["policy_enforced_pod"] for sample in families["policy_event_count"].samples] == [shown]


@pytest.mark.parametrize("pods", [0, 1, 99, 100, 101, 1000])
def test_text_in_parts_is_that_of_whole_families(pods: int) -> None:
    counts = CountedPackets(pods={("shop", f"web-{number}", "ingress", "deny"): number for number in range(pods)})
    collector = NodeCollector(msgspec.structs.replace(IDLE, counts=counts), DesiredState("node-a"))
    parts = [line for line in b"".join(text_parts(collector)).splitlines() if not line.startswith(b"process_")]
    whole = [line for line in generate_latest(collector).splitlines() if not line.startswith(b"process_")]
    assert parts == whole


def test_the_page_has_every_family_of_the_table_once() -> None:
    headers = [line.split()[2] for line in lines() if line.startswith("# TYPE")]
    assert sorted(headers) == sorted(family.name for family in FAMILIES)


class StillClock(SystemClock):
    """A clock that a test moves."""

    now = 100.0

    def monotonic(self) -> float:
        return self.now


def test_scrapes_within_a_second_get_the_page_of_the_first() -> None:
    read: list[float] = []
    clock = StillClock()

    async def collect() -> NodeCollector:
        read.append(clock.now)
        await asyncio.sleep(0)
        return NodeCollector(msgspec.structs.replace(IDLE, revoked=len(read)), DesiredState("node-a"))

    async def body() -> list[bytes]:
        page = MetricsPage(collect, clock, TimeSlices())
        together = await asyncio.gather(*(page.read() for _ in range(5)))
        clock.now += 1.0
        return [*together, await page.read()]

    pages = asyncio.run(body())
    assert read == [100.0, 101.0]
    assert [b"nfagent_revocations_total 1.0" in page for page in pages] == [True] * 5 + [False]
