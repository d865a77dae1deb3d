"""Sealed folders appear complete or not at all, and reveal any later change.

Files are written to a temporary folder beside it; a manifest with the SHA-256 of each comes last, then
everything is forced to the disk and moved into place. What the files mean is their writer's business, and
the seal is against accidents: someone who can write the files can write the manifest too.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from text_gym.errors import CheckpointError, DamagedError, NotSavedError, TextGymError

MANIFEST = "manifest.json"
# A disk, a quota or a file's size limit that is used up, and disks that cannot be written.
FULL = frozenset(getattr(errno, name, None) for name in ("ENOSPC", "EDQUOT", "EFBIG", "EROFS", "EIO"))
FORMAT = 1  # version of the manifest's format
_UNFINISHED = re.compile(r"\.tmp[A-Za-z0-9]{6}")  # what safetensors writes to before it renames


def write_sealed(folder: Path, fill: Callable[[Path], None], about: Any = None) -> None:
    """Create or replace a folder in one step.

    Args:
        folder: Where.
        fill: Writes the files into the folder it is given.
        about: Plain JSON data to keep in the manifest.

    Raises:
        CheckpointError: The disk is full, read-only or broken; what stood there before still does.
    """
    partial, old = _beside(folder, "partial"), _beside(folder, "old")
    try:
        for left_over in (partial, old):
            shutil.rmtree(left_over, ignore_errors=True)
        partial.mkdir(parents=True)
        fill(partial)
        _seal(partial, about)
        if folder.exists():
            folder.rename(old)
        partial.rename(folder)
        sync_folder(folder.parent)
        shutil.rmtree(old, ignore_errors=True)
    except Exception as error:
        shutil.rmtree(partial, ignore_errors=True)
        if old.exists() and not folder.exists():
            old.rename(folder)
        if isinstance(error, OSError) or type(error).__name__ == "SafetensorError":
            raise CheckpointError(f"cannot write {folder}: {error}; nothing was lost but this") from error
        raise


@contextmanager
def naming_full_disk(folder: Path) -> Iterator[None]:
    """Say of a disk that is full, read-only or broken which folder could not be written.

    Raises:
        NotSavedError: In place of the system's error, or that of safetensors. Other errors pass.
    """
    try:
        yield
    except Exception as error:
        ours = isinstance(error, TextGymError)
        full = isinstance(error, OSError) and error.errno is not None and error.errno in FULL
        if (full and not ours) or type(error).__name__ == "SafetensorError":
            raise NotSavedError(
                f"cannot write to {folder}: {error}; make room, and go on from there"
            ) from error
        raise


def check_sealed(folder: Path) -> Any:
    """Check that a folder's files are those that were sealed, and return the manifest's description.

    Raises:
        DamagedError: A file is missing, cut short or altered, the manifest included; it is named.
        CheckpointError: A later version of text-gym wrote it, in a form that this one does not know.
    """
    restore_replaced(folder.parent)
    try:
        text = (folder / MANIFEST).read_text(encoding="utf-8")
        content = json.loads(text)
        manifest = content["manifest"]
        intact = bool(_render(manifest) == text)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DamagedError(f"{folder} is damaged: its {MANIFEST} cannot be read ({error})") from error
    if not intact:
        raise DamagedError(f"{folder} is damaged: its {MANIFEST} was altered")
    if manifest["format"] != FORMAT:
        raise CheckpointError(
            f"{folder} has format {manifest['format']}, and this version of text-gym reads format {FORMAT}; "
            "use the version that wrote it"
        )
    for name, sealed in manifest["files"].items():
        try:
            size, digest = _measure(folder / name)
        except OSError as error:
            raise DamagedError(f"{folder} is damaged: {name} cannot be read ({error})") from error
        if size != sealed["bytes"]:
            raise DamagedError(f"{folder} is damaged: {name} has {size} bytes, not {sealed['bytes']}")
        if digest != sealed["sha256"]:
            raise DamagedError(f"{folder} is damaged: {name} is not what was written (SHA-256)")
    return manifest["about"]


def read_about(folder: Path) -> Any:
    """Read a folder's description without checking its files; None if the manifest is damaged."""
    try:
        return json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["manifest"]["about"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def restore_replaced(parent: Path) -> None:
    """Restore subfolders whose writer died between moving the old one away and the new one in."""
    for old in parent.glob(".*.old"):
        folder = parent / old.name.removeprefix(".").removesuffix(".old")
        if not folder.exists():
            old.rename(folder)


def write_atomic(file: Path, content: str | bytes) -> None:
    """Write a small file atomically: readers see the old content or the new one, never a part."""
    partial = _beside(file, "partial")
    with partial.open("wb") as stream:
        stream.write(content.encode("utf-8") if isinstance(content, str) else content)
        stream.flush()
        os.fsync(stream.fileno())
    partial.replace(file)


def remove_unfinished(folder: Path) -> None:
    """Remove files of safetensors that a killed process was writing into a folder, which may not exist."""
    for file in folder.glob(".tmp*"):
        if _UNFINISHED.fullmatch(file.name) and file.is_file():
            file.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Flush a folder's list of files to the disk, where the system can."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _seal(folder: Path, about: Any) -> None:
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    entries = {}
    for file in files:
        size, digest = _measure(file, sync=True)
        entries[file.relative_to(folder).as_posix()] = {"bytes": size, "sha256": digest}
    with (folder / MANIFEST).open("w", encoding="utf-8", newline="\n") as stream:
        stream.write(_render({"format": FORMAT, "about": about, "files": entries}))
        stream.flush()
        os.fsync(stream.fileno())
    # The folder itself need not be flushed: if a power cut leaves it without one of its files,
    # it counts as damaged, and its predecessor is still there.


def _render(manifest: Any) -> str:
    """Render a manifest, which ends with its own SHA-256, so that any change shows."""
    body = json.dumps(manifest, sort_keys=True, allow_nan=False)
    own = hashlib.sha256(body.encode()).hexdigest()
    return json.dumps({"manifest": manifest, "sha256": own}, indent=1, sort_keys=True) + "\n"


def _measure(file: Path, sync: bool = False) -> tuple[int, str]:
    """Return the size in bytes and the SHA-256 of a file."""
    digest, size = hashlib.sha256(), 0
    with file.open("r+b" if sync else "rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
            size += len(block)
        if sync:
            os.fsync(stream.fileno())
    return size, digest.hexdigest()


def _beside(path: Path, kind: str) -> Path:
    return path.with_name(f".{path.name}.{kind}")
