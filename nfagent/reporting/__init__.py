"""What nfagent writes back to the cluster: Events, status conditions, and the Lease that elects who writes them.

`problems` makes notices of what is wrong, `event_queue` decides when each is due, `events` and `conditions` encode
them, `lease` decides who is leader; the `*_recorder`, `*_writer` and `*_elector` modules send them. May import: kube
and below. Promises: one notice is one Event, however often it is found and whoever sends it; a cluster-wide one is
sent by the elected agent alone.
"""
