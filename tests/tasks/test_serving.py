"""One thread writes for all: texts are what they would be alone, and whatever happens to one, the others go on."""

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path

import pytest
import torch
from tiny_data import save_endless_model

from model.sampling import Sampling
from model.writing import WritingRequest, first_ids
from tasks.loading import LoadedModel, load_model
from tasks.serving import Engine, Limits, Overloaded, Text, TimedOut, WritingFailed


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return load_model(save_endless_model(tmp_path_factory.mktemp("run")))


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    yield
    assert "writing" not in {thread.name for thread in threading.enumerate()}


def text(model: LoadedModel, prompt: str = "ab", tokens: int = 20, seed: int = 0, stop: str = "zz") -> Text:
    sampling = Sampling(temperature=1.0, seed=seed)
    request = WritingRequest(prompt=prompt, tokens=tokens, sampling=sampling, stop=(stop,))
    return Text(request=request, prompt_ids=first_ids(model.tokenizer, prompt))


def alone(model: LoadedModel, wanted: Text) -> str:
    return "".join(piece.text for piece in model.write_batch([wanted.request]))


async def all_of(engine: Engine, *texts: Text) -> list[tuple[str, int, str | None]]:
    """Text, tokens and ending of each."""
    written: list[tuple[str, int, str | None]] = [("", 0, None)] * len(texts)
    async for piece in engine.write(texts):
        before = written[piece.row]
        assert before[2] is None, "nothing comes after the last piece"
        written[piece.row] = (before[0] + piece.text, before[1] + piece.tokens, piece.ending)
    return written


async def until(condition: object) -> None:
    while not condition():  # type: ignore[operator]
        await asyncio.sleep(0.005)


def test_texts_that_come_and_go_are_what_they_would_be_alone(model: LoadedModel) -> None:
    wanted = [
        text(
            model,
            prompt="abcdefgh"[: 1 + seed % 8] * 3,
            tokens=seed * 3,
            seed=seed,
            stop="\ufffd" * 3 if seed % 2 else "zz",
        )
        for seed in range(25)
    ]

    async def later(engine: Engine, seconds: float, one: Text) -> tuple[str, int, str | None]:
        await asyncio.sleep(seconds)
        return (await all_of(engine, one))[0]

    async def main() -> None:
        with Engine(model, Limits(rows=4)) as engine:
            came = await asyncio.gather(
                *(later(engine, number * 0.007, one) for number, one in enumerate(wanted))
            )
            together = await all_of(engine, *wanted[:4])
        assert [one[0] for one in came] == [alone(model, one) for one in wanted]
        assert together == came[:4]
        assert {one[2] for one in came} == {"stop", "length"}

    asyncio.run(main())


def test_a_request_without_room_is_refused_at_once_and_others_go_on(model: LoadedModel) -> None:
    async def main() -> None:
        with Engine(model, Limits(rows=2, waiting=3)) as engine:
            under_way = [asyncio.ensure_future(all_of(engine, text(model, tokens=300))) for _ in range(5)]
            await until(lambda: (engine.running, engine.waiting) == (2, 3))
            with pytest.raises(Overloaded, match="5 texts are under way, and there is no room for 1 more"):
                await all_of(engine, text(model))
            assert {(await one)[0][1] for one in under_way} == {300}
            assert (engine.running, engine.waiting) == (0, 0)

    asyncio.run(main())


def test_a_client_that_goes_away_frees_its_place(model: LoadedModel) -> None:
    async def main() -> None:
        with Engine(model, Limits(rows=2)) as engine:
            async with aclosing(engine.write([text(model, tokens=10**6)] * 2)) as pieces:
                await anext(pieces)
                waiting = asyncio.ensure_future(all_of(engine, text(model)))
                given_up = asyncio.ensure_future(all_of(engine, text(model)))
                await until(lambda: engine.waiting == 2)
                given_up.cancel()
                await until(lambda: engine.waiting == 1)
            assert (await waiting)[0][1] == 20

    asyncio.run(main())


def test_a_request_whose_time_is_over_ends_with_what_there_is(model: LoadedModel) -> None:
    async def main() -> None:
        with Engine(model, Limits(rows=1, seconds=1)) as engine:
            first = asyncio.ensure_future(all_of(engine, text(model, tokens=10**6)))
            second = asyncio.ensure_future(all_of(engine, text(model)))
            await until(lambda: engine.waiting)
            await asyncio.sleep(0.1)
            with engine._changed:  # nothing begins or ends until the time of both is over
                time.sleep(1)
            with pytest.raises(TimedOut, match="1 seconds were over before its turn came"):
                await second
            ((written, tokens, ending),) = await first
            assert 0 < tokens < 10**6
            assert ending == "length"
            assert alone(model, text(model, tokens=tokens)) == written

    asyncio.run(main())


def test_stopping_ends_what_is_under_way_and_refuses_more(model: LoadedModel) -> None:
    async def main() -> None:
        with Engine(model, Limits(rows=1)) as engine:
            first = asyncio.ensure_future(all_of(engine, text(model, tokens=10**6)))
            second = asyncio.ensure_future(all_of(engine, text(model)))
            await until(lambda: (engine.running, engine.waiting) == (1, 1))
            await asyncio.sleep(0.05)
            engine.stop(within_seconds=0)
            assert (await first)[0][2] == "length"
            for refused in (second, asyncio.ensure_future(all_of(engine, text(model)))):
                with pytest.raises(Overloaded, match="the server is being stopped"):
                    await refused

    asyncio.run(main())


def test_a_failure_is_told_to_those_it_concerns(tmp_path: Path) -> None:
    broken = load_model(save_endless_model(tmp_path))
    weight = next(broken.network.parameters())
    kept = weight.detach().clone()

    async def main() -> None:
        with Engine(broken, Limits()) as engine:
            with pytest.raises(ValueError, match="outside the network's vocabulary"):
                await all_of(engine, Text(request=text(broken).request, prompt_ids=[10**6]))
            with torch.no_grad():
                weight.fill_(float("nan"))
            with pytest.raises(WritingFailed, match="it has diverged"):
                await all_of(engine, text(broken), text(broken))
            with torch.no_grad():
                weight.copy_(kept)
            assert (await all_of(engine, text(broken)))[0][1] == 20

    asyncio.run(main())


@pytest.mark.parametrize("name", ["tokens", "rows", "waiting", "seconds", "body_bytes"])
def test_limits_below_one_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} is 0; a limit is at least 1"):
        Limits(**{name: 0})
