"""`brickroad serve` as clients meet it: OpenAI's own, a browser's, many at once, and those who mean no good."""

import asyncio
import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from serving import BRICKROAD, Served, serving
from tiny_data import save_endless_model

LIMITS = ("--most-rows", 8, "--most-waiting", 16, "--most-tokens", 2000, "--most-prompt-characters", 100)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_endless_model(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def served(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(model, *LIMITS, cwd=tmp_path_factory.mktemp("cwd")) as server:
        yield server


def test_openais_client_completes_and_streams(served: Served) -> None:
    whole = served.complete(
        user="somebody", extra_body={"top_k": 50, "min_p": 0.0, "repetition_penalty": 1.1}
    )
    text = whole.choices[0].text
    assert text
    assert (whole.object, whole.choices[0].finish_reason) == ("text_completion", "length")
    assert (whole.usage.prompt_tokens, whole.usage.completion_tokens, whole.usage.total_tokens) == (2, 20, 22)
    stream = served.complete(
        stream=True,
        stream_options={"include_usage": True},
        extra_body={"top_k": 50, "min_p": 0.0, "repetition_penalty": 1.1},
    )
    *chunks, last = stream
    assert "".join(chunk.choices[0].text for chunk in chunks) == text
    assert [chunk.choices[0].finish_reason for chunk in chunks[-2:]] == [None, "length"]
    assert (last.choices, last.usage.total_tokens) == ([], 22)
    assert served.complete(seed=4).choices[0].text != served.complete().choices[0].text
    assert [one.id for one in served.client.models.list()] == [served.name]
    assert served.client.models.retrieve(served.name).id == served.name


def test_several_prompts_and_choices_are_what_they_would_be_alone(served: Served) -> None:
    both = served.complete(["ab", "cd"], n=3).choices
    assert [choice.index for choice in both] == [*range(6)]
    expected = [served.complete(prompt, seed=seed) for prompt in ("ab", "cd") for seed in (3, 4, 5)]
    assert [choice.text for choice in both] == [one.choices[0].text for one in expected]
    assert served.complete([0, 1]).choices[0].text == expected[0].choices[0].text, "ids of ab"
    assert served.complete([[0, 1], [2, 3]]).usage.prompt_tokens == 4
    whole = served.complete(max_tokens=60).choices[0].text
    stopped = served.complete(max_tokens=60, stop=[whole[10:12]]).choices[0]
    assert (stopped.text, stopped.finish_reason) == (whole[: whole.index(whole[10:12])], "stop")


def test_what_the_document_asks_is_answered(served: Served) -> None:
    document = Path(__file__).parent.parent.parent / "docs" / "serving.md"
    body = re.search(r"/v1/completions .*?-d '(.*?)'", document.read_text(encoding="utf-8"), re.S)
    assert body
    asked = json.loads(body[1]) | {"model": served.name}
    answer = httpx.post(f"{served.url}/v1/completions", json=asked)
    assert [choice["index"] for choice in answer.json()["choices"]] == [0, 1, 2, 3]


def test_an_empty_prompt_starts_a_document_and_an_over_long_one_is_refused(served: Served) -> None:
    assert served.complete("").usage.completion_tokens == 20
    assert served.complete("ab" * 20).usage.unseen_prompt_tokens == 24, "the context is of 16"
    with pytest.raises(openai.BadRequestError, match="the prompt has 101 characters; at most 100"):
        served.complete("a" * 101)
    assert served.refused(400, prompt=["a"] * 9)["message"].startswith("9 prompts x 1 choices")
    assert served.refused(400, prompt=[])["param"] == "prompt"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_tokens": 2001}, "max_tokens is 2001; at most 2000"),
        ({"max_tokens": -1}, "max_tokens: "),
        ({"temperature": -1}, "temperature is -1"),
        ({"temperature": "hot"}, "temperature: "),
        ({"top_p": 0}, "top_p is 0"),
        ({"n": 10**9}, "1 prompts x 1000000000 choices"),
        ({"seed": 2**70}, "seed is "),
        ({"temperature": True}, "temperature: "),
        ({"repetition_penalty": 1e-308}, "repetition_penalty is 1e-308; it must be from 0.01 to 100"),
        ({"n": "x"}, "n: "),
        ({"n": True}, "n: "),
        ({"stop": 5}, "stop: "),
        ({"stop": [["a"]]}, "stop: "),
        ({"stop": [""]}, "a stop string is empty"),
        ({"stop": ["a"] * 17}, "stop has 17 texts"),
        ({"prompt": {"a": 1}}, "prompt must be a text"),
        ({"prompt": [1, "a"]}, "prompt must be a text"),
        ({"prompt": [10**6]}, "ids are from 0 to "),
        ({"prompt": [2**70]}, "ids are from 0 to "),
        ({"prompt": [-1]}, "ids are from 0 to "),
        ({"prompt": [True]}, "prompt must be a text"),
        ({"prompt": [[0], "a"]}, "prompt must be a text"),
        ({"stream_options": 5}, "stream_options: "),
        ({"stream_options": {"include_usage": "x"}}, "stream_options: "),
        ({"stream_options": {"x": 1}}, "stream_options.x is not supported here"),
        ({"best_of": 2}, "best_of is not supported here"),
        ({"suffix": "b"}, "suffix is not supported here"),
        ({"logit_bias": {"5": 1}}, "logit_bias is not supported here"),
        ({"logprobs": 0}, "logprobs is not supported here"),
        ({"a\nb" * 1000: 1}, "a ba ba b"),
        ({"echo": True}, "echo is not supported here"),
        ({"logprobs": 5}, "logprobs is not supported here"),
        ({"presence_penalty": 0.5}, "presence_penalty is not supported here"),
        ({"max_token": 5}, "max_token is not supported here"),
    ],
)
def test_what_cannot_be_meant_is_one_clear_line(
    served: Served, settings: dict[str, Any], message: str
) -> None:
    assert served.refused(400, **settings)["message"].startswith(message)


