"""Policy simulation: evaluates flows before and after a policy change.

May import: verdicts and below. Pure. Invariant: the state that it reads isn't changed.
"""
