"""A process that calls anybody, or looks up a name, dies: this folder on PYTHONPATH, and LIKENESS_TRAP set.

On Linux the kernel watches (seccomp), so that native code is caught too, in whatever thread; what Python
knows of the call goes to the file that LIKENESS_TRAP names. What stays on this machine is let through:
sockets of a file's name, and listening.
"""

import ctypes
import faulthandler
import os
import platform
import signal
import struct
import sys
import traceback

_CALLS = {"x86_64": (0xC000003E, 42, 44), "aarch64": (0xC00000B7, 203, 206)}  # architecture, connect, sendto
_LENGTHS = (16, 28)  # of an IPv4 and an IPv6 address; a file's name is longer
_LOAD, _EQUAL, _JUMP, _RETURN = 0x20, 0x15, 0x05, 0x06  # BPF
_ALLOW, _TRAP = 0x7FFF0000, 0x00030000
_HERE = (None, "", "0.0.0.0", "127.0.0.1", "::", "::1", "localhost")
_ASKED = ("socket.connect", "socket.sendto", "socket.getaddrinfo", "socket.gethostbyname")


def _program(architecture: int, connect: int, sendto: int) -> bytes:
    """Traps both calls where the length of their address (third and sixth word) is one of `_LENGTHS`."""
    lines = [
        (_LOAD, 0, 0, 4),
        (_EQUAL, 0, 8, architecture),  # another: allow
        (_LOAD, 0, 0, 0),
        (_EQUAL, 1, 0, connect),
        (_EQUAL, 2, 5, sendto),  # another call: allow
        (_LOAD, 0, 0, 16 + 8 * 2),
        (_JUMP, 0, 0, 1),
        (_LOAD, 0, 0, 16 + 8 * 5),
        (_EQUAL, 2, 0, _LENGTHS[0]),
        (_EQUAL, 1, 0, _LENGTHS[1]),
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, _TRAP),
    ]
    return b"".join(struct.pack("HBBI", *line) for line in lines)


def _let_the_kernel_watch(log) -> None:
    program = _program(*_CALLS[platform.machine()])
    code = ctypes.create_string_buffer(program, len(program))
    header = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(code)))
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl.argtypes = [ctypes.c_int] + [ctypes.c_void_p] * 4
    faulthandler.register(signal.SIGSYS, file=log, all_threads=True, chain=True)
    if libc.prctl(38, 1, 0, 0, 0) or libc.prctl(22, 2, ctypes.addressof(header), 0, 0):
        raise OSError(ctypes.get_errno(), "seccomp is not to be had")


def _let_python_tell(log) -> None:
    def heard(event: str, arguments: tuple) -> None:
        if event not in _ASKED:
            return
        place = arguments[1] if event in ("socket.connect", "socket.sendto") else arguments[0]
        host = place[0] if isinstance(place, tuple) else place
        host = host.decode() if isinstance(host, bytes) else host
        if isinstance(place, str) and event == "socket.connect" or host in _HERE:
            return
        log.write(f"{event} {place}\n{''.join(traceback.format_stack())}\n")
        log.flush()

    sys.addaudithook(heard)


if os.environ.get("LIKENESS_TRAP"):
    _log = open(os.environ["LIKENESS_TRAP"], "a")  # noqa: SIM115 (open as long as the process lives)
    _let_python_tell(_log)
    if sys.platform == "linux" and platform.machine() in _CALLS:
        _let_the_kernel_watch(_log)
