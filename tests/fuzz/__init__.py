"""The differential fuzzer: the evaluator, the compiled rules and real packets get the same flows under churn.

    make fuzz SECONDS=600                  # as root; PACKETS=no: without packets
    make fuzz REPLAY=build/fuzz/12345      # repeats a finding

A case is a history of manifests, drawn from the strategies of `tests/properties`; a number determines the case.

    topology       places with addresses, the protocols and ports of connections, and all flows between places
    case           a history of manifests as values: steps, changes; a question, and a finding with all verdicts
    generator      a case for a number, by those strategies
    mutations      networks, ports, names and faults beyond the small spaces of the strategies
    oracles        two oracles without packets: the evaluator, and the rules of both nodes, interpreted
    tables         the oracle of text and bytes: real tables, changed both ways, in one case of four
    oracle_runner  runs a case through the oracles, step by step
    packets        the third oracle: a lab, two agents, and probes between all places
    folder_objects the source of that lab's objects, and the folder of manifests as one
    long_lived     connections of that lab that live through many steps
    link_scope     packets to addresses of the link: link-local, broadcast, multicast
    document_parts the parts of a document
    shrink         a smaller case that fails as well
    folder         a case as a folder of manifests, and back
    session        one run: cases until the time is up, and the handling of the first that fails
    stats          counts of a run
    report         progress and results for people
"""
