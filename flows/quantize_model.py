"""The flow that makes a model smaller: its weights in 8 or 4 bits, saved, and measured against the model it was made from."""

from pathlib import Path

from prefect import flow

from flows.limits import gpu_slot
from model.quantization import QuantizationKind
from storage.workspace import Workspace
from tasks.artifacts import show_quantization
from tasks.at_work import leased
from tasks.quantization import (
    QuantizationReport,
    log_quantization_task,
    measure_quantized_task,
    quantize_task,
)
from tasks.registry import find_model


@flow(name="quantize-model", flow_run_name="quantize {model} to {kind}", persist_result=False)
@leased
def quantize_model(
    model: str, kind: QuantizationKind = "int8", dataset: str | None = None, workspace: Path | None = None
) -> QuantizationReport:
    """Model to a smaller one, with what that costs.

    Args:
        model: a run id, name/version, name@alias, or a checkpoint folder.
        kind: int8, a scale a row; or int4, a scale for each 32 numbers.
        dataset: what to measure on: name, name@digest or path; by default the data set the model was trained on.
        workspace: the folder that holds everything; by default $BRICKROAD_WORKSPACE, else ./workspace.
    """
    place = Workspace.at(workspace)
    found = find_model(model, place)
    with gpu_slot():
        quantized = quantize_task(found, kind, place)
        report = measure_quantized_task(found, quantized, dataset, place)
    if found.run_id:
        log_quantization_task(report, found, place)
    show_quantization(report)
    return report
