"""The compiled kernels: built once per machine, kept in the user's cache folder, loaded by later processes.

The source, `kernels.c` with its header, is part of the package; nothing is downloaded. Whatever goes wrong
here costs speed and nothing else: one line in the log says why, and PyTorch's operators do the work.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import platform
import shlex
import shutil
import stat
import subprocess
import tempfile
from functools import cache
from pathlib import Path

from text_gym.utils.display import harmless
from text_gym.utils.signing import is_ours, private_folder

LOG = logging.getLogger("text_gym")
SOURCE = Path(__file__).with_name("kernels.c")
FLAGS = (
    "-O3",
    "-march=native",
    "-fopenmp-simd",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-shared",
    "-fPIC",
)
THREADED = ("-fopenmp",), ()  # fallback if the first does not compile or load: one thread
SECONDS = 60  # seconds for the compiler, which needs about two
SWITCH = "TEXT_GYM_KERNELS"  # this environment variable set to 0 leaves the kernels out


@cache
def load() -> ctypes.CDLL | None:
    """Load the kernels' library, compiling it first if necessary; return None and log why if that fails."""
    if os.environ.get(SWITCH) == "0":
        LOG.info("%s=0: small models on the CPU run on operators, without compiled kernels", SWITCH)
        return None
    try:
        return _load_or_build(_compiler())
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        LOG.warning(
            "no compiled kernels, so that small models on the CPU are slower: %s. Have CC name a C compiler, "
            "or set %s=0 to do without",
            _reason(error),
            SWITCH,
        )
        return None


def _compiler() -> list[str]:
    """Return the C compiler and its arguments: `CC`, such as `"ccache gcc"` or `"gcc -m64"`, or else `cc`."""
    words = shlex.split(os.environ.get("CC", "")) or ["cc"]
    found = shutil.which(words[0])
    if found is None:
        raise FileNotFoundError(f"there is no C compiler {words[0]!r}")
    return [found, *words[1:]]


def _load_or_build(compiler: list[str]) -> ctypes.CDLL:
    name = f"kernels-{key(compiler)}.so"
    folder = cache_folder()
    if folder is not None:
        kept = folder / name
        try:
            if _may_load(kept):
                return ctypes.CDLL(str(kept))
        except OSError:
            pass  # missing, or no longer loadable: build it anew
        try:
            return _build(compiler, folder, keep=kept)
        except (OSError, subprocess.CalledProcessError) as error:
            # The disk may be full, or one from which no program may be loaded.
            LOG.debug("the kernels could not be built in %s: %s", folder, _reason(error))
    return _build(compiler, Path(tempfile.gettempdir()), keep=None)


def _build(compiler: list[str], folder: Path, keep: Path | None) -> ctypes.CDLL:
    """Compile and load the library.

    Args:
        compiler: The compiler and its arguments.
        folder: Where to make a private folder for the work, which is removed again.
        keep: Where the library goes once it has loaded; it appears there whole or not at all.

    Raises:
        OSError: No library could be written or loaded.
        SubprocessError: The compiler failed or took too long.
    """
    problem: OSError | subprocess.CalledProcessError | None = None
    for threaded in THREADED:
        with tempfile.TemporaryDirectory(dir=folder, prefix="text-gym-", ignore_cleanup_errors=True) as work:
            library = Path(work) / "kernels.so"
            command = [*compiler, *FLAGS, *threaded, str(SOURCE), "-o", str(library), "-lm"]
            try:
                subprocess.run(command, check=True, capture_output=True, timeout=SECONDS)
                loaded = ctypes.CDLL(str(library))
            except (OSError, subprocess.CalledProcessError) as error:
                problem = error
                continue
            if keep is not None:
                library.chmod(0o600)
                library.replace(keep)
            return loaded
    assert problem is not None
    raise problem


def key(compiler: list[str]) -> str:
    """Name what the compiler would make here: a hash of source, flags, compiler, CPU and C library.

    The compiler is told by the path, size and date of each program in its command, not by asking it: a start
    that finds the library in the cache runs no other process.
    """
    sources = [SOURCE, *sorted(SOURCE.parent.glob("*.h"))]
    parts = [source.read_text(encoding="utf-8") for source in sources]
    parts += [repr((FLAGS, THREADED)), repr(compiler)]
    for word in compiler:
        program = shutil.which(word)
        if program is not None:
            about = Path(program).resolve().stat()
            parts.append(f"{Path(program).resolve()} {about.st_size} {about.st_mtime_ns}")
    parts += [repr(platform.uname()[4:]), repr(platform.libc_ver()), _processor()]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:24]


def _processor() -> str:
    """Return the processor's name and features, for which `-march=native` compiles."""
    wanted = ("model name", "flags", "CPU implementer", "CPU part", "Features")
    try:
        first = Path("/proc/cpuinfo").read_text(encoding="utf-8").split("\n\n")[0]
    except OSError:
        return platform.processor()
    return "\n".join(line for line in first.splitlines() if line.startswith(wanted))


def cache_folder() -> Path | None:
    """Return `text-gym` in the user's cache folder; None where it cannot be private to the user.

    A library that is loaded runs as the user, so nobody else may be able to put one there.
    """
    return private_folder("XDG_CACHE_HOME", ".cache")


def _may_load(file: Path) -> bool:
    """True if nobody but the user can have written a file."""
    found = file.lstat()
    return stat.S_ISREG(found.st_mode) and is_ours(found) and not found.st_mode & 0o022


def _reason(error: Exception) -> str:
    """Say on one line what went wrong."""
    said = str(error)
    if isinstance(error, subprocess.TimeoutExpired):
        said = f"{error.cmd[0]} took longer than {error.timeout} s"
    elif isinstance(error, subprocess.CalledProcessError):
        lines = (error.stderr or b"").decode(errors="replace").strip().splitlines()
        wrong = [line for line in lines if "error" in line] or lines[-1:] or [f"status {error.returncode}"]
        said = f"{error.cmd[0]} failed ({wrong[0]})"
    return harmless(said, limit=300)
