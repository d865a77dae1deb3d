"""The inside of the sandbox: a program that limits itself and then runs what it was told to run.

It is started as a file of its own and imports nothing of text_gym, since the limits must be in force before
any thread of a numerical library starts. Linux's means are Landlock (`landlock`), seccomp (`pyseccomp`) and
resource limits; what the platform cannot give is named by `unavailable`. It trusts its parent, never the
other way round: answers are JSON, and the parent unpickles nothing.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import importlib
import importlib.machinery
import importlib.util
import json
import os
import signal
import struct
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import CodeType
from typing import Any

try:
    import resource
except ModuleNotFoundError:  # Windows
    resource = None  # type: ignore[assignment]

_HEADER = struct.Struct(">II")  # bytes of JSON, and of what follows it as it is
_PR_SET_PDEATHSIG = 1
_CLONE_THREAD = 0x00010000
_CAP_DAC_READ_SEARCH = 2
_CAPABILITY_VERSION = 0x20080522
_MOST_FILES_OPEN = 256
_LONGEST_MESSAGE = 4000  # characters of an error's message

# System calls that are refused, by the limit that refuses them and the error that the caller sees. Files are
# Landlock's; here is what it leaves: modes, owners, times and attributes. Memory outside the address space
# (memfd, System V) would escape RLIMIT_AS and could outlive the process.
_NETWORK = "socket io_uring_setup io_uring_enter io_uring_register"
_PROCESSES = "fork vfork"
_SIGNALS = "tkill pidfd_send_signal"
_SIGNALS_TO_OTHERS = "kill tgkill rt_sigqueueinfo rt_tgsigqueueinfo"  # allowed to the process itself
_OTHERS = (
    "ptrace process_vm_readv process_vm_writev process_madvise process_mrelease pidfd_getfd kcmp "
    "move_pages migrate_pages setpriority ioprio_set sched_setscheduler sched_setparam sched_setattr "
    "setrlimit"
)
_METADATA = (
    "chmod fchmod fchmodat chown fchown lchown fchownat setxattr lsetxattr fsetxattr removexattr "
    "lremovexattr fremovexattr utime utimes futimesat utimensat flock name_to_handle_at open_by_handle_at"
)
_HIDDEN_MEMORY = "memfd_create memfd_secret shmget shmat semget msgget mq_open userfaultfd"
_SYSTEM = (
    "mount umount2 pivot_root chroot unshare setns open_tree move_mount fsopen fsconfig fsmount fspick "
    "mount_setattr swapon swapoff reboot kexec_load kexec_file_load init_module finit_module delete_module "
    "sethostname setdomainname settimeofday clock_settime clock_adjtime adjtimex acct quotactl quotactl_fd "
    "iopl ioperm bpf perf_event_open add_key request_key keyctl syslog vhangup fanotify_init"
)
# Numbers are the same on all architectures from 424 on. Later calls than those are unknown here: they are
# said not to exist, as on an older kernel, so that a kernel's news cannot open a hole.
_FIRST_UNKNOWN, _LAST_UNKNOWN = 451, 620


def send(stream: int, message: Any, data: bytes = b"") -> None:
    """Write one message as JSON, and bytes after it, to a file descriptor.

    Lone surrogates, infinities, NaN and integers of up to 4,300 digits arrive as they were.
    """
    body = json.dumps(message, ensure_ascii=False).encode("utf-8", "surrogatepass")
    left = memoryview(b"".join((_HEADER.pack(len(body), len(data)), body, data)))
    while left:
        left = left[os.write(stream, left) :]


def receive(stream: int, most: int | None = None) -> tuple[Any, bytes]:
    """Read one message and the bytes that came with it.

    Args:
        stream: A file descriptor.
        most: The most bytes that both may have together.

    Raises:
        EOFError: The other side is gone.
        ValueError: The message is longer, or no JSON.
    """
    length, more = _HEADER.unpack(_read(stream, _HEADER.size))
    if most is not None and length + more > most:
        raise ValueError(f"an answer of {length + more:,} bytes; at most {most:,} are taken")
    message = json.loads(_read(stream, length).decode("utf-8", "surrogatepass"))
    return message, _read(stream, more)


def _read(stream: int, length: int) -> bytes:
    found = bytearray()
    while len(found) < length:
        part = os.read(stream, min(length - len(found), 1 << 20))
        if not part:
            raise EOFError
        found += part
    return bytes(found)


def unavailable() -> dict[str, str]:
    """The limits that this machine cannot enforce, each with the reason."""
    missing = {}
    if resource is None or sys.platform == "darwin":
        missing["memory"] = f"{sys.platform} enforces no limit on a process's address space"
    if not sys.platform.startswith("linux"):
        reason = f"only Linux is supported, and this is {sys.platform}"
        return {
            **missing,
            **dict.fromkeys(("files", "network", "processes", "signals", "death with the parent"), reason),
        }
    try:
        import landlock

        landlock.landlock_abi_version()
    except Exception as error:
        missing["files"] = f"Landlock cannot be used: {error}"
    try:
        importlib.import_module("pyseccomp")
    except Exception as error:
        missing |= dict.fromkeys(("network", "processes", "signals"), f"seccomp cannot be used: {error}")
    return missing


def confine(limits: Mapping[str, Any], folder: str) -> None:
    """Put the limits on this process, for good; what is unavailable is left out.

    Args:
        limits: The fields of `limits.SandboxLimits`; None or True lifts one.
        folder: The only folder that may be written to, where `files` is a number; it can always be read.
    """
    missing = unavailable()
    if resource is not None:
        _limit_resources(limits, missing)
    if not limits["processes"] and sys.platform.startswith("linux"):
        _drop_privileges()
    if (limits["files"], limits["reads"]) != (None, None) and "files" not in missing:
        _limit_files(folder, limits["files"] is not None, limits["reads"])
    if "network" not in missing and not (limits["network"] and limits["processes"]):
        _limit_calls(limits)


def _limit_resources(limits: Mapping[str, Any], missing: Mapping[str, str]) -> None:
    wanted = {"RLIMIT_AS": limits["memory"], "RLIMIT_FSIZE": limits["files"], "RLIMIT_CORE": 0}
    if "memory" in missing:  # macOS may refuse such a limit, and enforces none
        del wanted["RLIMIT_AS"]
    if limits["files"] is not None:
        wanted["RLIMIT_NOFILE"] = _MOST_FILES_OPEN
    for name, value in wanted.items():
        kind = getattr(resource, name)
        hard = resource.getrlimit(kind)[1]
        if value is not None:
            least = value if hard == resource.RLIM_INFINITY else min(value, hard)
            resource.setrlimit(kind, (least, least))


def _drop_privileges() -> None:
    """Give up root's capabilities, other than to read every file, if this process has them."""
    status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    permitted = int(status.partition("CapPrm:")[2].split()[0], 16)
    kept = permitted & (1 << _CAP_DAC_READ_SEARCH)
    header = struct.pack("=Ii", _CAPABILITY_VERSION, 0)
    if ctypes.CDLL(None, use_errno=True).capset(header, struct.pack("=IIIIII", kept, kept, 0, 0, 0, 0)):
        raise OSError(ctypes.get_errno(), "the sandbox could not give up its privileges")


