"""The last good version of objects on disk, so that a restart keeps in force what was in force.

`codec` is pure, `store` and `journal` write and read files in a thread of their own. May import: simulate and below.
Invariants: a damaged line affects no other line; a slow or full disk delays nothing.
"""
