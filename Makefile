# Everything here runs on a bare Debian 12 as root, with nothing but git and make on it. Elsewhere, or as another
# user, what is missing is named. pip and apt are used as this machine has them set up.

VENV ?= $(if $(LATEST),.venv-latest,.venv)
PYTHON ?= /usr/bin/python3
PREFIX ?= /opt/nfagent
DESTDIR ?=

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.DEFAULT_GOAL := help

# What nfagent runs on (python3-nftables is the library of Debian's own nft); with what the tools here use besides.
# netbase has /etc/protocols, for those tests that hold names of protocols against numbers.
RUN_PACKAGES := python3 python3-venv python3-nftables nftables iproute2 kmod
DEV_PACKAGES := $(RUN_PACKAGES) iptables ipset netbase procps systemd clang gcc libbpf-dev libc6-dev openssl
# Those whose completion is tried; bash is everywhere.
SHELL_PACKAGES := zsh fish
MODULES := nf_tables nfnetlink_log nf_conntrack_netlink br_netfilter

# Exact versions of nfagent's Python packages, and of the tools, with the hashes of their files.
# `make lock` writes them anew from the lower bounds in setup.cfg. pip uses the index that this machine configures.
RUN_LOCK := requirements.txt
DEV_LOCK := requirements-dev.txt
FUZZ_LOCK := requirements-fuzz.txt
BROWSER_LOCK := requirements-browser.txt

say := printf '==> %s\n'
bin := $(VENV)/bin
root := $(abspath $(DESTDIR)$(PREFIX))
settings := $(abspath $(DESTDIR)/etc/nfagent/nfagent.toml)
units := $(abspath $(DESTDIR)/etc/systemd/system)
UNITS := nfagent.service nfagent-early.service
command := $(abspath $(DESTDIR)/usr/local/bin/nfagent)
share := $(abspath $(DESTDIR)/usr/local/share)
completions := bash:bash-completion/completions/nfagent zsh:zsh/site-functions/_nfagent fish:fish/vendor_completions.d/nfagent.fish

# $(call packages,NAMES): install those that are missing; without root, name them.
define packages
missing=
for package in $(1); do
    [ "$$(dpkg-query -W -f='$${db:Status-Status}' $$package 2>/dev/null || true)" = installed ] || missing+=" $$package"
done
if [ -z "$$missing" ]; then
    :
elif [ "$$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    echo "missing here:$$missing; as root: apt-get update && apt-get install$$missing" >&2
else
    $(say) "Debian packages:$$missing"
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive DEBCONF_NOWARNINGS=yes apt-get install -qq --no-install-recommends \
        -o DPkg::Lock::Timeout=300 $$missing >/dev/null
fi
endef

# $(call install,PIP,LOCK,WHAT): what is locked, then WHAT without its dependencies, built by the setuptools of the lock.
define install
$(1) install --quiet --require-hashes --requirement $(2)
$(1) install --quiet --no-deps --no-build-isolation $(3)
endef

# $(call lock,FILE,WORDS): write a lock file anew, without paths and package indexes of this machine.
lock = CUSTOM_COMPILE_COMMAND='make lock' build/lock/bin/pip-compile --quiet --upgrade --generate-hashes --allow-unsafe \
    --all-build-deps --strip-extras --no-emit-options --no-emit-index-url --no-emit-find-links --no-emit-trusted-host \
    --output-file $(1) $(2) pyproject.toml

# $(call lock_apart,EXTRA,FILE): write the lock file of an extra of setup.cfg alone.
lock_apart = sed -n '/^$(1) =/,/^$$/s/^    //p' setup.cfg | CUSTOM_COMPILE_COMMAND='make lock' build/lock/bin/pip-compile --quiet \
    --upgrade --generate-hashes --strip-extras --no-emit-options --no-emit-index-url --no-emit-find-links \
    --no-emit-trusted-host --constraint $(DEV_LOCK) --output-file $(2) -

# $(call unit_for,FOLDER,UNIT): a unit as it starts the nfagent that is in FOLDER.
unit_for = sed 's|/opt/nfagent/bin/|$(1)/bin/|' $(2)

# The highest exposure, times ten, that `systemd-analyze security` may find for a unit.
EXPOSURE := 19

# Where systemd runs, it reads its units again; not for a DESTDIR, which is another machine's.
reload = if [ -z "$(DESTDIR)" ] && [ -d /run/systemd/system ]; then systemctl daemon-reload; fi

define linting
$(say) 'ruff check'
$(bin)/ruff check
$(say) 'ruff format --check'
$(bin)/ruff format --check
$(say) 'mypy --strict'
$(bin)/mypy
$(say) 'lint-imports'
$(bin)/lint-imports --no-logo
$(say) 'codespell'
$(bin)/codespell
$(say) 'systemd-analyze verify, security'
(
    folder=$$(mktemp -d)
    trap 'rm -rf "$$folder"' EXIT
    for unit in systemd/*.service; do
        copy="$$folder/$${unit##*/}"
        $(call unit_for,$(abspath $(VENV)),"$$unit") >"$$copy"
        systemd-analyze verify --man=no --recursive-errors=no "$$copy"
        systemd-analyze security --offline=yes --no-pager --threshold=$(EXPOSURE) "$$copy" >"$$folder/found" ||
            { cat "$$folder/found" && exit 1; }
    done
)
endef

