"""What SQLite does not say of a damaged log: that confirmed transactions are behind the damage.

SQLite ends recovery at the first frame of the WAL whose checksum is wrong, and drops what follows, since after
a power cut that is a transaction which was never confirmed. A flipped bit in the middle looks the same. But a
transaction begins only when the one before it is confirmed (``synchronous=FULL``), and the WAL begins anew
after one that failed. So a commit behind the first wrong frame that is itself followed by another frame was
confirmed. Of the very last transaction nobody can tell.

Format: https://sqlite.org/fileformat2.html, "The Write-Ahead Log".
"""

from __future__ import annotations

import shutil
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_HEADER = struct.Struct(">8I")
_FRAME = struct.Struct(">6I")
_MAGIC = 0x377F0682
_MASK = 0xFFFFFFFF
_PAGE_SIZES = frozenset(2**power for power in range(9, 17))


@dataclass(frozen=True, slots=True)
class _Frame:
    """A page as a transaction left it.

    Attributes
    ----------
    page
        Its number.
    pages
        If the transaction ends here: how many pages the database has then, else 0.
    sound
        Whether the checksums up to here are right.
    content
        The page.
    """

    page: int
    pages: int
    sound: bool
    content: bytes


def damaged(path: Path) -> bool:
    """Whether the log of a database that nobody has open has lost confirmed transactions."""
    commit_behind_damage = False
    for frame in _frames(path):
        if commit_behind_damage:
            return True
        commit_behind_damage = not frame.sound and frame.pages > 0
    return False


def replay(path: Path, target: Path) -> None:
    """Make a copy of a database with all frames of its log, those behind the damage too."""
    shutil.copyfile(path, target)
    with target.open("r+b") as file:
        waiting: list[_Frame] = []
        for frame in _frames(path):
            waiting.append(frame)
            if frame.pages > 0:
                for done in waiting:
                    if 0 < done.page <= frame.pages:
                        file.seek((done.page - 1) * len(done.content))
                        file.write(done.content)
                file.truncate(frame.pages * len(frame.content))
                waiting.clear()


def _frames(path: Path) -> Iterator[_Frame]:
    """Frames of the log since it began anew."""
    log = Path(f"{path}-wal")
    if not log.exists():
        return
    with log.open("rb") as file:
        header = file.read(_HEADER.size)
        if len(header) < _HEADER.size:
            return
        magic, _, page_size, _, *salts, first, second = _HEADER.unpack(header)
        order = ">" if magic & 1 else "<"
        sums = _checksum((0, 0), header[:24], order)
        sound = magic & ~1 == _MAGIC and sums == (first, second)
        if not sound:
            page_size, salts = _from_first_frame(path, file.read(_FRAME.size))
            file.seek(_HEADER.size)
        if page_size not in _PAGE_SIZES:
            return
        while len(head := file.read(_FRAME.size)) == _FRAME.size:
            content = file.read(page_size)
            if len(content) < page_size:
                return
            page, pages, *found, first, second = _FRAME.unpack(head)
            if sound:
                sums = _checksum(_checksum(sums, head[:8], order), content, order)
                sound = found == salts and sums == (first, second)
            if found == salts:
                yield _Frame(page, pages, sound, content)


def _from_first_frame(path: Path, head: bytes) -> tuple[int, list[int]]:
    """Page size and salts where the header of the log can't be trusted."""
    if len(head) < _FRAME.size:
        return 0, []
    with path.open("rb") as file:
        file.seek(16)
        size = int.from_bytes(file.read(2), "big")
    return 65_536 if size == 1 else size, list(_FRAME.unpack(head)[2:4])


def _checksum(sums: tuple[int, int], data: bytes, order: str) -> tuple[int, int]:
    first, second = sums
    words = iter(struct.unpack(f"{order}{len(data) // 4}I", data))
    for word in words:
        first = (first + word + second) & _MASK
        second = (second + next(words) + first) & _MASK
    return first, second
