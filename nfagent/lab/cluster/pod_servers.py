"""HTTP servers in every Pod of a lab that is up, each of which answers with its Pod's name and the caller's address.

    python -m nfagent.lab.cluster.pod_servers < STATE.json      writes "ready", and serves until SIGTERM

One process serves all: its sockets are in the Pods' network namespaces.
"""

from __future__ import annotations

import asyncio
import functools
import signal
import socket
import sys

import msgspec

from nfagent.lab.cluster.plan import PORT
from nfagent.lab.cluster.running_labs import LabMember, LabState
from nfagent.lab.probes.listeners import DOMAINS
from nfagent.lab.topology import netns
from nfagent.model.netaddr import family_of

_REQUEST_SECONDS = 10.0


async def serve(members: tuple[LabMember, ...]) -> None:
    """Serve for all members until SIGTERM."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    servers = []
    for member in members:
        answer = functools.partial(_answer, member.name)
        opened = netns.inside(member.netns, functools.partial(_open, member))
        servers += [await asyncio.start_server(answer, sock=sock) for sock in opened]
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    await stop.wait()
    for server in servers:
        server.close()


def _open(member: LabMember) -> list[socket.socket]:
    opened = []
    for address in member.addresses:
        sock = socket.socket(DOMAINS[family_of(address)], socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((address, PORT))
        sock.listen()
        opened.append(sock)
    return opened


async def _answer(name: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer one HTTP request, whatever it is."""
    try:
        async with asyncio.timeout(_REQUEST_SECONDS):
            await reader.readuntil(b"\r\n\r\n")
        body = f"{name}, called by {writer.get_extra_info('peername')[0]}\n".encode()
        writer.write(b"HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        await writer.drain()
    except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
        pass  # the caller has gone, or doesn't speak HTTP
    finally:
        writer.close()


def main() -> None:
    """Serve for the lab whose state is read from standard input."""
    asyncio.run(serve(msgspec.json.decode(sys.stdin.buffer.read(), type=LabState).members))


if __name__ == "__main__":
    main()
