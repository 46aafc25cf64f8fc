"""Bytes: what the kernel sends and takes over netlink, and the heads of packets.

May import: ruleset and below. Pure: bytes in, values out, and back; no socket, no clock.
Promises: decoders are total (a value or a WireError, whatever the bytes); what an encoder writes its decoder
reads back; layouts name the kernel structure or the RFC that they come from.
"""
