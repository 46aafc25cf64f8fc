"""Faults at every boundary of a running agent, under traffic: `make faults`.

    .venv/bin/python -m tests.fault_injection --times 3 --only 'commit*'

A try starts with an agent in sync, on one node of network namespaces. `boundary.c`, loaded into the agent, makes calls
of the C library fail, hang or be cut short; `api_proxy` does the same to the connections to an API server. Numbered
packets are sent every millisecond on connections that must pass, must not, and whose verdict the try changes while the
fault lasts (`streams`). Afterwards no packet may have passed that was forbidden, none that was allowed may be missing,
and the table must be the one of the new policy.

catalogue   the faults           crashes    kill -9 after each step of a sync
trial       one try              report     the tables of docs/reliability.md
"""
