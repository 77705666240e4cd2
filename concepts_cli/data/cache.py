"""What is remembered between runs: where, and what is known of image files. A cache that can't be used is empty."""

from __future__ import annotations

import os
import re
import sqlite3
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from concepts_cli.data.images import ImageRecord

Version = tuple[int, int]  # of a file: its size in bytes, and the time of its last change in ns
TABLE = "images (path BLOB PRIMARY KEY, size INTEGER, changed INTEGER, sha256 TEXT, width INTEGER, height INTEGER)"


def cache_folder() -> Path:
    """$UCD_CACHE, or `ucd` in the user's cache folder."""
    if place := os.environ.get("UCD_CACHE"):
        return Path(place)
    return Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")) / "ucd"


class KnownImages:
    """The records of images that were read before, by path, size and time of change; a context manager."""

    def __enter__(self) -> KnownImages:
        self._table: sqlite3.Connection | None = None
        file = cache_folder() / "images.sqlite"
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            self._table = sqlite3.connect(file, timeout=1)
            self._table.execute(f"CREATE TABLE IF NOT EXISTS {TABLE}")
        except (OSError, sqlite3.Error) as error:
            self._close()
            if type(error) is sqlite3.DatabaseError:  # damaged, rather than locked or read-only
                with suppress(OSError):
                    file.unlink()
        return self

    def get(self, path: Path) -> ImageRecord | None:
        """The record of a file that has not changed since it was added."""
        if self._table is None:
            return None
        query = "SELECT size, changed, sha256, width, height FROM images WHERE path = ?"
        try:
            row = self._table.execute(query, (_key(path),)).fetchone()
            match row:
                case (int(), int(), str(sha256), int(width), int(height)) if re.fullmatch("[0-9a-f]{64}", sha256):
                    return ImageRecord(str(path), sha256, width, height) if row[:2] == version(os.stat(path)) else None
        except OSError:
            pass
        except sqlite3.Error:
            self._close()  # another might wait as long
        return None

    def add(self, records: Iterable[tuple[Version, ImageRecord]]) -> None:
        rows = ((_key(r.path), *changed, r.sha256, r.width, r.height) for changed, r in records)
        if self._table is not None:
            try:
                with self._table:
                    self._table.executemany("INSERT OR REPLACE INTO images VALUES (?, ?, ?, ?, ?, ?)", rows)
            except sqlite3.Error:
                self._close()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._close()

    def _close(self) -> None:
        if self._table is not None:
            with suppress(sqlite3.Error):
                self._table.close()
        self._table = None


def version(status: os.stat_result) -> Version:
    return status.st_size, max(status.st_mtime_ns, status.st_ctime_ns)  # copying sets the former back, not the latter


def _key(path: str | Path) -> bytes:
    return os.fsencode(os.path.abspath(path))
