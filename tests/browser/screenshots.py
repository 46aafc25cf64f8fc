"""Takes the pictures of the live page and of a terminal, of a lab's real agent: `make screenshots` (root).

python -m tests.browser.screenshots [FOLDER]     README's into docs/pictures, or all of them into a folder
"""

from __future__ import annotations

import asyncio
import io
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.terminal_theme import DIMMED_MONOKAI
from rich.text import Text

from nfagent.introspection.page.foreground import serve_page
from nfagent.lab.cluster.agents import LabAgent
from nfagent.lab.probes.listeners import ProbeProtocol, pod_endpoints
from nfagent.lab.probes.probe import Probe
from nfagent.lab.topology.plan import NodePlan, PodPlan
from nfagent.model.listen_address import ListenAddress
from tests.support.packet_labs import (
    Document,
    ManifestLab,
    logging_document,
    namespace_document,
    pod_document,
    policy_document,
    running_lab,
)
from tests.support.page_agent import free_port

PICTURES = Path(__file__).parents[2] / "docs" / "pictures"
NODE = NodePlan("worker-1", ("192.0.2.1",), ("10.64.0.0/24",))
APPS = {
    "shop/web-7d9c5b6f4-k2x8p": "web",
    "shop/web-7d9c5b6f4-q9vtl": "web",
    "shop/api-5c8d7f9b6-mn4wz": "api",
    "shop/db-0": "db",
    "guest/visitor": "visitor",
    "monitoring/prometheus-0": "prometheus",
}
WANTED: Sequence[tuple[str, str, ProbeProtocol, int, int]] = (
    ("web", "api", "tcp", 8080, 9),
    ("api", "db", "tcp", 5432, 6),
    ("web", "db", "tcp", 5432, 2),
    ("visitor", "web", "tcp", 8080, 4),
    ("visitor", "db", "tcp", 5432, 3),
    ("visitor", "api", "tcp", 8080, 1),
    ("prometheus", "api", "tcp", 9090, 3),
    ("prometheus", "db", "tcp", 9090, 1),
)
"""Connections: from an app to an app, and how often."""

COLUMNS = 124
COMMANDS = (
    "status",
    "logs --verdict deny --last 5",
    "explain guest/visitor shop/db-0:5432/tcp",
)


def plans() -> list[PodPlan]:
    """Return the Pods of the node."""
    found = []
    for number, path in enumerate(APPS, start=10):
        namespace, name = path.split("/")
        found.append(PodPlan(namespace, name, NODE.name, (f"10.64.0.{number}",)))
    return found


def documents() -> Iterator[Document]:
    """Yield Namespaces, Pods and policies: the web may reach the api, the api the db, and monitoring the api."""
    for name in ("shop", "guest", "monitoring"):
        yield namespace_document(name, {"kubernetes.io/metadata.name": name})
    for pod in plans():
        yield pod_document(pod, {"app": APPS[f"{pod.namespace}/{pod.name}"]})
    yield logging_document(allow=True, deny=True)
    monitoring = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}
    for name, sources in (("api", [_app("web"), monitoring]), ("db", [_app("api")])):
        selected = {"matchLabels": {"app": name}}
        yield policy_document("shop", name, podSelector=selected, policyTypes=["Ingress"], ingress=[{"from": sources}])
    yield policy_document(
        "shop",
        "web",
        podSelector={"matchLabels": {"app": "web"}},
        policyTypes=["Ingress", "Egress"],
        ingress=[{"ports": [{"port": 8080}]}],
        egress=[{"to": [_app("api")]}],
    )


def _app(name: str) -> Document:
    return {"podSelector": {"matchLabels": {"app": name}}}


def send(lab: ManifestLab) -> None:
    """Open the connections, one after the other, so that each is a record of its own."""
    of_app: dict[str, list[str]] = {}
    for path, app in APPS.items():
        of_app.setdefault(app, []).append(path)
    for turn in range(max(times for *_, times in WANTED)):
        for source, destination, protocol, port, times in WANTED:
            if turn < times:
                for path in of_app[source]:
                    target = of_app[destination][turn % len(of_app[destination])]
                    lab.ask([Probe(lab.pod(path), lab.address(target, 4), protocol, port)], 0.05)


