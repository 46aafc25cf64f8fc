#!/usr/bin/env bash
# Every VM of the lab: the packages of a public box, the network of the nodes, and routes to their Pods.
# LAB_NODE: its number, 0 for the control plane; LAB_WORKERS: how many workers; LAB_NET: a number of the lab's own.
set -euo pipefail

missing=()
for package in make rsync python3 python3-venv python3-nftables nftables iproute2 kmod netbase procps openssl clang libbpf-dev; do
    dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null | grep -qx installed || missing+=("$package")
done
if [ ${#missing[@]} != 0 ]; then
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi

address() { printf '10.99.%d.%d' "$LAB_NET" $((10 + $1)); }
address6() { printf 'fd00:99:%d::%d' "$LAB_NET" $((10 + $1)); }

{
    printf '[Match]\nName=eth1\n\n[Network]\nLinkLocalAddressing=ipv6\nIPv6AcceptRA=no\nConfigureWithoutCarrier=yes\n'
    printf 'Address=%s/24\nAddress=%s/64\n' "$(address "$LAB_NODE")" "$(address6 "$LAB_NODE")"
    for worker in $(seq "$LAB_WORKERS"); do
        if [ "$worker" != "$LAB_NODE" ]; then
            printf '\n[Route]\nDestination=10.244.%d.0/24\nGateway=%s\n' "$worker" "$(address "$worker")"
            printf '\n[Route]\nDestination=fd00:10:244:%d::/64\nGateway=%s\n' "$worker" "$(address6 "$worker")"
        fi
    done
} >/etc/systemd/network/20-nodes.network
systemctl --quiet enable --now systemd-networkd
networkctl reload
networkctl reconfigure eth1

sed -i '/ # lab$/d' /etc/hosts
for node in $(seq 0 "$LAB_WORKERS"); do
    name=worker-$node
    [ "$node" != 0 ] || name=cp
    printf '%s %s # lab\n' "$(address "$node")" "$name" >>/etc/hosts
done
