"""Where images that are not files by themselves are put: a folder in the cache, from which any command reads them."""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from pathlib import Path

from concepts_cli.data.cache import cache_folder
from concepts_cli.errors import UcdError

MOST_BYTES = 2**30  # of a file


class Unpacked:
    """The folder of one archive or dataset; `key` is all that its content depends on. Files in it are whole."""

    def __init__(self, *key: object):
        self.folder = cache_folder() / "images" / hashlib.sha256(repr(key).encode()).hexdigest()[:16]

    def write(self, name: str, data: bytes) -> Path:
        """Write a file atomically. Raises UcdError (1) if it can't be written."""
        path = self.folder / name
        beside = path.with_name(f".{os.getpid()}.tmp")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            beside.write_bytes(data)
            beside.replace(path)
        except OSError as error:
            hint = "set UCD_CACHE to a folder with more room"
            raise UcdError(f"can't write {path}: {error.strerror or error}", hint, exit_code=1) from error
        finally:
            with suppress(OSError):
                beside.unlink(missing_ok=True)
        return path
