"""Bugs of the label store: the queue, the record, its chain, merging, exchange."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

_STORE, _DATABASE = "reward_models/labels/store.py", "reward_models/labels/database.py"
_CHAIN = "reward_models/labels/chain.py"
_VERIFY, _MERGE = "reward_models/labels/verify.py", "reward_models/labels/merge.py"
_EXCHANGE, _FORMATS = "reward_models/labels/exchange.py", "reward_models/labels/formats.py"


def _by(*tests: str) -> tuple[str, ...]:
    return tuple(f"tests/reward_models/labels/{test}" for test in tests)


_CHAIN = "reward_models/labels/chain.py"
MUTANTS = [
    Mutant(  # survivor 11
        "verify-skips-the-chain",
        _VERIFY,
        "    if _plain(before) != previous:\n"
        '        raise _bad(database, row, "it does not follow the row before")\n',
        "",
        _by("test_verify.py::test_a_row_rewritten_with_its_own_hash_is_found_by_the_next"),
    ),
    Mutant(
        "verify-skips-the-hash",
        _VERIFY,
        "    if row_digest(raw[:-1]) != _plain(digest):\n"
        '        raise _bad(database, row, "its content does not match its hash")\n',
        "",
        _by("test_verify.py::test_edits_are_named"),
    ),
    Mutant(
        "verify-ignores-missing-last-rows",
        _VERIFY,
        "    if written > last and (before is None or last + 1 < before):\n",
        "    if written < last and (before is None or last + 1 < before):\n",
        _by("test_verify.py::test_edits_are_named"),
    ),
    Mutant(
        "verify-takes-any-head",
        _VERIFY,
        "if head not in (None, START) and head not in {label.hash for label in labels}:",
        "if head not in (None, START) and not labels:",
        _by("test_verify.py::test_a_good_store_is_good"),
    ),
    Mutant(
        "verify-forgets-the-queue",
        _VERIFY,
        "        _check_queue(database, labels, items.numbers)\n",
        "",
        _by("test_verify.py::test_edits_are_named"),
    ),
    Mutant(
        "verify-counts-skips-as-answers",
        _VERIFY,
        'answers.get(number, 0) + (label.kind != "skip")',
        "answers.get(number, 0) + 1",
        _by("test_verify.py::test_a_good_store_is_good"),
    ),
    Mutant(
        "verify-skips-questions-without-labels",
        _VERIFY,
        "            if raw[0] not in self._good:\n                self._check(raw, None)\n",
        "",
        _by("test_verify.py::test_edits_are_named"),
    ),
    Mutant(
        "chain-hash-without-the-answer",
        _DATABASE,
        "return sha256_of_values(*[c.encode() if isinstance(c, str) else c for c in columns])",
        "return sha256_of_values(*[c.encode() if isinstance(c, str) else c for i, c in enumerate(columns)"
        " if i != 5])",
        _by("test_verify.py::test_a_flipped_bit_in_a_value_is_named_by_its_row"),
    ),
    Mutant(
        "labels-may-be-changed",
        _DATABASE,
        "CREATE TRIGGER no_delete BEFORE DELETE ON labels BEGIN SELECT RAISE(ABORT, 'labels are append-only')"
        "; END;\n",
        "",
        _by("test_verify.py::test_rows_cannot_be_changed_by_accident"),
    ),
    Mutant(
        "commits-wait-for-no-disk",
        _DATABASE,
        '"synchronous = FULL",',
        '"synchronous = NORMAL",',
        _by("test_database.py::test_the_settings_are_those_that_survive_a_kill"),
    ),
    Mutant(
        "lease-never-ends",
        _STORE,
        "WHERE item = number AND rater <> ? AND expires > ?) ",
        "WHERE item = number AND rater <> ? AND (expires > ? OR 1)) ",
        _by("test_store.py::test_a_lease_ends"),
    ),
    Mutant(
        "leases-are-not-counted",
        _STORE,
        '"AND answers + (SELECT COUNT(*) FROM leases',
        '"AND answers + 0 * (SELECT COUNT(*) FROM leases',
        _by("test_store.py::test_raters_get_different_questions_and_come_back_to_their_own"),
    ),
    Mutant(
        "own-lease-keeps-one-out",
        _STORE,
        "WHERE item = number AND rater <> ? AND expires",
        "WHERE item = number AND (rater <> ? OR 1) AND expires",
        _by("test_store.py::test_raters_get_different_questions_and_come_back_to_their_own"),
    ),
    Mutant(
        "later-questions-first",
        _STORE,
        "ORDER BY priority DESC, number LIMIT 1",
        "ORDER BY priority DESC, number DESC LIMIT 1",
        _by("test_store.py::test_questions_come_by_priority_and_then_in_order"),
    ),
    Mutant(
        "requeueing-lowers-the-priority",
        _STORE,
        "max(found[5], priority), max(found[6], overlap))",
        "priority, max(found[6], overlap))",
        _by("test_store.py::test_equal_questions_are_asked_once"),
    ),
    Mutant(
        "a-skip-counts-as-an-answer",
        _STORE,
        '(entry.kind != "skip", *found))',
        "(True, *found))",
        _by("test_store.py::test_a_skipped_question_is_left_to_others"),
    ),
    Mutant(
        "undoing-a-skip-takes-an-answer",
        _STORE,
        "(answered, number))\n",
        "(1, number))\n",
        _by("test_store.py::test_any_order_of_answers_skips_and_undos"),
    ),
    Mutant(
        "undo-takes-the-first-answer",
        _STORE,
        'f"WHERE rater = ? {chosen}ORDER BY row DESC LIMIT 1"',
        'f"WHERE rater = ? {chosen}ORDER BY row LIMIT 1"',
        _by("test_store.py::test_undo_is_a_row_and_the_question_comes_back"),
    ),
    Mutant(
        "undone-labels-stand",
        _STORE,
        "if all_rows or (label.answered and label.row not in undone)",
        "if all_rows or label.answered",
        _by("test_store.py::test_undo_is_a_row_and_the_question_comes_back"),
    ),
    Mutant(
        "key-is-ignored",
        _CHAIN,
        "    if key is None:\n        return None\n",
        "    if key is None or key:\n        return None\n",
        _by("test_store.py::test_the_same_key_is_saved_once"),
    ),
    Mutant(
        "key-of-another-answer-is-taken",
        _CHAIN,
        "if (raw[1], raw[3], raw[4], json.loads(raw[5])) != wanted:",
        "if (raw[1], raw[3], raw[4]) != wanted[:3]:",
        _by("test_store.py::test_the_same_key_is_saved_once"),
    ),
    Mutant(
        "key-of-another-rater-is-taken",
        _CHAIN,
        "if (raw[1], raw[3], raw[4], json.loads(raw[5])) != wanted:",
        "if (raw[1], raw[3], json.loads(raw[5])) != (*wanted[:2], wanted[3]):",
        _by("test_store.py::test_the_same_key_is_saved_once"),
    ),
    Mutant(
        "an-answered-question-keeps-its-lease",
        _STORE,
        '            run("DELETE FROM leases WHERE item = ? AND rater = ?", (*found, name))\n',
        "",
        _by("test_store.py::test_an_answer_gives_back_its_lease"),
    ),
    Mutant(
        "progress-counts-all-raters-answers-as-mine",
        _STORE,
        "LEFT JOIN active ON active.item = number AND active.rater = ?",
        "LEFT JOIN active ON active.item = number AND (active.rater = ? OR 1)",
        _by("test_store.py::test_progress_is_each_raters_own"),
    ),
    Mutant(
        "undo-of-every-rater",
        _STORE,
        'run("DELETE FROM active WHERE item = ? AND rater = ?", (number, name))',
        'run("DELETE FROM active WHERE item = ? AND (rater = ? OR 1)", (number, name))',
        _by("test_store.py::test_an_undo_takes_back_the_raters_own_answer_alone"),
    ),
    Mutant(
        "merge-adds-what-it-knows",
        _MERGE,
        "            return history[len(ours) :]\n",
        "            return history\n",
        _by("test_merge.py::test_merging_again_adds_what_is_new"),
    ),
    Mutant(
        "merge-ignores-conflicts-of-values",
        _MERGE,
        "same = (mine.kind, dict(mine.values)) == (other.kind, dict(other.values))",
        "same = mine.kind == other.kind",
        _by("test_merge.py::test_one_name_with_two_answers_is_a_conflict"),
    ),
    Mutant(
        "merge-takes-an-undo-for-an-answer",
        _MERGE,
        'return None if not rows or rows[-1].kind == "undo" else rows[-1]',
        "return None if not rows else rows[-1]",
        _by("test_merge.py::test_an_answer_that_was_taken_back_gives_way"),
    ),
    Mutant(
        "pseudonym-without-the-secret",
        _MERGE,
        'return hmac.new(secret, what.encode() + b"\\0" + text_bytes(text), hashlib.sha256).hexdigest()',
        'return hmac.new(b"", what.encode() + b"\\0" + text_bytes(text), hashlib.sha256).hexdigest()',
        _by("test_merge.py::test_pseudonyms_are_stable_and_hold_no_name"),
    ),
    Mutant(
        "keys-keep-the-raters-name",
        _MERGE,
        'key=digest("key", label.key)[:32]',
        "key=label.key",
        _by("test_merge.py::test_pseudonyms_are_stable_and_hold_no_name"),
    ),
    Mutant(
        "text-10-before-text-2",
        _EXCHANGE,
        'numbers = sorted(int(n[5:]) for n in fields if n.startswith("text_") and n[5:].isdigit())',
        'numbers = sorted(n[5:] for n in fields if n.startswith("text_") and n[5:].isdigit())',
        _by("test_exchange.py::test_answers_added_in_label_studio_are_read"),
        equivalent="no question has more than 9 texts",
    ),
    Mutant(
        "argilla-drafts-are-answers",
        _EXCHANGE,
        'if response.get("status", "submitted") == "submitted":',
        'if response.get("status", "submitted"):',
        _by("test_exchange.py::test_answers_added_in_argilla_are_read"),
    ),
    Mutant(
        "cancelled-annotations-are-answers",
        _EXCHANGE,
        '        if annotation.get("was_cancelled"):\n            continue\n',
        "",
        _by("test_exchange.py::test_answers_added_in_label_studio_are_read"),
    ),
]
