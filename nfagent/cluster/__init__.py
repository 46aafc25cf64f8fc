"""What the cluster is: its objects, how they are decoded, and the state they add up to.

May import: errors. Pure: no clock, no socket, no file, no logging.
Promises: decoders are total (a value or an ObjectError); objects are immutable and hold only what
nfagent reads; the state's indexes are updated by the event and always equal to rebuilt ones.
"""
