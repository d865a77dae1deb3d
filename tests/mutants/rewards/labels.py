"""Bugs of the label store: the queue, the record, its chain, merging, exchange."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

_STORE, _DATABASE = "reward_models/labels/store.py", "reward_models/labels/database.py"
_VERIFY, _MERGE = "reward_models/labels/verify.py", "reward_models/labels/merge.py"
_EXCHANGE, _FORMATS = "reward_models/labels/exchange.py", "reward_models/labels/formats.py"
_OF_STORE = ("tests/reward_models/labels/test_store.py",)
_OF_VERIFY = ("tests/reward_models/labels/test_verify.py",)
_OF_MERGE = ("tests/reward_models/labels/test_merge.py",)
_OF_EXCHANGE = ("tests/reward_models/labels/test_exchange.py", "tests/reward_models/labels/test_formats.py")
_OF_DATABASE = ("tests/reward_models/labels/test_database.py",)

MUTANTS = [
    Mutant(  # survivor 11
        "verify-skips-the-chain",
        _VERIFY,
        "    if _plain(before) != previous:\n"
        '        raise _bad(database, row, "it does not follow the row before")\n',
        "",
        _OF_VERIFY,
    ),
    Mutant(
        "verify-skips-the-hash",
        _VERIFY,
        "    if row_digest(raw[:-1]) != _plain(digest):\n"
        '        raise _bad(database, row, "its content does not match its hash")\n',
        "",
        _OF_VERIFY,
    ),
    Mutant(
        "verify-ignores-missing-last-rows",
        _VERIFY,
        '    if written > last:\n        raise _bad(database, last + 1, "it was written and is missing")\n',
        "",
        _OF_VERIFY,
    ),
    Mutant(
        "verify-takes-any-head",
        _VERIFY,
        "known |= previous == head",
        "known |= head is not None",
        _OF_VERIFY,
    ),
    Mutant(
        "verify-forgets-the-queue",
        _VERIFY,
        "    _check_queue(database, active)\n",
        "",
        _OF_VERIFY,
    ),
    Mutant(
        "verify-counts-skips-as-answers",
        _VERIFY,
        'answers.get(item, 0) + (kind != "skip")',
        "answers.get(item, 0) + 1",
        _OF_VERIFY,
    ),
    Mutant(
        "verify-skips-questions-without-labels",
        _VERIFY,
        "            if raw[0] not in self._good:\n                self._check(raw, None)\n",
        "",
        _OF_VERIFY,
    ),
    Mutant(
        "chain-hash-without-the-answer",
        _DATABASE,
        "return sha256_of_values(*[c.encode() if isinstance(c, str) else c for c in columns])",
        "return sha256_of_values(*[c.encode() if isinstance(c, str) else c for i, c in enumerate(columns)"
        " if i != 5])",
        (*_OF_VERIFY, *_OF_DATABASE),
    ),
    Mutant(
        "labels-may-be-changed",
        _DATABASE,
        "CREATE TRIGGER no_delete BEFORE DELETE ON labels BEGIN SELECT RAISE(ABORT, 'labels are append-only')"
        "; END;\n",
        "",
        _OF_VERIFY,
    ),
    Mutant(
        "commits-wait-for-no-disk",
        _DATABASE,
        '"synchronous = FULL",',
        '"synchronous = NORMAL",',
        _OF_DATABASE,
    ),
    Mutant(
        "lease-never-ends",
        _STORE,
        "WHERE item = number AND rater <> ? AND expires > ?) ",
        "WHERE item = number AND rater <> ? AND (expires > ? OR 1)) ",
        _OF_STORE,
    ),
    Mutant(
        "leases-are-not-counted",
        _STORE,
        '"AND answers + (SELECT COUNT(*) FROM leases',
        '"AND answers + 0 * (SELECT COUNT(*) FROM leases',
        _OF_STORE,
    ),
    Mutant(
        "own-lease-keeps-one-out",
        _STORE,
        "WHERE item = number AND rater <> ? AND expires",
        "WHERE item = number AND (rater <> ? OR 1) AND expires",
        _OF_STORE,
    ),
    Mutant(
        "later-questions-first",
        _STORE,
        "ORDER BY priority DESC, number LIMIT 1",
        "ORDER BY priority DESC, number DESC LIMIT 1",
        _OF_STORE,
    ),
    Mutant(
        "requeueing-lowers-the-priority",
        _STORE,
        "max(found[5], priority), max(found[6], overlap))",
        "priority, max(found[6], overlap))",
        _OF_STORE,
    ),
    Mutant(
        "a-skip-counts-as-an-answer",
        _STORE,
        '(entry.kind != "skip", *found))',
        "(True, *found))",
        _OF_STORE,
    ),
    Mutant(
        "undoing-a-skip-takes-an-answer",
        _STORE,
        "(answered, number))\n",
        "(1, number))\n",
        _OF_STORE,
    ),
    Mutant(
        "undo-takes-the-first-answer",
        _STORE,
        'f"WHERE rater = ? {chosen}ORDER BY row DESC LIMIT 1"',
        'f"WHERE rater = ? {chosen}ORDER BY row LIMIT 1"',
        _OF_STORE,
    ),
    Mutant(
        "undone-labels-stand",
        _STORE,
        'if all_rows or (raw[1] not in ("skip", "undo") and raw[0] not in undone):',
        'if all_rows or raw[1] not in ("skip", "undo"):',
        _OF_STORE,
    ),
    Mutant(
        "key-is-ignored",
        _STORE,
        "    if key is None:\n        return None\n",
        "    if key is None or key:\n        return None\n",
        _OF_STORE,
    ),
    Mutant(
        "key-of-another-answer-is-taken",
        _STORE,
        "if (raw[1], raw[3], raw[4], json.loads(raw[5])) != wanted:",
        "if (raw[1], raw[3], raw[4]) != wanted[:3]:",
        _OF_STORE,
    ),
    Mutant(
        "key-of-another-rater-is-taken",
        _STORE,
        "if (raw[1], raw[3], raw[4], json.loads(raw[5])) != wanted:",
        "if (raw[1], raw[3], json.loads(raw[5])) != (*wanted[:2], wanted[3]):",
        _OF_STORE,
    ),
    Mutant(
        "an-answered-question-keeps-its-lease",
        _STORE,
        '            run("DELETE FROM leases WHERE item = ? AND rater = ?", (*found, name))\n',
        "",
        _OF_STORE,
    ),
    Mutant(
        "progress-counts-all-raters-answers-as-mine",
        _STORE,
        "LEFT JOIN active ON active.item = number AND active.rater = ?",
        "LEFT JOIN active ON active.item = number AND (active.rater = ? OR 1)",
        _OF_STORE,
    ),
    Mutant(
        "undo-of-every-rater",
        _STORE,
        'run("DELETE FROM active WHERE item = ? AND rater = ?", (number, name))',
        'run("DELETE FROM active WHERE item = ? AND (rater = ? OR 1)", (number, name))',
        _OF_STORE,
    ),
    Mutant(
        "merge-adds-what-it-knows",
        _MERGE,
        "            return history[len(ours) :]\n",
        "            return history\n",
        _OF_MERGE,
    ),
    Mutant(
        "merge-ignores-conflicts-of-values",
        _MERGE,
        "same = (mine.kind, dict(mine.values)) == (other.kind, dict(other.values))",
        "same = mine.kind == other.kind",
        _OF_MERGE,
    ),
    Mutant(
        "merge-takes-an-undo-for-an-answer",
        _MERGE,
        'return None if not rows or rows[-1].kind == "undo" else rows[-1]',
        "return None if not rows else rows[-1]",
        _OF_MERGE,
    ),
    Mutant(
        "pseudonym-without-the-secret",
        _MERGE,
        'return hmac.new(secret, what.encode() + b"\\0" + text_bytes(text), hashlib.sha256).hexdigest()',
        'return hmac.new(b"", what.encode() + b"\\0" + text_bytes(text), hashlib.sha256).hexdigest()',
        _OF_MERGE,
    ),
    Mutant(
        "keys-keep-the-raters-name",
        _MERGE,
        'key=digest("key", label.key)[:32]',
        "key=label.key",
        _OF_MERGE,
    ),
    Mutant(
        "argilla-drafts-are-answers",
        _EXCHANGE,
        'if response.get("status", "submitted") == "submitted":',
        'if response.get("status", "submitted"):',
        _OF_EXCHANGE,
    ),
    Mutant(
        "cancelled-annotations-are-answers",
        _EXCHANGE,
        '        if annotation.get("was_cancelled"):\n            continue\n',
        "",
        _OF_EXCHANGE,
    ),
    Mutant(
        "text-10-before-text-2",
        _EXCHANGE,
        'numbers = sorted(int(n[5:]) for n in fields if n.startswith("text_") and n[5:].isdigit())',
        'numbers = sorted(n[5:] for n in fields if n.startswith("text_") and n[5:].isdigit())',
        _OF_EXCHANGE,
    ),
]
