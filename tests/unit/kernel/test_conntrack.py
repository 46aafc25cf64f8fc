"""ConntrackClient with kernels that this machine doesn't have, simulated at the other end of a socket pair."""

from __future__ import annotations

import errno
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import msgspec
import pytest

from nfagent.errors import HostError, KernelError
from nfagent.kernel.conntrack import ConntrackClient, revoked_set_size
from nfagent.netlink import codec
from nfagent.netlink.conntrack import ConntrackEntry, decode_entry
from tests.support.ctnetlink_dump import INTERRUPTED, IPV4, IPV6, MULTI, NEW, DumpEntry, entry_body

GET, DELETE = 0x0101, 0x0102
TABLE = [
    DumpEntry("10.0.0.1", "10.96.0.1", "10.0.0.2", id=1),
    DumpEntry("10.0.0.1", "10.0.0.3", "10.0.0.3", id=2),
    DumpEntry("10.0.0.3", "10.0.0.1", "10.0.0.1", id=3),
    DumpEntry("10.0.0.4", "10.0.0.5", "10.0.0.5", id=4),
    DumpEntry("fd00::1", "fd00::2", "fd00::2", id=5),
    DumpEntry("fd00::3", "fd00::4", "fd00::4", id=6),
]


class Dump(msgspec.Struct, frozen=True):
    """A dump request: its family, None for both, and the addresses of its filter."""

    v6: bool | None
    client: str | None
    server: str | None


Answers = Callable[[list[codec.Message]], list[bytes]]


class SimulatedKernel:
    """Replies on the sockets that it opens, each in a thread, and records the requests.

    sends: the messages of each datagram that came
    """

    def __init__(self, answers: Answers) -> None:
        self.answers = answers
        self.sends: list[list[codec.Message]] = []
        self._threads: list[threading.Thread] = []

    def open(self) -> socket.socket:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        thread = threading.Thread(target=self._serve, args=[ours])
        thread.start()
        self._threads.append(thread)
        return theirs

    @property
    def opened(self) -> int:
        return len(self._threads)

    def join(self) -> None:
        for thread in self._threads:
            thread.join()

    def dumps(self) -> list[Dump]:
        """Return the requests since the last call."""
        asked = [dump_of(message) for sent in self.sends for message in sent]
        self.sends.clear()
        return asked

    def _serve(self, ours: socket.socket) -> None:
        with ours, suppress(BrokenPipeError):
            while datagram := ours.recv(1 << 20):
                self.sends.append(list(codec.messages(datagram)))
                for answer in self.answers(self.sends[-1]):
                    ours.send(answer)


@contextmanager
def played(
    answers: Answers, *, filters_from: int = 0, timeout_seconds: float = 60.0
) -> Iterator[tuple[ConntrackClient, SimulatedKernel]]:
    kernel = SimulatedKernel(answers)
    try:
        opened = ConntrackClient(kernel.open, filters_from=filters_from, timeout_seconds=timeout_seconds)
        with closing(opened) as connections:
            yield connections, kernel
    finally:
        kernel.join()


def dump_of(message: codec.Message) -> Dump:
    assert (message.type, message.flags) == (GET, 0x301)
    found = dict(codec.attributes(message.payload, codec.NFGEN_SIZE))
    filters = dict(codec.attributes(found.get(25, b"")))
    assert all(flags == struct.pack("=I", 1) for flags in filters.values())

    def address(direction: int) -> str | None:
        if direction not in filters:
            return None
        ((_, value),) = codec.attributes(dict(codec.attributes(found[direction]))[1])
        return socket.inet_ntop(socket.AF_INET if len(value) == 4 else socket.AF_INET6, value)

    return Dump({IPV4: False, IPV6: True, 0: None}[message.payload[0]], address(1), address(2))


def listing(connections: list[DumpEntry], sequence: int, flags: int = 0) -> list[bytes]:
    """Encode a dump: a datagram for each entry, with these flags, then the end."""
    entries = [codec.message(NEW, MULTI | flags, sequence, entry_body(one)) for one in connections]
    return [*entries, codec.message(codec.NLMSG_DONE, MULTI, sequence, bytes(4))]


