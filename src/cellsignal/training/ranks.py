"""Let several processes train together: gather, sum and share their values.

`torchrun` starts the processes and says in the environment who is who; accelerate starts the
process group (NCCL between GPUs, gloo between CPUs). Every method but the properties is a
collective: all processes call it, in the same order, or all wait. Where a process dies torchrun
ends the others of its machine; those of other machines fail when their connections close or, at the
latest, when they have waited for 30 minutes (CELLSIGNAL_PATIENCE_MINUTES).

Objects travel as bytes of `torch.save` in tensors and are read with `weights_only=True`: torch's
own object collectives would unpickle them.
"""

import io
import os
import warnings
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

from cellsignal.common.errors import InputError
from cellsignal.common.memory import keep_freed_memory

_PIECE = 1 << 26  # bytes that lie on the device at a time
# how long the others wait while one writes; CELLSIGNAL_PATIENCE_MINUTES overrides
_PATIENCE_MINUTES = 30.0


@dataclass(frozen=True)
class Ranks:
    """A process's number (`rank`) among `world` processes, and the device it computes on.

    All methods are the identity, and free, where `world` is 1.
    """

    rank: int
    world: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether this process is the one that writes files and logs."""
        return self.rank == 0

    def barrier(self) -> None:
        """Wait until all processes are here."""
        if self.world > 1:
            from accelerate import PartialState

            PartialState().wait_for_everyone()

    def sum_array(self, values: np.ndarray) -> np.ndarray:
        """Sum float arrays of one shape and dtype over all processes; the same bytes on all.

        Exact where all but one are zero. It goes over the device in pieces, so it need not fit
        there.
        """
        if self.world == 1:
            return values
        kinds = self.gather([str(values.dtype), list(values.shape)])
        assert values.dtype.kind == "f" and all(kind == kinds[0] for kind in kinds), kinds
        total = np.array(values, order="C")  # a copy
        for piece in torch.from_numpy(total.reshape(-1)).split(_PIECE // total.itemsize):
            summed = piece.to(self.device)
            torch.distributed.all_reduce(summed)
            piece.copy_(summed)
        return total

    def gather(self, value: Any) -> list[Any]:
        """Return the values of all processes, by rank.

        Args:
            value: None, a number, string or tensor, or lists, tuples and dictionaries of them.
                Tensors arrive on the CPU. A slice of a tensor travels with the whole of it.
        """
        if self.world == 1:
            return [value]
        sent_bytes = _to_bytes(value)
        sizes = [int(size) for size in self._all_gather(torch.tensor([len(sent_bytes)]))]
        padded = functional.pad(sent_bytes, (0, max(sizes) - len(sent_bytes)))
        pieces = [self._all_gather(piece) for piece in padded.split(max(1, _PIECE // self.world))]
        return [
            _from_bytes(torch.cat([piece[rank] for piece in pieces])[:size])
            for rank, size in enumerate(sizes)
        ]

    def share(self, value: Any) -> Any:
        """Return rank 0's small value on all processes; the values of the others are ignored."""
        return self.gather(value if self.first else None)[0]

    def stack(self, values: torch.Tensor) -> torch.Tensor:
        """Gather (n,) on the CPU into (world, n), the rows by rank."""
        return torch.stack(self.gather(values))

    def add_up(self, values: torch.Tensor) -> None:
        """Sum a contiguous tensor on this process's device over all processes, in place."""
        if self.world > 1:
            assert values.is_contiguous(), values.stride()
            assert values.device.type == self.device.type, values.device
            torch.distributed.all_reduce(values)

    def same_everywhere(self, text: str) -> None:
        """Make sure that all processes were given the same config and inputs.

        Raises:
            InputError: on every process, if one has another text than rank 0.
        """
        texts = self.gather(text)
        for rank, other in enumerate(texts):
            if other != texts[0]:
                raise InputError(
                    f"the processes were not started alike: rank 0 has {texts[0][:80]!r}, rank "
                    f"{rank} has {other[:80]!r}; "
                    "give every machine the same command, config and files"
                )

    def wrap(self, module: nn.Module, unused: bool) -> nn.Module:
        """Return the module with gradients averaged over the processes.

        All take rank 0's parameters. Buffers are each process's own: BatchNorm's running statistics
        differ between them. It is the module itself where there is one process or nothing to train.

        Args:
            module: on this process's device, in its final memory format.
            unused: whether a step may leave parameters without a gradient, on any process; looking
                for them costs a walk over the graph.
        """
        if self.world == 1 or not any(parameter.requires_grad for parameter in module.parameters()):
            return module
        # torch 2.13's new name for it would still take rank 0's buffers at the start
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*broadcast_buffers", FutureWarning)
            return DistributedDataParallel(
                module,
                device_ids=[self.device] if self.device.type == "cuda" else None,
                broadcast_buffers=False,
                gradient_as_bucket_view=True,
                find_unused_parameters=unused,
            )

    def close(self) -> None:
        """Leave the process group at the end; not after an error, where it could hang."""
        if self.world > 1:
            self.barrier()
            torch.distributed.destroy_process_group()

    def _all_gather(self, values: torch.Tensor) -> list[torch.Tensor]:
        """Return every process's tensor, all of one shape, by rank, on the CPU."""
        sent = values.to(self.device)
        received = [torch.empty_like(sent) for _ in range(self.world)]
        torch.distributed.all_gather(received, sent)
        return [tensor.cpu() for tensor in received]


