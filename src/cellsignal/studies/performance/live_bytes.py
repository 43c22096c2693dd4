"""Count the bytes of all tensors that are alive, on any device."""

import weakref

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):
    """Adds up the storage of every tensor that an operation makes, for as long as it is held."""

    def __init__(self):
        super().__init__()
        self.now, self.most, self.known = 0, 0, weakref.WeakKeyDictionary()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, torch.Tensor):
                self.count(tensor)
        return made

    def count(self, tensor: torch.Tensor) -> None:
        """Count a tensor's storage from now on."""
        storage = tensor.untyped_storage()
        if storage not in self.known:
            self.known[storage] = None
            self.now += storage.nbytes()
            self.most = max(self.most, self.now)
            weakref.finalize(storage, self._gone, storage.nbytes())

    def _gone(self, size: int) -> None:
        self.now -= size
