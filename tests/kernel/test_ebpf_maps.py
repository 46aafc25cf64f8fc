"""Maps of the loaded program: entries one by one, and many at once."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from nfagent.errors import KernelError
from nfagent.lab.ebpf import maps as ebpf_maps
from nfagent.lab.ebpf import program as ebpf_program
from nfagent.lab.ebpf.codec import address_key, number_value
from nfagent.lab.ebpf.libbpf import libbpf
from nfagent.lab.ebpf.maps import EbpfMap
from nfagent.lab.ebpf.program import EbpfProgram

pytestmark = pytest.mark.kernel

MANY = {address_key(f"10.0.{number >> 8}.{number & 255}"): number_value(300 + number) for number in range(1000)}


@pytest.fixture
def identities() -> Iterator[EbpfMap]:
    if lack := ebpf_program.missing():
        pytest.skip(lack)
    with EbpfProgram() as program:
        yield program.maps.identities


@pytest.mark.parametrize("batches", [pytest.param(True, id="with batches"), pytest.param(False, id="without batches")])
def test_many_entries_are_written_and_deleted(
    identities: EbpfMap, monkeypatch: pytest.MonkeyPatch, *, batches: bool
) -> None:
    if not batches:
        monkeypatch.setattr(ebpf_maps, "_SINGLE", len(MANY))
    identities.update_all(MANY)
    assert {key: identities.value(key, 4) for key in MANY} == MANY
    identities.delete_all([*MANY, address_key("192.0.2.1")])
    assert {identities.value(key, 4) for key in MANY} == {None}


def test_a_map_that_is_closed_is_an_error_that_names_it() -> None:
    if lack := ebpf_program.missing():
        pytest.skip(lack)
    libbpf()
    closed = EbpfMap("identities", 2**30)
    with pytest.raises(KernelError, match="eBPF map identities: update of 1000 entries"):
        closed.update_all(MANY)
    with pytest.raises(KernelError, match="eBPF map identities: deletion of 1000 entries"):
        closed.delete_all(list(MANY))