.PHONY: help
help: ## this list
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/\1|\2/p; s/^#: \(.*\)/|\1/p' $(MAKEFILE_LIST) | while IFS='|' read -r target what; do
	    printf '  %-18s %s\n' "$${target:+make $$target}" "$$what"
	done

.PHONY: demo
demo: $(VENV)/ready modules ## two nodes in network namespaces, policies at work (root)
	@exec $(bin)/nfagent lab demo

# What tests/apiserver needs is built meanwhile, at the lowest priority: it takes minutes the first time. Those
# tests come late and wait for it; the end of `make test` ends the build too, Ctrl-C or not.
.PHONY: test
test: $(VENV)/ready modules ## lint, then every test (root for those that need the kernel)
#: LATEST=1  with the newest packages that setup.cfg allows
#: BACKENDS=both  long tests with packets on iptables too
	@$(call packages,$(SHELL_PACKAGES))
	$(if $(BACKENDS),export NFAGENT_TEST_BACKENDS=$(BACKENDS))
	setpriv --pdeathsig TERM nice -n 19 $(bin)/python -m nfagent.lab.machine.binaries --quiet &
	build=$$!
	trap 'kill $$build 2>/dev/null && wait $$build || true' EXIT
	$(linting)
	$(say) 'pytest: kernel, lab, apiserver, properties, golden, unit'
	# Tests with labs wait for half of their time: more processes than cores.
	$(bin)/pytest --numprocesses 6 --dist loadfile --no-loadscope-reorder $(if $(LATEST),-W default)

.PHONY: apiserver
apiserver: $(VENV)/ready ## etcd and kube-apiserver into build/, for tests/apiserver
	@exec $(bin)/python -m nfagent.lab.machine.binaries

# Debian's package, unpacked: an installed one would start a service.
.PHONY: prometheus
prometheus: ## promtool and Prometheus into build/, for the tests
	@mkdir -p build/prometheus
	cd build/prometheus
	[ -x usr/bin/promtool ] || { apt-get download --quiet prometheus && dpkg-deb --extract prometheus_*.deb . && rm prometheus_*.deb; }
	usr/bin/promtool --version | head -1

# The agent as a container: Containerfile, deploy/daemonset, deploy/helm.
IMAGE_PACKAGES := buildah debootstrap git python3 python3-venv
IMAGE_TEST_PACKAGES := podman crun

.PHONY: image
image: ## the container image, into build/container/ (root)
#: BASE=  a Debian 12 to build on
	@$(call packages,$(IMAGE_PACKAGES))
	exec .ci/image

.PHONY: image-test
image-test: $(VENV)/ready modules image helm ## the image as the DaemonSet runs it, in a lab (root)
	@$(call packages,$(IMAGE_TEST_PACKAGES))
	exec $(bin)/pytest -v tests/packages/test_image.py

# From Go's modules, by the hashes of go.sum; Debian has neither. Without its flags Helm takes itself for one of 1.20.
helm_versions := $(foreach package,chartutil lint/rules,-X helm.sh/helm/v3/pkg/$(package).k8sVersionMajor=1 \
    -X helm.sh/helm/v3/pkg/$(package).k8sVersionMinor=34)

