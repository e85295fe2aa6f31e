"""Quantization as a unit of work: a model's checkpoint in 8 or 4 bits a weight, and what that costs and saves, measured."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from model.config import Recipe, recipe_to_dict
from model.network import parameter_count
from model.paired import PairedDifference, paired_difference
from model.quantization import QuantizationKind, quantize_network
from model.side_by_side import Contender, Measured, SideBySideProgress, measure_losses, measure_writing
from storage.checkpoints import Checkpoint, network_sha256, save_checkpoint
from storage.workspace import Workspace
from tasks.engine import road_task
from tasks.evaluation import dataset_for
from tasks.loading import LoadedModel, load_model
from tasks.registry import FoundModel
from tasks.tracking import RunLog, Tracker
from tasks.watch import Watch, pulse

_WRITTEN_TOKENS = 32
_NOT_OF_THE_COPY = ("run_id", "val_loss", "so_far", "throughput", "recipe")  # facts of the parent alone


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """A model in one kind of numbers. Differences are its loss less that of the same model in bfloat16 and float32, on the same
    windows; of bfloat16 `bytes` are what a file would have."""

    name: str
    bytes: int  # of the file with the network
    val_loss: float
    val_bits_per_byte: float
    over_bfloat16: PairedDifference
    over_float32: PairedDifference
    evaluation_tokens_per_second: float
    generation_tokens_per_second: float


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizationReport:
    """A quantized model, and how it compares with the one that it was made from, on a whole val split."""

    checkpoint: Path
    kind: QuantizationKind
    dataset: str
    dataset_digest: str
    tokens: int
    windows: int  # of block_size tokens: what the standard errors are over
    variants: tuple[Variant, ...]

    def variant(self, name: str) -> Variant:
        """The variant of a name, such as "float32"."""
        return next(variant for variant in self.variants if variant.name == name)

    @property
    def bytes_over_float32(self) -> float:
        """The size of the file as a share of the one it was made from."""
        return self.variant(self.kind).bytes / self.variant("float32").bytes


def quantize_checkpoint(model: FoundModel, kind: QuantizationKind, workspace: Workspace) -> Checkpoint:
    """Saves a model in 8 or 4 bits a weight as <workspace>/checkpoints/<run>-<kind>/step-<step>, complete in itself.

    Raises ValueError for a model that is quantized, or cannot be; and if there is such a checkpoint of another model there.
    """
    loaded = load_model(model.path)
    facts = loaded.checkpoint.facts
    if already := facts.get("quantization"):
        raise ValueError(
            f"{model.path}: is quantized already, to {already}; quantize the model it was made from, {facts['parent']['path']}"
        )
    parent = {
        "run_id": model.run_id,
        "path": str(model.path),
        "sha256": network_sha256(loaded.checkpoint),
    }
    quantized = quantize_network(loaded.network, kind)
    recipe = Recipe(network=loaded.recipe.network, training=loaded.recipe.training)
    saved = save_checkpoint(
        workspace.checkpoints / f"{model.run_id or model.path.parent.name}-{kind}",
        step=loaded.checkpoint.step,
        tensors={f"network.{name}": tensor for name, tensor in quantized.state_dict().items()},
        facts={name: fact for name, fact in facts.items() if name not in _NOT_OF_THE_COPY}
        | {"recipe": recipe_to_dict(recipe), "val_loss": None, "quantization": kind, "parent": parent},
        tokenizer_json=loaded.checkpoint.tokenizer_json(),
    )
    if saved.facts["parent"]["sha256"] != parent["sha256"]:
        raise ValueError(f"{saved.path}: is of another model; remove it, and quantize again")
    return saved


def measure_quantized(
    model: FoundModel, quantized: Checkpoint, dataset_reference: str | None, workspace: Workspace
) -> QuantizationReport:
    """Compares a quantized model with its parent on a data set's whole val split; by default the one it was trained on.

    Raises ValueError if the data set was made with another tokenizer.
    """
    parent, ours = load_model(model.path), load_model(quantized.path)
    dataset = dataset_for(parent, dataset_reference, workspace)
    tokens, kind = dataset.token_file("val").open(), quantized.facts["quantization"]
    contenders = _contenders(parent, ours, kind)
    found = _watched(
        measure_losses(contenders, tokens, end_of_text=dataset.manifest.end_of_text), len(tokens)
    )
    block_size = parent.recipe.network.block_size
    with pulse("write"):
        rates = measure_writing(contenders, tokens[: max(1, block_size // 2)], tokens=_WRITTEN_TOKENS)
    sizes = _sizes(parent, ours, kind)
    return QuantizationReport(
        checkpoint=quantized.path,
        kind=kind,
        dataset=dataset.reference,
        dataset_digest=dataset.manifest.digest,
        tokens=len(tokens),
        windows=len(found["float32"].window_tokens),
        variants=tuple(
            _variant(name, found, dataset.manifest.val.text_bytes, sizes[name], rates[name])
            for name in contenders
        ),
    )


def _watched(measuring: Iterable[SideBySideProgress], total: int) -> Mapping[str, Measured]:
    """What a measuring comes to, with a progress bar."""
    done, found = 0, None
    with Watch("measure", total=total, unit="tokens", artifact_key="measure") as watch:
        for progress in measuring:
            watch.advance(progress.tokens_done - done)
            done, found = progress.tokens_done, progress.measured
    assert found is not None
    return found


def _contenders(parent: LoadedModel, ours: LoadedModel, kind: str) -> dict[str, Contender]:
    return {
        "float32": Contender(network=parent.network),
        "bfloat16": Contender(network=parent.network, precision="bfloat16"),
        kind: Contender(network=ours.network),
        f"{kind} in bfloat16": Contender(network=ours.network, precision="bfloat16"),
    }


def _sizes(parent: LoadedModel, ours: LoadedModel, kind: str) -> dict[str, int]:
    whole, small = parent.checkpoint.network_bytes, ours.checkpoint.network_bytes
    return {
        "float32": whole,
        "bfloat16": whole - 2 * parameter_count(parent.network),
        kind: small,
        f"{kind} in bfloat16": small,
    }


def _variant(
    name: str, found: Mapping[str, Measured], text_bytes: int, size: int, written_per_second: float
) -> Variant:
    ours = found[name]
    return Variant(
        name=name,
        bytes=size,
        val_loss=ours.loss,
        val_bits_per_byte=ours.bits_per_byte(text_bytes),
        over_bfloat16=_over(found["bfloat16"], ours),
        over_float32=_over(found["float32"], ours),
        evaluation_tokens_per_second=ours.tokens_per_second,
        generation_tokens_per_second=written_per_second,
    )


def _over(first: Measured, second: Measured) -> PairedDifference:
    return paired_difference(first.window_nats, second.window_nats, first.window_tokens)


def log_quantization(report: QuantizationReport, model: FoundModel, workspace: Workspace) -> None:
    """Logs the figures of a quantized model to the run of the model it was made from, under "quantized_<kind>/"; on another data
    set than its own under that one's name as well."""
    assert model.run_id is not None, "only a model with a run can be logged to"
    run, ours = RunLog(Tracker(workspace), model.run_id), report.variant(report.kind)
    prefix = f"quantized_{report.kind}"
    if not run.was_trained_on(report.dataset_digest):
        prefix = f"{report.dataset.replace('@', '-')}/{prefix}"
    numbers = {
        "bytes": ours.bytes,
        "bytes_over_float32": report.bytes_over_float32,
        "val_loss": ours.val_loss,
        "val_bits_per_byte": ours.val_bits_per_byte,
        "loss_over_bfloat16": ours.over_bfloat16.difference,
        "loss_over_bfloat16_standard_error": ours.over_bfloat16.standard_error,
        "loss_over_float32": ours.over_float32.difference,
        "loss_over_float32_standard_error": ours.over_float32.standard_error,
        "evaluation_tokens_per_second": ours.evaluation_tokens_per_second,
        "generation_tokens_per_second": ours.generation_tokens_per_second,
    }
    run.summary(
        {f"{prefix}/{key}": float(number) for key, number in numbers.items() if math.isfinite(number)}
    )


quantize_task = road_task("quantize")(quantize_checkpoint)
measure_quantized_task = road_task("measure", tags=["gpu"])(measure_quantized)
log_quantization_task = road_task("log quantization")(log_quantization)
