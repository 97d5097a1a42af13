"""What macOS lacks, taken from a Linux Python: put this folder first on PYTHONPATH, and every process starts so.

Names that exist on Linux only, /proc and /sys, RLIMIT_AS and unlimited descriptors are gone; memory is reported in
bytes and buffers of sockets have macOS's sizes. sys.platform says darwin. Metal, the file system, Mach and the
Keychain are not imitated: a run under this says that nothing of Linux is needed, not that a Mac works.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import platform
import resource
import select
import selectors
import signal
import socket
import sys
import types
from collections.abc import Callable
from typing import Any

LINUX_ONLY = {
    os: """
        O_DIRECT O_LARGEFILE O_NOATIME O_PATH O_TMPFILE O_RSYNC copy_file_range eventfd eventfd_read eventfd_write
        fdatasync getrandom getresgid getresuid getxattr listxattr removexattr setxattr memfd_create pidfd_open pipe2
        posix_fadvise posix_fallocate sched_getaffinity sched_getparam sched_getscheduler sched_setaffinity
        sched_setparam sched_setscheduler setresgid setresuid splice setns unshare timerfd_create
    """,
    select: " ".join(name for name in dir(select) if name.lower().startswith("epoll")),
    signal: "SIGCLD SIGPOLL SIGPWR SIGRTMAX SIGRTMIN SIGSTKFLT sigtimedwait sigwaitinfo",
    socket: """
        AF_NETLINK AF_PACKET AF_VSOCK AF_ALG AF_CAN MSG_CMSG_CLOEXEC MSG_CONFIRM MSG_ERRQUEUE MSG_FASTOPEN MSG_MORE
        MSG_NOSIGNAL SOCK_CLOEXEC SOCK_NONBLOCK SO_BINDTODEVICE SO_DOMAIN SO_MARK SO_PASSCRED SO_PEERCRED SO_PRIORITY
        SO_PROTOCOL TCP_CONGESTION TCP_CORK TCP_DEFER_ACCEPT TCP_INFO TCP_KEEPIDLE TCP_LINGER2 TCP_QUICKACK TCP_SYNCNT
        TCP_USER_TIMEOUT TCP_WINDOW_CLAMP
    """,
    resource: """
        RLIMIT_MSGQUEUE RLIMIT_NICE RLIMIT_OFILE RLIMIT_RTPRIO RLIMIT_RTTIME RLIMIT_SIGPENDING RUSAGE_THREAD prlimit
    """,
}
"""By module. Source: the "Availability" notes of Python's documentation, and macOS's own headers."""

UNIX_BUFFER_BYTES = 8 << 10
TCP_BUFFER_BYTES = 128 << 10
"""Source: macOS's defaults of net.local.stream.sendspace, net.inet.tcp.sendspace and recvspace."""

DESCRIPTORS = 256
MOST_DESCRIPTORS = 10_240
"""A shell's soft limit, and what setrlimit takes at most while the hard limit reads as unlimited (OPEN_MAX)."""

READERS_OF_PROC = ("psutil", "tests.fakes")
"""They ask macOS by its own calls, or are what watches from outside."""


def imitate() -> None:
    """Make this process like one on macOS; must run before the program's own imports."""
    _load_what_chooses_by_platform()
    keep_idle = socket.TCP_KEEPIDLE
    for module, names in LINUX_ONLY.items():
        for name in names.split():
            if hasattr(module, name):
                delattr(module, name)
    socket.TCP_KEEPALIVE = keep_idle
    _shrink_sockets()
    _limit_resources()
    selectors.DefaultSelector = selectors.PollSelector
    _answer_for_the_kernel()
    _hide_proc()
    sys.platform = "darwin"
    platform.system = lambda: "Darwin"
    platform.machine = lambda: "arm64"
    platform.release = lambda: "24.6.0"
    platform.mac_ver = lambda *_: ("15.6", ("", "", ""), "arm64")