def test_wrong_names_places_and_bodies_are_told(served: Served) -> None:
    with pytest.raises(openai.NotFoundError, match=f"the model 'gpt-5' is not here; '{served.name}' is"):
        served.client.completions.create(model="gpt-5", prompt="a")
    url = f"{served.url}/v1/completions"
    json_type = {"Content-Type": "application/json"}
    beyond = b'{"temperature": 1' + b"0" * 10_000 + b"}"
    for body in (
        b"",
        b"{",
        b"[]",
        b"\xff",
        b"[" * 10_000,
        b'{"model": "\\ud800"}',
        b'{"\\ud800": 1}',
        beyond,
    ):
        answer = httpx.post(url, content=body, headers=json_type)
        assert (answer.status_code, answer.json()["error"]["message"][:8]) == (400, "the body")
    assert httpx.post(url, content=b"{}").status_code == 415, "a page of a stranger could send this"
    assert httpx.get(f"{served.url}/v1/nothing").json()["error"]["message"] == "GET /v1/nothing: Not Found"
    assert httpx.get(url).status_code == 405
    assert "\n" not in httpx.get(f"{served.url}/v1/no%0Athing").json()["error"]["message"]
    numbers = b'{"model": "%s", "max_tokens": 2, "temperature": %s}'
    for number in (b"NaN", b"Infinity", b"-1e400"):
        answer = httpx.post(url, content=numbers % (served.name.encode(), number), headers=json_type)
        assert (answer.status_code, answer.json()["error"]["message"][:15]) == (400, "temperature is ")


@pytest.mark.parametrize(
    "host", ["evil.example", "localhost.evil.example", "evil.example:80", "127.0.0.1.", "localhost@evil", ""]
)
def test_a_page_of_a_stranger_gets_nothing(served: Served, host: str) -> None:
    rebound = httpx.get(f"{served.url}/v1/models", headers={"Host": host})
    assert (rebound.status_code, rebound.json()["error"]["code"]) == (403, "wrong_host")
    asking = {"Origin": "http://evil.example", "Access-Control-Request-Method": "POST"}
    before = httpx.options(f"{served.url}/v1/completions", headers=asking)
    assert before.status_code == 405, "so the browser does not send what is no simple form"
    answers = [before, httpx.get(f"{served.url}/metrics", headers={"Origin": "http://evil.example"})]
    assert not any("access-control-allow-origin" in answer.headers for answer in answers)


@pytest.mark.parametrize("is_chunked", [False, True])
def test_a_body_of_100_megabytes_is_refused_and_not_kept(served: Served, is_chunked: bool) -> None:
    part = b" " * 1_000_000

    def peak() -> int:
        status = Path(f"/proc/{served.process.pid}/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0])

    before = peak()
    body = (part for _ in range(100)) if is_chunked else part * 100
    answer = httpx.post(
        f"{served.url}/v1/completions",
        content=body,
        headers={"Content-Type": "application/json"},
        timeout=60,
    )
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "body_too_large")
    assert peak() - before < 20_000, "kB"
    assert served.complete().choices[0].text


def test_a_thousand_requests_at_once_are_each_answered_and_leave_nothing(served: Served) -> None:
    alone = served.complete().choices[0].text
    served.client.close()  # its connections are kept alive
    served.until(lambda: served.metric("brickroad_texts_running") == 0)
    time.sleep(0.2)
    threads, files = served.held()

    async def all_at_once() -> list[httpx.Response]:
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
        async with httpx.AsyncClient(limits=limits, timeout=120) as client:
            return await asyncio.gather(
                *(client.post(f"{served.url}/v1/completions", json=served.body()) for _ in range(1000))
            )

    answers = asyncio.run(all_at_once())
    assert {answer.status_code for answer in answers} == {200, 503}
    for answer in answers:
        if answer.status_code == 200:
            assert answer.json()["choices"][0]["text"] == alone
        else:
            assert answer.headers["Retry-After"] == "1"
            assert "there is no room" in answer.json()["error"]["message"]
    assert sum(answer.status_code == 200 for answer in answers) >= 24, "all that there is room for"
    served.until(lambda: served.held()[1] <= files)
    assert served.held()[0] <= threads
    served.client = openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0)
    assert served.complete().choices[0].text == alone


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_goes_away_frees_its_row(served: Served, stream: bool) -> None:
    tokens = served.metric("brickroad_tokens_written_total")
    body = json.dumps(served.body(max_tokens=2000, n=8, stream=stream)).encode()
    host, port = served.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        head = f"POST /v1/completions HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        connection.sendall(head.encode() + body)
        served.until(lambda: served.metric("brickroad_tokens_written_total") > tokens + 10)
    served.until(lambda: served.metric("brickroad_texts_running") == 0)
    assert served.metric("brickroad_tokens_written_total") < tokens + 8 * 2000


