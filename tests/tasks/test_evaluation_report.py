"""The page of an evaluation: all of it there, one file, and nothing in it runs."""

from dataclasses import replace

from model.references import References
from tasks.evaluation import CertaintyBin, DocumentGroup, Evaluation
from tasks.evaluation_report import evaluation_page
from tasks.questions import QuestionScore
from tasks.samples import Samples

EVALUATION = Evaluation(
    model="checkpoints/run/step-00000005",
    network_sha256="ab" * 32,
    dataset="oz@1234",
    dataset_digest="12" * 16,
    val_loss=1.5,
    perplexity=4.48,
    val_bits_per_byte=2.1,
    accuracy=0.5,
    calibration_error=0.0123,
    tokens=300,
    by_position=[3.0, 2.0, 1.0],
    by_length=[DocumentGroup(name="up to 64", documents=2, tokens=100, loss=1.5)],
    by_source=[DocumentGroup(name=f"shard<{n}>", documents=1, tokens=10, loss=n / 10) for n in range(1, 20)],
    calibration=[
        CertaintyBin(tokens=200, certainty=0.3, right=0.4),
        CertaintyBin(tokens=100, certainty=0.8, right=0.7),
    ],
    references=References(uniform=5.0, unigram=3.0, bigram=2.0),
    samples=Samples(
        texts=["<script>alert(1)</script>", "oz"], repetition=0.25, val_repetition=0.1, seen=0.05
    ),
    answers=[
        QuestionScore(
            name="hella", questions=40, accuracy=0.6, accuracy_by_byte=0.65, standard_error=0.08, chance=0.25
        )
    ],
    updates_left_out=0,
)


def test_the_page_tells_it_all_and_runs_nothing() -> None:
    page = evaluation_page(EVALUATION)
    for told in ("1.5000", "2.1000", "1.23 %", "shard&lt;19&gt;", "60.0 % ± 8.0", "25.0 % of runs", "of 19"):
        assert told in page, told
    assert "<script" not in page and "&lt;script&gt;" in page
    assert page.count("<svg") == 2
    assert "http" not in page.replace("http://www.w3.org", "").replace("http://purl.org", "").replace(
        "http://creativecommons.org", ""
    ).replace("https://matplotlib.org", "")
    assert "shard&lt;1&gt;" not in page, "the hardest come first, and only so many"


def test_one_source_and_no_questions_make_no_section() -> None:
    page = evaluation_page(replace(EVALUATION, by_source=EVALUATION.by_source[:1], answers=[]))
    assert "By source" not in page
    assert "Questions" not in page
