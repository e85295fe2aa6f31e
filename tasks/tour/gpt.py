"""The GPT: a block, what a whole network is made of, and one that is trained by the road, tracked, and made to write."""

from collections import Counter
from collections.abc import Iterator

from model.blocks import Block, FeedForward
from model.network import Gpt, build_network, parameter_count
from model.references import reference_lines
from model.sampling import Sampling
from model.writing import WritingRequest, write
from tasks.evaluation import measure
from tasks.pictures import loss_curves
from tasks.tour.ground import Ground
from tasks.tour.sights import Code, Facts, Picture, Printed, Sight, Table, Words
from tasks.tracking import RunLog, Tracker

_TOKENS = 250


def walk(ground: Ground) -> Iterator[Sight]:
    """A block, its numbers, a training, a text."""
    yield Words(
        "Attention gathers; a feed-forward then thinks about what was gathered, each place by itself: out to four times the width, "
        "a bend (ReLU, GELU, Sigmoid, Tanh), and back. Without the bend two linear layers would be one."
    )
    yield Code.of(FeedForward)
    yield Words(
        "A block is both, each added to what was there before; a GPT is blocks on blocks, between a table that reads and one that writes."
    )
    yield Code.of(Block.forward)
    yield Words("Ours trains as `brickroad train` does it, now, if no stop has trained it before:")
    model = ground.model
    network = model.network
    assert isinstance(network, Gpt), "the tour trains a GPT"
    yield Table(header=("part", "numbers"), rows=list(_parts(network).items()))
    yield Words("Before training it wrote:")
    yield Printed(_written(build_network(network.config, seed=0), ground))
    yield Words(f"and after {model.checkpoint.step} steps:")
    yield Printed(_written(network, ground))
    yield from _judged(ground)


def _parts(network: Gpt) -> dict[str, int]:
    """How many numbers each kind of part has to learn."""
    counts: Counter[str] = Counter()
    for name, parameter in network.named_parameters():
        kind = next(
            (one for one in ("attention", "feed_forward", "embedding", "head") if f"{one}." in name), "norms"
        )
        counts["norms" if "norm" in name else kind] += parameter.numel()
    return dict(counts.most_common()) | {"all": parameter_count(network)}


def _written(network: Gpt, ground: Ground) -> str:
    request = WritingRequest(tokens=_TOKENS, sampling=Sampling(seed=1))
    return "".join(write(network, ground.tokenizer, request))


def _judged(ground: Ground) -> Iterator[Sight]:
    dataset = ground.dataset
    report = measure(ground.model, dataset, ground.workspace)
    lines = reference_lines(
        dataset.token_file("train").open(),
        dataset.token_file("val").open(),
        vocabulary_size=dataset.manifest.vocabulary_size,
        end_of_text=dataset.manifest.end_of_text,
    )
    yield Facts(
        title="Loss on every token of the val split, in nats",
        values={
            "uniform": lines.uniform,
            "unigram": lines.unigram,
            "bigram": lines.bigram,
            "this GPT": report.loss,
            "in bits per byte of text": report.bits_per_byte,
        },
    )
    run_id = ground.gpt.run_id
    assert run_id is not None, "the road trained it"
    run = RunLog(Tracker(ground.workspace), run_id)
    figure = loss_curves(
        "The tour's GPT", run.history("train_loss"), run.history("val_loss"), lines, report.loss
    )
    yield Picture(title="The loss, step by step, between the lines that counting reaches", figure=figure)
    yield Words(f"The same is in MLflow, as run {run_id}: brickroad up shows it.")