def _shrink_sockets() -> None:
    start, pair = socket.socket.__init__, socket.socketpair

    def shrink(one: socket.socket) -> None:
        size = UNIX_BUFFER_BYTES if one.family == socket.AF_UNIX else TCP_BUFFER_BYTES
        # Linux doubles what it is given, for its own books.
        for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            one.setsockopt(socket.SOL_SOCKET, option, size // 2)

    def small(self: socket.socket, *arguments: Any, **keywords: Any) -> None:
        start(self, *arguments, **keywords)
        if self.type == socket.SOCK_STREAM and keywords.get("fileno") is None and len(arguments) < 4:
            shrink(self)

    def small_pair(*arguments: Any, **keywords: Any) -> tuple[socket.socket, socket.socket]:
        made = pair(*arguments, **keywords)
        for one in made:
            shrink(one)
        return made

    socket.socket.__init__ = small
    socket.socketpair = small_pair


def _limit_resources() -> None:
    get, put, used = resource.getrlimit, resource.setrlimit, resource.getrusage
    soft, hard = get(resource.RLIMIT_NOFILE)
    if os.environ.setdefault("LIKE_MACOS_PARENT", str(os.getpid())) == str(os.getpid()):
        put(
            resource.RLIMIT_NOFILE, (min(soft, DESCRIPTORS), hard)
        )  # children inherit what the parent has raised

    def getrlimit(kind: int) -> tuple[int, int]:
        soft, hard = get(kind)
        return (soft, resource.RLIM_INFINITY) if kind == resource.RLIMIT_NOFILE else (soft, hard)

    def setrlimit(kind: int, limits: tuple[int, int]) -> None:
        if kind == resource.RLIMIT_AS:
            raise ValueError("current limit exceeds maximum limit")
        if kind == resource.RLIMIT_NOFILE:
            if limits[0] > MOST_DESCRIPTORS or limits[0] == resource.RLIM_INFINITY:
                raise ValueError("invalid argument")
            limits = (limits[0], get(kind)[1] if limits[1] == resource.RLIM_INFINITY else limits[1])
        put(kind, limits)

    def getrusage(who: int) -> resource.struct_rusage:
        found = list(used(who))
        found[2] *= 1024  # ru_maxrss
        return resource.struct_rusage(found)

    resource.getrlimit, resource.setrlimit, resource.getrusage = getrlimit, setrlimit, getrusage


def _answer_for_the_kernel() -> None:
    """Give the C library macOS's call for a process's memory, of this process and with nothing but its footprint."""
    pages = os.open("/proc/self/statm", os.O_RDONLY)

    class Library(ctypes.CDLL):
        def proc_pid_rusage(self, process_id: int, flavor: int, counts: Any) -> int:
            held = int(os.pread(pages, 200, 0).split()[1]) * resource.getpagesize()
            counts[72:80] = held.to_bytes(8, sys.byteorder)
            return 0

    ctypes.CDLL = Library


def _hide_proc() -> None:
    def refuse(path: object) -> None:
        text = os.fsdecode(path) if isinstance(path, (str, bytes, os.PathLike)) else ""
        if text.startswith(("/proc", "/sys/")) and not _is_asked_from_outside():
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), text)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event in ("open", "os.listdir", "os.scandir"):
            refuse(arguments[0])

    def guarded(call: Callable[..., Any]) -> Callable[..., Any]:
        def guard(path: object, *arguments: Any, **keywords: Any) -> Any:
            refuse(path)
            return call(path, *arguments, **keywords)

        return guard

    sys.addaudithook(hook)
    os.stat, os.access = guarded(os.stat), guarded(os.access)


def _is_asked_from_outside() -> bool:
    frame: types.FrameType | None = sys._getframe(2)
    while frame is not None:
        if frame.f_globals.get("__name__", "").startswith(READERS_OF_PROC):
            return True
        if frame.f_globals.get("__name__", "").startswith(("scribewire.", "prometheus_client.")):
            return False
        frame = frame.f_back
    return False


def _load_what_chooses_by_platform() -> None:
    """Import as on Linux what would look for macOS's own libraries; the Keychain and its proxies are then empty."""
    proxies = types.ModuleType("_scproxy")
    proxies._get_proxies = dict
    proxies._get_proxy_settings = lambda: {"exclude_simple": False}
    sys.modules["_scproxy"] = proxies
    multiarch = getattr(sys.implementation, "_multiarch", "")
    os.environ["_PYTHON_SYSCONFIGDATA_NAME"] = f"_sysconfigdata_{sys.abiflags}_linux_{multiarch}"
    for name in ("psutil", "truststore", "uuid"):
        with contextlib.suppress(ImportError):
            __import__(name)


imitate()
