#!/usr/bin/env bash
# The VM `cp`: etcd and kube-apiserver as services. No kubelet, scheduler or controllers: the workers do their own part.
# /lab has the two binaries, and the certificate, tokens and signing key that vagrant/prepare made for this lab.
set -euo pipefail
address=10.99.$LAB_NET.10

install -m 755 /lab/etcd /lab/kube-apiserver /usr/local/bin
install -d -m 700 /etc/kubernetes /etc/kubernetes/certificates /var/lib/etcd
install -m 600 /lab/tokens.csv /lab/service-accounts.pem /etc/kubernetes
install -m 600 /lab/apiserver.crt /lab/apiserver.key /etc/kubernetes/certificates

cat >/etc/systemd/system/etcd.service <<'UNIT'
[Unit]
Description=etcd

[Service]
Type=notify
ExecStart=/usr/local/bin/etcd --name lab --data-dir /var/lib/etcd --unsafe-no-fsync --log-level warn
TimeoutStartSec=300
Restart=always

[Install]
WantedBy=multi-user.target
UNIT
cat >/etc/systemd/system/kube-apiserver.service <<UNIT
[Unit]
Description=kube-apiserver
After=etcd.service network-online.target
Requires=etcd.service

[Service]
Type=notify
ExecStart=/usr/local/bin/kube-apiserver --etcd-servers http://127.0.0.1:2379 --bind-address 0.0.0.0 \\
    --advertise-address $address --secure-port 6443 --cert-dir /etc/kubernetes/certificates \\
    --token-auth-file /etc/kubernetes/tokens.csv --authorization-mode RBAC \\
    --service-account-issuer https://kubernetes.default.svc \\
    --service-account-key-file /etc/kubernetes/service-accounts.pem \\
    --service-account-signing-key-file /etc/kubernetes/service-accounts.pem \\
    --disable-admission-plugins ServiceAccount --service-cluster-ip-range 10.96.0.0/16 --endpoint-reconciler-type none
TimeoutStartSec=600
Restart=always

[Install]
WantedBy=multi-user.target
UNIT
systemctl daemon-reload
systemctl --quiet enable --now etcd kube-apiserver
