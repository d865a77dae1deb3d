"""What is shown of a value: its renderer's HTML, or else its escaped representation."""

from __future__ import annotations

import text_gym
from text_gym.showing import as_html


def test_what_nobody_registered_is_its_representation() -> None:
    assert as_html({"<b>": 1}) == "<pre>{&#x27;&lt;b&gt;&#x27;: 1}</pre>"


def test_the_package_registers_its_own() -> None:
    episode = text_gym.Episode.of("P", "ab", text_gym.ByteTokenizer())
    assert as_html(episode) == episode._repr_html_()
    assert as_html(episode).startswith('<div class="text-gym">')
