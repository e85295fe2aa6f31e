"""The weights of a checkpoint, whichever way it holds them: all of them, with adapters beside, or adapters alone and a base."""

from pathlib import Path

from torch import Tensor

from model.config import recipe_from_dict
from model.lora import adapter_of, merged
from storage.checkpoints import Checkpoint, load_tensors, network_sha256, read_checkpoint, save_checkpoint
from storage.errors import CheckpointError

#: Of the facts of a checkpoint that holds adapters alone: what they are adapters of, as `tasks.parent.Parent.facts`.
ADAPTER_OF = "adapter_of"


def network_tensors(checkpoint: Checkpoint, base: Path | None = None) -> dict[str, Tensor]:
    """The tensors of a checkpoint's network, every byte verified, with its adapters merged.

    Adapters alone are put on the checkpoint folder `base`, or on the one they remember; CheckpointError if that is not there, or
    not the one they were learnt on.
    """
    tensors = load_tensors(checkpoint, network_only=True)
    if ADAPTER_OF in checkpoint.facts:
        tensors |= network_tensors(_base_of(checkpoint, base))
    lora = recipe_from_dict(checkpoint.facts["recipe"]).lora
    return merged(tensors, lora) if lora else tensors


def _base_of(adapter: Checkpoint, base: Path | None) -> Checkpoint:
    wanted = adapter.facts[ADAPTER_OF]
    place = base or Path(wanted["path"])
    try:
        found = read_checkpoint(place)
    except CheckpointError:
        raise CheckpointError(
            f"{adapter.path}: is an adapter alone, and its base is not at {place}; put the base (run {wanted['run_id']}, step "
            f"{wanted['step']}) back there, or use a checkpoint of the fine-tuning's own run, which is complete"
        ) from None
    if network_sha256(found) != wanted["network_sha256"]:
        raise CheckpointError(
            f"{adapter.path}: is an adapter of run {wanted['run_id']}, step {wanted['step']}, whose network has the sha256 "
            f"{wanted['network_sha256'][:12]}…; {place} is another, {network_sha256(found)[:12]}…"
        )
    return found


def save_adapter(checkpoint: Checkpoint) -> Checkpoint:
    """The adapters of a checkpoint in a folder of their own beside it: their weights, the tokenizer, and what they belong to."""
    tensors = load_tensors(checkpoint, network_only=True)
    return save_checkpoint(
        checkpoint.path.parent,
        step=checkpoint.step,
        tensors=adapter_of(tensors),
        facts=checkpoint.facts | {ADAPTER_OF: checkpoint.facts["parent"]},
        tokenizer_json=checkpoint.tokenizer_json(),
        name=f"adapter-{checkpoint.step:08d}",
    )
