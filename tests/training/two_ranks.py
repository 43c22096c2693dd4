"""A program for torchrun, started by test_ranks.py: two processes use everything that `Ranks`
offers and each writes what it saw to rank<k>.json.
"""

import hashlib
import json
import math
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from cellsignal.common.errors import InputError
from cellsignal.models.batch_norm import recompute_statistics
from cellsignal.training import ranks as module
from cellsignal.training.ranks import Ranks, this_process


def digest(*tensors: torch.Tensor) -> str:
    return hashlib.sha256(b"".join(t.detach().numpy().tobytes() for t in tensors)).hexdigest()


def waits(us: Ranks, folder: Path) -> bool:
    """Rank 1 comes late, and leaves a file before the barrier."""
    if not us.first:
        time.sleep(0.3)
        (folder / "late").touch()
    us.barrier()
    return (folder / "late").exists()


def sums(us: Ranks) -> dict[str, Any]:
    """Each process has every other row; the whole comes out to the bit. Shapes that fill no piece,
    one piece, and several with a rest.
    """
    seen: dict[str, Any] = {}
    for dtype in (np.float16, np.float32, np.float64):
        for shape in ((), (0, 3), (40,), (7, 5, 11)):
            whole = np.random.default_rng(0).normal(size=shape).astype(dtype).T
            mine = (
                whole * (np.arange(whole.shape[-1]) % us.world == us.rank)
                if whole.ndim
                else whole * us.first
            )
            mine = np.asarray(mine, dtype)
            before, total = mine.copy(), us.sum_array(mine)
            right = (
                total.dtype == dtype and total.shape == whole.shape and np.array_equal(total, whole)
            )
            seen[f"{dtype.__name__} {shape}"] = right and np.array_equal(before, mine)
    both = us.sum_array(np.full(5, 1.5 + us.rank))
    return seen | {"1.5 + 2.5": both.tolist() == [4.0] * 5}


def gathers(us: Ranks) -> bool:
    """Another length on each rank, over several pieces."""

    def value(rank: int) -> Any:
        numbers = torch.arange(100 * rank, dtype=torch.int64)
        return {
            "who": f"rang {rank} é",
            "list": [rank, None, 0.1, math.inf],
            7: (True, numbers),
            "bits": torch.ones(3, rank).bfloat16(),
        }

    found = us.gather(value(us.rank))
    right = len(found) == us.world
    for rank, (one, expected) in enumerate(zip(found, map(value, range(us.world)), strict=True)):
        right &= (
            one["who"] == expected["who"]
            and one["list"] == expected["list"]
            and list(one) == list(expected)
        )
        right &= one[7][0] is True and torch.equal(one[7][1], expected[7][1])
        right &= (
            torch.equal(one["bits"], expected["bits"])
            and one["bits"].dtype == torch.bfloat16
            and one["bits"].shape == (3, rank)
        )
    return right


def adds_up(us: Ranks) -> list[list[float]]:
    values = [torch.tensor([1.0, 10.0]) * (us.rank + 1), torch.tensor([us.rank, 5])]
    for one in values:
        us.add_up(one)
    return [one.tolist() for one in values]


def refuses(us: Ranks) -> str | None:
    us.same_everywhere("one config")
    try:
        us.same_everywhere(f"config {us.rank}")
    except InputError as error:
        return str(error)
    return None


class Net(nn.Module):
    """With BatchNorm or without; `extra` takes part only where it is asked to."""

    def __init__(self, batch_norm: bool):
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3)
        self.norm = nn.BatchNorm2d(4) if batch_norm else nn.GroupNorm(2, 4)
        self.head, self.extra = nn.Linear(4, 3), nn.Linear(4, 3)

    def forward(self, x: torch.Tensor, with_extra: bool) -> torch.Tensor:
        x = self.norm(self.conv(x)).relu().mean((2, 3))
        return self.head(x) + self.extra(x) if with_extra else self.head(x)


def distance_of_gradients(us: Ranks, batch_norm: bool) -> dict[str, Any]:
    """Half a batch on each rank against one process that has both: by halves where BatchNorm
    standardises each, else at once.
    """
    torch.manual_seed(0)  # rank 0's weights below
    alone = Net(batch_norm)
    x, labels = torch.randn(8, 2, 6, 6), torch.randint(3, (8,))
    halves, loss = (slice(0, 4), slice(4, 8)), nn.functional.cross_entropy
    if batch_norm:
        for rank, half in enumerate(halves):
            (loss(alone(x[half], rank == 0), labels[half]) / 2).backward()
    else:
        logits = torch.cat([alone(x[half], rank == 0) for rank, half in enumerate(halves)])
        loss(logits, labels).backward()
    torch.manual_seed(us.rank)  # rank 1 begins with other weights, which must not matter
    wrapped = us.wrap(Net(batch_norm).to(memory_format=torch.channels_last), unused=True)
    half = halves[us.rank]
    loss(wrapped(x[half], us.first), labels[half]).backward()
    pairs = list(zip(wrapped.module.parameters(), alone.parameters(), strict=True))
    return {
        "same_weights": all(torch.equal(a, b) for a, b in pairs),
        "distance": max(float((a.grad - b.grad).abs().max()) for a, b in pairs),
        # of `extra`, which rank 1 did not use
        "scale": min(float(b.grad.abs().max()) for _, b in pairs[-2:]),
        "gradients": digest(*(a.grad for a, _ in pairs)),
        "buffers": digest(*wrapped.module.buffers()) if batch_norm else None,
    }


def statistics(us: Ranks, shares: tuple[list[int], list[int]]) -> dict[str, Any]:
    """Batches of these sizes on each rank, against one process that sees all."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3), nn.BatchNorm2d(4)
    )
    batches = [
        [(torch.randn(n, 2, 9, 9) * (k + 1) + 3 * k + r,) for k, n in enumerate(share)]
        for r, share in enumerate(shares)
    ]
    recompute_statistics(model, batches[0] + batches[1])
    layers = model[1], model[4]
    expected = [
        value.clone() for layer in layers for value in (layer.running_mean, layer.running_var)
    ]
    for layer in layers:
        layer.reset_running_stats()
    recompute_statistics(
        model, batches[us.rank], pool=lambda values: torch.stack(us.gather(values))
    )
    found = [value for layer in layers for value in (layer.running_mean, layer.running_var)]
    distance = max(float(((a - b) / b).abs().max()) for a, b in zip(found, expected, strict=True))
    return {"distance": distance, "digest": digest(*found)}


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    us = this_process()
    seen: dict[str, Any] = {
        "rank": us.rank,
        "world": us.world,
        "first": us.first,
        "device": str(us.device),
        "waits": waits(us, folder),
    }
    module._PIECE = 256
    seen |= {
        "sums": sums(us),
        "gathers": gathers(us),
        "adds_up": adds_up(us),
        "refuses": refuses(us),
    }
    seen["share"] = us.share({"step": 3, "path": "a.csv"} if us.first else None)
    seen["gradients"] = {
        str(batch_norm): distance_of_gradients(us, batch_norm) for batch_norm in (False, True)
    }
    seen["statistics"] = [
        statistics(us, shares) for shares in (([4, 3, 6], [5]), ([2, 2], []), ([], [3]))
    ]
    loss = nn.CrossEntropyLoss()
    seen["nothing_to_train"] = us.wrap(loss, unused=False) is loss
    us.close()
    (folder / f"rank{us.rank}.json").write_text(json.dumps(seen))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
