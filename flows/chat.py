"""The terminal's side of `brickroad chat`: lines in, text out as it comes, commands, Ctrl-C and Ctrl-D."""

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from rich.markup import escape

from flows.console import printable, say
from storage.workspace import Workspace
from tasks.conversation import Conversation

_HISTORY_LINES: Final = 1000
_HELP: Final = """Type, and the model goes on; an empty line lets it go on by itself; \\n stands for a new line.
  /set NAME=VALUE   temperature, top_k, top_p, min_p, repetition_penalty, seed, tokens; /set alone shows them
  /undo             takes the last turn back
  /reset            begins anew
  /save FILE        writes the whole text to a file
  /quit             ends, as Ctrl-D does; Ctrl-C stops the model's writing"""


def converse(conversation: Conversation, workspace: Workspace) -> None:
    """Takes lines from stdin until they end or one is /quit."""
    kind = (
        "answers prompts"
        if conversation.template
        else "goes on with a text: what you type is part of the document"
    )
    say(f"This model {kind}. /help tells the commands.")
    is_told = False
    is_terminal = sys.stdin.isatty() and sys.stdout.isatty()
    with _line_editing(workspace.chat_history) if is_terminal else contextlib.nullcontext():
        for line in _lines(is_terminal):
            if line.rstrip() == "/quit":
                return
            try:
                (_obey if line.startswith("/") else _turn)(line, conversation)
            except (ValueError, OSError) as error:  # the conversation goes on
                say(f"[bold red]error:[/bold red] {escape(str(error))}")
            if not is_told and (unseen := conversation.model.unseen_tokens(conversation.document)):
                is_told = True
                say(f"[dim](the model does not see the first {unseen:,} tokens any more)[/dim]")


def _lines(is_terminal: bool) -> Iterator[str]:
    """Lines from the keyboard or a pipe. Ctrl-C at the keyboard's prompt gives the line up, and ends nothing."""
    while True:
        try:
            line = input("> " if is_terminal else "")
        except EOFError:
            if is_terminal:
                print()
            return
        except KeyboardInterrupt:
            if not is_terminal:
                raise
            print()
        else:
            yield line


def _turn(line: str, conversation: Conversation) -> None:
    """Lets the model write to what was said, until it has or Ctrl-C stops it."""
    words = line if conversation.template else line.replace("\\n", "\n")
    try:
        for piece in conversation.say(words):
            print(printable(piece), end="", flush=True)
    except KeyboardInterrupt:
        say("\n[dim](stopped)[/dim]")
        return
    print(flush=True)


def _obey(line: str, conversation: Conversation) -> None:
    """Does what a command says. ValueError for what is none."""
    name, _, rest = line.partition(" ")
    rest = rest.strip()
    match name:
        case "/help":
            say(escape(_HELP))
        case "/set" if not rest:
            say("  ".join(f"{key}={value}".lower() for key, value in conversation.settings().items()))
        case "/set":
            for assignment in rest.split():
                conversation.set(assignment)
        case "/undo":
            say("Took the last turn back." if conversation.undo() else "There is no turn to take back.")
        case "/reset":
            conversation.reset()
            say("A new document.")
        case "/save" if rest:
            conversation.save(Path(rest).expanduser())
            say(f"Saved to {escape(rest)}.")
        case _:
            raise ValueError(f"{line} is no command; /help tells them")


@contextlib.contextmanager
def _line_editing(history: Path) -> Iterator[None]:
    """Inside, a line can be edited and earlier ones, of earlier conversations too, be had back by the arrow keys."""
    import readline

    if history.is_file():
        readline.read_history_file(history)
    readline.set_history_length(_HISTORY_LINES)
    try:
        yield
    finally:
        history.parent.mkdir(parents=True, exist_ok=True)
        readline.write_history_file(history)