.PHONY: helm
helm: ## Helm and kustomize into build/, for the tests (Go)
	@mkdir -p build/kubernetes
	into=$$(realpath build/kubernetes)
	if cmp -s tests/packages/tools/go.sum "$$into/go.sum"; then exit; fi
	command -v go >/dev/null || { echo 'missing here: Go 1.24 or later' >&2; exit 2; }
	$(say) 'Helm and kustomize: five minutes the first time'
	cd tests/packages/tools
	GOTOOLCHAIN=local CGO_ENABLED=0 go build -trimpath -o "$$into/" -ldflags '-s -w $(helm_versions)' \
	    helm.sh/helm/v3/cmd/helm sigs.k8s.io/kustomize/kustomize/v5
	cp go.sum "$$into/go.sum"

# The lab of virtual machines: README.md in vagrant/. VMs under emulation where KVM can't run a stock kernel.
VAGRANT_PACKAGES := vagrant vagrant-libvirt qemu-system-x86 qemu-utils libvirt-daemon-system libvirt-clients debootstrap \
    dnsmasq-base rsync openssh-client

.PHONY: vagrant-lab
vagrant-lab: $(VENV)/ready modules ## demo, latency and report of a lab of VMs (root)
#: NODES=2  LATENCY='--policies 0 --pods 50 --tries 20'
	@$(call packages,$(VAGRANT_PACKAGES))
	exec $(bin)/python -m nfagent.lab.vagrant.run --nodes $(or $(NODES),2) --folder build/vagrant-lab $(LATENCY)

.PHONY: vagrant-test
vagrant-test: $(VENV)/ready modules ## tests that need a VM's kernel and systemd (root)
#: NFAGENT_PACKAGE_OLD=COMMIT  upgraded from; HEAD~20
	@$(call packages,$(VAGRANT_PACKAGES) $(DEB_PACKAGES))
	exec $(bin)/pytest -v -o faulthandler_timeout=3600 tests/vagrant

# systemd-nspawn boots the systems in build/nspawn-debian-*, which the first run makes by debootstrap.
.PHONY: systemd-test
systemd-test: $(VENV)/ready modules ## the hardened unit in a booted systemd (root)
	@$(call packages,systemd-container debootstrap)
	NFAGENT_NSPAWN=build $(bin)/pytest -v tests/nspawn

.PHONY: unit
unit: $(VENV)/ready ## tests that need no kernel
	@exec $(bin)/pytest tests/unit tests/golden tests/properties

# The browser is Debian's; playwright drives it, and downloads none.
define browser
$(call packages,chromium)
$(bin)/pip install --quiet --require-hashes --requirement $(BROWSER_LOCK)
endef

.PHONY: browser-test
browser-test: $(VENV)/ready ## the pages in headless Chromium
	@$(browser)
	exec $(bin)/pytest -v tests/browser

.PHONY: screenshots
screenshots: $(VENV)/ready modules ## the pictures of page and terminal, of a lab (root)
#: FOLDER=  all of them, instead of docs/pictures
	@$(browser)
	exec $(bin)/python -m tests.browser.screenshots $(FOLDER)

.PHONY: conformance
conformance: $(VENV)/ready modules ## the recorded suites: evaluator, rules, packets (root)
#: CASE=cyc-001  ATTACHMENT=bridge  one case; one kind of lab
#: BACKEND=iptables  by iptables and ipset
#: BACKEND=ebpf      packets over the lab's eBPF path
	@exec $(bin)/python -m tests.conformance $(addprefix --case ,$(CASE)) $(addprefix --attachment ,$(ATTACHMENT)) \
		$(addprefix --path ,$(BACKEND))

.PHONY: trixie
trixie: $(VENV)/ready modules ## our rules in Debian 13's nftables (root)
	@$(call packages,debootstrap)
	NFAGENT_DEBIAN_13=build $(bin)/pytest tests/kernel/test_debian_13.py

.PHONY: fuzz
fuzz: $(VENV)/ready modules ## random histories: evaluator, rules, packets (root)
#: SECONDS=  SEED=  PACKETS=no  BACKEND=iptables
#: REPLAY=build/fuzz/SEED
	@exec $(bin)/python -m tests.fuzz $(addprefix --seconds ,$(SECONDS)) $(addprefix --seed ,$(SEED)) \
	    $(addprefix --backend ,$(BACKEND)) \
	    $(if $(filter no,$(PACKETS)),--no-packets) $(addprefix --replay ,$(REPLAY))

.PHONY: faults
faults: $(VENV)/ready modules apiserver ## faults at every boundary, under traffic (root)
#: TIMES=3  ONLY='commit*'  some, without docs/reliability.md
#: BACKEND=iptables
	@exec $(bin)/python -m tests.fault_injection --times $(or $(TIMES),3) $(addprefix --backend ,$(BACKEND)) \
	    $(if $(ONLY),--only '$(ONLY)',--write docs/reliability.md)

