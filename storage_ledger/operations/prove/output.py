"""Writes a bundle to a new folder or a new ZIP file, durably, and never over anything."""

from __future__ import annotations

import errno as errnos
import io
import os
import shutil
import time
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from storage_ledger.errors import ProofError
from storage_ledger.operations.prove.bundle import File
from storage_ledger.system import files

FILE_MODE = 0o640
FOLDER_MODE = 0o750


def write(bundle: Sequence[File], output: Path) -> None:
    """Write the files into `output`: a folder that does not exist or is empty, or a ZIP file if its name ends with `.zip`.

    All is durable on return, and readable for user and group alone; the name appears when it is complete. Raises `ProofError`
    (`proof-output`): nothing is left behind.
    """
    part = f".{output.name}.{os.getpid()}.part"
    with _translated(output):
        if output.suffix.lower() == ".zip":
            _write_zip(bundle, output, part)
        else:
            _write_folder(bundle, output, part)


def zipped(bundle: Sequence[File], folder: str) -> bytes:
    """Return a ZIP file with the files in a folder of this name."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for each in bundle:
            info = zipfile.ZipInfo(f"{folder}/{each.name}", time.gmtime()[:6])
            info.external_attr = (0o100000 | FILE_MODE) << 16
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, each.data)
    return out.getvalue()


def _write_folder(bundle: Sequence[File], output: Path, part: str) -> None:
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise ProofError("proof-output", f"{output} exists and is not an empty folder: nothing is overwritten")
    try:
        with files.opened(output.parent, files.VOLUME) as parent:
            if not files.make_folder(part, parent, FOLDER_MODE):
                raise FileExistsError(errnos.EEXIST, os.strerror(errnos.EEXIST), part)
            with files.opened(part, files.FOLDER, parent) as folder:
                for each in bundle:
                    files.write_file(each.name, each.data, folder, FILE_MODE)
                os.fsync(folder)
            os.rename(part, output.name, src_dir_fd=parent, dst_dir_fd=parent)  # fails if it is no empty folder
            os.fsync(parent)
    finally:
        shutil.rmtree(output.parent / part, ignore_errors=True)


def _write_zip(bundle: Sequence[File], output: Path, part: str) -> None:
    with files.opened(output.parent, files.VOLUME) as parent:
        if files.exists(output.name, parent):
            raise ProofError("proof-output", f"{output} exists: nothing is overwritten")
        try:
            files.write_file(part, zipped(bundle, output.stem), parent, FILE_MODE)
            _rename_to_new(part, output.name, parent)
        finally:
            files.unlink_if_exists(part, parent)
        os.fsync(parent)


def _rename_to_new(part: str, name: str, parent: int) -> None:
    try:
        os.link(part, name, src_dir_fd=parent, dst_dir_fd=parent, follow_symlinks=False)
    except OSError as error:
        if error.errno not in files.NO_HARD_LINKS:
            raise
        os.rename(part, name, src_dir_fd=parent, dst_dir_fd=parent)  # a USB stick, for instance: checked a moment ago


@contextmanager
def _translated(output: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ProofError("proof-output", f"{output}: {os.strerror(error.errno or 0)}", errno=error.errno) from error