def refusal(message: codec.Message, code: int) -> bytes:
    return codec.message(
        codec.NLMSG_ERROR, 0x100, message.sequence, struct.pack("=iIHHII", -code, 20, message.type, 0, 0, 0)
    )


def entries(*ids: int) -> list[ConntrackEntry]:
    return [decode_entry(entry_body(one)) for one in TABLE if one.id in ids]


def of_family(v6: bool | None) -> list[DumpEntry]:  # noqa: FBT001 - one of two families, or both
    return [one for one in TABLE if v6 in {None, ":" in one.client}]


def as_asked(dump: Dump) -> list[DumpEntry]:
    """Filter correctly."""
    return [
        one for one in of_family(dump.v6) if dump.client in {None, one.client} and dump.server in {None, one.server}
    ]


def inverted(dump: Dump) -> list[DumpEntry]:
    """Return all entries except the requested ones, as Linux 6.18 does for IPv6."""
    return [
        one
        for one in of_family(dump.v6)
        if (dump.client is None or one.client != dump.client) and (dump.server is None or one.server != dump.server)
    ]


def no_servers(dump: Dump) -> list[DumpEntry]:
    """Return no entry for a server, as kernels that compare with 0.0.0.0."""
    return [] if dump.server is not None else as_asked(dump)


def no_clients(dump: Dump) -> list[DumpEntry]:
    """Return no entry for a client."""
    return [] if dump.client is not None else as_asked(dump)


def unfiltered(dump: Dump) -> list[DumpEntry]:
    """Return all entries, as kernels before 5.8."""
    return of_family(dump.v6)


def dumping(pick: Callable[[Dump], list[DumpEntry]]) -> Answers:
    return lambda asked: listing(pick(dump_of(asked[0])), asked[0].sequence)


def refusing_filters(code: int) -> Answers:
    def answers(asked: list[codec.Message]) -> list[bytes]:
        dump = dump_of(asked[0])
        if dump.client is not None or dump.server is not None:
            return [refusal(asked[0], code)]
        return listing(of_family(dump.v6), asked[0].sequence)

    return answers


WHOLE = Dump(v6=None, client=None, server=None)
"""A dump request of both families; link-local entries are in every whole dump."""
WHOLE6 = Dump(v6=True, client=None, server=None)
BY_CLIENT = Dump(v6=False, client="10.0.0.1", server=None)
BY_SERVER = Dump(v6=False, client=None, server="10.0.0.1")


def test_a_filter_that_returns_what_a_whole_dump_returned_is_used_from_then_on() -> None:
    with played(dumping(as_asked)) as (connections, kernel):
        assert connections.entries(frozenset({"10.0.0.1"})) == entries(1, 2, 3)
        assert kernel.dumps() == [WHOLE, BY_CLIENT, Dump(v6=False, client=None, server="10.0.0.2")]

        assert connections.entries(frozenset({"10.0.0.1"})) == entries(1, 2, 3)
        assert kernel.dumps() == [BY_CLIENT, BY_SERVER]
        assert connections.entries(frozenset({"10.0.0.4", "10.0.0.5", "10.0.0.6"})) == entries(4)
        assert len(kernel.dumps()) == 6


def test_a_filter_is_not_tested_without_an_entry() -> None:
    with played(dumping(as_asked)) as (connections, kernel):
        assert connections.entries(frozenset({"10.0.0.9"})) == []
        assert connections.entries(frozenset({"10.0.0.9"})) == []
        assert kernel.dumps() == [WHOLE, WHOLE]

        connections.entries(frozenset({"10.0.0.4"}))
        assert len(kernel.dumps()) == 3


def test_each_family_has_its_own_filter() -> None:
    with played(dumping(lambda dump: inverted(dump) if dump.v6 else as_asked(dump))) as (connections, kernel):
        asked = frozenset({"10.0.0.1", "fd00::2"})
        assert connections.entries(asked) == entries(1, 2, 3, 5)
        assert kernel.dumps() == [
            WHOLE,
            BY_CLIENT,
            Dump(v6=False, client=None, server="10.0.0.2"),
            Dump(v6=True, client="fd00::1", server=None),
            Dump(v6=True, client=None, server="fd00::2"),
        ]

        assert connections.entries(asked) == entries(1, 2, 3, 5)
        assert kernel.dumps() == [BY_CLIENT, BY_SERVER, WHOLE6]


