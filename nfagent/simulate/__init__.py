"""Policy simulation: what a change of policies would do to connections, each judged before and after.

May import: verdicts and below. Pure. Promises: the state that it reads stays as it is.
"""
