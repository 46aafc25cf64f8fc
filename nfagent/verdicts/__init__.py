"""The verdict log: from a logged packet to a record with its Pods and policies, and the file of records.

May import: explain and below. `attribution` and `records` are pure: the time of a record comes with its packet.
Invariants: only final verdicts become records; their JSON is the format that log shippers already parse.
"""
