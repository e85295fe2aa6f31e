"""The page of `brickroad serve`, used by a person with a browser."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import PROGRAM, Page, browser
from serving import Served, serving
from tiny_data import save_endless_model

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="no Chromium on the path")

LETTERS = "<b> i\n"
STATUS, TEXT = "document.querySelector('#status').textContent", "document.querySelector('#text').textContent"
HAS_ENDED = f"{STATUS}.includes('tokens in')"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("served")
    model = save_endless_model(folder / "run", letters=LETTERS, writes_bytes=False)
    limits = ("--most-tokens", 100_000, "--most-prompt-characters", 100)
    with serving(model, *limits, cwd=folder) as served:
        yield served


@pytest.fixture(scope="module")
def window(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with browser(tmp_path_factory.mktemp("browser")) as page:
        yield page


@pytest.fixture
def page(window: Page, server: Served) -> Page:
    window.complaints.clear()
    window.open(f"{server.url}/")
    return window


@pytest.mark.parametrize(("width", "height"), [(1200, 800), (400, 800)])
def test_a_prompt_is_completed(page: Page, server: Served, width: int, height: int) -> None:
    page.size(width, height)
    page.fill("#prompt", "Once ")
    page.fill("#max_tokens", "60")
    page.fill("#temperature", "1")
    page.fill("#seed", "7")
    page.click("#write")
    page.until(HAS_ENDED)
    expected = server.complete("Once ", max_tokens=60, temperature=1.0, seed=7).choices[0].text
    assert page.ask(TEXT) == "Once " + expected
    assert page.ask(STATUS).startswith("60 tokens in ")
    assert page.ask("document.documentElement.scrollWidth <= innerWidth"), "nothing sticks out"
    assert page.complaints == []


def test_text_comes_as_it_is_written_until_it_is_stopped(page: Page, server: Served) -> None:
    page.fill("#max_tokens", "100000")
    page.click("#write")
    page.until(f"{TEXT}.length > 40")
    assert page.ask(STATUS) == "writing …"
    seen = page.ask(f"{TEXT}.length")
    page.until(f"{TEXT}.length > {seen}")
    page.press("Enter", control=True)
    assert page.ask(f"{TEXT}.length") > seen, "one text at a time"
    assert server.metric("brickroad_texts_running") == 1
    page.click("#stop")
    page.until(f"{STATUS} === 'stopped'")
    server.until(lambda: server.metric("brickroad_texts_running") == 0)
    page.fill("#max_tokens", "5")
    page.press("Enter", control=True)
    page.until(HAS_ENDED)
    assert page.complaints == []


def test_markup_in_prompts_and_texts_is_text(page: Page) -> None:
    prompt = "<script>alert(1)</script><img src=x onerror=alert(2)>"
    page.fill("#prompt", prompt)
    page.fill("#max_tokens", "2000")
    page.click("#write")
    page.until(HAS_ENDED)
    text = page.ask(TEXT)
    assert text.startswith(prompt)
    assert "<b>" in text[len(prompt) :], "the model wrote markup"
    assert page.ask("[...document.querySelectorAll('#text *')].map(each => each.tagName)") == ["B", "SPAN"]
    assert page.complaints == []


def test_an_empty_prompt_starts_a_document(page: Page) -> None:
    page.fill("#prompt", "")
    page.click("#write")
    page.until(HAS_ENDED)
    assert len(page.ask(TEXT)) == 200


def test_an_over_long_prompt_is_told_and_not_cut(page: Page) -> None:
    page.fill("#prompt", "b" * 101)
    page.click("#write")
    page.until(f"{STATUS}.startsWith('the prompt has 101 characters; at most 100')")
    assert page.ask("document.querySelector('#status').className") == "bad"
    page.fill("#prompt", "b" * 100)
    page.click("#write")
    page.until(HAS_ENDED)
    assert page.ask("document.querySelector('#status').className") == "dim"


def test_the_address_may_have_the_settings(page: Page, server: Served) -> None:
    page.open(f"{server.url}/?prompt=%3Cb%3E&max_tokens=9&seed=3")
    page.click("#write")
    page.until(HAS_ENDED)
    assert page.ask(TEXT).startswith("<b>")
    assert len(page.ask(TEXT)) == 12


def test_a_key_is_asked_for_where_there_is_one_and_a_server_that_ends_is_told(
    window: Page, tmp_path: Path
) -> None:
    model = save_endless_model(tmp_path / "run", letters=LETTERS, writes_bytes=False)
    with serving(model, "--api-key", "secret", cwd=tmp_path) as server:
        window.open(f"{server.url}/")
        window.fill("#key", "wrong")
        window.click("#write")
        window.until(f"{STATUS}.startsWith('the key is missing or wrong')")
        window.fill("#key", "secret")
        window.click("#write")
        window.until(HAS_ENDED)
    window.click("#write")
    window.until(f"{STATUS} === {json.dumps('the server does not answer; is it still running?')}")
