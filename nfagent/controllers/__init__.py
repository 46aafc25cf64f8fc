"""The control loops: events into the desired state, desired state into the kernel, live connections after a change.

May import: reporting and below. Controllers don't import each other, and declare the interfaces (kernel, clock,
conntrack) that they need. Promises: a refused commit is retried with backoff; the old rules stay in force until then.
"""
