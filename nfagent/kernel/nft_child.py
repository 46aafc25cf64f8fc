"""The program of a `ListingProcess`: lists by libnftables, one command after the other, until its stdin ends.

A request is a line: `j` or `t` for a reply as JSON or as text with handles, then the command. A reply is REPLY, with
the command's status and the numbers of bytes, then what libnftables printed, then its error. It imports nothing of
nfagent: it starts in some 40 ms.
"""

from __future__ import annotations

import struct
import sys

REPLY = struct.Struct("=iQQ")


def main() -> None:
    """Answer requests."""
    import nftables  # noqa: PLC0415 - the parent takes the layout of replies from this module, and needs no libnftables

    for line in sys.stdin.buffer:
        # Anew for each: a context caches what it has listed.
        context = nftables.Nftables()
        as_text = line[:1] == b"t"
        context.set_json_output(not as_text)
        context.set_handle_output(as_text)
        status, output, error = context.cmd(line[1:].rstrip(b"\n"))
        sys.stdout.buffer.write(REPLY.pack(status, len(output), len(error)) + output + error)
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
