"""Signs what this user writes on this machine with a secret key, to tell it from what came from elsewhere.

The key stands in the user's state folder, for the user's eyes alone. A signature says who wrote something,
not that it does no harm; whoever can read the user's files can sign.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import stat
from pathlib import Path

_KEY, _BYTES = "key", 32


def private_folder(variable: str, default: str) -> Path | None:
    """Return the folder `text-gym` among a user's files, private to the user; None where that is impossible.

    What stands in it is trusted, so nobody else may be able to put anything there: a folder of another owner,
    or a link to elsewhere, is not used.

    Args:
        variable: Names the folder around it, if set to an absolute path, e.g. `"XDG_CACHE_HOME"`.
        default: That folder otherwise, under the user's home, e.g. `".cache"`.
    """
    chosen = Path(os.environ.get(variable, ""))
    try:
        folder = (chosen if chosen.is_absolute() else Path.home() / default) / "text-gym"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.lstat()
        if not (stat.S_ISDIR(found.st_mode) and is_ours(found)):
            return None
        folder.chmod(0o700)
        return folder if os.access(folder, os.W_OK | os.X_OK) else None
    except (OSError, RuntimeError):  # a home that is read-only, full or unknown
        return None


def is_ours(found: os.stat_result) -> bool:
    """Return True if a file belongs to the user of this process; Windows keeps other users out by itself."""
    return not hasattr(os, "getuid") or found.st_uid == os.getuid()


def sign(text: str) -> str | None:
    """Sign a text with the user's key (HMAC-SHA256, hexadecimal); None where no key can be kept."""
    key = _key()
    return None if key is None else hmac.new(key, text.encode(), hashlib.sha256).hexdigest()


def is_signed(text: str, signature: object) -> bool:
    """Return True if this user signed the text on this machine."""
    own = sign(text)
    return own is not None and isinstance(signature, str) and hmac.compare_digest(own, _ascii(signature))


def _ascii(text: str) -> str:
    return text.encode("ascii", "replace").decode()  # compare_digest takes no other strings


def _key() -> bytes | None:
    """Read the user's key, making it if there is none yet."""
    folder = private_folder("XDG_STATE_HOME", ".local/state")
    if folder is None:
        return None
    file = folder / _KEY
    try:
        if not file.exists():
            _make_key(file)
        found = file.lstat()
        if not (stat.S_ISREG(found.st_mode) and is_ours(found)):
            return None
        key = file.read_bytes()
    except OSError:
        return None
    return key if len(key) == _BYTES else None


def _make_key(file: Path) -> None:
    """Write a new key; of two processes that do so at once the first one's stays."""
    partial = file.with_name(f".{_KEY}.{secrets.token_hex(8)}")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(secrets.token_bytes(_BYTES))
            stream.flush()
            os.fsync(stream.fileno())
        try:
            os.link(partial, file)
        except FileExistsError:
            pass
        except OSError:  # a file system without hard links
            partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)
