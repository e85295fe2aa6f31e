"""A run's next checkpoint, saved in a process of its own: `faulty_saves.py FOLDER STEP` for each line of standard input.

Each save is a fork of one process that has imported PyTorch. It saves checkpoint STEP and removes the one two before it, as a
training does; its exit code is 0, 1 for an OSError that names a place in the folder, 2 for any other exception.
"""

import os
import sys
from pathlib import Path

import torch

from storage.checkpoints import list_checkpoints, remove_checkpoint, save_checkpoint


def tensors_of(step: int) -> dict[str, torch.Tensor]:
    """What a checkpoint of a step holds."""
    return {
        "network.weight": torch.full((3, 700), float(step)),
        "optimizer.weight.step": torch.tensor(float(step)),
    }


def save(folder: Path, step: int) -> None:
    """One more checkpoint, and one less."""
    save_checkpoint(
        folder, step=step, tensors=tensors_of(step), facts={"val_loss": float(step)}, tokenizer_json="{}"
    )
    for old in list_checkpoints(folder)[:-2]:
        remove_checkpoint(old)


def main() -> None:
    """Saves when asked."""
    folder = Path(sys.argv[1])
    for line in sys.stdin:
        process = os.fork()
        if not process:
            code = 0
            try:
                save(folder, int(line))
            except OSError as error:
                code = 1
                print(error, file=sys.stderr)
            except BaseException as error:
                code = 2
                print(repr(error), file=sys.stderr)
            os._exit(code)
        _, status = os.waitpid(process, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    main()
