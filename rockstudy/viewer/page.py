"""The viewer's page: one HTML file with its data, which asks for nothing and runs one script.

All text comes from language models. It lies in the page as JSON in ASCII, where no character can
end the script that holds it, and becomes text nodes alone. The content security policy allows the
page's own style and script, by their hashes, and nothing else.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from rockstudy.errors import StudyError
from rockstudy.figure_style import CAUSES, OTHERS
from rockstudy.store import files
from rockstudy.viewer.scales import SIDE, STEPS

HERE = Path(__file__).parent
HEIGHT = 860  # ours: pixels of a viewer inside another page


@dataclass(frozen=True)
class Viewer:
    """A page of rollouts; a notebook shows it, and `save` writes it as one file."""

    html: str

    def save(self, path: str | Path) -> Path:
        """Write the page and return its path; `StudyError` where that cannot be written."""
        to = Path(path)
        if to.suffix != ".html":
            raise StudyError(f"path: must end in .html; got {str(path)!r}")
        with files.writing(to), files.temporary(to) as waiting:
            waiting.write_text(self.html, encoding="ascii")
            files.put(waiting, to)
        return to

    def embedded(self, height: int = HEIGHT) -> str:
        """The page inside another one: a frame that can neither reach it nor open anything."""
        return (
            f'<iframe class="viewer" title="Token viewer" sandbox="allow-scripts" loading="lazy" '
            f'width="100%" height="{height}" style="border:1px solid #8886;border-radius:6px" '
            f'srcdoc="{html.escape(self.html)}"></iframe>'
        )

    def _repr_html_(self) -> str:
        return self.embedded()

    def __repr__(self) -> str:
        return f"Viewer({len(self.html) / 1e6:.1f} MB; save(path) writes it)"


def page(data: dict[str, Any]) -> Viewer:
    """Return the page of `payload`'s data."""
    style = _style()
    whole = (HERE / "viewer.html").read_text(encoding="utf-8")
    parts = {
        "style-hash": _hash(style),
        "script-hash": script_hash(),
        "title": html.escape(data["title"]).encode("ascii", "xmlcharrefreplace").decode(),
        "style": style,
        "data": as_json(data),
        "script": script(),
    }
    pieces = re.split(r"{{([a-z-]+)}}", whole)  # once: no part is looked through for others
    return Viewer("".join(parts[one] if i % 2 else one for i, one in enumerate(pieces)))


def as_json(data: dict[str, Any]) -> str:
    """JSON in ASCII without ``<``, ``>`` and ``&``, so that it can stand in a script element."""
    text = json.dumps(data, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", r"\u003c").replace(">", r"\u003e").replace("&", r"\u0026")


def script() -> str:
    """The page's script."""
    return (HERE / "viewer.js").read_text(encoding="ascii")


def script_hash() -> str:
    """What a content security policy calls the script; a page that embeds a viewer allows it."""
    return _hash(script())


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


@cache
def _style() -> str:
    return (HERE / "viewer.css").read_text(encoding="ascii") + "".join(_colours())


def _colours() -> Iterator[str]:
    """A rule for each range of each scale, as a mixture of the scale's colour and the ground."""
    for place in range(STEPS + 1):
        share = round(100 * (place / STEPS) ** 1.15)
        yield f".s{place}{{--fill:color-mix(in oklab,var(--most) {share}%,var(--paper))}}\n"
    for place in range(-SIDE, SIDE + 1):
        share = round(100 * (abs(place) / SIDE) ** 1.15)
        end = "var(--most)" if place > 0 else "var(--least)"
        yield f".d{place + SIDE}{{--fill:color-mix(in oklab,{end} {share}%,var(--paper))}}\n"
    for colour in dict.fromkeys((*CAUSES.values(), *OTHERS)):
        yield f".k{colour[1:]}{{--fill:color-mix(in srgb,{colour} 38%,var(--paper))}}\n"
