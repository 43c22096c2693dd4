"""Check mixed precision, memory format, compilation and checkpointing of the training step."""

import gc
import shutil
import time

import torch

from cellsignal.studies.gpu_check.room import Figures, Room, Skipped, require
from cellsignal.studies.gpu_check.steps import (
    Batch,
    backward,
    build_stepper,
    distance,
    exact_float32,
    gradients,
    learnable_batch,
    train_steps,
    weights,
)
from cellsignal.training.optim import Stepper, compute_dtype

# of the first loss, which no step has moved yet
_LOSS_TOLERANCE = {torch.float32: 5e-3, torch.bfloat16: 0.05, torch.float16: 0.01}


def _sizes(room: Room) -> tuple[int, int, int]:
    """Return images, side in pixels, and steps of a small training."""
    return (16, 32, 6) if room.dry else (64, 128, 30)


def amp(room: Room) -> Figures:
    """Train in each precision: the dtype is right, the loss falls, the scaler works."""
    images, size, steps = _sizes(room)
    batch, figures = learnable_batch(room, images, size), {}
    with exact_float32():
        wanted = train_steps(build_stepper(room, size, amp="off"), batch, 1)[0]
    for name in ("off", "auto", "bf16", "fp16"):
        stepper = build_stepper(room, size, amp=name, optimizer={"lr": 3e-3})
        losses = train_steps(stepper, batch, steps)
        dtype = stepper.dtype
        require(dtype == compute_dtype(name, room.device), f"amp: {name} computes in {dtype}")
        for parameter in stepper.model.parameters():
            require(parameter.dtype == torch.float32, f"amp: {name}: a weight is {parameter.dtype}")
        apart = abs(losses[0] / wanted - 1)
        require(
            apart <= _LOSS_TOLERANCE[dtype],
            f"amp: {name}: the first loss is {losses[0]:.4f}, in float32 {wanted:.4f}",
        )
        require(losses[-1] < 0.8 * losses[0], f"amp: {name}: the loss does not fall: {losses}")
        require(
            stepper.scaler.is_enabled() == (dtype == torch.float16),
            f"amp: {name}: the gradient scaler is enabled: {stepper.scaler.is_enabled()}",
        )
        about = {"dtype": str(dtype).removeprefix("torch."), "first_loss_off": round(apart, 5)}
        figures[name] = about | {"last_loss": round(losses[-1], 4)}
        if stepper.scaler.is_enabled():
            figures[name] |= _overflow(stepper, batch)
    has_bf16 = room.dry or torch.cuda.is_bf16_supported(including_emulation=False)
    if not room.dry and has_bf16:
        require(figures["auto"]["dtype"] == "bfloat16", "amp: auto is not bfloat16")
    return figures


def _overflow(stepper: Stepper, batch: Batch) -> Figures:
    """A step whose gradients overflow changes no weight and halves the scale."""
    before, scale = weights(stepper), stepper.scaler.get_scale()
    backward(stepper, batch)
    next(stepper.model.parameters()).grad.fill_(float("inf"))
    stepper.update()
    after = stepper.scaler.get_scale()
    require(after == scale / 2, f"amp: after an overflow the scale went from {scale} to {after}")
    require(bool(torch.equal(before, weights(stepper))), "amp: an overflow changed the weights")
    state = stepper.scaler.state_dict()
    stepper.scaler.load_state_dict(state)
    require(stepper.scaler.state_dict() == state, "amp: the scaler's state does not come back")
    return {"scale": scale}


def channels_last(room: Room) -> Figures:
    """Compare gradients of both layouts in float32, and time them in the device's precision."""
    images, size, _ = _sizes(room)
    batch, results = learnable_batch(room, images, size), {}
    plain = Batch(batch.images.contiguous(), batch.targets, batch.labels)
    with exact_float32():
        for last in (True, False):
            stepper = build_stepper(room, size, channels_last=last, amp="off")
            loss = backward(stepper, batch if last else plain)
            results[last] = (float(loss.detach()), gradients(stepper))
            layout = torch.channels_last if last else torch.contiguous_format
            stepper.update()
            for parameter in stepper.model.parameters():
                kept = parameter.is_contiguous(memory_format=layout)
                require(parameter.ndim != 4 or kept, f"a weight is no longer {layout}")
            seen: list[bool] = []
            layer = next(m for m in stepper.model.modules() if isinstance(m, torch.nn.Conv2d))
            hook = layer.register_forward_hook(
                lambda module, inputs, out, seen=seen, layout=layout: seen.append(
                    out.is_contiguous(memory_format=layout)
                )
            )
            backward(stepper, batch if last else plain)
            hook.remove()
            require(seen == [True], f"the first layer's activations are not {layout}")
    apart = distance(results[True][1], results[False][1])
    require(apart < 1e-3, f"gradients differ by {apart:.2g} of their length")
    figures = {"gradients_off": apart}
    for last in (True, False):
        stepper = build_stepper(room, size, channels_last=last, amp="auto")
        given = batch if last else plain
        train_steps(stepper, given, 3)
        started = time.perf_counter()
        train_steps(stepper, given, 3 if room.dry else 20)  # its losses are read at the end
        figures["seconds_" + ("last" if last else "contiguous")] = time.perf_counter() - started
    return figures


