"""Edge cases of docs/semantics.md that only packets show, over the eBPF path: the tests of nfagent's own rules."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from nfagent.lab.ebpf import program as ebpf_program
from tests.kernel.test_edge_cases_packets_lab import (  # noqa: F401 - pytest collects them here too
    test_35_a_datagram_passes_whole_to_an_allowed_port_and_no_part_of_it_to_another,
    test_36_a_packet_too_big_error_reaches_the_sender_of_an_allowed_flow,
    test_36_an_error_about_no_connection_reaches_a_pod_unless_it_is_isolated,
    test_36_neighbours_find_isolated_pods_before_the_first_contact,
    test_37_protocols_without_ports_4_47_50_and_icmp,
    test_39_any_user_of_the_node_reaches_its_pods,
)
from tests.kernel.test_icmp_errors_lab import (  # noqa: F401
    held,
    test_a_pod_that_is_isolated_gets_no_error_about_its_connection_from_a_third_pod,
    test_an_isolated_pod_gets_the_errors_about_its_connection_from,
    test_an_isolated_pod_sends_no_error_about_other_pods_connections,
)
from tests.support.edge_case_lab import edge_case_lab
from tests.support.packet_labs import ManifestLab

pytestmark = pytest.mark.kernel


@pytest.fixture(scope="module", params=["routed", "bridge"])
def lab(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ManifestLab]:
    if lack := ebpf_program.missing():
        pytest.skip(lack)
    with edge_case_lab(tmp_path_factory.mktemp("lab"), request.param, "ebpf") as running:
        yield running
