"""The commands that make one model of another: fine-tuned, smaller, for Hugging Face's library and from it."""

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from flows.console import command, next_steps, table
from flows.environment import prepare
from flows.facts import fine_tuned_facts, quantization_facts
from flows.options import DebugOption, JsonOption, MeasuredDatasetOption, ModelArgument, WorkspaceOption
from flows.prefect_server import prefect_ready
from flows.summaries import at, show_fine_tuned, show_quantization
from flows.training_options import (
    LoraAlphaOption,
    LoraOption,
    LoraTargetsOption,
    ProcessesOption,
    ResumeOption,
    SetOption,
    settings_by_key,
)
from storage.workspace import Workspace

app = typer.Typer()


@app.command(
    epilog="Examples:  brickroad finetune brickroad-gpt@champion --dataset oz --lora 8   ·   brickroad finetune RUN_ID --dataset oz --set training.steps=200"
)
@command
def finetune(
    model: ModelArgument,
    dataset: Annotated[
        str | None,
        typer.Option(
            "--dataset", help="Data set, encoded with the model's own tokenizer.", show_default=False
        ),
    ] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(
            "--prompts",
            help="Instead: JSON lines of prompt and response, of which the responses are learnt.",
            show_default=False,
        ),
    ] = None,
    prompt_format: Annotated[
        str | None,
        typer.Option(
            "--prompt-format",
            help="How a prompt is spelt, with {prompt} where it goes; \\n is a new line. \\[default: ### Instruction: …]",
            show_default=False,
        ),
    ] = None,
    val_fraction: Annotated[
        float, typer.Option("--val-fraction", help="Share of the prompts to validate on.")
    ] = 0.1,
    lora: LoraOption = None,
    lora_alpha: LoraAlphaOption = None,
    lora_targets: LoraTargetsOption = None,
    settings: SetOption = None,
    resume: ResumeOption = None,
    processes: ProcessesOption = 1,
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> Mapping[str, Any]:
    """Train a model further, on other text, and measure what it learns and forgets."""
    if lora is None and (lora_alpha is not None or lora_targets is not None):
        raise typer.BadParameter("--lora-alpha and --lora-targets are of adapters: give --lora RANK too")
    if (dataset is None) == (prompts is None):
        raise typer.BadParameter("give either --dataset REF or --prompts FILE")
    place = prefect_ready(workspace, debug)
    from flows.finetune_model import finetune_model
    from model.config import LoraConfig
    from tasks.prompts import DEFAULT_PROMPT_FORMAT, PromptsConfig
    from tasks.training_request import FineTuning, TrainingRequest

    spelt = DEFAULT_PROMPT_FORMAT if prompt_format is None else prompt_format.replace("\\n", "\n")
    of_prompts = (
        PromptsConfig(file=str(prompts), prompt_format=spelt, val_fraction=val_fraction) if prompts else None
    )
    adapters = None
    if lora is not None:
        adapters = LoraConfig(rank=lora, alpha=2.0 * lora if lora_alpha is None else lora_alpha)
        if lora_targets is not None:
            adapters = replace(adapters, targets=tuple(one.strip() for one in lora_targets.split(",")))
    request = TrainingRequest(
        dataset=dataset or str(prompts),
        settings=settings_by_key(settings),
        resume=resume,
        processes=processes,
        fine_tuning=FineTuning(model=model, lora=adapters),
    )
    tuned = finetune_model(request, of_prompts, workspace=place.root)
    show_fine_tuned(tuned)
    next_steps(f'generate {tuned.trained.run_id} --prompt "The "{at(workspace)}', f"up{at(workspace)}")
    return fine_tuned_facts(tuned)


@app.command(
    epilog="Examples:  brickroad quantize brickroad-gpt@champion   ·   brickroad quantize RUN_ID --to int4"
)
@command
def quantize(
    model: ModelArgument,
    kind: Annotated[
        Literal["int8", "int4"],
        typer.Option(
            "--to", help="int8: a quarter of the bytes, hardly any loss. int4: a seventh, some loss."
        ),
    ] = "int8",
    dataset: MeasuredDatasetOption = None,
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> Mapping[str, Any]:
    """Make a model smaller, its weights in 8 or 4 bits, and measure what that costs."""
    place = prefect_ready(workspace, debug)
    from flows.quantize_model import quantize_model

    report = quantize_model(model, kind, dataset, workspace=place.root)
    show_quantization(report)
    next_steps(f'generate {report.checkpoint.parent.name}{at(workspace)} --prompt "The "')
    return quantization_facts(report)


@app.command(
    "export-hf",
    epilog="Examples:  brickroad export-hf brickroad-gpt@champion --out oz   ·   brickroad export-hf RUN_ID --out oz --json",
)
@command
def export_hf(
    model: ModelArgument,
    out: Annotated[Path, typer.Option("--out", help="Folder to write; an earlier export there is replaced.")],
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> Mapping[str, Any]:
    """Write a model for Hugging Face's library: weights, tokenizer, model card."""
    place = Workspace.at(workspace)
    prepare(place)
    from tasks.hugging_face import export_model
    from tasks.registry import find_model

    exported = export_model(find_model(model, place).path, out, place)
    trust = ", trust_remote_code=True" if exported.needs_own_code else ""
    table(
        f"Exported to {exported.path}",
        {
            "class": exported.architecture + (", its code beside it" if exported.needs_own_code else ""),
            "parameters": f"{exported.parameters:,}",
            "files": ", ".join(file.name for file in exported.files),
            "load it": f'AutoModelForCausalLM.from_pretrained("{out}"{trust})',
        },
    )
    return asdict(exported)


@app.command(
    "import-hf",
    epilog="Examples:  brickroad import-hf path/to/folder --name mine   ·   brickroad import-hf openai-community/gpt2",
)
@command
def import_hf(
    source: Annotated[
        str, typer.Argument(metavar="PATH_OR_NAME", help="Folder of a GPT-2 model, or its name on the hub.")
    ],
    name: Annotated[
        str | None,
        typer.Option("--name", help="What it is called here. \\[default: as there]", show_default=False),
    ] = None,
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> Mapping[str, Any]:
    """Take a model of GPT-2's family from Hugging Face: to write with, evaluate, fine-tune. Safetensors only."""
    place = Workspace.at(workspace)
    prepare(place)
    from tasks.hugging_face import import_model

    imported = import_model(source, place, name=name)
    table(
        f"Imported as {imported.name}",
        {
            "parameters": f"{imported.parameters:,}",
            "vocabulary": f"{imported.vocabulary_size:,} ids, tokenizer {imported.tokenizer_fingerprint[:12]}",
            "folder": str(imported.checkpoint),
        },
    )
    next_steps(f'generate {imported.name} --prompt "The "{at(workspace)}')
    return asdict(imported)
