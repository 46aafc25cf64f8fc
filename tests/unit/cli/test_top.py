"""nfagent top: rates from two samples, what isn't counted, output elsewhere than on a terminal, and the live table."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

from nfagent.cli.packet_rates import CountRow, CountSample, ordered, uncounted, with_rates
from nfagent.config import load_settings
from nfagent.desired.state import DesiredState
from nfagent.introspection.chunks import encoded
from nfagent.introspection.counts_view import (
    CountReadings,
    CountsView,
    PacketCount,
    PodCount,
    PolicyCount,
    counts_parts,
)
from nfagent.introspection.http_stream import view_route
from nfagent.metrics.readings import CountedPackets
from nfagent.model.objects import ObjectRef
from nfagent.nftables.verdict_keys import VerdictKey
from nfagent.time_slices import TimeSlices
from tests.support.two_node_cluster import TwoNodeCluster, pod, policy
from tests.unit.cli.agents import introspection, running
from tests.unit.cli.called import Call

pytestmark = pytest.mark.usefixtures("interruptible")


def view(*pods: PodCount, read_at: float = 100.0, started: float = 1.0, problem: str = "") -> CountsView:
    return CountsView(
        version="1.2.3", node="a", started=started, read_at=read_at, problem=problem, pods=list(pods), policies=[]
    )


def web(allow: int | None = 0, deny: int | None = 0) -> PodCount:
    return PodCount(namespace="shop", name="web", ingress=PacketCount(allow=allow, deny=deny))


@pytest.mark.parametrize(
    ("before", "now", "rates"),
    [
        pytest.param(None, view(web(5, 1)), (None, None), id="the first sample has none"),
        pytest.param(view(web(5, 1)), view(web(25, 1), read_at=102.0), (10.0, 0.0), id="what was added by the seconds"),
        pytest.param(view(web(5, 9)), view(web(25, 3), read_at=102.0), (10.0, None), id="a count that began anew"),
        pytest.param(view(), view(web(25, 3), read_at=102.0), (None, None), id="a new Pod"),
        pytest.param(view(web(None, 1)), view(web(9, 3), read_at=102.0), (None, 1.0), id="a new counter"),
        pytest.param(view(web(5, 1)), view(web(None, 3), read_at=102.0), (None, 1.0), id="a counter that is gone"),
        pytest.param(
            view(web(5, 1)), view(web(25, 9), read_at=102.0, started=50.0), (None, None), id="a restarted agent"
        ),
        pytest.param(view(web(5, 1)), view(web(5, 1)), (None, None), id="the same reading again"),
        pytest.param(view(web(5, 1), read_at=0.0), view(web(5, 1)), (None, None), id="counters not read before"),
    ],
)
def test_rates_are_those_of_two_samples(
    before: CountsView | None, now: CountsView, rates: tuple[float | None, float | None]
) -> None:
    found = with_rates(before, now)
    (row,) = found.pods
    assert (row.name, row.direction) == ("shop/web", "ingress")
    assert (row.allowed_rate, row.denied_rate) == rates
    assert (found.seconds is None) == ((rates == (None, None) and now.read_at == 100.0) or now.started == 50.0)


def row(name: str, denied: int | None = None, denied_rate: float | None = None, allowed: int | None = None) -> CountRow:
    return CountRow(name=name, direction="ingress", denied=denied, denied_rate=denied_rate, allowed=allowed)


def test_rows_are_ordered_by_rate_then_count_then_name() -> None:
    rows = [row("b"), row("a"), row("c", 5), row("d", 1, 0.0, 9), row("e", 1, 3.0)]
    assert [found.name for found in ordered(rows, "denied")] == ["e", "d", "c", "a", "b"]
    assert next(found.name for found in ordered(rows, "allowed")) == "d"
    assert [found.name for found in ordered(rows, "name")] == ["a", "b", "c", "d", "e"]


def test_what_is_not_counted_is_unknown_and_said() -> None:
    isolated = policy("shop/db", {"matchLabels": {"app": "db"}})
    idle = policy("far/idle", {"matchLabels": {"app": "none"}})
    pods = (pod("shop/web", "a", 10, (), app="web"), pod("shop/db", "a", 20, (), app="db"), pod("far/x", "b", 5))
    desired = TwoNodeCluster(*pods, isolated, idle).views["a"]
    ref = ObjectRef("NetworkPolicy", "shop", "db")
    counts = CountedPackets(
        pods={("shop", "db", "ingress", "deny"): 7, ("shop", "web", "ingress", "deny"): 0},
        policies={VerdictKey("deny", "ingress", (ref,)): 7},
    )
    readings = CountReadings(version="1", started=1.0, read_at=2.0, problem="", counts=counts)
    found = decoded(desired, readings)
    by_name = {pod.name: pod for pod in found.pods}
    assert set(by_name) == {"web", "db"}
    assert by_name["db"] == PodCount(namespace="shop", name="db", ingress=PacketCount(deny=7))
    assert by_name["web"] == PodCount(namespace="shop", name="web")
    assert found.policies == [
        PolicyCount(kind="NetworkPolicy", namespace="shop", name="db", ingress=PacketCount(deny=7))
    ]
    sample = with_rates(None, found)
    assert uncounted(sample) == "- isn't counted: 1 Pod to which no policy applies"
    nothing = decoded(desired, msgspec.structs.replace(readings, counts=CountedPackets()))
    assert "1 policy that this kernel has no counters of" in uncounted(with_rates(None, nothing))


def decoded(desired: DesiredState, readings: CountReadings) -> CountsView:
    return msgspec.json.decode(b"".join(encoded(counts_parts(desired, readings))), type=CountsView)


class Counting:
    """An agent whose counts grow with every request; a restart begins another run."""

    def __init__(self) -> None:
        self.asked = 0
        self.started = 1.0

    async def view(self) -> CountsView:
        self.asked += 1
        policies = [PolicyCount(kind="NetworkPolicy", namespace="shop", name="db", egress=PacketCount(allow=3, deny=0))]
        pods = [
            web(10 * self.asked, 0),
            PodCount(namespace="shop", name="database-with-a-long-name", ingress=PacketCount(deny=30 * self.asked)),
            PodCount(namespace="shop", name="free"),
            PodCount(namespace="shop", name="\x1b[2Jhostile"),
        ]
        found = view(*pods, read_at=float(self.asked), started=self.started)
        return msgspec.structs.replace(found, policies=policies)

    @contextmanager
    def running(self) -> Iterator[None]:
        self.started += 1.0
        with running(introspection(DesiredState("a")), routes=[view_route("/v1/counts", self.view, TimeSlices())]):
            yield


def test_elsewhere_than_on_a_terminal_it_is_one_table_with_rates(call: Call) -> None:
    with Counting().running():
        answer = call("top", "--interval", "1")
    assert answer.code == 0
    assert answer.out.splitlines() == [
        "POD                             DIR  ALLOWED    /S  DENIED    /S  AUDITED",
        "shop/database-with-a-long-name  in         -     -      60  30.0        -",
        "shop/web                        in        20  10.0       0   0.0        -",
        r"shop/\x1b[2Jhostile             -          -     -       -     -        -",
        "shop/free                       -          -     -       -     -        -",
        "",
        "POLICY   DIR  ALLOWED   /S  DENIED   /S  AUDITED",
        "shop/db  out        3  0.0       0  0.0        -",
    ]
    assert answer.err == "note: - isn't counted: 2 Pods to which no policy applies\n"


def test_json_is_one_sample_or_so_many_each_in_a_line(call: Call) -> None:
    with Counting().running():
        first = call("top", "-o", "json")
        more = call("top", "-o", "json", "-n", "2", "--interval", "1", "--sort", "name")
    (line,) = first.out.splitlines()
    assert json.loads(line)["pods"][0]["denied_rate"] is None
    samples = [msgspec.json.decode(line, type=CountSample) for line in more.out.splitlines()]
    assert [sample.seconds for sample in samples] == [None, 1.0]
    assert {found.name: found.denied_rate for found in samples[1].pods}["shop/database-with-a-long-name"] == 30.0
    assert (first.code, more.code) == (0, 0)


@pytest.mark.parametrize("columns", [40, 60])
def test_in_a_narrow_terminal_no_line_is_wider(call: Call, monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    with Counting().running():
        out = call("top", "-n", "1").out
    assert max(map(len, out.splitlines())) <= columns


def test_agents_that_cannot_tell_are_named(call: Call) -> None:
    answer = call("top")
    assert (answer.code, answer.out) == (2, "")
    assert "no agent listens at" in answer.err
    assert answer.err.count("systemctl status nfagent") == 1
    answer = call("top", "-o", "json")
    assert (answer.code, list(json.loads(answer.out))) == (2, ["error"])
    with running(introspection(DesiredState("a"))):
        assert "the running agent is older than this command" in call("top").err

    async def other() -> dict[str, int]:
        return {"version": 7}

    with running(introspection(DesiredState("a")), routes=[view_route("/v1/counts", other, TimeSlices())]):
        assert "the running agent's counts have another format" in call("top").err

    async def unread() -> CountsView:
        return view(problem="the agent hasn't read the whole cluster yet", read_at=0.0)

    with running(introspection(DesiredState("a")), routes=[view_route("/v1/counts", unread, TimeSlices())]):
        answer, as_json = call("top", "-n", "1"), call("top", "-o", "json")
    assert (answer.code, as_json.code) == (2, 2)
    assert "not known: the agent hasn't read the whole cluster yet" in answer.err


def test_rich_is_imported_by_the_live_table_alone() -> None:
    code = "import sys, nfagent.agent, nfagent.cli.top, nfagent.cli.status; print('rich' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


class Terminal:
    """`nfagent top` on a terminal of its own."""

    def __init__(self, *arguments: str, columns: int = 80, **environment: str) -> None:
        self.master, slave = pty.openpty()
        self.resize(columns)
        self.before = termios.tcgetattr(self.master)
        self.shown = ""
        kept = {name: value for name, value in os.environ.items() if name not in {"COLUMNS", "LINES", "NO_COLOR"}}
        kept["NFAGENT_RUNTIME_DIR"] = str(load_settings().socket_path.parent)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "nfagent", "top", "--interval", "1", *arguments],
            cwd=Path(__file__).parents[3],
            env={**kept, "TERM": "xterm-256color", **environment},
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509 - no threads use what it does
        )
        os.close(slave)

    def resize(self, columns: int, lines: int = 24) -> None:
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def type(self, keys: str) -> None:
        os.write(self.master, keys.encode())

    def until(self, pattern: str) -> str:
        """Return what was shown since the last call, up to what matches. Raises AssertionError."""
        deadline = time.monotonic() + 60
        while (found := re.search(pattern, self.shown, re.DOTALL)) is None:
            assert time.monotonic() < deadline, f"{pattern!r} isn't in {self.shown[-3000:]!r}"
            if select.select([self.master], [], [], 0.2)[0]:
                try:
                    self.shown += os.read(self.master, 65536).decode(errors="replace")
                except OSError:
                    raise AssertionError(f"ended; {pattern!r} isn't in {self.shown[-3000:]!r}") from None
        shown, self.shown = self.shown[: found.end()], self.shown[found.end() :]
        return shown

    def ended(self) -> int:
        """Return the exit code; the terminal must be as it was."""
        self.until(r"\x1b\[\?1049l.*\x1b\[\?25h|\x1b\[\?25h.*\x1b\[\?1049l")
        code = self.process.wait(30)
        assert termios.tcgetattr(self.master)[3] == self.before[3]
        return code

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.master)


@contextmanager
def terminal(*arguments: str, columns: int = 80, **environment: str) -> Iterator[Terminal]:
    opened = Terminal(*arguments, columns=columns, **environment)
    try:
        yield opened
    finally:
        opened.close()


def test_on_a_terminal_it_is_live_until_q() -> None:
    agent = Counting()
    with agent.running(), terminal() as opened:
        opened.until(r"rates of .*shop/database-with-a-long-name.*30\.0")
        opened.type("n")
        opened.until("sorted by name")
        opened.type("a")
        opened.until("sorted by allowed")
        opened.resize(40)
        narrow = opened.until(r"ALLOW/S.*q leaves")
        assert r"\x1b[2Jhostile" in narrow or "hostile" not in narrow
        opened.type("q")
        assert opened.ended() == 0


@pytest.mark.parametrize(
    "end", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, "\x03"], ids=["SIGINT", "SIGTERM", "SIGHUP", "Ctrl-C"]
)
def test_every_end_restores_the_terminal(end: signal.Signals | str) -> None:
    with Counting().running(), terminal() as opened:
        opened.until("shop/web")
        if isinstance(end, str):
            opened.type(end)
        else:
            opened.process.send_signal(end)
        assert opened.ended() == 130


def test_a_terminal_that_is_gone_ends_it() -> None:
    with Counting().running(), terminal() as opened:
        opened.until("shop/web")
        spare = os.dup(opened.master)
        os.close(opened.master)
        os.close(spare)
        assert opened.process.wait(30) in {130, -signal.SIGHUP}
        opened.master = os.open(os.devnull, os.O_RDONLY)


def test_an_agent_that_ends_and_returns_is_said_and_goes_on() -> None:
    agent = Counting()
    with terminal() as opened:
        opened.until("no agent listens")
        with agent.running():
            opened.until("shop/web")
        opened.until("for [0-9]+ s: no agent listens")
        with agent.running():
            opened.until(r"rates of .*shop/web")
            opened.type("q")
            assert opened.ended() == 0


def test_without_colour_there_is_none() -> None:
    with Counting().running(), terminal("-n", "2", NO_COLOR="1") as opened:
        shown = opened.until(r"\x1b\[\?1049l")
        assert re.findall(r"\x1b\[[0-9;]*3[0-9][0-9;]*m", shown) == []
        assert opened.process.wait(30) == 0
    with Counting().running(), terminal("-n", "2") as opened:
        assert "\x1b[31m" in opened.until(r"\x1b\[\?1049l")


def test_on_a_terminal_without_a_cursor_it_is_one_table() -> None:
    """TERM=dumb, as in Emacs and some consoles: the live table would be nothing at all."""
    with Counting().running(), terminal(TERM="dumb") as opened:
        assert "\x1b[?1049h" not in opened.until(r"DENIED.*shop/web.*POLICY")
        assert opened.process.wait(30) == 0