@pytest.mark.parametrize(
    ("asked", "ids", "dumps"),
    [
        pytest.param({"10.0.0.1", "fd00::2"}, [1, 2, 3, 5], [WHOLE], id="both"),
        pytest.param({"10.0.0.4", "10.0.0.1"}, [1, 2, 3, 4], [WHOLE], id="IPv4 alone"),
        pytest.param({"fd00::3"}, [6], [WHOLE6], id="IPv6 alone"),
        pytest.param({"10.0.0.9", "fd00::9"}, [], [WHOLE], id="both, without an entry"),
        pytest.param(set(), [], [], id="none"),
    ],
)
def test_one_dump_serves_the_families_of_the_addresses(asked: set[str], ids: list[int], dumps: list[Dump]) -> None:
    with played(dumping(as_asked), filters_from=len(TABLE)) as (connections, kernel):
        for _ in range(2):
            assert connections.entries(frozenset(asked)) == entries(*ids)
            assert kernel.dumps() == dumps


def test_a_dump_of_both_families_counts_the_entries_of_each() -> None:
    with played(dumping(as_asked), filters_from=3) as (connections, kernel):
        assert connections.entries(frozenset({"10.0.0.4", "fd00::1"})) == entries(4, 5)
        assert kernel.dumps() == [
            WHOLE,
            Dump(v6=False, client="10.0.0.4", server=None),
            Dump(v6=False, client=None, server="10.0.0.5"),
        ], "four entries of IPv4, and two of IPv6"

        assert connections.entries(frozenset({"10.0.0.1", "fd00::1"})) == entries(1, 2, 3, 5)
        assert kernel.dumps() == [BY_CLIENT, BY_SERVER, WHOLE6]


def test_the_size_of_a_family_does_not_include_the_other() -> None:
    with played(dumping(as_asked), filters_from=4) as (connections, kernel):
        for _ in range(2):
            assert connections.entries(frozenset({"10.0.0.4", "fd00::1"})) == entries(4, 5)
            assert kernel.dumps() == [WHOLE], "of six entries"


def test_a_family_without_a_filter_shares_the_dump_of_the_other() -> None:
    with played(dumping(as_asked), filters_from=3) as (connections, kernel):
        connections.entries(frozenset({"10.0.0.1"}))
        kernel.answers = refusing_filters(errno.EOPNOTSUPP)
        kernel.dumps()

        assert connections.entries(frozenset({"10.0.0.1", "fd00::1"})) == entries(1, 2, 3, 5)
        assert kernel.dumps() == [BY_CLIENT, WHOLE]


@pytest.mark.parametrize(
    "answers",
    [
        pytest.param(refusing_filters(errno.EOPNOTSUPP), id="refuses it"),
        pytest.param(refusing_filters(errno.EINVAL), id="refuses an unknown attribute"),
        pytest.param(dumping(unfiltered), id="ignores it"),
        pytest.param(dumping(inverted), id="inverts it"),
        pytest.param(dumping(no_servers), id="finds no servers by it"),
        pytest.param(dumping(no_clients), id="finds no clients by it"),
    ],
)
def test_all_entries_are_found_without_a_filter_where_the_kernel(answers: Answers) -> None:
    with played(answers) as (connections, kernel):
        assert connections.entries(frozenset({"10.0.0.1"})) == entries(1, 2, 3)
        kernel.dumps()

        for asked, ids in ({"10.0.0.1"}, [1, 2, 3]), ({"10.0.0.5"}, [4]), ({"10.0.0.6"}, []):
            assert connections.entries(frozenset(asked)) == entries(*ids)
            assert kernel.dumps() == [WHOLE]


@pytest.mark.parametrize(
    "later",
    [
        pytest.param(dumping(unfiltered), id="returns other entries"),
        pytest.param(refusing_filters(errno.EOPNOTSUPP), id="is refused"),
    ],
)
def test_a_filter_is_not_used_any_more_when_it_later(later: Answers) -> None:
    with played(dumping(as_asked)) as (connections, kernel):
        connections.entries(frozenset({"10.0.0.1"}))
        kernel.answers = later
        kernel.dumps()

        assert connections.entries(frozenset({"10.0.0.1"})) == entries(1, 2, 3)
        assert kernel.dumps() == [BY_CLIENT, WHOLE]
        assert connections.entries(frozenset({"10.0.0.1"})) == entries(1, 2, 3)
        assert kernel.dumps() == [WHOLE]