ALONE = Ranks(0, 1, torch.device("cpu"))


def this_process() -> Ranks:
    """Join the processes that torchrun started; alone without torchrun.

    The device is the GPU of its number on this machine, or the CPU where there is no GPU or all are
    hidden (`CUDA_VISIBLE_DEVICES=`).

    Raises:
        InputError: torchrun's environment is incomplete or contradicts itself, or there are more
            processes than GPUs.
    """
    rank, world, local = _read_places()
    device = torch.device("cpu")
    if torch.cuda.is_available():
        if local >= torch.cuda.device_count():
            raise InputError(
                f"more processes than GPUs: LOCAL_RANK is {local}, GPUs to be seen are "
                f"{torch.cuda.device_count()}; lower torchrun's --nproc_per_node (or hide the GPUs "
                "by CUDA_VISIBLE_DEVICES= to compute on CPUs)"
            )
        device = torch.device("cuda", local)
        torch.cuda.set_device(device)
    else:
        keep_freed_memory()
    if world > 1:
        from accelerate import PartialState

        patience = _patience()
        if device.type == "cuda":
            # whose watchdog ends a process that has waited too long
            PartialState(backend="nccl", timeout=patience, device_id=device)
        else:
            PartialState(cpu=True, backend="gloo", timeout=patience)
        assert (torch.distributed.get_rank(), torch.distributed.get_world_size()) == (rank, world)
    return Ranks(rank, world, device)


def _patience() -> timedelta:
    """Return how long a process waits for the others before it takes them for dead."""
    text = os.environ.get("CELLSIGNAL_PATIENCE_MINUTES") or str(_PATIENCE_MINUTES)
    try:
        patience = timedelta(minutes=float(text))
    except (ValueError, OverflowError):
        patience = timedelta(0)
    if patience < timedelta(seconds=1):
        raise InputError(
            f"environment: CELLSIGNAL_PATIENCE_MINUTES is {text!r}, not a number of minutes that "
            "makes a second or more"
        )
    return patience


def _read_places() -> tuple[int, int, int]:
    """Read (rank, processes, rank on this machine) from torchrun's environment; else (0, 1, 0)."""
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
    if not any(os.environ.get(name) for name in names):
        return 0, 1, 0
    alone = os.environ.get("WORLD_SIZE") == "1"
    for name in (*names, "MASTER_ADDR", "MASTER_PORT"):
        if not os.environ.get(name) and not alone:
            raise InputError(
                f"environment: {name} is not set, but one of {', '.join(names)} is; start with "
                "torchrun, or unset them"
            )
    numbers = []
    for name in names:
        text = os.environ.get(name) or "0"
        if not text.isdecimal():
            raise InputError(f"environment: {name} is {text!r}, not a number; start with torchrun")
        numbers.append(int(text))
    rank, world, local = numbers
    if rank >= world or local > rank:
        raise InputError(
            f"environment: RANK {rank}, WORLD_SIZE {world} and LOCAL_RANK {local} cannot be; "
            "start with torchrun"
        )
    return rank, world, local


def _to_bytes(value: Any) -> torch.Tensor:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return torch.frombuffer(buffer.getbuffer(), dtype=torch.uint8)


def _from_bytes(data: torch.Tensor) -> Any:
    return torch.load(io.BytesIO(data.numpy().tobytes()), map_location="cpu", weights_only=True)
