"""The differential fuzzer: `evaluate`, the compiled rules and real packets, asked the same questions under churn.

    make fuzz SECONDS=600                  # as root; PACKETS=no leaves the packets out
    make fuzz REPLAY=build/fuzz/12345      # what it found, once more

A case is a history of manifests, drawn from the strategies of `tests/properties`; a number makes the same one again.

    terrain   places with addresses, the forms of connections, and all flows between them
    case      a history of manifests as values: steps, changes; a question, and a finding: who answered what
    drawing   a case for a number, by those strategies
    seasoning networks, ports, names and faults beyond their small spaces
    readings  two judges without packets: evaluate, and the rules of both nodes, interpreted
    asking    a case put to them, step by step
    packets   the third judge: a lab, two agents, and probes between all places
    standing  connections of that lab that live through many steps
    link_scope packets by addresses of the link alone: link-local, broadcast, multicast
    parts     the parts of a document
    shrink    a smaller case that fails as well
    folder    a case as a folder of manifests, and back
    session   one run: cases until the time is up, and what becomes of the first that fails
    report    what people see of it
"""