def test_a_small_table_is_dumped_whole() -> None:
    with played(dumping(as_asked), filters_from=4) as (connections, kernel):
        for _ in range(2):
            assert connections.entries(frozenset({"10.0.0.1"})) == entries(1, 2, 3)
            assert kernel.dumps() == [WHOLE]


def test_a_repeated_dump_counts_every_entry_once() -> None:
    left = [INTERRUPTED, INTERRUPTED, 0]

    def answers(asked: list[codec.Message]) -> list[bytes]:
        flags = left.pop(0) if left else 0
        return listing(as_asked(dump_of(asked[0])), asked[0].sequence, flags)

    with played(answers, filters_from=4) as (connections, kernel):
        assert sorted(entry.id for entry in connections.entries(frozenset({"10.0.0.1"}))) == [1, 2, 3]
        assert kernel.dumps() == [WHOLE, WHOLE, WHOLE]
        connections.entries(frozenset({"10.0.0.1"}))
        assert kernel.dumps() == [WHOLE], "the table is still small, so no filter is tested"


def test_many_addresses_are_selected_from_a_whole_dump() -> None:
    with played(dumping(as_asked), filters_from=3) as (connections, kernel):
        connections.entries(frozenset({"10.0.0.1"}))
        kernel.dumps()

        assert connections.entries(frozenset({"10.0.0.1", "10.0.0.9"})) == entries(1, 2, 3)
        assert kernel.dumps() == [WHOLE]
        assert connections.entries(frozenset({"10.0.0.1"})) == entries(1, 2, 3)
        assert kernel.dumps() == [BY_CLIENT, BY_SERVER]


@pytest.mark.parametrize(
    ("interrupted", "ids", "times"),
    [
        pytest.param([False], [4], 1, id="complete at once"),
        pytest.param([True, False], [3, 4], 2, id="complete at the second attempt"),
        pytest.param([True, True, True, False], [2, 3, 4], 3, id="never complete in three attempts"),
    ],
)
def test_an_interrupted_dump_is_repeated(interrupted: list[bool], ids: list[int], times: int) -> None:
    left = [one for one in TABLE if ":" not in one.client]
    pending = list(interrupted)

    def answers(asked: list[codec.Message]) -> list[bytes]:
        return listing([left.pop()], asked[0].sequence, INTERRUPTED if pending.pop(0) else 0)

    everyone = frozenset(one.client for one in TABLE if ":" not in one.client)
    with played(answers, filters_from=len(TABLE)) as (connections, kernel):
        assert sorted(connections.entries(everyone), key=lambda entry: entry.id) == entries(*ids)
        assert kernel.dumps() == [WHOLE] * times


def test_an_entry_received_twice_is_returned_once() -> None:
    with played(dumping(lambda dump: of_family(dump.v6) * 2)) as (connections, _):
        assert connections.entries(frozenset({"10.0.0.4"})) == entries(4)


@pytest.mark.parametrize(
    ("code", "error", "words"),
    [
        pytest.param(errno.EPERM, HostError, "needs root", id="no CAP_NET_ADMIN"),
        pytest.param(errno.EINVAL, HostError, "modprobe nf_conntrack_netlink", id="no ctnetlink"),
        pytest.param(errno.EOPNOTSUPP, HostError, "modprobe nf_conntrack_netlink", id="no ctnetlink, EOPNOTSUPP"),
        pytest.param(errno.ENOMEM, KernelError, r"list conntrack entries: Cannot .* memory \(ENOMEM\)", id="no memory"),
    ],
)
def test_a_refusal_has_a_message(code: int, error: type[Exception], words: str) -> None:
    with played(lambda asked: [refusal(asked[0], code)]) as (connections, _):
        for asked in {"10.0.0.1"}, {"10.0.0.1", "fd00::1"}:
            with pytest.raises(error, match=words):
                connections.entries(frozenset(asked))