.PHONY: soak
soak: $(VENV)/ready modules $(if $(filter apiserver,$(SOURCE)),apiserver) ## a lab under churn and faults: verdicts, memory (root)
#: MINUTES=5  SEED=  CYCLE=  ATTACHMENT=bridge
#: SOURCE=apiserver
	@exec $(bin)/python -m tests.soak $(addprefix --minutes ,$(MINUTES)) $(addprefix --seed ,$(SEED)) \
	    $(addprefix --cycle ,$(CYCLE)) $(addprefix --attachment ,$(ATTACHMENT)) $(addprefix --source ,$(SOURCE))

.PHONY: fuzz-decoders
fuzz-decoders: $(VENV)/ready ## coverage-guided fuzzing of every decoder, by atheris
#: INPUTS=1000000  SECONDS=  ONLY='netlink nflog'  JOBS=2
#: WRITE=docs/threat-model.md  the table, of the last results
	@$(bin)/pip install --quiet --require-hashes --requirement $(FUZZ_LOCK)
	exec $(bin)/python -m tests.fuzz_decoders $(addprefix --inputs ,$(INPUTS)) $(addprefix --only ,$(ONLY)) \
	    $(addprefix --seconds ,$(SECONDS)) $(addprefix --jobs ,$(JOBS)) \
	    $(addprefix --replay ,$(REPLAY)) $(addprefix --write ,$(WRITE))

.PHONY: bench
bench: $(VENV)/ready modules ## every figure beside its reference, build/bench.json (root)
#: QUICK=1  ONLY=packets  two minutes; one suite
	@mkdir -p build
	exec $(bin)/python -m benchmarks $(if $(QUICK),--quick) $(addprefix --only ,$(ONLY)) --json build/bench.json --markdown build/bench.md

.PHONY: lint
lint: $(VENV)/ready ## ruff, mypy, import contracts, spelling, the systemd units
	@$(linting)

.PHONY: fresh
fresh: ## make demo, make test on a bare Debian 12 (root; 20 minutes)
	@exec .ci/fresh

.PHONY: lock
lock: ## requirements*.txt: newest allowed versions, with hashes
	@$(PYTHON) -m venv build/lock
	build/lock/bin/pip install --quiet 'pip-tools >= 7.5, < 8'
	$(say) '$(DEV_LOCK)'
	$(call lock,$(DEV_LOCK),--extra dev)
	$(say) '$(RUN_LOCK)'
	$(call lock,$(RUN_LOCK),--constraint $(DEV_LOCK))
	$(say) '$(FUZZ_LOCK)'
	$(call lock_apart,fuzz,$(FUZZ_LOCK))
	$(say) '$(BROWSER_LOCK)'
	$(call lock_apart,browser,$(BROWSER_LOCK))

