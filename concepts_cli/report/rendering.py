"""Pages as one HTML document each, with their pictures, their style and their script inside."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from concepts_cli.version import __version__


def render(template: str, page: Any, title: str) -> str:
    """Render `template` with `page`, which has a gallery, as a self-contained document."""
    folder = Path(__file__).parent
    environment = Environment(
        loader=FileSystemLoader(folder), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    script = (folder / "page.js").read_text(encoding="utf-8")
    body = environment.get_template(template).render(page=page)  # first: it fills the gallery
    return environment.get_template("page.html").render(
        page=page,
        title=title,
        body=body,
        script=script,
        script_digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        style=(folder / "page.css").read_text(encoding="utf-8"),
        version=__version__,
    )