def _limit_files(folder: str, writing_too: bool, reads: Sequence[str] | None) -> None:
    from landlock import FSAccess, Ruleset

    nothing = FSAccess.all() & ~FSAccess.all()
    writing = FSAccess.all() & ~(FSAccess.EXECUTE | FSAccess.READ_FILE | FSAccess.READ_DIR)
    writing = writing if writing_too else nothing
    rules = Ruleset(writing | FSAccess.READ_FILE)
    rules.allow(folder)
    rules.allow(os.devnull, rules=(FSAccess.all_file() & writing) | FSAccess.READ_FILE)
    # All is read but devices, among them the terminals on which people type; or only what was named.
    everything = [entry.path for entry in os.scandir("/") if entry.name != "dev"]
    for path in [*(everything if reads is None else reads), "/dev/zero", "/dev/random", "/dev/urandom"]:
        with contextlib.suppress(FileNotFoundError):
            rules.allow(path, rules=FSAccess.READ_FILE)
    rules.apply()


def _limit_calls(limits: Mapping[str, Any]) -> None:
    import pyseccomp as seccomp

    rules = seccomp.SyscallFilter(seccomp.ALLOW)

    def refuse(names: str, number: int, *conditions: Any) -> None:
        for name in names.split():
            try:
                rules.add_rule(seccomp.ERRNO(number), name, *conditions)
            except OSError:  # a name that this architecture or this libseccomp does not know
                if conditions:
                    raise

    own = os.getpid()
    if not limits["network"]:
        refuse(_NETWORK, errno.ENETDOWN)
    if not limits["processes"]:
        refuse(_PROCESSES, errno.EAGAIN)
        rules.add_rule(
            seccomp.ERRNO(errno.EAGAIN), "clone", seccomp.Arg(0, seccomp.MASKED_EQ, _CLONE_THREAD, 0)
        )
        rules.add_rule(seccomp.ERRNO(errno.ENOSYS), "clone3")  # its flags lie in memory; libc falls back
        refuse(_SIGNALS, errno.EPERM)
        refuse(_SIGNALS_TO_OTHERS, errno.EPERM, seccomp.Arg(0, seccomp.NE, own))
        # Signals by way of a file's owner (F_SETOWN, F_SETSIG, F_SETOWN_EX; FIOSETOWN, SIOCSPGRP, TIOCSTI).
        for command in (8, 10, 15):
            refuse("fcntl", errno.EPERM, seccomp.Arg(1, seccomp.MASKED_EQ, 0xFFFFFFFF, command))
        for command in (0x8901, 0x8902, 0x5412):
            refuse("ioctl", errno.EPERM, seccomp.Arg(1, seccomp.MASKED_EQ, 0xFFFFFFFF, command))
        refuse("prctl", errno.EPERM, seccomp.Arg(0, seccomp.MASKED_EQ, 0xFFFFFFFF, _PR_SET_PDEATHSIG))
        refuse("prlimit64", errno.EPERM, seccomp.Arg(2, seccomp.NE, 0))
        refuse("sched_setaffinity", errno.EPERM, seccomp.Arg(0, seccomp.NE, 0))
        refuse(f"{_OTHERS} {_SYSTEM}", errno.EPERM)
    if limits["memory"] is not None:
        refuse(_HIDDEN_MEMORY, errno.ENOMEM)
    if limits["files"] is not None:
        refuse(f"{_METADATA} truncate", errno.EPERM)
    for number in range(_FIRST_UNKNOWN, _LAST_UNKNOWN):
        rules.add_rule(seccomp.ERRNO(errno.ENOSYS), number)
    rules.load()


