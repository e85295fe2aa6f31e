"""What commands answer with `--json` about a model: the keys are what scripts rely on."""

import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # heavy imports, and whoever has one of these has made them
    from flows.finetune_model import FineTunedModel
    from model.paired import PairedDifference
    from tasks.evaluation import Evaluation
    from tasks.quantization import QuantizationReport
    from tasks.training_request import TrainedModel


def training_facts(trained: "TrainedModel", evaluation: "Evaluation") -> dict[str, Any]:
    """What a training came to, and how good it is."""
    return {
        "run_id": trained.run_id,
        "checkpoint": trained.checkpoint,
        "steps": trained.steps,
        "train_loss": trained.train_loss,
        "val_loss": evaluation.val_loss,
        "val_bits_per_byte": evaluation.val_bits_per_byte,
        "tokens_per_second": trained.tokens_per_second,
        "mfu": trained.utilisation,
        "skipped_updates": trained.skipped_updates,
        "ran_out_of_patience": trained.ran_out_of_patience,
        "seconds": trained.seconds,
    }


def fine_tuned_facts(tuned: "FineTunedModel") -> dict[str, Any]:
    """What a fine-tuning came to: as a training, and beside its parent."""
    plan = tuned.plan
    return training_facts(tuned.trained, tuned.evaluation) | {
        "parent": plan.parent.facts(),
        "parameters": plan.parameters,
        "trainable_parameters": plan.trainable_parameters,
        "trainable_share": plan.trainable_share,
        "dataset": plan.dataset,
        "cut_responses": plan.cut_responses,
        "own": asdict(tuned.own),
        "forgetting": tuned.forgetting and asdict(tuned.forgetting),
        "adapter": tuned.adapter and asdict(tuned.adapter),
    }


def evaluation_facts(evaluation: "Evaluation") -> dict[str, Any]:
    """How well a model predicts a val split."""
    return {
        "val_loss": evaluation.val_loss,
        "val_bits_per_byte": evaluation.val_bits_per_byte,
        "perplexity": evaluation.perplexity,
        "tokens": evaluation.tokens,
        "references": asdict(evaluation.references),
        "dataset": evaluation.dataset,
        "accuracy": evaluation.accuracy,
        "calibration_error": evaluation.calibration_error,
        "sample_repetition": evaluation.samples.repetition,
        "sample_seen_in_training": evaluation.samples.seen,
        "by_length": [asdict(group) for group in evaluation.by_length],
        "by_source": [asdict(group) for group in evaluation.by_source],
        "questions": [asdict(answers) for answers in evaluation.answers],
    }


def quantization_facts(report: "QuantizationReport") -> dict[str, Any]:
    """A smaller model beside the one it was made of."""
    ours, whole = report.variant(report.kind), report.variant("float32")
    return {
        "checkpoint": report.checkpoint,
        "kind": report.kind,
        "bytes": ours.bytes,
        "float32_bytes": whole.bytes,
        "bytes_over_float32": report.bytes_over_float32,
        "val_loss": ours.val_loss,
        "val_bits_per_byte": ours.val_bits_per_byte,
        "over_bfloat16": _difference(ours.over_bfloat16),
        "over_float32": _difference(ours.over_float32),
        "dataset": report.dataset,
        "tokens": report.tokens,
        "windows": report.windows,
        "variants": [
            asdict(one)
            | {"over_bfloat16": _difference(one.over_bfloat16), "over_float32": _difference(one.over_float32)}
            for one in report.variants
        ],
    }


def _difference(over: "PairedDifference") -> Mapping[str, float | None]:
    """For JSON, which knows no infinity: the error of a single window is not known."""
    error = over.standard_error
    return {"difference": over.difference, "standard_error": error if math.isfinite(error) else None}
