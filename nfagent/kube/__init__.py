"""The API server as object source: client, credentials, list and watch, discovery, access reviews.

`reflector` and the codecs are pure: they take bytes, and return objects and the next request. `client` sends HTTP
requests, `informers` runs a reflector for each resource. May import: checkpoint and below. Invariants: an object that
can't be decoded keeps its last good version in force and delays no other object; a relist removes the objects that it
doesn't contain, and no others.
"""
