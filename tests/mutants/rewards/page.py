"""Bugs of the labelling page: who may do what, what is saved when, what the browser keeps."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

_PAGE, _SECURITY = "reward_models/page/page.py", "reward_models/page/security.py"
_SITE = "reward_models/page/site.py"
_SERVER, _SITTING = "reward_models/page/server.py", "reward_models/page/sitting.py"
_SHOWN, _JS, _POST = (
    "reward_models/page/shown.py",
    "reward_models/page/static/page.js",
    "reward_models/page/static/post.js",
)


def _by(*tests: str) -> tuple[str, ...]:
    return tuple(f"tests/{test}" for test in tests)


MUTANTS = [
    Mutant(  # survivor 10
        "host-by-its-beginning",
        _SECURITY,
        "if len(hosts) != 1 or hosts[0].lower() not in self.hosts:",
        "if len(hosts) != 1 or not hosts[0].lower().startswith(tuple(self.hosts)):",
        _by("reward_models/page/test_security.py::test_names_that_only_begin_or_end_like_ours_are_refused"),
    ),
    Mutant(
        "any-host",
        _SECURITY,
        "if len(hosts) != 1 or hosts[0].lower() not in self.hosts:",
        "if len(hosts) != 1:",
        _by("reward_models/page/test_security.py::test_names_that_only_begin_or_end_like_ours_are_refused"),
    ),
    Mutant(
        "post-without-origin",
        _SECURITY,
        "            if origins != own:\n",
        "            if origins and origins != own:\n",
        _by("reward_models/page/test_security.py::test_the_request_matrix_is_exact"),
    ),
    Mutant(
        "origin-by-its-beginning",
        _SECURITY,
        "if origins and origins != own:",
        "if origins and not origins[0].startswith(own[0]):",
        _by("reward_models/page/test_security.py::test_names_that_only_begin_or_end_like_ours_are_refused"),
        more=(("            if origins != own:\n", "            if not origins:\n"),),
    ),
    Mutant(
        "post-without-session",
        _SECURITY,
        "            if not self.session(scope):\n"
        '                return 401, "open the newest link from the terminal"\n',
        "",
        _by("reward_models/page/test_security.py::test_the_request_matrix_is_exact"),
    ),
    Mutant(
        "any-content-type",
        _SECURITY,
        'if types != ["application/json"]:',
        "if not types:",
        _by("reward_models/page/test_security.py::test_a_header_given_twice_is_refused"),
    ),
    Mutant(
        "a-link-admits-twice",
        _SECURITY,
        "            self._links.remove(link)\n",
        "",
        _by("reward_models/page/test_security.py::test_tokens_differ_and_each_opens_only_its_own"),
    ),
    Mutant(
        "a-link-is-a-session",
        _SECURITY,
        "return next(iter(_matches(self._sessions, token)), None)",
        "return next(iter(_matches([*self._sessions, *self._links], token)), None)",
        _by("reward_models/page/test_security.py::test_tokens_differ_and_each_opens_only_its_own"),
    ),
    Mutant(
        "body-limit-forgets-earlier-chunks",
        _SECURITY,
        "            size += len(part)\n",
        "            size = len(part)\n",
        _by("reward_models/page/test_security.py::test_chunks_count_together_however_they_arrive"),
    ),
    Mutant(
        "refusals-without-security-headers",
        _SECURITY,
        "await _answer(send_safely, *refused)",
        "await _answer(send, *refused)",
        _by("reward_models/page/test_security.py::test_every_reply_has_the_security_headers"),
    ),
    Mutant(
        "cookie-for-scripts",
        _SITE,
        'httponly=True, samesite="strict")',
        'httponly=False, samesite="strict")',
        _by(
            "reward_models/page/test_security.py::test_the_cookie_is_for_this_site_and_out_of_reach_of_scripts"
        ),
    ),
    Mutant(
        "others-may-connect-unasked",
        _SERVER,
        "is_loopback and not expose:",
        "is_loopback and expose:",
        _by("reward_models/page/test_server.py::test_what_others_can_reach_needs_to_be_asked_for"),
    ),
    Mutant(
        "a-tab-takes-what-it-holds-of-another-batch",
        _PAGE,
        "if isinstance(hold, str) and (among is None or hold in among):",
        "if isinstance(hold, str):",
        _by("reward_models/page/test_page.py::test_what_a_page_holds_or_takes_back_is_of_this_batch"),
    ),
    Mutant(
        "held-question-is-forgotten",
        _PAGE,
        "            item = self.store.claim(rater, [hold], LEASE)\n",
        "            pass\n",
        _by("reward_models/page/test_page.py::test_a_held_question_stays_with_its_page"),
    ),
    Mutant(
        "page-ignores-the-answers-key",
        _PAGE,
        "label = self.store.record(name, rater, checked, latency=seconds, key=key)",
        "label = self.store.record(name, rater, checked, latency=seconds)",
        _by(
            "reward_models/page/test_page.py::test_the_same_key_saves_once_and_another_key_is_a_second_answer"
        ),
    ),
    Mutant(
        "page-saves-a-skip-as-an-answer",
        _PAGE,
        "        if skip:\n            label",
        "        if skip and checked:\n            label",
        _by("reward_models/page/test_page.py::test_a_skipped_question_goes_to_others"),
    ),
    Mutant(
        "asking-ends-with-the-first-answer",
        _PAGE,
        "return all(len(standing.get(i, ())) >= n for i, n in wanted.items())",
        "return any(len(standing.get(i, ())) >= n for i, n in wanted.items())",
        _by("reward_models/page/test_page.py::test_ask_waits_for_the_answers_and_shows_nothing_else"),
    ),
    Mutant(
        "asking-forgets-the-second-rater",
        _PAGE,
        "return all(len(standing.get(i, ())) >= n for i, n in wanted.items())",
        "return all(standing.get(i) for i in wanted)",
        _by("reward_models/page/test_page.py::test_ask_waits_for_every_rater_who_is_wanted"),
    ),
    Mutant(
        "undo-beyond-this-batch",
        _PAGE,
        'label = self.store.undo(rater, self._among, key=_text(data, "key", _KEY))',
        'label = self.store.undo(rater, None, key=_text(data, "key", _KEY))',
        _by("reward_models/page/test_page.py::test_what_a_page_holds_or_takes_back_is_of_this_batch"),
    ),
    Mutant(
        "negative-seconds",
        _PAGE,
        "and 0 <= value < _LONG:\n        return float(value)\n    raise",
        "and value < _LONG:\n        return float(value)\n    raise",
        _by("reward_models/page/test_page.py::test_bad_answers_are_400_and_leave_no_row"),
    ),
    Mutant(
        "not-saved-is-told-as-saved",
        _SITE,
        "    except NotSavedError as error:\n        return 503,",
        "    except NotSavedError as error:\n        return 200,",
        _by("reward_models/page/test_page.py::test_a_full_disk_is_told_and_the_answer_can_be_sent_again"),
    ),
    Mutant(
        "texts-beyond-the-first-part-come-again",
        _SHOWN,
        "harmless(text[start:end], newlines=True)",
        "harmless(text[: end - start], newlines=True)",
        _by("reward_models/page/test_page.py::test_long_texts_come_in_parts"),
    ),
    Mutant(
        "hidden-characters-reach-the-page",
        _SHOWN,
        'return {"text": harmless(text[start:end], newlines=True), "end"',
        'return {"text": text[start:end], "end"',
        _by("reward_models/page/test_page.py::test_what_a_page_is_shown"),
    ),
    Mutant(
        "widget-loses-the-question-when-it-was-not-saved",
        _SITTING,
        'self._trouble(f"Not saved yet: {error}. Answer again.")',
        "self.next()",
        _by(
            "reward_models/page/test_sitting.py::test_an_answer_that_does_not_reach_the_disk_stays_on_the_screen"
        ),
    ),
    Mutant(
        "widget-ignores-the-key",
        _SITTING,
        '"latency": _seconds(message.get("seconds")), "key": key}',
        '"latency": _seconds(message.get("seconds"))}',
        _by("reward_models/page/test_sitting.py::test_a_message_sent_twice_saves_once"),
    ),
    Mutant(
        "texts-as-markup",
        _JS,
        '    const shown = element(part.turns ? "ol" : "p", text, nothing ? "soft" : "");\n',
        '    const shown = element(part.turns ? "ol" : "p");\n    shown.innerHTML = text ?? "";\n',
        _by("test_page.py::test_markup_in_texts_is_never_executed"),
    ),
    Mutant(
        "answers-are-kept-only-after-they-were-sent",
        _JS,
        "  kept.set(outbox() + key, JSON.stringify(entry));\n",
        "",
        _by("test_page.py::test_a_page_closed_while_offline_sends_its_answer_when_it_is_opened_again"),
    ),
    Mutant(
        "a-new-key-for-each-try",
        _POST,
        "      const reply = await call(path, body);\n",
        "      const reply = await call(path, unsaved ? { ...body, key: randomKey() } : body);\n",
        _by("test_page.py::test_a_reply_that_is_lost_is_not_saved_twice"),
    ),
    Mutant(
        "page-quiet-time-is-gone",
        _JS,
        "performance.now() - shownAt > QUIET",
        "performance.now() - shownAt >= 0",
        _by("test_page.py::test_what_was_meant_for_the_question_before_answers_nothing"),
    ),
    Mutant(
        "page-left-and-right-swapped",
        _JS,
        'ArrowLeft: "left", ArrowRight: "right"',
        'ArrowLeft: "right", ArrowRight: "left"',
        _by("test_page.py::test_every_key_of_the_help"),
    ),
    Mutant(
        "draft-of-another-question-is-shown",
        _JS,
        "const same = found.item === question.id && found.rater === rater;",
        "const same = found.rater === rater;",
        _by("test_page.py::test_half_an_answer_is_shown_to_its_rater_and_at_its_question_alone"),
    ),
    Mutant(
        "draft-is-lost-by-a-reload",
        _JS,
        "  values = same ? found.values : {};\n",
        "  values = {};\n",
        _by("test_page.py::test_a_reload_keeps_what_was_chosen"),
    ),
    Mutant(
        "draft-of-another-rater-is-shown",
        _JS,
        "const same = found.item === question.id && found.rater === rater;",
        "const same = found.item === question.id;",
        _by("test_page.py::test_half_an_answer_is_shown_to_its_rater_and_at_its_question_alone"),
    ),
    Mutant(
        "server-fault-decides-an-answer",
        _POST,
        "const DECIDED = [200, 400, 403, 404, 409];",
        "const DECIDED = [200, 400, 401, 403, 404, 409, 503];",
        _by("test_page.py::test_a_restarted_server_gets_the_answer_once"),
    ),
    Mutant(
        "unsent-answers-go-to-another-store",
        _POST,
        "kept.keys().filter((k) => k.startsWith(outbox()))",
        'kept.keys().filter((k) => k.startsWith("text-gym/unsent/"))',
        _by("test_page.py::test_what_another_store_has_not_got_yet_is_kept_for_it"),
    ),
]
