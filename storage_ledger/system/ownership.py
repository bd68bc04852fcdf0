"""What root makes belongs to who owns the folder that it lies in, as with SQLite's own files (sqlite.org/src/file/src/os_unix.c).

The service runs as a user of its own. A command that somebody runs as root beside it, on a bad day or from root's crontab, would
else leave a segment of the mirror, a folder, a lock that the service cannot open.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


def hand_over(made: int | Path, folder: int | Path) -> None:
    """Give a file or folder, just made and perhaps open, to the owner and group of its `folder`, if we are root.

    Nothing happens where the file system knows no owners, or does not let root give anything away.
    """
    if os.geteuid() != 0:
        return
    with suppress(OSError):
        owner = os.stat(folder)
        if owner.st_uid == 0:
            return
        if isinstance(made, int):
            os.fchown(made, owner.st_uid, owner.st_gid)
        else:
            os.lchown(made, owner.st_uid, owner.st_gid)