@pytest.mark.parametrize(
    "broken",
    [
        pytest.param([b"\x10\0\0"], id="from its start"),
        pytest.param([*listing(TABLE[:1], 1)[:1], b"\x10\0\0"], id="after an entry"),
    ],
)
def test_the_next_call_opens_a_new_socket_after_an_undecodable_reply(broken: list[bytes]) -> None:
    with played(lambda _: broken) as (connections, kernel):
        for opened in 1, 2:
            with pytest.raises(KernelError, match="cannot decode"):
                connections.entries(frozenset({"10.0.0.1"}))
            assert kernel.opened == opened
        kernel.answers = dumping(as_asked)

        assert connections.entries(frozenset({"10.0.0.1"})) == entries(1, 2, 3)
        assert connections.entries(frozenset({"10.0.0.4"})) == entries(4)
        assert kernel.opened == 3


def test_a_missing_reply_is_an_error_after_the_timeout() -> None:
    with (
        played(lambda _: [], timeout_seconds=0.1) as (connections, _),
        pytest.raises(KernelError, match=r"no reply within 0\.1 s"),
    ):
        connections.entries(frozenset({"10.0.0.1"}))


def deleting(refused: dict[int, int]) -> Answers:
    """Delete all entries but those whose ids are refused."""

    def answers(asked: list[codec.Message]) -> list[bytes]:
        given = []
        for message in asked:
            assert message.type == DELETE
            number = int.from_bytes(dict(codec.attributes(message.payload, codec.NFGEN_SIZE))[12], "big")
            code = refused.get(number, 0)
            if code or message.flags & codec.NLM_F_ACK:
                given.append(refusal(message, code))
            if code == errno.EPERM:
                break
        return given

    return answers


MANY = [decode_entry(entry_body(DumpEntry(client_port=number, id=number))) for number in range(1, 1_201)]


def test_deletions_are_sent_together_and_acknowledged_once() -> None:
    with played(deleting({})) as (connections, kernel):
        assert connections.delete(iter(MANY)) == 1_200

        assert [len(sent) for sent in kernel.sends] == [500, 500, 200]
        asked = [message for sent in kernel.sends for message in sent]
        assert len({message.sequence for message in asked}) == 1_200
        acknowledged = [number for number, message in enumerate(asked, 1) if message.flags & codec.NLM_F_ACK]
        assert acknowledged == [500, 1_000, 1_200]


def test_missing_entries_are_not_counted() -> None:
    with played(deleting({1: errno.ENOENT, 7: errno.ENOENT, 500: errno.ENOENT, 1_200: errno.ENOENT})) as played_:
        assert played_[0].delete(MANY) == 1_196
        assert played_[0].delete([]) == 0


def test_a_refused_deletion_is_named_and_does_not_stop_the_others() -> None:
    with played(deleting({7: errno.EBUSY, 8: errno.ENOENT, 1_200: errno.EBUSY})) as (connections, kernel):
        with pytest.raises(
            KernelError, match=r"protocol 6 from 10\.0\.0\.1 to 10\.0\.0\.2: .*\(EBUSY\); 1 more were refused"
        ):
            connections.delete(MANY)
        assert sum(map(len, kernel.sends)) == 1_200


def test_a_deletion_without_the_right_is_an_error_at_once() -> None:
    with (
        played(deleting(dict.fromkeys(range(1, 1_201), errno.EPERM))) as (connections, _),
        pytest.raises(HostError, match="needs root"),
    ):
        connections.delete(MANY)


def test_closing_twice_is_harmless() -> None:
    with played(dumping(as_asked)) as (connections, kernel):
        connections.close()
        connections.close()
        assert kernel.opened == 1


@pytest.mark.parametrize(
    ("limit", "size"),
    [
        pytest.param("131072\n", 131_072, id="as many as conntrack has"),
        pytest.param("1000", 65_536, id="no fewer than every set has"),
        pytest.param("8000000", 262_144, id="no more than the most"),
        pytest.param("0", 262_144, id="the most where conntrack has no limit"),
        pytest.param("many", 65_536, id="as many as every set has where the limit can't be read"),
        pytest.param(None, 65_536, id="as many as every set has without conntrack"),
    ],
)
def test_the_size_of_the_sets_of_revoked_tuples_is_that_of_conntrack(
    limit: str | None, size: int, tmp_path: Path
) -> None:
    path = tmp_path / "nf_conntrack_max"
    if limit is not None:
        path.write_text(limit)
    assert revoked_set_size(path) == size