@contextmanager
def page_of(path: Path) -> Iterator[str]:
    """Serve the page for the agent at a socket; yield the address to open."""
    found: list[str] = []
    ready = threading.Event()
    running: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

    def started(url: str) -> None:
        found.append(url)
        ready.set()

    async def serve() -> None:
        stop = asyncio.Event()
        running.append((asyncio.get_running_loop(), stop))
        with free_port() as port:
            serving = asyncio.create_task(serve_page(ListenAddress("127.0.0.1", port), path, started))
            await stop.wait()
            serving.cancel()
            await asyncio.wait((serving,))

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    try:
        if not ready.wait(30):
            raise RuntimeError("the page isn't served")
        yield found[0]
    finally:
        for loop, stop in running:
            loop.call_soon_threadsafe(stop.set)
        thread.join()


def shoot(browser: Any, url: str, folder: Path, *, scheme: str, width: int, height: int = 720) -> None:
    """Take the pictures of one width and colour scheme."""
    context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
    page = context.new_page()
    page.goto(url)
    page.wait_for_selector("#verdicts-table tbody tr")
    page.wait_for_selector("#health.ok")
    page.screenshot(path=folder / f"verdicts-{scheme}-{width}.png")
    page.click("#verdicts-table tbody tr:has-text('denied')")
    page.wait_for_selector("#detail ol")
    page.screenshot(path=folder / f"explanation-{scheme}-{width}.png")
    page.keyboard.press("Escape")
    page.click("nav a[href='#policies']")
    page.wait_for_selector("#policies-table tbody tr")
    page.screenshot(path=folder / f"policies-{scheme}-{width}.png")
    page.click("nav a[href='#health-details']")
    page.screenshot(path=folder / f"health-{scheme}-{width}.png")
    page.click("nav a[href='#picture']")
    page.wait_for_selector("#picture svg")
    page.screenshot(path=folder / f"picture-{scheme}-{width}.png")
    page.locator("#edges-table button", has_text="guest/visitor").first.click()
    page.wait_for_selector("#detail :is(ol, li button)")
    page.screenshot(path=folder / f"live-page-{scheme}-{width}.png")
    context.close()


def shoot_terminal(browser: Any, agent: LabAgent, path: Path) -> None:
    """Take a picture of what commands print on a terminal."""
    told = ""
    environment = {**os.environ, **agent.environment, "COLUMNS": str(COLUMNS), "TERM": "xterm-256color"}
    environment.pop("NO_COLOR", None)
    for words in COMMANDS:
        shown = subprocess.run(
            ["script", "--quiet", "--command", f"{sys.executable} -m nfagent {words}", "/dev/null"],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        told += f"\x1b[1m$ nfagent {words}\x1b[0m\n{shown}\n"
    console = Console(record=True, width=COLUMNS, file=io.StringIO())
    console.print(Text.from_ansi(told.rstrip()))
    page = browser.new_page(viewport={"width": 1200, "height": 700})
    page.set_content(console.export_html(theme=DIMMED_MONOKAI, inline_styles=True))
    page.add_style_tag(content="pre { display: inline-block; padding: 1em; font-size: 13px }")
    page.locator("pre").screenshot(path=path)
    page.close()


def main(folder: Path | None) -> None:
    """Build the lab, take all pictures, and keep README's or all of them."""
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium")
    with tempfile.TemporaryDirectory(prefix="nfagent-pictures-") as scratch:
        taken = folder or Path(scratch) / "pictures"
        taken.mkdir(exist_ok=True, parents=True)
        with (
            running_lab(Path(scratch), [NODE], plans(), documents=documents()) as lab,
            sync_playwright() as playwright,
        ):
            lab.servers.listen(pod_endpoints(lab.topology, [("tcp", port) for port in (5432, 8080, 9090)]))
            send(lab)
            agent = lab.cluster.agent("worker-1")
            browser = playwright.chromium.launch(executable_path=chromium)
            with page_of(Path(agent.environment["NFAGENT_RUNTIME_DIR"]) / "agent.sock") as url:
                for scheme, width in (("light", 1280), ("dark", 1280), ("light", 390)):
                    shoot(browser, url, taken, scheme=scheme, width=width)
                shoot(browser, url, taken, scheme="light", width=1240, height=610)  # README's: below 200 kB
            shoot_terminal(browser, agent, taken / "terminal.png")
            browser.close()
        if folder is None:
            PICTURES.mkdir(exist_ok=True)
            shutil.copy(taken / "live-page-light-1240.png", PICTURES / "live-page.png")
            shutil.copy(taken / "terminal.png", PICTURES / "terminal.png")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
