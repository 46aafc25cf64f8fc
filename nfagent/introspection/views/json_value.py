"""A view as its JSON decodes, for programs and for `-o json`: fields of a newer agent are kept as they came."""

from __future__ import annotations

from typing import Any, TypeAlias

View: TypeAlias = dict[str, Any]
