"""The commands of a trained model's life: each is a thin call of a flow or of a look at the model."""

import math
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from flows.addresses import is_loopback, listening
from flows.console import command, next_steps, say, table
from flows.environment import prepare
from flows.options import (
    DebugOption,
    JsonOption,
    LoraAlphaOption,
    LoraOption,
    LoraTargetsOption,
    MinPOption,
    ModelArgument,
    PenaltyOption,
    ProcessesOption,
    PromptOption,
    SeedOption,
    SetOption,
    StopOption,
    TemperatureOption,
    TokensOption,
    TopKOption,
    TopPOption,
    WorkspaceOption,
    settings_by_key,
    size_in_bytes,
)
from flows.prefect_server import prefect_ready
from flows.summaries import at, show_evaluation, show_fine_tuned, show_quantization
from storage.workspace import Workspace

if TYPE_CHECKING:
    from flows.finetune_model import FineTunedModel
if TYPE_CHECKING:  # torch comes with it
    from model.paired import PairedDifference
app = typer.Typer()


@app.command(
    epilog="Examples:  brickroad evaluate brickroad-gpt@champion --report page.html   ·   brickroad evaluate RUN_ID --questions hellaswag.jsonl"
)
@command
def evaluate(
    model: ModelArgument,
    dataset: Annotated[
        str | None,
        typer.Option(
            "--dataset", help="Data set. \\[default: the one it was trained on]", show_default=False
        ),
    ] = None,
    questions: Annotated[
        list[Path] | None,
        typer.Option(
            "--questions",
            help="JSON lines of questions, as HellaSwag and LAMBADA have them. May be repeated.",
            show_default=False,
        ),
    ] = None,
    report: Annotated[
        Path | None, typer.Option("--report", help="Write the page of it here, too.", show_default=False)
    ] = None,
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> Mapping[str, Any]:
    """Measure a model exactly: its loss on every token of the val split, and where it is."""
    place = prefect_ready(workspace, debug)
    from flows.evaluate_model import evaluate_model
    from tasks.evaluation_report import evaluation_page

    evaluation = evaluate_model(
        model, dataset, [path.absolute() for path in questions or []], workspace=place.root
    )
    show_evaluation(evaluation)
    if report:
        report.write_text(evaluation_page(evaluation), encoding="utf-8")
        say(f"The page of it: {report}")
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


@app.command(
    epilog='Examples:  brickroad generate brickroad-gpt@champion --prompt "The "   ·   '
    "brickroad generate RUN_ID --tokens 500 --seed 7 --samples 3"
)
@command
def generate(
    model: ModelArgument,
    prompt: PromptOption = "",
    tokens: TokensOption = 200,
    temperature: TemperatureOption = 0.8,
    top_k: TopKOption = None,
    top_p: TopPOption = None,
    min_p: MinPOption = None,
    repetition_penalty: PenaltyOption = 1.0,
    stop: StopOption = None,
    samples: Annotated[
        int,
        typer.Option(
            "--samples", min=1, max=64, help="How many texts, with seeds that count up from --seed."
        ),
    ] = 1,
    seed: SeedOption = 0,
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> Mapping[str, Any]:
    """Let a model write, as it goes."""
    prepare(Workspace.at(workspace))
    from flows.writing import write_samples
    from model.sampling import Sampling
    from model.writing import WritingRequest
    from tasks.loading import load_model
    from tasks.registry import find_model

    sampling = Sampling(
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        repetition_penalty=repetition_penalty,
        seed=seed,
    )
    request = WritingRequest(prompt=prompt, tokens=tokens, sampling=sampling, stop=tuple(stop or ()))
    loaded = load_model(find_model(model, Workspace.at(workspace)).path)
    return write_samples(loaded, request, samples, shown=not as_json)


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
    resume: Annotated[
        str | None,
        typer.Option("--resume", help="Run id to go on with, from its last checkpoint.", show_default=False),
    ] = None,
    processes: ProcessesOption = 1,
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> Mapping[str, Any]:
    """Train a model further, on other text, and measure what it learns and forgets."""
    if lora is None and (lora_alpha is not None or lora_targets is not None):
        raise ValueError("--lora-alpha and --lora-targets are of adapters: give --lora RANK too")
    if (dataset is None) == (prompts is None):
        raise ValueError("give either --dataset REF or --prompts FILE")
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


def fine_tuned_facts(tuned: "FineTunedModel") -> dict[str, Any]:
    """What `finetune --json` says."""
    trained, plan = tuned.trained, tuned.plan
    return {
        "run_id": trained.run_id,
        "checkpoint": trained.checkpoint,
        "steps": trained.steps,
        "train_loss": trained.train_loss,
        "val_loss": tuned.evaluation.val_loss,
        "val_bits_per_byte": tuned.evaluation.val_bits_per_byte,
        "tokens_per_second": trained.tokens_per_second,
        "mfu": trained.utilisation,
        "skipped_updates": trained.skipped_updates,
        "ran_out_of_patience": trained.ran_out_of_patience,
        "seconds": trained.seconds,
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
    dataset: Annotated[
        str | None,
        typer.Option(
            "--dataset",
            help="Measure on this one. \\[default: the one it was trained on]",
            show_default=False,
        ),
    ] = None,
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
    ours, whole = report.variant(kind), report.variant("float32")
    return {
        "checkpoint": report.checkpoint,
        "kind": kind,
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


@app.command(
    epilog="Examples:  brickroad chat brickroad-gpt@champion   ·   brickroad chat RUN_ID --temperature 0.6"
)
@command
def chat(
    model: ModelArgument,
    tokens: TokensOption = 200,
    temperature: TemperatureOption = 0.8,
    top_k: TopKOption = None,
    top_p: TopPOption = None,
    min_p: MinPOption = None,
    repetition_penalty: PenaltyOption = 1.0,
    stop: StopOption = None,
    seed: SeedOption = 0,
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> Mapping[str, Any]:
    """Write a text with a model, by turns."""
    place = Workspace.at(workspace)
    prepare(place)
    from flows.chat import converse
    from model.sampling import Sampling
    from tasks.conversation import Conversation
    from tasks.loading import load_model
    from tasks.registry import find_model

    sampling = Sampling(
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        repetition_penalty=repetition_penalty,
        seed=seed,
    )
    loaded = load_model(find_model(model, place).path)
    conversation = Conversation(model=loaded, tokens=tokens, sampling=sampling, stop=tuple(stop or ()))
    converse(conversation, place)
    return {"text": conversation.document, "turns": len(conversation.turns)}


@app.command(epilog="Examples:  brickroad promote brickroad-gpt/3   ·   brickroad promote --back")
@command
def promote(
    model: Annotated[
        str | None, typer.Argument(help="The version to make champion: name/version.", show_default=False)
    ] = None,
    back: Annotated[
        bool, typer.Option("--back", help="The version that was champion before this one.")
    ] = False,
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> Mapping[str, Any]:
    """Make a registered version champion by hand, or go back to the one before."""
    if (model is None) != back:
        raise typer.BadParameter("give either a version or --back")
    prepare(Workspace.at(workspace))
    from tasks import registry

    place = Workspace.at(workspace)
    version = registry.promote(model, place) if model else registry.roll_back(place)
    say(f"{version.name} version {version.version} is champion: {version.reason}.")
    next_steps(f'generate {version.name}@champion --prompt "The "{at(workspace)}')
    return asdict(version)


@app.command(
    epilog="Example:  brickroad compare brickroad-gpt@champion brickroad-gpt/4 --picture comparison.png"
)
@command
def compare(
    first: ModelArgument,
    second: ModelArgument,
    dataset: Annotated[
        str | None,
        typer.Option("--dataset", help="Data set. \\[default: the first one's]", show_default=False),
    ] = None,
    picture: Annotated[
        Path | None, typer.Option("--picture", help="Draw it here, as .png or .svg.", show_default=False)
    ] = None,
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> Mapping[str, Any]:
    """Compare two models on the same val split: by how much the second is better, and how sure that is."""
    place = Workspace.at(workspace)
    prepare(place)
    from storage.files import named_errors
    from tasks import comparison
    from tasks.registry import find_model

    paths = (find_model(first, place).path, find_model(second, place).path)
    found = comparison.compare(*paths, place, dataset_reference=dataset)
    difference = found.difference
    table(
        f"On {found.dataset}, {len(found.first.document_nats):,} documents",
        {
            first: f"{found.first.loss:.4f} nats per token",
            second: f"{found.second.loss:.4f}",
            "difference": f"{difference.difference:+.4f} ± {difference.standard_error:.4f}, {abs(difference.deviations):.1f} standard errors",
        },
    )
    if picture:
        with named_errors(picture):
            found.picture(first, second).savefig(picture)
        say(f"The picture of it: {picture}")
    return {
        "dataset": found.dataset,
        "first_loss": found.first.loss,
        "second_loss": found.second.loss,
    } | asdict(difference)


@app.command(
    epilog="Examples:  brickroad serve brickroad-gpt@champion   ·   brickroad serve RUN_ID --port 9000 --most-tokens 4096"
)
@command
def serve(
    model: ModelArgument,
    host: Annotated[
        str, typer.Option("--host", help="Address to listen at; any but loopback needs a key.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0 takes a free one.")] = 8000,
    api_key: Annotated[
        str | None,
        typer.Option(
            "--api-key",
            envvar="BRICKROAD_API_KEY",
            help="What clients must send as Authorization: Bearer. In the variable other users of this machine do not see it.",
            show_default=False,
        ),
    ] = None,
    most_tokens: Annotated[
        int, typer.Option("--most-tokens", min=1, help="Tokens that a text gets at most.")
    ] = 1024,
    most_prompt_characters: Annotated[
        int, typer.Option("--most-prompt-characters", min=1, help="Characters of a prompt.")
    ] = 20_000,
    most_rows: Annotated[
        int,
        typer.Option("--most-rows", min=1, help="Texts written at once; memory grows with it."),
    ] = 16,
    most_waiting: Annotated[
        int, typer.Option("--most-waiting", min=1, help="Texts beside these; more are refused (503).")
    ] = 64,
    most_seconds: Annotated[
        float, typer.Option("--most-seconds", min=1, help="A request's time, waiting included.")
    ] = 120.0,
    most_body: Annotated[str, typer.Option("--most-body", help="Size of a request, such as 1MB.")] = "1MB",
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> Mapping[str, Any]:
    """Serve a model as OpenAI's /v1/completions, with a page to try it, until Ctrl-C."""
    place = Workspace.at(workspace)
    body_bytes = size_in_bytes(most_body)
    prepare(place)
    if not is_loopback(host) and not api_key:
        raise typer.BadParameter(f"{host} can be reached by others: set --api-key or BRICKROAD_API_KEY")
    with listening(host, port) as listener:
        from flows.serve import serve_until_stopped
        from tasks.loading import load_model
        from tasks.registry import find_model
        from tasks.serving import Limits

        limits = Limits(
            tokens=most_tokens,
            prompt_characters=most_prompt_characters,
            rows=most_rows,
            waiting=most_waiting,
            seconds=most_seconds,
            body_bytes=body_bytes or 1,
        )
        found = find_model(model, place)
        name = model if not Path(model).exists() else found.run_id or found.path.name
        serve_until_stopped(
            name, load_model(found.path), limits, listener, api_key=api_key or None, as_json=as_json
        )
    return {}
