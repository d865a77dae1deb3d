"""Bugs of the labelling page: who may do what, what is saved when, what the browser keeps."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

_PAGE, _SECURITY = "reward_models/page/page.py", "reward_models/page/security.py"
_SERVER, _SITTING = "reward_models/page/server.py", "reward_models/page/sitting.py"
_SHOWN, _JS, _POST = (
    "reward_models/page/shown.py",
    "reward_models/page/static/page.js",
    "reward_models/page/static/post.js",
)
_OF_PAGE = ("tests/reward_models/page/test_page.py",)
_OF_SECURITY = ("tests/reward_models/page/test_security.py",)
_OF_SERVER = ("tests/reward_models/page/test_server.py",)
_OF_SITTING = ("tests/reward_models/page/test_sitting.py",)
_IN_A_BROWSER = ("tests/test_page.py",)

MUTANTS = [
    Mutant(  # survivor 10
        "host-by-its-beginning",
        _SECURITY,
        "if len(hosts) != 1 or hosts[0].lower() not in self.hosts:",
        "if len(hosts) != 1 or not hosts[0].lower().startswith(tuple(self.hosts)):",
        _OF_SECURITY,
    ),
    Mutant(
        "any-host",
        _SECURITY,
        "if len(hosts) != 1 or hosts[0].lower() not in self.hosts:",
        "if len(hosts) != 1:",
        _OF_SECURITY,
    ),
    Mutant(
        "post-without-origin",
        _SECURITY,
        "            if origins != own:\n",
        "            if origins and origins != own:\n",
        _OF_SECURITY,
    ),
    Mutant(
        "origin-by-its-beginning",
        _SECURITY,
        "if origins and origins != own:",
        "if origins and not origins[0].startswith(own[0]):",
        _OF_SECURITY,
        more=(("            if origins != own:\n", "            if not origins:\n"),),
    ),
    Mutant(
        "post-without-session",
        _SECURITY,
        "            if not self.session(scope):\n"
        '                return 401, "open the newest link from the terminal"\n',
        "",
        _OF_SECURITY,
    ),
    Mutant(
        "any-content-type",
        _SECURITY,
        'if types != ["application/json"]:',
        "if not types:",
        _OF_SECURITY,
    ),
    Mutant(
        "a-link-admits-twice",
        _SECURITY,
        "            self._links.remove(found[0])\n",
        "",
        _OF_SECURITY,
    ),
    Mutant(
        "a-link-is-a-session",
        _SECURITY,
        "return bool(_matches(self._sessions, session))",
        "return bool(_matches([*self._sessions, *self._links], session))",
        _OF_SECURITY,
    ),
    Mutant(
        "body-limit-forgets-earlier-chunks",
        _SECURITY,
        "            size += len(part)\n",
        "            size = len(part)\n",
        _OF_SECURITY,
    ),
    Mutant(
        "refusals-without-security-headers",
        _SECURITY,
        "await _answer(send_safely, *refused)",
        "await _answer(send, *refused)",
        _OF_SECURITY,
    ),
    Mutant(
        "cookie-for-scripts",
        _PAGE,
        'httponly=True, samesite="strict")',
        'httponly=False, samesite="strict")',
        _OF_SECURITY,
    ),
    Mutant(
        "others-may-connect-unasked",
        _SERVER,
        "is_loopback and not expose:",
        "is_loopback and expose:",
        _OF_SERVER,
    ),
    Mutant(
        "a-tab-takes-what-it-holds-of-another-batch",
        _PAGE,
        "if isinstance(hold, str) and (among is None or hold in among):",
        "if isinstance(hold, str):",
        _OF_PAGE,
    ),
    Mutant(
        "held-question-is-forgotten",
        _PAGE,
        "return self._state(rater, item or self.store.claim(rater, among, LEASE))",
        "return self._state(rater, self.store.claim(rater, among, LEASE))",
        _OF_PAGE,
    ),
    Mutant(
        "page-ignores-the-answers-key",
        _PAGE,
        "label = self.store.record(name, rater, checked, latency=seconds, key=key)",
        "label = self.store.record(name, rater, checked, latency=seconds)",
        _OF_PAGE,
    ),
    Mutant(
        "page-saves-a-skip-as-an-answer",
        _PAGE,
        "        if skip:\n            label",
        "        if skip and checked:\n            label",
        _OF_PAGE,
    ),
    Mutant(
        "asking-ends-with-the-first-answer",
        _PAGE,
        "return all(len(standing.get(i, ())) >= n for i, n in wanted.items())",
        "return any(len(standing.get(i, ())) >= n for i, n in wanted.items())",
        _OF_PAGE,
    ),
    Mutant(
        "asking-forgets-the-second-rater",
        _PAGE,
        "return all(len(standing.get(i, ())) >= n for i, n in wanted.items())",
        "return all(standing.get(i) for i in wanted)",
        _OF_PAGE,
    ),
    Mutant(
        "undo-beyond-this-batch",
        _PAGE,
        'label = self.store.undo(rater, self._among, key=_text(data, "key", _KEY))',
        'label = self.store.undo(rater, None, key=_text(data, "key", _KEY))',
        _OF_PAGE,
    ),
    Mutant(
        "negative-seconds",
        _PAGE,
        "and 0 <= value < _LONG:\n        return float(value)\n    raise",
        "and value < _LONG:\n        return float(value)\n    raise",
        _OF_PAGE,
    ),
    Mutant(
        "not-saved-is-told-as-saved",
        _PAGE,
        "    except NotSavedError as error:\n        return 503,",
        "    except NotSavedError as error:\n        return 200,",
        _OF_PAGE,
    ),
    Mutant(
        "texts-beyond-the-first-part-come-again",
        _SHOWN,
        "harmless(text[start:end], newlines=True)",
        "harmless(text[: end - start], newlines=True)",
        (*_OF_PAGE, *_OF_SITTING),
    ),
    Mutant(
        "hidden-characters-reach-the-page",
        _SHOWN,
        'return {"text": harmless(text[start:end], newlines=True), "end"',
        'return {"text": text[start:end], "end"',
        (*_OF_PAGE, *_OF_SITTING),
    ),
    Mutant(
        "widget-loses-the-question-when-it-was-not-saved",
        _SITTING,
        'self._trouble(f"Not saved yet: {error}. Answer again.")',
        "self.next()",
        _OF_SITTING,
    ),
    Mutant(
        "widget-ignores-the-key",
        _SITTING,
        '"latency": _seconds(message.get("seconds")), "key": key}',
        '"latency": _seconds(message.get("seconds"))}',
        _OF_SITTING,
    ),
    Mutant(
        "texts-as-markup",
        _JS,
        '    const shown = element("p", part.text);\n',
        '    const shown = element("p");\n    shown.innerHTML = part.text;\n',
        (f"{_IN_A_BROWSER[0]}::test_markup_in_texts_is_never_executed",),
    ),
    Mutant(
        "answers-are-kept-only-after-they-were-sent",
        _JS,
        "  kept.set(outbox() + key, JSON.stringify(entry));\n",
        "",
        (
            f"{_IN_A_BROWSER[0]}::test_a_page_closed_while_offline_sends_its_answer_when_it_is_opened_again",
            f"{_IN_A_BROWSER[0]}::test_a_lost_network_loses_nothing",
        ),
    ),
    Mutant(
        "a-new-key-for-each-try",
        _POST,
        "      const reply = await call(path, body);\n",
        "      const reply = await call(path, unsaved ? { ...body, key: randomKey() } : body);\n",
        (f"{_IN_A_BROWSER[0]}::test_a_reply_that_is_lost_is_not_saved_twice",),
    ),
    Mutant(
        "page-quiet-time-is-gone",
        _JS,
        "performance.now() - shownAt > QUIET",
        "performance.now() - shownAt >= 0",
        (f"{_IN_A_BROWSER[0]}::test_double_clicks_answer_once",),
    ),
    Mutant(
        "page-left-and-right-swapped",
        _JS,
        'ArrowLeft: "left", ArrowRight: "right"',
        'ArrowLeft: "right", ArrowRight: "left"',
        (f"{_IN_A_BROWSER[0]}::test_every_key_of_the_help",),
    ),
    Mutant(
        "draft-of-another-question-is-shown",
        _JS,
        "const same = found.item === question.id && found.rater === rater;",
        "const same = found.rater === rater;",
        (f"{_IN_A_BROWSER[0]}::test_twenty_items_with_the_keyboard_alone",),
    ),
    Mutant(
        "draft-is-lost-by-a-reload",
        _JS,
        "  values = same ? found.values : {};\n",
        "  values = {};\n",
        (f"{_IN_A_BROWSER[0]}::test_a_reload_keeps_what_was_chosen",),
    ),
    Mutant(
        "draft-of-another-rater-is-shown",
        _JS,
        "const same = found.item === question.id && found.rater === rater;",
        "const same = found.item === question.id;",
        _IN_A_BROWSER,
    ),
    Mutant(
        "server-fault-decides-an-answer",
        _POST,
        "const DECIDED = [200, 400, 404, 409];",
        "const DECIDED = [200, 400, 401, 404, 409, 503];",
        (f"{_IN_A_BROWSER[0]}::test_a_restarted_server_gets_the_answer_once",),
    ),
    Mutant(
        "unsent-answers-go-to-another-store",
        _POST,
        "kept.keys().filter((k) => k.startsWith(outbox()))",
        'kept.keys().filter((k) => k.startsWith("text-gym/unsent/"))',
        _IN_A_BROWSER,
    ),
]
