"""What the cluster wants of connections: selectors, policies, and two separate readings of them.

`compile` turns policies into classes of rules for this node's Pods; `evaluate` judges one flow. They share
the selectors and the model, nothing else: each is the other's proof. May import: cluster, errors. Pure.
Promises: a policy that can't be read isolates the Pods that it could select, and stops nobody else.
"""
