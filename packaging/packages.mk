# Packages of nfagent: for PyPI, for Debian, and with everything they need, for machines without network.

# Debian's tools for packages; lintian judges the result. man-db has lintian look at the manual pages.
DEB_PACKAGES := debhelper dpkg-dev lintian man-db
# Those that `make offline` carries: what `make install` and the Debian package need.
OFFLINE_PACKAGES := $(RUN_PACKAGES) ca-certificates
RELEASES ?= bookworm trixie

.PHONY: dist
dist: $(VENV)/ready ## wheel and sdist for PyPI, into build/dist
	@rm -rf build/dist
	mkdir -p build/dist
	$(say) 'sdist, and the wheel from it'
	trap 'rm -rf build/dist/source' EXIT
	# build's subprocesses find the tools of the lock, not the newest ones.
	$(bin)/python -m build --no-isolation --outdir build/dist "$$(packaging/source build/dist/source)" >build/dist.log 2>&1 ||
	    { tail -20 build/dist.log >&2; exit 2; }
	$(say) 'twine check --strict'
	$(bin)/twine check --strict build/dist/*.whl build/dist/*.tar.gz
	ls -l build/dist/*.whl build/dist/*.tar.gz

.PHONY: deb
deb: $(VENV)/ready ## Debian package for 12 and 13, into build/deb (3 minutes)
	@$(call packages,$(DEB_PACKAGES))
	packaging/deb/build-package $(bin)/python

.PHONY: offline
offline: $(VENV)/ready ## tarball that installs without network, into build/offline
#: RELEASES='bookworm trixie'
	@$(call packages,$(DEB_PACKAGES))
	packaging/offline/build-tarball $(bin)/python '$(RELEASES)' $(OFFLINE_PACKAGES)

.PHONY: package-test
package-test: $(VENV)/ready modules ## packages on bare Debian 12 and 13 (root; 15 minutes)
#: OLD=COMMIT  what is upgraded from; HEAD~1
	@$(call packages,$(DEB_PACKAGES) debootstrap systemd-container)
	NFAGENT_NSPAWN=build NFAGENT_PACKAGE_OLD='$(OLD)' exec $(bin)/pytest -v -o faulthandler_timeout=1800 tests/packages

# KEY signs; it isn't in the tree. RELEASING.md has the steps before.
.PHONY: release
release: $(VENV)/ready ## files, SBOM, sums, signature: build/release/VERSION
#: KEY=FILE  minisign's secret key, outside of the checkout
	@$(call packages,git minisign)
	exec packaging/release/create $(bin)/python '$(KEY)'

.PHONY: verify
verify: ## check a release's signature and sums
#: FOLDER=  PUBKEY=
	@$(call packages,minisign)
	exec packaging/release/verify '$(FOLDER)' '$(PUBKEY)'
