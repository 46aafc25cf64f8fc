"""What nfagent says about objects where their owners look: Events, status conditions, and who says it.

`findings` makes statements of what is wrong, `ledger` decides which of them is said when, `events` and `conditions`
give it the API's shape, `election` decides who speaks for the cluster. May import: source and below. Pure: statements
in, request bodies out; the edge sends them, tells the time and draws the lots. Promises: one statement is one Event,
however often it is found and whoever says it; a cluster-wide one is said by the elected agent alone.
"""
