"""The process and its service manager: sd_notify(3), readiness, garbage collection, malloc_trim(3), file calls.

May import: simulate and below. Guarantee: a stalled reader of stderr or of NOTIFY_SOCKET never blocks the event loop.
"""
