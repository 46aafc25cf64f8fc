"""The verdict log: from a logged packet to a record with its Pods and policies, and the file of records.

May import: explain and below. `attribution`, `delegation`, `aggregation`, `rate_limit` and `records` are pure: times
come with the packets, or from the caller.
Invariants: only final verdicts become records; their JSON is the format that log shippers already parse.
"""
