#!/usr/bin/env bash
# A worker: nfagent as the installed service, Pods attached by CNI. /lab has the Python packages that `make install`
# takes, the plugins, and the administrator's kubeconfig. The service `kubelet` of the VM stands where kubelet would:
# nfagent.service is ordered before it, and it makes the Pods.
set -euo pipefail

if [ -d /lab/root ]; then
    # What `make install` installed on the machine that runs the VMs, with the same Python.
    cp -a --no-preserve=ownership /lab/root/. /
    systemctl daemon-reload
else
    export PIP_FIND_LINKS=/lab/wheels PIP_DISABLE_PIP_VERSION_CHECK=1
    # A VM with a network fetches what /lab doesn't have.
    getent hosts pypi.org >/dev/null || export PIP_NO_INDEX=1
    make --silent -C /vagrant install
fi

printf 'LAB_NODE=%d\nLAB_NET=%d\nLAB_PODS=%d\n' "$LAB_NODE" "$LAB_NET" "$LAB_PODS" >/etc/default/nfagent-lab
install -D -t /opt/cni/bin /lab/cni/*
if [ "$LAB_ATTACHMENT" = bridge ]; then
    plugin='"type": "bridge", "bridge": "cni0", "isGateway": true, "hairpinMode": true'
else
    plugin='"type": "ptp"'
fi
install -d /etc/cni/net.d
# Leases in /run: they end with the boot, as the Pods do.
cat >/etc/cni/net.d/10-lab.conflist <<CONFIG
{"cniVersion": "1.0.0", "name": "lab", "plugins": [{$plugin, "ipMasq": false, "ipam": {
  "type": "host-local", "dataDir": "/run/cni-leases",
  "ranges": [[{"subnet": "10.244.$LAB_NODE.0/24"}], [{"subnet": "fd00:10:244:$LAB_NODE::/64"}]],
  "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]}}]}
CONFIG

printf 'net.ipv4.ip_forward = 1\nnet.ipv6.conf.all.forwarding = 1\n' >/etc/sysctl.d/50-lab.conf
echo br_netfilter >/etc/modules-load.d/lab.conf
modprobe br_netfilter
sysctl --quiet --load /etc/sysctl.d/50-lab.conf

cat >/etc/systemd/system/kubelet.service <<'UNIT'
[Unit]
Description=The Pods of this node, in place of kubelet
After=network.target

[Service]
Type=oneshot
RemainAfterExit=yes
EnvironmentFile=/etc/default/nfagent-lab
ExecStart=/opt/nfagent/bin/python -m nfagent.lab.vagrant.node pods
TimeoutStartSec=600

[Install]
WantedBy=multi-user.target
UNIT
if [ "${LAB_ACCELERATOR:-}" = qemu ]; then
    # An emulated start takes longer than a minute where the machine has other work, and the early unit's longer than 30 s.
    for unit in nfagent nfagent-early; do
        install -d "/etc/systemd/system/$unit.service.d"
        printf '[Service]\nTimeoutStartSec=600\n' >"/etc/systemd/system/$unit.service.d/emulated.conf"
    done
fi
systemctl daemon-reload
LAB_NODE=$LAB_NODE LAB_NET=$LAB_NET /opt/nfagent/bin/python -m nfagent.lab.vagrant.node prepare
systemctl --quiet enable --now nfagent
systemctl --quiet enable --now kubelet
