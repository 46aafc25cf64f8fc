"""The lab of virtual machines: its driver, and what runs in its VMs. The VMs are those of `vagrant/Vagrantfile`.

    driver   brings VMs up, runs commands in them, destroys them: `nfagent lab ... --driver vagrant`
    checks   what it needs of the machine; libvirt starts its daemons, and removes what Vagrant left
    run      `make vagrant-lab`: from nothing to the report
    node     what kubelet does on a real node, in a VM; cni attaches its Pods

May import: report and below. Guarantee: a lab that is half built, or whose process was killed, is found and removed
whole by its name.
"""