.PHONY: install
install: ## /opt/nfagent, /etc/nfagent/nfagent.toml, systemd units
#: PREFIX=  DESTDIR=
	@$(call packages,$(RUN_PACKAGES))
	$(say) "$(root): nfagent and its Python packages"
	$(PYTHON) -m venv --system-site-packages "$(root)"
	# What an earlier build left would be installed again, modules that are gone included. Ours in build/ stays.
	trap 'rm -rf build/lib build/bdist.*' EXIT
	rm -rf build/lib build/bdist.*
	$(call install,"$(root)/bin/python" -m pip,$(RUN_LOCK),.)
	$(say) '$(share): manual pages, completion for bash, zsh and fish'
	"$(root)/bin/python" -m nfagent.cli.man_pages "$(share)/man" systemd/nfagent.toml
	for section in 1 5; do
	    install -d "$(share)/man/man$$section"
	    mv "$(share)"/man/nfagent*.$$section "$(share)/man/man$$section"
	done
	for completion in $(completions); do
	    path="$(share)/$${completion#*:}"
	    install -d "$$(dirname "$$path")"
	    "$(root)/bin/nfagent" completion $${completion%%:*} >"$$path"
	done
	if [ -n "$(DESTDIR)" ]; then
	    # Scripts name their interpreter by its path: by the one that it will have.
	    find "$(root)" -maxdepth 2 -type f \( -path '*/bin/*' -o -name pyvenv.cfg \) -exec sed -i "s|$(root)|$(PREFIX)|g" {} +
	fi
	install -d "$(dir $(settings))" "$(units)" "$(dir $(command))"
	if [ -L "$(command)" ] || [ ! -e "$(command)" ]; then
	    $(say) '$(command): the command, a link'
	    ln -sfn "$(PREFIX)/bin/nfagent" "$(command)"
	else
	    $(say) '$(command): not ours, left alone; the command is $(PREFIX)/bin/nfagent'
	fi
	if [ ! -e "$(settings)" ]; then
	    $(say) '$(settings): every setting, with its default'
	    install -m 644 systemd/nfagent.toml "$(settings)"
	elif cmp -s systemd/nfagent.toml "$(settings)"; then
	    rm -f "$(settings).new"
	else
	    $(say) '$(settings): yours, kept as it is; the new defaults are beside it, in nfagent.toml.new'
	    install -m 644 systemd/nfagent.toml "$(settings).new"
	fi
	for name in $(UNITS); do
	    $(say) "$(units)/$$name"
	    $(call unit_for,$(PREFIX),"systemd/$$name") >"$(units)/$$name"
	done
	if [ "$$(systemctl --version 2>/dev/null | sed -n '1s/^systemd \([0-9]*\).*/\1/p')" -ge 254 ] 2>/dev/null; then
	    install -D -m 644 systemd/restart-backoff.conf "$(units)/nfagent.service.d/restart-backoff.conf"
	fi
	install -D -m 644 systemd/iptables-legacy.conf "$(root)/systemd/iptables-legacy.conf"
	$(reload)
	$(say) 'installed. Next: set `kubeconfig` or `manifests` in /etc/nfagent/nfagent.toml, then: systemctl enable --now nfagent'

.PHONY: uninstall
uninstall: ## remove units and /opt/nfagent; settings, logs, rules stay
	@if [ -z "$(DESTDIR)" ] && [ -d /run/systemd/system ]; then
	    if systemctl is-active --quiet nfagent || systemctl is-enabled --quiet $(UNITS) 2>/dev/null; then
	        echo 'nfagent is in use: stop it first, with: systemctl disable --now nfagent' >&2
	        exit 1
	    fi
	fi
	rm -f $(foreach name,$(UNITS),"$(units)/$(name)") "$(units)/nfagent.service.d/restart-backoff.conf"
	rmdir --ignore-fail-on-non-empty "$(units)/nfagent.service.d" 2>/dev/null || true
	if [ "$$(readlink "$(command)")" = "$(PREFIX)/bin/nfagent" ]; then rm "$(command)"; fi
	rm -f "$(share)"/man/man1/nfagent{,-*}.1 "$(share)/man/man5/nfagent.toml.5"
	for completion in $(completions); do rm -f "$(share)/$${completion#*:}"; done
	if [ -e "$(root)/pyvenv.cfg" ]; then rm -rf "$(root)"; fi
	$(reload)
	$(say) 'removed: $(addprefix $(units)/,$(UNITS)) $(root)'
	$(say) 'kept: $(dir $(settings)), the logs, and the rules: what is in the kernel stays in force'
	$(say) 'the rules go with `nfagent cleanup`, or without nfagent: nft delete table inet nfagent'

# Best effort: a kernel may have them built in, and a container may not load any.
.PHONY: modules
modules:
	@for module in $(MODULES); do modprobe --quiet $$module 2>/dev/null || true; done

include packaging/packages.mk

# LATEST=1 installs the newest versions again at each run.
ifdef LATEST
.PHONY: $(VENV)/ready
endif

$(VENV)/ready: setup.cfg pyproject.toml $(DEV_LOCK)
	@$(call packages,$(DEV_PACKAGES))
	$(say) '$(VENV): a virtual environment'
	$(PYTHON) -m venv --system-site-packages $(VENV)
	$(say) '$(VENV): nfagent, its Python packages and the tools for tests (a minute or two)'
	if [ -n "$(LATEST)" ]; then
	    $(bin)/pip install --quiet --upgrade --upgrade-strategy eager --editable '.[dev]'
	    $(say) 'newer here than what is locked:'
	    $(bin)/pip freeze --local --exclude-editable | tr _ - | grep -ixvFf <(grep -o '^[^ ]*==[^ ]*' $(DEV_LOCK)) || echo nothing
	else
	    $(call install,$(bin)/pip,$(DEV_LOCK),--editable .)
	fi
	touch $@
