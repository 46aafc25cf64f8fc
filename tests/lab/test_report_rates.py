"""Rates of each path, and of two runs."""

from __future__ import annotations

from nfagent.lab.latency.samples import Rate
from nfagent.lab.report.rates import RATE_CHANGE_HEADER, RATE_HEADER, rate_changes, rate_rows


def test_each_quantity_has_the_medians_of_its_paths_and_their_ratio() -> None:
    rows = rate_rows(
        [
            Rate("nftables", "rss_bytes", 1000, 10, [float(300 << 20)]),
            Rate("nftables", "tcp_bits_per_second", 1000, 10, [8e9, 9e9, 10e9]),
            Rate("ebpf", "tcp_bits_per_second", 1000, 10, [9.9e9, 10e9, 10.1e9]),
            Rate("none", "tcp_bits_per_second", 1000, 10, [12e9]),
            Rate("ebpf", "cache_misses", 0, 10, [0.0]),
            Rate("nftables", "cache_misses", 0, 10, [5.0]),
        ]
    )
    assert all(len(row) == len(RATE_HEADER) for row in rows)
    throughput = (
        "TCP throughput [Gbit/s]",
        "1,000",
        "10",
        "9.00 (8.00 to 10.0)",
        "10.0 (9.90 to 10.1)",
        "12.0",
        "0.900x",
    )
    memory = ("resident memory of the agent [MiB]", "1,000", "10", "300", "not measured", "not measured", "not known")
    other = ("cache_misses", "0", "10", "5.00", "0", "not measured", "not known")
    assert rows == [throughput, memory, other]


def test_many_values_give_the_ratio_an_interval() -> None:
    ours = [100.0 + number for number in range(20)]
    (row,) = rate_rows(
        [
            Rate("nftables", "connections_per_second", 0, 1, ours),
            Rate("ebpf", "connections_per_second", 0, 1, [100.0] * 20),
        ]
    )
    assert row[-1] == "1.09x (1.05 to 1.13)"


def test_two_runs_are_compared_path_by_path() -> None:
    a = [Rate("nftables", "cpu_ns_per_packet", 0, 1, [1000.0]), Rate("none", "cpu_ns_per_packet", 0, 1, [900.0])]
    b = [Rate("nftables", "cpu_ns_per_packet", 0, 1, [1500.0]), Rate("ebpf", "cpu_ns_per_packet", 5, 1, [800.0])]
    rows = [change.row for change in rate_changes(a, b)]
    assert all(len(row) == len(RATE_CHANGE_HEADER) for row in rows)
    assert [row[1:] for row in rows] == [
        ("0", "1", "nftables", "1,000", "1,500", "1.50x"),
        ("0", "1", "no policies", "900", "not measured", "not measured in B"),
        ("5", "1", "eBPF", "not measured", "800", "not measured in A"),
    ]
