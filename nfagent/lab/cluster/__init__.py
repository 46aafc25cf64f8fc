"""A topology with an agent on every node, and labs that stay up.

    agents            an agent on every node, all with one manifests folder
    agents_apiserver  an agent on every node, all with one API server
    plan              the cluster of `lab up`, as plans and documents; pure
    up                `nfagent lab up`
    pod_servers       servers in every Pod of a lab that is up
    running_labs      labs that stay up: their names, state files, processes, and removing them

May import: probes, apiserver, and below. Which agent runs, nfagent's or the eBPF path's, is a command here, not an
import. Guarantee: `running_labs` finds all of a lab by its name, also of one that is half built or whose processes
were killed.
"""
