"""The encoder sees both sides, the decoder only the past and the source, and together they learn."""

import torch
from torch.nn import functional

from model.config import NetworkConfig
from model.encoder_decoder import build_encoder_decoder

CONFIG = NetworkConfig(vocabulary_size=12, block_size=8, layers=1, heads=2, width=32)
START = 0


def some_ids(generator: torch.Generator, count: int = 2) -> torch.Tensor:
    return torch.randint(1, CONFIG.vocabulary_size, (count, 6), generator=generator)


def changed_at(ids: torch.Tensor, position: int) -> torch.Tensor:
    other = ids.clone()
    other[:, position] = ids[:, position] % (CONFIG.vocabulary_size - 1) + 1
    return other


def test_every_position_of_the_encoder_sees_both_sides() -> None:
    encoder = build_encoder_decoder(CONFIG, seed=1).encoder
    ids = some_ids(torch.Generator().manual_seed(0))
    for position in range(6):
        moved = (encoder(ids) - encoder(changed_at(ids, position))).abs().amax(dim=(0, 2))
        assert (moved > 1e-6).all()


def test_the_decoder_sees_the_past_of_the_target_and_all_of_the_source() -> None:
    network = build_encoder_decoder(CONFIG, seed=1)
    generator = torch.Generator().manual_seed(0)
    source, target = some_ids(generator), some_ids(generator)
    logits = network(source, target)
    future = network(source, changed_at(target, 3))
    torch.testing.assert_close(logits[:, :3], future[:, :3])
    assert not torch.allclose(logits[:, 3], future[:, 3])
    for position in range(6):
        moved = (logits - network(changed_at(source, position), target)).abs().amax(dim=(0, 2))
        assert (moved > 1e-7).all()


def test_it_learns_to_write_a_sequence_backwards() -> None:
    network = build_encoder_decoder(CONFIG, seed=1)
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(500):
        source = some_ids(generator, 64)
        target = source.flip(1)
        so_far = functional.pad(target[:, :-1], (1, 0), value=START)
        loss = functional.cross_entropy(network(source, so_far).flatten(0, 1), target.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    source = some_ids(generator, 64)
    written = torch.full((64, 1), START)
    for _ in range(6):
        written = torch.cat([written, network(source, written)[:, -1:].argmax(-1)], dim=1)
    assert (written[:, 1:] == source.flip(1)).float().mean() > 0.95
