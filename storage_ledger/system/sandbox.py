"""What a process can give up before it parses hostile input. On other systems than Linux, nothing happens.

`seal` is for processes that only compute: afterwards they can read the files and answer on the sockets that they hold or are
sent, and nothing else. `hide_memory` is for processes that hold secrets.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import resource
import struct
import sys
from dataclasses import dataclass

LANDLOCK = "landlock"
SECCOMP = "seccomp"

_PR_SET_DUMPABLE = 4
_PR_SET_SECCOMP = 22
_PR_SET_NO_NEW_PRIVS = 38
_SECCOMP_MODE_FILTER = 2

# linux/landlock.h; these numbers are the same on every architecture.
_LANDLOCK_CREATE_RULESET = 444
_LANDLOCK_RESTRICT_SELF = 446
_LANDLOCK_CREATE_RULESET_VERSION = 1
_FILE_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}
"""How many rights of access to files each version of Landlock knows: bits from 0."""

_PROT_EXEC = 4

# linux/seccomp.h, linux/bpf_common.h
_KILL = 0x8000_0000
_REFUSE = 0x0005_0000 | errno.EPERM
_ALLOW = 0x7FFF_0000
_LOAD, _IF_EQUAL, _IF_ANY_BIT, _RETURN = 0x20, 0x15, 0x45, 0x06
_NUMBER_AT, _ARCHITECTURE_AT, _ARGUMENTS_AT = 0, 4, 16


@dataclass(frozen=True, slots=True)
class _Calls:
    """The system calls of a sealed process, by number. `no_code`: only without PROT_EXEC. `own`: only for itself (PID 0)."""

    architecture: int
    allowed: tuple[int, ...]
    no_code: tuple[int, ...]
    own: tuple[int, ...]


# Read and seek in open files, memory, locks, time, receive a request and send an answer, end. Not: open, write, make a socket, connect,
# begin a process or thread, send a signal. A library that tries one of these gets EPERM.
_CALLS = {
    "x86_64": _Calls(
        0xC000_003E,
        # `read` `close` `fstat` `lseek` `munmap` `brk` `rt_sigreturn` `pread64` `sched_yield` `mremap` `madvise` `sendto` `recvmsg`
        # `exit` `getrusage` `futex` `restart_syscall` `clock_gettime` `exit_group` `getrandom`
        (0, 3, 5, 8, 11, 12, 15, 17, 24, 25, 28, 44, 47, 60, 98, 202, 219, 228, 231, 318),
        no_code=(9, 10),  # `mmap` `mprotect`
        own=(302,),  # `prlimit64`
    ),
    "aarch64": _Calls(
        0xC000_00B7,
        (63, 57, 80, 62, 215, 214, 139, 67, 124, 216, 233, 206, 212, 93, 165, 98, 128, 113, 94, 278),  # the same
        no_code=(222, 226),
        own=(261,),
    ),
}  # fmt: skip


def seal() -> frozenset[str]:
    """Give up everything but computing, for good. Call it in the only thread, after all imports.

    Returns what the kernel provides of `LANDLOCK` and `SECCOMP`; either alone is weaker.
    """
    if not sys.platform.startswith("linux"):
        return frozenset()
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    _prctl(_PR_SET_DUMPABLE, 0)
    return frozenset([LANDLOCK] * _landlock() + [SECCOMP] * _seccomp())


def hide_memory() -> None:
    """Let no other process of this user read this one's memory or environment, and no core dump hold them.

    RLIMIT_CORE alone does not stop a `core_pattern` that is a pipe. Child processes inherit that limit, but have to hide themselves.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform.startswith("linux"):
        _prctl(_PR_SET_DUMPABLE, 0)


def _landlock() -> bool:
    """Allow no path: no file can be opened, created, removed or executed. From version 4 on: no TCP; from 6 on: no signals."""
    version = _syscall(_LANDLOCK_CREATE_RULESET, 0, 0, _LANDLOCK_CREATE_RULESET_VERSION)
    if version < 1:
        return False
    files = (1 << _FILE_RIGHTS[min(version, max(_FILE_RIGHTS))]) - 1
    network = 0b11 if version >= 4 else 0
    scopes = 0b11 if version >= 6 else 0
    handled = ctypes.create_string_buffer(struct.pack("QQQ", files, network, scopes), 24)  # an older kernel ignores zeros at the end
    rules = _syscall(_LANDLOCK_CREATE_RULESET, ctypes.addressof(handled), 24, 0)
    if rules < 0:
        return False
    try:
        return _syscall(_LANDLOCK_RESTRICT_SELF, rules, 0) == 0
    finally:
        os.close(rules)


def _seccomp() -> bool:
    calls = _CALLS.get(platform.machine()) if sys.maxsize > 1 << 32 else None
    if calls is None:
        return False
    steps = _program(calls)
    code = ctypes.create_string_buffer(b"".join(steps))
    program = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(steps), ctypes.addressof(code)))
    return _prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.addressof(program)) == 0


def _prctl(option: int, *arguments: int) -> int:
    call = ctypes.CDLL(None).prctl
    call.argtypes = [ctypes.c_int] + [ctypes.c_ulong] * 4
    return int(call(option, *arguments, *[0] * (4 - len(arguments))))


def _syscall(number: int, *arguments: int) -> int:
    call = ctypes.CDLL(None).syscall
    call.argtypes = [ctypes.c_long] * (1 + len(arguments))
    call.restype = ctypes.c_long
    return int(call(number, *arguments))


def _program(calls: _Calls) -> list[bytes]:
    """Return the filter. A 32-bit or x32 call would have other numbers: the former ends the process, the latter is not in the list."""
    found = [_step(_LOAD, _ARCHITECTURE_AT), _step(_IF_EQUAL, calls.architecture, 1, 0), _step(_RETURN, _KILL), _step(_LOAD, _NUMBER_AT)]
    for number in calls.allowed:
        found += [_step(_IF_EQUAL, number, 0, 1), _step(_RETURN, _ALLOW)]
    for number in calls.no_code:
        found += [_step(_IF_EQUAL, number, 0, 4), _argument(2), _step(_IF_ANY_BIT, _PROT_EXEC, 1, 0), _step(_RETURN, _ALLOW)]
        found += [_step(_RETURN, _REFUSE)]
    for number in calls.own:
        found += [_step(_IF_EQUAL, number, 0, 4), _argument(0), _step(_IF_EQUAL, 0, 0, 1), _step(_RETURN, _ALLOW)]
        found += [_step(_RETURN, _REFUSE)]
    return [*found, _step(_RETURN, _REFUSE)]


def _argument(place: int) -> bytes:
    return _step(_LOAD, _ARGUMENTS_AT + 8 * place)  # its lower half: both machines are little-endian


def _step(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("HBBI", code, if_true, if_false, value)
