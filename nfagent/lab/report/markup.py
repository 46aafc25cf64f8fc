"""HTML whose text is escaped: a `str` is text, and only a `Markup` is taken as it is."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from nfagent.model.printable import printable_lines


class Markup(str):
    """HTML that this program wrote."""

    __slots__ = ()


def element(tag: str, *content: str, **attributes: str) -> Markup:
    """Return an element; attribute names have `_` for `-`, and an `_` at the end where Python has the word."""
    named = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{escape(printable_lines(value))}"'
        for name, value in attributes.items()
    )
    return Markup(f"<{tag}{named}>{joined(content)}</{tag}>")


def joined(parts: Iterable[str]) -> Markup:
    """Return texts and elements one after the other."""
    return Markup("".join(part if isinstance(part, Markup) else escape(printable_lines(part)) for part in parts))


def items(entries: Iterable[str], **attributes: str) -> Markup:
    """Return a list without an order."""
    return element("ul", *(element("li", entry) for entry in entries), **attributes)


def facts(pairs: Iterable[tuple[str, str]]) -> Markup:
    """Return names and values."""
    return element("dl", *(joined([element("dt", name), element("dd", value)]) for name, value in pairs))


def table(caption: str, header: Sequence[str], rows: Iterable[Sequence[str]], *, names: int = 1) -> Markup:
    """Return a table, which scrolls by itself where the page is narrow.

    names: how many columns, from the left, name their row; the other ones are figures
    """
    head = element("tr", *(element("th", cell, scope="col") for cell in header))
    body = [element("tr", *(_cell(cell, names=column < names) for column, cell in enumerate(row))) for row in rows]
    whole = element("table", element("caption", caption), element("thead", head), element("tbody", *body))
    return element("div", whole, class_="scroll", role="region", aria_label=caption, tabindex="0")


def _cell(content: str, *, names: bool) -> Markup:
    return element("th", content, scope="row") if names else element("td", content)
