"""One training in several processes: each takes its part of every batch, and what comes out is what one process makes.

Why not ``torch.nn.parallel.DistributedDataParallel``: it averages gradients, so that a loss would have to be a mean
over equally many pixels in each process. Here losses are sums divided by counts over the whole batch (`all_sum`), and
gradients are added up (`sum_gradients`). Nor ``SyncBatchNorm``: it refuses CPUs, and knows neither timm's layers nor
unrolled networks. `whole_batch` sees to batch norm and drop-out of any module.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils import data

from wsss.processes import from_first, share, size

T = TypeVar("T")


def all_sum(values: Tensor) -> Tensor:
    """The sum over all processes, the same in each of them; without a gradient."""
    if size() == 1:
        return values.detach()
    total = values.detach().clone()
    torch.distributed.all_reduce(total)
    return total


def sum_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Make each gradient the sum over all processes. A parameter that has none in any of them keeps none."""
    if size() == 1:
        return
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    used = all_sum(torch.tensor([p.grad is not None for p in trained], dtype=torch.int32, device=trained[0].device))
    met = [parameter for parameter, count in zip(trained, used.tolist(), strict=True) if count]
    flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in met])
    torch.distributed.all_reduce(flat)
    for parameter, total in zip(met, flat.split([p.numel() for p in met]), strict=True):
        parameter.grad = torch.empty_like(parameter).copy_(total.view_as(parameter))


def same_start(module: nn.Module) -> None:
    """Give all processes the weights and statistics of the first."""
    if size() > 1:
        module.load_state_dict(from_first(lambda: {name: value.cpu() for name, value in module.state_dict().items()}))


def part_of(batch: Sequence[T], first: int = 0) -> list[T]:
    """This process's part of a batch, and of its first `first` places, which stay in front."""
    return [*share(batch[:first]), *share(batch[first:])]


class OwnBatches(data.Sampler):
    """This process's part of each batch of a sampler; where a batch has none for it, the batch's first key.

    Such a filler has to be left out of the loss.
    """

    def __init__(self, batches: data.Sampler, first: int = 0) -> None:
        self.batches, self.first = batches, first

    def __len__(self) -> int:
        return len(self.batches)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[list[Any]]:
        for batch in self.batches:
            yield part_of(batch, self.first) or batch[:1]


_step: _WholeBatch | None = None


@contextmanager
def whole_batch(count: int, first: int = 0) -> Iterator[None]:
    """Inside, layers in training mode see the whole batch, of which each process computes its `part_of`.

    Batch norm takes its statistics over the images of all processes, and its gradient goes back to all of them.
    Drop-out, whole channels and paths included, draws as one process would have; on a CPU that is the same bit for bit,
    if all processes have seeded the generator alike. Processes must go through the same layers in the same order.

    Args:
        count: images of the whole batch. first: how many of them, in front, some layers are given alone.
    """
    global _step
    if size() == 1:
        yield
        return
    _step = _WholeBatch(count, first)
    try:
        with _step:
            yield
    finally:
        _step = None


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and (biased) variance of each channel of (B, C, ...), over the images of all processes in `whole_batch`."""
    dims = [dim for dim in range(x.ndim) if dim != 1]
    if _step is None:
        return x.mean(dims), x.var(dims, unbiased=False)
    mean, variance, _ = _moments(x, _step.idle)
    return mean, variance


def _moments(x: Tensor, idle: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, variance, and how many values they are of. `idle`: what this process holds is a filler."""
    dims = [dim for dim in range(x.ndim) if dim != 1]
    weight = 0 if idle else 1
    count = all_sum(x.new_tensor(weight * x.numel() / x.shape[1], dtype=torch.float64))
    mean = _Sum.apply(weight * x.sum(dims)) / count
    deviation = x - mean.view(-1, *[1] * (x.ndim - 2))
    return mean, _Sum.apply(weight * deviation.square().sum(dims)) / count, count


class _Sum(torch.autograd.Function):
    """`all_sum`, through which gradients flow: what each process makes of the sum goes back to all its terms."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        return all_sum(values)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return all_sum(gradient.contiguous())


class _WholeBatch(TorchFunctionMode):
    """Takes the place of the functions that layers call, whatever the class of the layer."""

    def __init__(self, count: int, first: int) -> None:
        super().__init__()
        places = range(count)
        self.idle = not part_of(places)
        self.rows: dict[int, tuple[int, list[int]]] = {}
        for total in (first, count):
            mine = part_of(places[:total], first) or [0]  # that of a filler
            self.rows[len(mine)] = (total, mine)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.batch_norm:
            return _batch_norm(*args, **kwargs, idle=self.idle)
        if func is F.dropout:
            return self._dropout(F.dropout, *args, **kwargs)
        if func in (F.dropout1d, F.dropout2d, F.dropout3d):
            return self._dropout(func, *args, **kwargs)
        if func is Tensor.bernoulli_ and len(args[0]) in self.rows:  # timm's paths
            return args[0].copy_(self._drawn(args[0], *args[1:], **kwargs))
        return func(*args, **kwargs)

    def _dropout(self, func: Any, x: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
        if not training or not 0 < p < 1 or len(x) not in self.rows:
            return func(x, p, training, inplace)
        like = x if func is F.dropout else x.new_empty((*x.shape[:2], *[1] * (x.ndim - 2)))
        noise = self._drawn(like, 1 - p).div_(1 - p)
        return x.mul_(noise) if inplace else x * noise

    def _drawn(self, like: Tensor, p: float) -> Tensor:
        """This process's rows of 0 and 1 drawn for the whole batch, laid out in memory as one process would have."""
        total, mine = self.rows[len(like)]
        order = torch.channels_last if _is_channels_last(like) else torch.contiguous_format
        shape = (total, *like.shape[1:])
        return torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=order).bernoulli_(p)[mine]


def _is_channels_last(x: Tensor) -> bool:
    return x.ndim == 4 and not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)


def _batch_norm(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    *,
    idle: bool,
) -> Tensor:
    """``torch.nn.functional.batch_norm``, in training over the images of all processes."""
    if not training:
        return F.batch_norm(x, running_mean, running_var, weight, bias, False, momentum, eps)
    wide = x if x.dtype == torch.float64 else x.float()
    mean, variance, count = _moments(wide, idle)
    if running_mean is not None and running_var is not None:
        with torch.no_grad():
            running_mean.lerp_(mean.to(running_mean.dtype), momentum)
            running_var.lerp_((variance * count / (count - 1).clamp(min=1)).to(running_var.dtype), momentum)
    shape = (-1, *[1] * (x.ndim - 2))
    scale = (variance + eps).rsqrt()
    scale = scale if weight is None else scale * weight
    z = (wide - mean.view(shape)) * scale.view(shape)
    return (z if bias is None else z + bias.view(shape)).to(x.dtype)
