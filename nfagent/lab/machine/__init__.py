"""What a lab needs of the machine that it runs on, and how long commands run there.

    patience        how long the lab waits: longer on an emulated machine
    interrupts      defers interrupts until a started process is recorded
    logged_command  runs a long command with its output in a log, and ends it with its children
    binaries        etcd and kube-apiserver, found or built; `python -m nfagent.lab.machine.binaries`
    requirements    what the machine must have

May import no other package of the lab. Guarantees: each lack is named with the command that fixes it, before anything
is built; a command that is interrupted leaves no child.
"""
