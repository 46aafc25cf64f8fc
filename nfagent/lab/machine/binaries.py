"""The binaries of a real control plane: etcd and kube-apiserver, found or built.

    python -m nfagent.lab.machine.binaries        # builds them where they are missing; `make apiserver`

Looks into the folder that KUBEBUILDER_ASSETS names (the convention of kubebuilder and its test tools), then into
`build/` of the checkout. Where Go is installed, builds them there from `tests/apiserver/server`.
A lock file allows one build at a time: a second process waits for the first.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from nfagent.errors import HostError
from nfagent.lab.machine.logged_command import run_logged

CHECKOUT = Path(__file__).parents[3]
VARIABLE = "KUBEBUILDER_ASSETS"

_NAMES = ("etcd", "kube-apiserver")
_SOURCES = ("go.mod", "go.sum", *(f"{name}/main.go" for name in _NAMES))
_GO = (1, 24)
_BUILD_SECONDS = 1200
_STOP_SECONDS = 10.0
_POLL_SECONDS = 0.2
_STEP = 200  # packages between two lines of progress


class ControlPlaneBinaries(msgspec.Struct, frozen=True):
    """Where the two binaries are."""

    etcd: Path
    kube_apiserver: Path


def no_progress(_said: str) -> None:
    """Ignore the progress."""


def find(progress: Callable[[str], None] = no_progress, checkout: Path = CHECKOUT) -> ControlPlaneBinaries:
    """Return the binaries; build them where they are missing: minutes the first time, seconds later.

    Raises HostError, which names the packages to install, or the build's error.
    """
    named = os.environ.get(VARIABLE)
    if named:
        return _in_folder(Path(named).absolute())
    sources = checkout / "tests" / "apiserver" / "server"
    if not sources.is_dir():
        raise HostError(f"no etcd and kube-apiserver: set {VARIABLE} to their folder, or run this in a checkout")
    build = checkout / "build"
    if not _is_built(sources, build):
        _check_go()
        with _alone(build, progress):
            # Another process may have built them meanwhile.
            if not _is_built(sources, build):
                _build(sources, build, progress)
    return _in_folder(build)


def _in_folder(folder: Path) -> ControlPlaneBinaries:
    for name in _NAMES:
        if not os.access(folder / name, os.X_OK):
            raise HostError(f"{folder / name} isn't there: {VARIABLE} names a folder with etcd and kube-apiserver")
    return ControlPlaneBinaries(*(folder / name for name in _NAMES))


def _digest(sources: Path) -> str:
    digest = hashlib.sha256()
    for name in _SOURCES:
        digest.update((sources / name).read_bytes())
    return digest.hexdigest()


def _stamp(build: Path) -> Path:
    return build / "control-plane.sha256"


def _is_built(sources: Path, build: Path) -> bool:
    stamp = _stamp(build)
    return (
        stamp.exists()
        and stamp.read_text(encoding="ascii") == _digest(sources)
        and all(os.access(build / name, os.X_OK) for name in _NAMES)
    )


def _check_go() -> None:
    go = shutil.which("go")
    wanted = f"install Go {_GO[0]}.{_GO[1]} or later, or name a folder with etcd and kube-apiserver in {VARIABLE}"
    if go is None:
        raise HostError(f"no etcd and kube-apiserver, and no Go to build them: {wanted}")
    said = subprocess.run([go, "env", "GOVERSION"], capture_output=True, text=True, check=False).stdout.strip()
    version = re.match(r"go(\d+)\.(\d+)", said)
    if version is None or (int(version[1]), int(version[2])) < _GO:
        raise HostError(f"{go} is {said or 'no Go'}: {wanted}")


@contextlib.contextmanager
def _alone(build: Path, progress: Callable[[str], None]) -> Iterator[None]:
    build.mkdir(exist_ok=True)
    with (build / "control-plane.lock").open("w", encoding="ascii") as lock:
        end, told = time.monotonic() + _BUILD_SECONDS, False
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > end:
                    raise HostError(
                        f"another build of kube-apiserver holds {lock.name} for more than {_BUILD_SECONDS} s"
                    ) from None
            if not told:
                progress("waiting for another process that builds etcd and kube-apiserver")
                told = True
            time.sleep(_POLL_SECONDS)
        # Closing the file, or the end of the process, releases the lock.
        yield


def _build(sources: Path, build: Path, progress: Callable[[str], None]) -> None:
    progress("building etcd and kube-apiserver: five minutes the first time on two cores")
    scratch, log = build / "control-plane.new", build / "control-plane.log"
    # A build that was killed may have left its folder.
    shutil.rmtree(scratch, ignore_errors=True)
    try:
        (scratch / "tmp").mkdir(parents=True)
        (scratch / "bin").mkdir()
        _run_go(sources, scratch, log, progress)
        for name in _NAMES:
            (scratch / "bin" / name).rename(build / name)
        _stamp(build).write_text(_digest(sources), encoding="ascii")
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    progress("etcd and kube-apiserver are built")


def _run_go(sources: Path, scratch: Path, log: Path, progress: Callable[[str], None]) -> None:
    # The timeout ends it where the network hangs. Not by SIGINT: background jobs of a shell script ignore it, and so
    # would the compilers.
    command = ["timeout", "--kill-after", "10", str(_BUILD_SECONDS)]
    command += ["go", "build", "-v", "-trimpath", "-ldflags", _link_flags(sources)]
    command += ["-o", f"{scratch / 'bin'}{os.sep}", *(f"./{name}" for name in _NAMES)]
    # GOTOOLCHAIN: Go doesn't download another version of itself.
    environment = os.environ | {"CGO_ENABLED": "0", "GOTOOLCHAIN": "local", "GOTMPDIR": str(scratch / "tmp")}
    said: list[str] = []

    def note(line: str) -> None:
        said.append(line)
        # -v names every package that is compiled.
        if len(said) % _STEP == 0:
            progress(f"etcd and kube-apiserver: {len(said)} packages")

    with log.open("w", encoding="utf-8") as kept:
        code = run_logged(
            command,
            kept,
            note,
            cwd=sources,
            environment=environment,
            end_signals=(signal.SIGTERM, signal.SIGKILL),
            end_seconds=_STOP_SECONDS,
        )
    if code != 0:
        raise HostError(f"`go build` of etcd and kube-apiserver failed ({log}):\n{''.join(said[-10:]).strip()}")


def _link_flags(sources: Path) -> str:
    found = re.search(
        r"^\s*k8s\.io/kubernetes (v(\d+)\.(\d+)\S*)", (sources / "go.mod").read_text("utf-8"), re.MULTILINE
    )
    if found is None:
        raise HostError(f"{sources / 'go.mod'} requires no k8s.io/kubernetes: restore the committed file")
    version = "k8s.io/component-base/version"
    return f"-s -w -X {version}.gitVersion={found[1]} -X {version}.gitMajor={found[2]} -X {version}.gitMinor={found[3]}"


def _print_progress(said: str) -> None:
    sys.stdout.write(f"==> {said}\n")
    sys.stdout.flush()


def main(checkout: Path = CHECKOUT) -> int:
    """Build the missing binaries; return the exit code. With --quiet, print the result only."""
    # SIGTERM ends it as Ctrl-C does, so that the compilers end too.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        found = find(no_progress if "--quiet" in sys.argv else _print_progress, checkout)
    except HostError as error:
        _print_progress(str(error))
        return 2
    except KeyboardInterrupt:
        return 130
    _print_progress(f"etcd and kube-apiserver: {found.etcd.parent}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