def _die_with_parent(parent: int) -> None:
    """Ask the kernel to kill this process when its parent ends, however that ends."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))
        if os.getppid() != parent:
            os._exit(1)


class _SourceLoader(importlib.machinery.SourceFileLoader):
    """Compiles a file anew each time, as `user_code` does."""

    def get_code(self, fullname: str) -> CodeType:
        return self.source_to_code(self.get_data(self.path), self.path)


def _load(target: Mapping[str, str]) -> Callable[..., Any]:
    """The function of a module, or of a file that is run as one."""
    if "file" in target:
        file = Path(target["file"])
        spec = importlib.util.spec_from_file_location(f"sandboxed_{file.stem}", file)
        if spec is None or spec.loader is None:
            raise ImportError(f"{file} is not a Python file")
        if isinstance(spec.loader, importlib.machinery.SourceFileLoader):
            spec.loader = _SourceLoader(spec.name, str(file))
        module: Any = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module  # dataclasses look their module up
        sys.path.insert(0, str(file.parent))
        spec.loader.exec_module(module)
    else:
        module = importlib.import_module(target["module"])
    value: Any = module
    for part in target["name"].split("."):
        value = getattr(value, part)
    if not callable(value):
        raise TypeError(f"{target['name']} is {type(value).__name__} and cannot be called")
    return value  # type: ignore[no-any-return]


def described(error: BaseException) -> dict[str, Any]:
    """An exception as data: the names of its types, its message, its number, where it was raised."""
    try:
        places = traceback.extract_tb(error.__traceback__)
        library = os.path.dirname(os.__file__) + os.sep  # the place that matters is in the user's file
        own = [p for p in places if p.filename != __file__ and not p.filename.startswith(library)] or places
        number = error.errno if isinstance(error, OSError) else None
        return {
            "types": [f"{t.__module__}.{t.__qualname__}" for t in type(error).__mro__][:20],
            "message": str(error)[:_LONGEST_MESSAGE],
            "errno": number if type(number) is int else None,
            "place": f"{own[-1].filename}:{own[-1].lineno}" if own else "",
        }
    except BaseException:  # an exception whose own methods raise
        return {"types": ["builtins.Exception"], "message": "(unreadable)", "errno": None, "place": ""}


def _call(answers: int, function: Callable[..., Any], arguments: list[Any]) -> None:
    try:
        answer: dict[str, Any] = {"value": function(*arguments)}
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        send(answers, answer)
    except BaseException as error:  # SystemExit too is an answer, and what is not plain data
        send(answers, {"error": described(error)})


def main() -> None:
    """Read the set-up from standard input, take on its limits, and become the command or serve calls."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business
    setup, _ = receive(0)
    _die_with_parent(setup["parent"])
    sys.path[:] = setup["path"]
    if "command" in setup:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        try:
            confine(setup["limits"], setup["folder"])
            os.execvp(setup["command"][0], setup["command"])
        except OSError as error:
            print(f"sandbox: {setup['command'][0]}: {error}", file=sys.stderr)
            os._exit(127 if isinstance(error, FileNotFoundError) else 126)
    requests, answers = os.dup(0), os.dup(1)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)  # what the function prints is no answer
    functions: list[Callable[..., Any]] = []

    def start() -> None:
        confine(setup["limits"], setup["folder"])
        functions.append(_load(setup["target"]))

    _call(answers, start, [])
    while functions:
        try:
            arguments, data = receive(requests)
        except EOFError:
            return
        _call(answers, functions[0], [*arguments, data] if data else arguments)


if __name__ == "__main__":
    main()