def checkpointing(room: Room) -> Figures:
    """Gradients, losses and BatchNorm statistics are those without; the peak memory is lower."""
    images, size, _ = _sizes(room)
    figures: Figures = {}
    backbones = ("resnet10t",) if room.dry else ("resnet50", "densenet161")
    for backbone in backbones:
        batch, results = learnable_batch(room, images, size), {}
        for checkpointed in (False, True):
            with exact_float32():
                stepper = build_stepper(
                    room, size, backbone=backbone, checkpointed=checkpointed, amp="off"
                )
                _free(room)
                loss = float(backward(stepper, batch).detach())
                memory = _peak_gib(room)
                buffers = [b.double().cpu().flatten() for b in _running(stepper)]
                results[checkpointed] = (loss, gradients(stepper), torch.cat(buffers), memory)
                del stepper
        plain, kept = results[False], results[True]
        apart = distance(kept[1], plain[1])
        require(apart < 1e-4, f"{backbone}: gradients differ by {apart:.2g} of their length")
        moved = distance(kept[2], plain[2])
        require(moved < 1e-4, f"{backbone}: BatchNorm statistics differ by {moved:.2g}")
        if not room.dry:
            less = kept[3] < 0.95 * plain[3]
            require(less, f"{backbone}: the peak is {kept[3]:.2f} GiB, without {plain[3]:.2f}")
        figures[backbone] = {"gradients_off": apart, "statistics_off": moved}
        figures[backbone] |= {"gib": round(kept[3], 3), "gib_without": round(plain[3], 3)}
    return figures


def _running(stepper: Stepper) -> list[torch.Tensor]:
    return [buffer for buffer in stepper.model.buffers() if buffer.is_floating_point()]


def _free(room: Room) -> None:
    gc.collect()
    if not room.dry:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(room.device)


def _peak_gib(room: Room) -> float:
    return 0.0 if room.dry else torch.cuda.max_memory_allocated(room.device) / 2**30


# compilation
# --------------------------------------------------------------------------------------------------


def compile(room: Room) -> Figures:
    """Train compiled and not: losses and weights agree."""
    return _compiled(room, "default")


def cuda_graphs(room: Room) -> Figures:
    """Train in CUDA graphs and not: losses and weights agree, past the recording too."""
    if room.dry:
        raise Skipped("needs a GPU")
    return _compiled(room, "reduce-overhead")


def _compiled(room: Room, mode: str) -> Figures:
    _need_compiler(room)
    images, size, _ = (8, 64, 0) if room.dry else (64, 128, 0)
    backbone, steps = ("lenet", 4) if room.dry else ("resnet10t", 12)
    torch.compiler.reset()
    batch = learnable_batch(room, images, size)
    optimizer = {"name": "sgd", "lr": 0.01}  # AdamW would blow rounding up to whole steps
    with exact_float32():
        plain = build_stepper(room, size, backbone=backbone, amp="off", optimizer=optimizer)
        wanted = train_steps(plain, batch, steps)
        other = build_stepper(
            room, size, backbone=backbone, amp="off", optimizer=optimizer, compile=mode
        )
        started = time.perf_counter()
        losses = train_steps(other, batch, 1)
        begin = time.perf_counter() - started
        losses += train_steps(other, batch, steps - 1)
    worst = max(abs(a / b - 1) for a, b in zip(losses, wanted, strict=True))
    require(worst < 0.01, f"losses differ by {worst:.2g}: {losses} and {wanted}")
    apart = distance(weights(other), weights(plain))
    require(apart < 1e-2, f"weights differ by {apart:.2g} of their length")
    with exact_float32():
        for stepper in (plain, other):  # two batches a step: gradients outlive a graph's run
            backward(stepper, batch)
            backward(stepper, batch)
    summed = distance(gradients(other), gradients(plain))
    require(summed < 1e-2, f"gradients of two batches, added up, differ by {summed:.2g}")
    seconds = {}
    for name, stepper in (("eager", plain), ("compiled", other)):
        stepper.update()
        train_steps(stepper, batch, 3)
        started = time.perf_counter()
        train_steps(stepper, batch, steps)
        seconds[name] = (time.perf_counter() - started) / steps
    figures = {"losses_off": worst, "weights_off": apart, "accumulated_off": summed}
    figures["start_s"] = round(begin, 1)
    return figures | {f"step_s_{name}": value for name, value in seconds.items()}


def _need_compiler(room: Room) -> None:
    """Skip where what torch.compile calls is not there."""
    import importlib.util

    if room.dry:
        if shutil.which("g++") is None and shutil.which("clang++") is None:
            raise Skipped("needs a C++ compiler")
        return
    if importlib.util.find_spec("triton") is None:
        raise Skipped("no triton")
    if all(shutil.which(name) is None for name in ("gcc", "cc", "clang")):
        raise Skipped("triton needs a C compiler")
