"""The control loops: apply events, reconcile the ruleset, revoke live connections, report status.

May import: reporting and below. Controllers don't import each other; each declares the protocols (kernel,
conntrack) that it needs. Guarantee: a refused commit is retried with backoff; the rules before it stay in force.
"""
