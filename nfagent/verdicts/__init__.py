"""What happened: from a logged packet to the record that people read.

May import: wire and below. Pure: no clock, no socket, no file; the time of a record comes in with its packet.
Promises: a record is made for a final verdict only; its JSON is the one that log shippers already know.
"""
