from __future__ import annotations

import _thread
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.page_tools import GOOD, Browser, ratings
from text_gym import ByteTokenizer, Episode
from text_gym.errors import ConfigError, RaterLeftError
from text_gym.reward_models import LabelStore, load_reward
from text_gym.reward_models.page.reward import WebReward, make_page, serve_page


def episodes(*completions: str) -> list[Episode]:
    return [Episode.of("Sell a mug.", text, ByteTokenizer()) for text in completions]


def answer(browser: Browser, marks: dict[str, dict[str, int]]) -> None:
    """Answer what is asked until every text has its marks."""
    left = set(marks)
    while left:
        question = browser.next()
        if question is None:
            time.sleep(0.02)
            continue
        text = question["texts"][1]["text"]
        assert browser.answer(question["id"], f"key of {text}", marks[text])[0] == 200
        left.discard(text)


def test_people_on_a_page_are_a_reward(tmp_path: Path) -> None:
    links: list[str] = []
    reward = load_reward("human_web", store=tmp_path / "labels.db", port=0, say=links.append)
    assert isinstance(reward, WebReward)
    try:
        browser = Browser(links[-1])
        marks = {"good": dict.fromkeys(GOOD, 5), "bad": dict.fromkeys(GOOD, 1), "so-so": GOOD}
        thread = threading.Thread(target=answer, args=(browser, marks))
        thread.start()
        scores = reward(episodes("good", "bad", "so-so", "good"))
        thread.join()
        # (4 + 5 + 2 - 3) / (3 * 4): a rating r of 1 to 5 is worth (r - 1) / 4, averaged over three criteria
        assert scores.values.tolist() == [1.0, 0.0, pytest.approx(8 / 12), 1.0]
        assert len(list(reward.rater.store.labels())) == 3
        again = reward(episodes("bad", "good"))  # known: nobody is asked
        assert again.values.tolist() == [0.0, 1.0]
    finally:
        reward.close()


def test_closing_the_page_ends_the_asking(tmp_path: Path) -> None:
    reward = WebReward(tmp_path / "labels.db", port=0, say=lambda _: None)
    threading.Timer(0.3, reward.close).start()
    with pytest.raises(RaterLeftError):
        reward(episodes("good"))
    with LabelStore(tmp_path / "labels.db") as store:
        assert store.progress("ada").left == 1  # asked again next time


def test_two_trainings_at_once_get_two_ports(tmp_path: Path) -> None:
    rewards = [WebReward(tmp_path / f"{i}.db", say=lambda _: None) for i in range(2)]
    assert rewards[0].page.port != rewards[1].page.port
    for reward in rewards:
        reward.close()
    with (
        make_page(rewards[0].rater.store, port=0, say=lambda _: None) as page,
        pytest.raises(ConfigError, match="in use"),
    ):
        WebReward(tmp_path / "2.db", port=page.port)


def test_bad_settings_leave_no_server_behind(tmp_path: Path) -> None:
    for _ in range(2):  # the port is free again
        with pytest.raises(ConfigError, match="weights"):
            WebReward(tmp_path / "labels.db", port=0, weights=[1.0], say=lambda _: None)
    assert not [t for t in threading.enumerate() if t.name == "label page" and t.is_alive()]


def test_without_the_web_server_one_is_told_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("page", "site"):
        monkeypatch.delitem(sys.modules, f"text_gym.reward_models.page.{module}", raising=False)
    monkeypatch.setitem(sys.modules, "starlette.concurrency", None)
    with (
        LabelStore(tmp_path / "labels.db") as store,
        pytest.raises(ConfigError, match=r"pip install starlette uvicorn"),
    ):
        make_page(store)


def test_the_command_serves_the_page_until_ctrl_c(tmp_path: Path) -> None:
    (tmp_path / "texts.jsonl").write_text('{"prompt": "Sell a mug.", "completion": "A mug!"}\n')
    words = ["label", "--web", "--port", "0", "--data", "texts.jsonl", "--store", "labels.db"]
    program = f"import sys; from text_gym.cli.main import main; sys.exit(main({words!r}))"
    with subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        link = process.stdout.readline().rpartition(" ")[2].strip()
        question = (browser := Browser(link)).next()
        assert question is not None
        assert browser.answer(question["id"], "k")[0] == 200
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=20)
    assert process.returncode == 0
    assert "1 new row in labels.db" in out
    with LabelStore(tmp_path / "labels.db") as store:
        assert [x.rater for x in store.labels()] == ["ada"]


def test_serving_says_how_many_rows_came(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    links: list[str] = []
    with LabelStore(tmp_path / "labels.db") as store:
        store.put(ratings(2))

        def rate() -> None:
            while not links:
                time.sleep(0.01)
            browser = Browser(links[0])
            for number in range(2):
                question = browser.next()
                assert question is not None
                browser.answer(question["id"], f"{number}")
            assert browser.post("end", {})[0] == 403  # there is no training
            _thread.interrupt_main()

        thread = threading.Thread(target=rate)
        thread.start()
        serve_page(store, port=0, say=links.append)
        thread.join()
    assert "2 new rows" in capsys.readouterr().out
