"""Which checks there are, what each needs, and how long it may take."""

from dataclasses import dataclass

_CHECKS = "cellsignal.studies.gpu_check"
# what training imports; a check names what it needs beyond these
TRAINING = (
    *("accelerate", "cv2", "google_crc32c", "numpy", "numcodecs", "pandas", "pydantic", "scipy"),
    *("pytorch_metric_learning", "safetensors", "sklearn", "tensorboard", "timm", "tqdm"),
    *("torch", "yaml", "zarr", "zstandard"),
)
# one after the other; at the same time what keeps the CPU busy; at the end what measures speed
LANES = ("checks", "beside", "alone")


@dataclass(frozen=True)
class Check:
    """One check: a function (Room) -> figures that raises where something is wrong.

    Attributes:
        name: in the table.
        function: "module:function"; imported in the worker process alone.
        title: what it shows, for the page.
        seconds: its limit; it is then ended and has failed.
        needs: modules without which it is skipped.
        lane: one of `LANES`.
        alone: it needs a process of its own, as it sets what a process cannot take back.
        least: seconds; with less time left it is not begun.
    """

    name: str
    function: str
    title: str
    seconds: float
    needs: tuple[str, ...] = TRAINING
    lane: str = "checks"
    alone: bool = False
    least: float = 5.0


def _check(name: str, module: str, title: str, seconds: float, *needs: str, **more) -> Check:
    more = {"needs": TRAINING + needs} | more
    return Check(name, f"{_CHECKS}.{module}:{name}", title, seconds, **more)


CHECKS = (
    Check("device", f"{_CHECKS}.device:device", "the device computes", 45, needs=("torch",)),
    _check("amp", "precision", "auto, bf16, and fp16 with its scaler", 45),
    _check("channels_last", "precision", "channels_last: same results, layout kept", 45),
    _check("fused_warp", "feeding", "warp of a batch on the device as on the CPU", 45),
    _check("data_feed", "feeding", "own stream and pinned buffers: the CPU's batches", 60),
    _check("device_gib", "feeding", "images kept on the device: the same batches", 45),
    _check("checkpointing", "precision", "gradient checkpointing: same gradients", 45),
    _check("compile", "precision", "torch.compile: the training of eager mode", 90),
    _check("cuda_graphs", "precision", "CUDA graphs: the training of eager mode", 90),
    _check("averages", "runs", "EMA and SWA train and predict", 60),
    _check("adabn", "runs", "AdaBN: the predictions of the CPU", 45),
    _check("pseudo_labels", "runs", "pseudo-labels train", 60),
    _check("export", "runs", "torch.export of a trained run within 1e-4", 60),
    _check("export_onnx", "runs", "ONNX of it", 60, "onnx", "onnxscript", "onnxruntime"),
    _check("exact_resume", "processes", "killed and resumed: bit-equal weights", 90),
    _check("collectives", "processes", "a process group of one", 60, alone=True),
    _check("two_processes", "processes", "two processes train as one with accumulation", 75),
    _check("sites", "throughput", "512 px sites simulated and packed", 120, lane="beside"),
    _check(
        "demo",
        "demo",
        "configs/rxrx1/demo.yaml, score",
        200,
        "matplotlib",
        "skimage",
        "iterstrat",
        lane="beside",
    ),
    _check("matmul_peak", "throughput", "dense matrix products", 30, lane="alone", least=15),
    _check(
        "batch_size", "throughput", "the batch-size finder ends at the memory", 45, lane="alone"
    ),
    _check("resnet50_256", "throughput", "ResNet-50, 256 px", 45, lane="alone", least=15),
    _check("resnet50_512", "throughput", "ResNet-50, 512 px", 45, lane="alone", least=15),
    _check("densenet161_256", "throughput", "DenseNet161, 256 px", 60, lane="alone", least=15),
    _check("densenet161_512", "throughput", "DenseNet161, 512 px", 60, lane="alone", least=15),
    _check(
        "step_variants", "throughput", "variants of the ResNet-50 step", 60, lane="alone", least=15
    ),
)
