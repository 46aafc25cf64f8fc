"""How plots look, and how they become files and parts of a page; with matplotlib, which is in the extra `report`.

The same path has the same colour everywhere: blue and vermilion, which people with any colour vision can tell apart,
and another marker and line. Text in the plots is ours: text from a file of samples is only in the page.
"""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

from nfagent.errors import HostError
from nfagent.lab.latency.samples import DataPath

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK, FAINT, GRID, SURFACE = "#1f2328", "#656d76", "#d0d7de", "#fefefe"
PATH_COLOURS: dict[DataPath, str] = {"nftables": "#0072b2", "ebpf": "#d55e00"}
PATH_MARKERS: dict[DataPath, str] = {"nftables": "o", "ebpf": "s"}
PATH_DASHES: dict[DataPath, tuple[float, ...]] = {"nftables": (), "ebpf": (5, 1.5)}
THEMED = {
    INK: "--ink",
    FAINT: "--faint",
    GRID: "--grid",
    SURFACE: "--surface",
    PATH_COLOURS["nftables"]: "--nftables",
    PATH_COLOURS["ebpf"]: "--ebpf",
}
"""Colour -> the page's CSS variable for it, which has another value in dark mode."""

_WIDTH = 4.4
"""Inches: so narrow that text is still as large as the page's on a phone."""
_HEIGHT = 3.0
_ROW_HEIGHT = 0.2
_DOTS_PER_INCH = 160
_SMALL = {"optimize": True}
"""For Pillow, which writes the PNG."""
_STYLE: dict[Any, Any] = {
    "font.size": 10,
    "font.family": "sans-serif",
    "text.color": INK,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "lines.linewidth": 1.8,
    "lines.markersize": 5,
    # Text stays text: the page's readers can search it, and it is drawn in their own font.
    "svg.fonttype": "none",
}


class Plot(msgspec.Struct, frozen=True):
    """A plot as a file and as a part of a page.

    name:        the file's name without its suffix
    description: what it shows, for people who don't see it
    svg:         the element `<svg>`, in the page's colours
    """

    name: str
    description: str
    png: bytes
    svg: str


def require_matplotlib() -> None:
    """Raise HostError if matplotlib is missing."""
    try:
        import matplotlib.figure  # noqa: F401, PLC0415 - only a report needs it
    except ImportError as error:
        raise HostError(
            f"plots need matplotlib, which is in the extra `report` of nfagent ({error})",
            hint=f"install it with: {sys.executable} -m pip install 'nfagent[report]'",
        ) from None


def rendered(name: str, description: str, draw: Callable[[Axes], None], *, title: str, rows: int = 0) -> Plot:
    """Return a plot that `draw` draws; `rows` is the number of rows of one that grows with them."""
    from matplotlib import rc_context  # noqa: PLC0415 - only a report needs it
    from matplotlib.figure import Figure  # noqa: PLC0415

    with rc_context({**_STYLE, "svg.hashsalt": name}):
        height = 1 + _ROW_HEIGHT * rows if rows else _HEIGHT
        figure = Figure(figsize=(_WIDTH, height), layout="constrained")
        figure.suptitle(title, x=0.01, ha="left", fontsize=9, fontweight="bold")
        draw(figure.subplots())
        png, svg = io.BytesIO(), io.StringIO()
        figure.savefig(png, format="png", dpi=_DOTS_PER_INCH, metadata={"Software": None}, pil_kwargs=_SMALL)
        figure.set_layout_engine("none")  # It is laid out.
        figure.savefig(svg, format="svg", transparent=True, metadata={"Date": None})
    return Plot(name, description, png.getvalue(), _embedded(svg.getvalue(), name))


_LEFT_OUT = (
    re.compile(r"<metadata>.*?</metadata>", re.DOTALL),
    re.compile(r"<defs>\s*<style.*?</style>\s*</defs>", re.DOTALL),
    re.compile(r' xmlns(?::xlink)?="[^"]*"'),
    re.compile(r' (?:width|height)="[\d.]+pt"'),
)
_IDS = re.compile(r'(\bid="|xlink:href="#|url\(#)')


def _embedded(written: str, name: str) -> str:
    """Return an SVG file as an element for a page: in the page's colours, with identifiers that no other plot has.

    Namespaces, which HTML implies, a fixed size, and styles that would apply to the whole page are left out.
    """
    element = written[written.index("<svg") :]
    for pattern in _LEFT_OUT:
        element = pattern.sub("", element)
    element = _IDS.sub(rf"\g<1>{name}-", element)
    for colour, variable in THEMED.items():
        element = element.replace(colour, f"var({variable})")
    return element
