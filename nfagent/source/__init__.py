"""How a cluster's objects reach us: their kinds, list pages and watch streams, and what comes next after each.

May import: ruleset and below. Pure: bytes in, objects and the next request out; the edge speaks HTTP, tells the time
and draws the lots. Promises: decoders are total (an object, or a problem that names it); an object that can't be read
leaves its last good version in force and holds up no other; what a relist doesn't name is gone, and nothing else.
"""
