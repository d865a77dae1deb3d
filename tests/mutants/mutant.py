"""A mutant: one semantic bug as a patch, and the tests that have to catch it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Mutant:
    """A bug that a good programmer could write.

    Args:
        name: A few words in kebab-case, which no other mutant has.
        file: The file's path from the root of the repository.
        old: Text that stands in the file exactly once.
        new: What the bug writes there.
        tests: Arguments for pytest, paths or node ids: narrow ones, which take seconds.
        equivalent: Why no test can catch it; empty for all that can be caught.
        more: Further pairs of old and new text in the same file.
        by_fixture: The bug breaks what its tests set up, so that an error there counts as caught.
        needs: Modules without which its tests are skipped.
    """

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]
    equivalent: str = ""
    more: tuple[tuple[str, str], ...] = ()
    by_fixture: bool = False
    needs: tuple[str, ...] = ()


def mutated(source: str, mutant: Mutant) -> str:
    """Write the bug into the source of its file.

    Raises:
        ValueError: An old text does not stand there exactly once.
    """
    for old, new in ((mutant.old, mutant.new), *mutant.more):
        if source.count(old) != 1:
            raise ValueError(f"{mutant.name}: {old!r} stands {source.count(old)} times in {mutant.file}")
        source = source.replace(old, new)
    return source
