"""The commands by which a model writes: for a script, for a person by turns, for the clients of a server."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.addresses import is_loopback, listening
from flows.console import command
from flows.environment import prepare
from flows.options import DebugOption, JsonOption, ModelArgument, WorkspaceOption, size_in_bytes
from flows.writing_options import (
    MinPOption,
    PenaltyOption,
    PromptOption,
    SeedOption,
    StopOption,
    TemperatureOption,
    TokensOption,
    TopKOption,
    TopPOption,
)
from storage.workspace import Workspace

if TYPE_CHECKING:  # torch comes with it
    from model.sampling import Sampling

app = typer.Typer()


def _sampling(
    temperature: float,
    top_k: int | None,
    top_p: float | None,
    min_p: float | None,
    repetition_penalty: float,
    seed: int,
) -> "Sampling":
    """How the next token is chosen, of the options of that name."""
    from model.sampling import Sampling

    return Sampling(
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        repetition_penalty=repetition_penalty,
        seed=seed,
    )


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
    from model.writing import WritingRequest
    from tasks.loading import load_model
    from tasks.registry import find_model

    sampling = _sampling(temperature, top_k, top_p, min_p, repetition_penalty, seed)
    request = WritingRequest(prompt=prompt, tokens=tokens, sampling=sampling, stop=tuple(stop or ()))
    loaded = load_model(find_model(model, Workspace.at(workspace)).path)
    return write_samples(loaded, request, samples, shown=not as_json)


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
    from tasks.conversation import Conversation
    from tasks.loading import load_model
    from tasks.registry import find_model

    sampling = _sampling(temperature, top_k, top_p, min_p, repetition_penalty, seed)
    loaded = load_model(find_model(model, place).path)
    conversation = Conversation(model=loaded, tokens=tokens, sampling=sampling, stop=tuple(stop or ()))
    converse(conversation, place)
    return {"text": conversation.document, "turns": len(conversation.turns)}


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
