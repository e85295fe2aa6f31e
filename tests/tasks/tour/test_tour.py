"""Every stop runs on a tiny corpus and few steps, shows what it claims, and leaves a page; the claims are checked."""

import html
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from storage.workspace import Workspace
from tasks.tour import bigram, finetune, losses, openwebtext
from tasks.tour.ground import Ground
from tasks.tour.page import write_page
from tasks.tour.sights import Code, Facts, Picture, Printed, Sight, Table, Words, amount
from tasks.tour.stops import STOPS, chosen_stops


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    """A corpus of its own: ordinary words, so that there is something to learn."""
    folder = tmp_path_factory.mktemp("tour")
    sentences = [
        f"The road of yellow brick number {number} goes on to the city, and {number * 7} lions follow it.\n"
        for number in range(400)
    ]
    documents = ["".join(sentences[at : at + 10]) for at in range(0, len(sentences), 10)]
    corpus = folder / "oz.jsonl"
    corpus.write_text("".join(json.dumps({"text": text}) + "\n" for text in documents))
    with pytest.MonkeyPatch.context() as fewer:
        fewer.setattr(bigram, "_STEPS", 40)
        fewer.setattr(finetune, "STEPS", 3)
        fewer.setattr(losses, "_STEPS", 20)
        fewer.setattr(openwebtext, "_LARGE_COPIES", 400)
        place = Workspace.at(folder / "workspace")
        yield Ground(place, corpus=str(corpus), gpt_steps=30)


def seen(name: str, ground: Ground) -> list[Sight]:
    """What a stop shows; all stops show words, code that is run, and something that came out."""
    (stop,) = chosen_stops([name])
    sights = list(stop.walk(ground))
    kinds = {type(sight) for sight in sights}
    assert {Words, Code} <= kinds
    assert kinds & {Facts, Table, Printed, Picture}
    page = write_page(ground.folder, stop, sights)
    text = page.read_text(encoding="utf-8")
    assert stop.title in html.unescape(text)
    assert text.count("<svg") == sum(isinstance(sight, Picture) for sight in sights)
    assert f'href="{name}.html"' in (ground.folder / "index.html").read_text(encoding="utf-8")
    return sights


def facts(sights: list[Sight]) -> Mapping[str, float | int | str]:
    return {
        name: value for sight in sights if isinstance(sight, Facts) for name, value in sight.values.items()
    }


def tables(sights: list[Sight]) -> list[Table]:
    return [sight for sight in sights if isinstance(sight, Table)]


def test_characters(ground: Ground) -> None:
    sights = seen("characters", ground)
    assert any("KeyError" in sight.text for sight in sights if isinstance(sight, Words))
    assert any(sight.text.endswith("Oz: é 魔 🧙") for sight in sights if isinstance(sight, Printed))
    found = facts(sights)
    assert found["pairs, 1,000 ids"] < found["characters"]


def test_tensors(ground: Ground) -> None:
    found = facts(seen("tensors", ground))
    assert found["largest difference of the two"] == 0
    assert found["by hand"] == pytest.approx(found["PyTorch's cross_entropy"])


def test_bigram(ground: Ground) -> None:
    found = facts(seen("bigram", ground))
    assert found["by the character before, counted"] < found["by how frequent each is"]
    assert found["by the character before, learnt"] < found["every id equally likely"]


def test_batches(ground: Ground) -> None:
    sights = seen("batches", ground)
    by_chance, in_our_order = tables(sights)[-1].rows
    assert by_chance[2] > 0
    assert in_our_order[2] == 0


def test_attention(ground: Ground) -> None:
    sights = seen("attention", ground)
    assert facts(sights)["largest difference to PyTorch's fused kernel"] < 1e-5
    assert len(tables(sights)[-1].rows) == 8
    assert any("█" in sight.in_characters for sight in sights if isinstance(sight, Picture))


def test_gpt_is_trained_once(ground: Ground) -> None:
    found = facts(seen("gpt", ground))
    assert found["this GPT"] < found["uniform"]
    again = Ground(ground.workspace, corpus=ground.corpus, gpt_steps=ground.gpt_steps)
    assert again.gpt == ground.gpt
    longer = Ground(ground.workspace, corpus=ground.corpus, gpt_steps=ground.gpt_steps + 1)
    assert longer.gpt != ground.gpt


def test_losses(ground: Ground) -> None:
    rates, bends, by_heart = tables(seen("losses", ground))
    assert len(rates.rows) == 3
    assert [row[0] for row in bends.rows] == ["relu", "sigmoid", "tanh", "gelu"]
    assert by_heart.rows[-1][1] < by_heart.rows[0][1]


def test_openwebtext(ground: Ground) -> None:
    small, large = tables(seen("openwebtext", ground))[-1].rows
    assert large[1] > 5 * small[1]
    assert large[2] <= 4 << 20


def test_memmap(ground: Ground) -> None:
    found = facts(seen("memmap", ground))
    assert found["asked for again, the same"] == "yes"
    assert found["found wrong"] == 0


def test_finetune(ground: Ground) -> None:
    sights = seen("finetune", ground)
    found = facts(sights)
    assert found["of them learn"] < 0.05 * found["numbers in the network"]
    (after,) = tables(sights)
    assert len(after.rows) == 2
    assert any("«" in sight.text and "»" in sight.text for sight in sights if isinstance(sight, Printed))


def test_quantization(ground: Ground) -> None:
    whole, eight, four = tables(seen("quantization", ground))[0].rows
    assert four[1] < eight[1] < whole[1]


def test_accumulation(ground: Ground) -> None:
    rows = tables(seen("accumulation", ground))[0].rows
    for row in rows[1:]:
        assert row[2:] == pytest.approx(rows[0][2:], rel=1e-4)
        assert row[1] < rows[0][1]


def test_hugging_face(ground: Ground) -> None:
    assert facts(seen("hugging-face", ground))["largest difference of scores"] < 1e-4


def test_stops_are_chosen_in_the_order_of_the_course() -> None:
    assert chosen_stops([]) == list(STOPS)
    assert [stop.name for stop in chosen_stops(["gpt", "tensors"])] == ["tensors", "gpt"]
    with pytest.raises(ValueError, match="no stop is called 'oz'; there are characters,"):
        chosen_stops(["oz"])


def test_a_page_shows_what_a_model_writes_as_text(tmp_path: Path) -> None:
    page = write_page(
        tmp_path, STOPS[0], [Printed("<script>alert(1)</script>"), Facts(values={"<b>": 0.00012345})]
    )
    text = page.read_text(encoding="utf-8")
    assert "<script>alert" not in text
    assert "&lt;script&gt;" in text
    assert "0.0001234" in text


def test_numbers_as_a_person_reads_them() -> None:
    assert [amount(value) for value in (1234567, 0.123456, 12345.6, "as it is")] == [
        "1,234,567",
        "0.1235",
        "12,346",
        "as it is",
    ]
