"""What nfagent writes back to the cluster: Events, status conditions, and the Lease that elects the agent writing them.

`problems` builds notices from faults, `event_queue` decides when each is published, `events` and `conditions` encode
them, and `lease` decides which agent is leader; the `*_recorder`, `*_writer` and `*_elector` modules send the requests.
May import: kube and below. Guarantees: a notice is one Event, however often it is found and whichever agent writes it;
notices about the cluster are written by the leader alone.
"""
