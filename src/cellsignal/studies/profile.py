"""Where the time of one training epoch goes: the operations that take most, and how long the device
waits for data.
"""

import tempfile
from pathlib import Path

from torch.profiler import ProfilerActivity, profile

from cellsignal.common.stopping import Stop
from cellsignal.config import Config
from cellsignal.training.loop import Trainer
from cellsignal.training.ranks import Ranks, this_process
from cellsignal.training.run import jobs_of


def bench_profile(config: Config, rows: int = 15) -> str:
    """Train the config's first stage for three epochs in a folder of its own, and profile the
    third.

    Returns:
        The epoch's line of throughput, of the second epoch, without the profiler, and the
        profiler's table of operations by their own time.
    """
    device = this_process().device
    with tempfile.TemporaryDirectory(prefix="cellsignal_profile_") as folder:
        stage = config.stages[0].model_copy(update={"validate_every": config.stages[0].epochs})
        job = jobs_of(
            config.model_copy(update={"runs": Path(folder), "stages": (stage, *config.stages[1:])})
        )[0]
        with Stop() as stop:
            trainer = Trainer(job, Ranks(0, 1, device), stop)
            trainer.train_epoch()  # what is set up once
            trainer.next_epoch()
            speed = trainer.train_epoch()
            trainer.next_epoch()
            activities = [
                ProfilerActivity.CPU,
                *([ProfilerActivity.CUDA] if device.type == "cuda" else []),
            ]
            with profile(activities=activities) as profiler:
                trainer.train_epoch()
    by = "self_cuda_time_total" if device.type == "cuda" else "self_cpu_time_total"
    return f"{job.title}: {speed.line()}\n\n{profiler.key_averages().table(sort_by=by, row_limit=rows, max_name_column_width=40)}"