HEAD = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
UNFINISHED = {
    "nothing": b"",
    "half a head": b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Any: ",
    "half a second head": b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\nGET /health HTTP/1.1\r\nHost:",
    "half a body": HEAD + b"Content-Length: 500\r\n\r\n{",
    "half a part of a body": HEAD + b"Transfer-Encoding: chunked\r\n\r\n50\r\n{",
}


def test_who_does_not_go_on_is_let_go(served: Served) -> None:
    served.client.close()
    served.until(lambda: served.metric("brickroad_texts_running") == 0)
    address = ("127.0.0.1", int(served.url.rpartition(":")[2]))
    with contextlib.ExitStack() as stack:
        time.sleep(0.2)
        _, files = served.held()
        unread = stack.enter_context(socket.socket())
        unread.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        unread.connect(address)
        body = json.dumps(served.body(max_tokens=2000, n=8, stream=True)).encode()
        unread.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        connections = {name: stack.enter_context(socket.create_connection(address)) for name in UNFINISHED}
        for name, sent in UNFINISHED.items():
            connections[name].sendall(sent)
        served.until(lambda: served.held()[1] > files)
        answers = {name: _until_closed(connection) for name, connection in connections.items()}
        served.until(lambda: served.held()[1] <= files)
        assert not _until_closed(unread).endswith(b"0\r\n\r\n"), "the stream was cut"
    assert answers["nothing"] == answers["half a head"] == b""
    assert answers["half a second head"].count(b"HTTP/1.1 200") == 1
    for name in ("half a body", "half a part of a body"):
        assert answers[name].startswith(b"HTTP/1.1 408")
        assert b"the body did not come to its end within 20 seconds" in answers[name]


def _until_closed(connection: socket.socket) -> bytes:
    connection.settimeout(60)
    return b"".join(iter(lambda: connection.recv(65536), b""))


def test_health_metrics_and_a_page_that_needs_nothing_else(served: Served) -> None:
    assert httpx.get(f"{served.url}/health").json() == {"status": "ready", "model": served.name}
    assert served.metric('brickroad_requests_total{status="200"}') > 0
    assert served.metric("brickroad_request_seconds_count") > 0
    page = httpx.get(f"{served.url}/")
    assert "default-src 'none'" in page.headers["Content-Security-Policy"]
    assert json.dumps(served.name) in page.text
    assert "http://" not in page.text
    assert "https://" not in page.text


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_streams_and_leaves_no_process(
    model: Path, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    with serving(model, "--most-tokens", 10**7, "--most-seconds", 600, cwd=tmp_path) as server:
        unfinished = socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2])))
        unfinished.sendall(HEAD + b"Content-Length: 500\r\n\r\n{")
        endings = []
        for chunk in server.complete(max_tokens=10**7, stream=True):
            if not endings:
                server.process.send_signal(number)
            endings.append(chunk.choices[0].finish_reason)
        assert endings[-1] == "length", "a whole answer, ended early"
        _, words = server.process.communicate(timeout=20)
        assert server.process.returncode == code
        assert words.splitlines()[-1] == "error: stopped; every request has its answer"
        assert "Traceback" not in words
        unfinished.close()


def test_with_a_key_only_those_who_have_it_may_ask(model: Path, tmp_path: Path) -> None:
    with serving(model, "--host", "0.0.0.0", "--api-key", "secret", cwd=tmp_path) as server:
        with pytest.raises(openai.AuthenticationError, match="the key is missing or wrong"):
            server.complete()
        port = server.url.rpartition(":")[2]
        client = openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="secret")
        assert client.completions.create(model=server.name, prompt="a").choices[0].text is not None
        assert httpx.get(f"{server.url}/metrics").status_code == 401
        assert httpx.get(f"{server.url}/health").status_code == 200


def run(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [BRICKROAD, "serve", *map(str, arguments)],
        cwd=cwd,
        env=os.environ | {"COLUMNS": "300", "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        timeout=100,
    )


def test_an_address_that_cannot_be_had_is_one_line(model: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run(model, "--port", port, cwd=tmp_path)
    assert done.returncode == 1
    expected = f"error: 127.0.0.1:{port}: Address already in use; choose another with --host and --port"
    assert done.stderr.splitlines() == [expected]
    open_to_all = run(model, "--host", "0.0.0.0", cwd=tmp_path)
    assert open_to_all.returncode == 2
    assert "set --api-key or BRICKROAD_API_KEY" in open_to_all.stderr
    assert run("nothing", "--port", 0, cwd=tmp_path).returncode == 1
