"""The process that renders images: one file at a time, within limits, until its parent closes the socket.

A hostile file may take it over. It then holds one socket, its standard input, and the files that it is sent, open for reading.
`sandbox.seal` takes the rest away once everything is imported: it can open no file, connect to nothing and start no program.
`pool` runs it as `python -m storage_ledger.web.files.pictures.worker`.
"""

from __future__ import annotations

import codecs
import contextlib
import importlib
import json
import os
import resource
import signal
import socket
import warnings
from typing import Any, BinaryIO

from PIL import Image
from pydicom import charset, config

from storage_ledger.system import sandbox
from storage_ledger.system.logs import where
from storage_ledger.web.files.pictures import (
    LENGTHS,
    MAX_ANSWER_BYTES,
    MAX_FILES,
    MAX_REQUEST_BYTES,
    Rendered,
    RenderRequest,
    Unavailable,
    bulk_data,
    dicom_json,
    explicit,
    frames,
    header_table,
    render,
)
from storage_ledger.web.files.pictures.native_model import native_model

MAX_MEMORY_BYTES = 768 << 20
"""Address space limit, on top of what the libraries take."""

MAX_CPU_S = 30
"""CPU limit in case the parent was killed; a living parent ends the worker sooner (`PATIENCE_S`)."""

_LIMITS = {
    resource.RLIMIT_CORE: 0,  # a core dump would contain patient data
    resource.RLIMIT_FSIZE: 0,
    resource.RLIMIT_NOFILE: 32,
    resource.RLIMIT_NPROC: 0,  # no processes or threads; root is exempt
}

_LOADED_LATE = ("pydicom.pixels.decoders", "PIL.Jpeg2KImagePlugin", "PIL.MpoImagePlugin", "PIL.GifImagePlugin")
"""Modules that pydicom and Pillow import when they first need them."""


def main() -> None:
    """Answer requests until the parent closes the socket."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C and then closes the socket
    warnings.simplefilter("ignore")  # warnings quote values
    config.settings.reading_validation_mode = config.IGNORE
    _load()
    _limit()
    line = socket.socket(fileno=os.dup(0))
    _send(line, {"sandbox": sorted(sandbox.seal())})
    while True:
        message, files, _, _ = socket.recv_fds(line, MAX_REQUEST_BYTES, MAX_FILES)
        if not message:
            return
        request = RenderRequest.from_json(message)
        resource.setrlimit(resource.RLIMIT_CPU, (int(_cpu_s()) + MAX_CPU_S, resource.RLIM_INFINITY))
        for descriptor in files:
            with os.fdopen(descriptor, "rb") as file:
                if not _answer(line, request, file):
                    return


def _answer(line: socket.socket, request: RenderRequest, file: BinaryIO) -> bool:
    """Answer one request. Returns False if the process must end because it ran out of memory or stack."""
    try:
        made = _make(request, file)
    except Unavailable as error:
        _send(line, {"code": error.code, "where": where(error.__cause__) if error.__cause__ else ""})
    except MemoryError:
        _send(line, {"code": "picture-too-large", "last": True})
        return False
    except RecursionError:
        _send(line, {"code": "header-unreadable", "last": True})
        return False
    except Exception as error:  # noqa: BLE001 - for a corrupt file decoders raise any exception; the parent logs where
        header = request.what in {"header", "dicom-json", "dicom-xml", "bulk", "explicit"}
        _send(line, {"code": "header-unreadable" if header else "pixels-unreadable", "where": where(error)})
    else:
        if len(made.data) > MAX_ANSWER_BYTES - MAX_REQUEST_BYTES:
            _send(line, {"code": "picture-too-large"})
        else:
            _send(line, {"kind": made.kind} | ({"about": made.about} if made.about else {}), made.data)
    return True


def _make(request: RenderRequest, file: BinaryIO) -> Rendered:
    match request.what:
        case "picture":
            return render.picture(file, request)
        case "about":
            return Rendered("json", json.dumps(render.about(file, request)).encode())
        case "header":
            return Rendered("json", json.dumps(header_table.table(file)).encode())
        case "dicom-json":
            return Rendered("json", dicom_json.document(file))
        case "dicom-xml":
            return Rendered("bytes", native_model(dicom_json.data_set(file)))
        case "bulk":
            return bulk_data.bulk(file, request.path)
        case "frame":
            return frames.frame(file, request)
        case "explicit":
            return explicit.recipe(file)


def _send(line: socket.socket, reply: dict[str, Any], data: bytes = b"") -> None:
    head = json.dumps(reply).encode()
    line.sendall(LENGTHS.pack(len(head), len(data)) + head + data)


def _load() -> None:
    """Import now what would be imported at first use: in the sandbox no file can be opened."""
    for module in _LOADED_LATE:
        importlib.import_module(module)
    for encoding in charset.python_encoding.values():
        codecs.lookup(encoding)
    Image.preinit()


def _limit() -> None:
    for which, most in _LIMITS.items():
        resource.setrlimit(which, (most, most))
    with contextlib.suppress(OSError, ValueError):  # Linux only; elsewhere the parent's time limit has to suffice
        with open("/proc/self/statm", encoding="ascii") as file:
            most = int(file.read().split()[0]) * resource.getpagesize() + MAX_MEMORY_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
        file.write("1000")  # if the machine runs out of memory, end this process first (RLIMIT_FSIZE does not apply to /proc)
    os.nice(5)  # pages and the storage service come first


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
