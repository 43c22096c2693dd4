"""The programs that draw the curves of a training: TensorBoard, MLflow, trackio and wandb.

Each is a small class around the program's own client, imported where it is asked for. Where a
client sends its data is said by its own environment (MLFLOW_TRACKING_URI, WANDB_MODE, ...).
"""

import functools
import importlib
import logging
import os
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from cellsignal.common.errors import InputError
from cellsignal.common.files import flatten_dict

log = logging.getLogger(__name__)
PROJECT = "cellsignal"
_MOST = 100  # parameters that MLflow takes at a time
_LONGEST = 500  # characters of a parameter's value


class Client:
    """One training in one program.

    A client is made, used and closed in one thread of its own. Any exception means that nothing
    more is sent.

    Attributes:
        package: what is imported, and the extra that installs it.
        patience: seconds that the end of a training waits for what is not sent yet.
        id: what finds the same training again; None where the folder does.
    """

    package: ClassVar[str]
    patience: ClassVar[float] = 10.0
    id: str | None = None

    def __init__(self, folder: Path, title: str, config: Mapping[str, Any], id: str | None):
        """Begin, or go on with, a training.

        Args:
            folder: of the job.
            title: such as "demo/seed0/fold1/all/all".
            config: the dumped config.
            id: of an earlier call.
        """
        raise NotImplementedError

    def add(self, epoch: int, figures: Mapping[str, float]) -> None:
        """Send the figures of an epoch, from 1."""
        raise NotImplementedError

    def close(self, finished: bool) -> None:
        """End; `finished` is False where the training was stopped and may go on."""
        raise NotImplementedError


class TensorBoard(Client):
    """Event files in the job's folder."""

    package = "tensorboard"
    patience = 120.0  # writes files alone; loading it takes seconds

    def __init__(self, folder, title, config, id):
        from torch.utils.tensorboard import SummaryWriter

        self._folder, self._class, self._writer = folder / "tensorboard", SummaryWriter, None

    def add(self, epoch, figures):
        if self._writer is None:
            # epochs from this one on, of a training that was killed before it could save, go
            self._writer = self._class(str(self._folder), purge_step=epoch)
        for name, value in figures.items():
            self._writer.add_scalar(name, value, epoch)

    def close(self, finished):
        if self._writer is not None:
            self._writer.close()


class MLflow(Client):
    """A run of MLflow. Only the client is used: no state of the process is changed."""

    package = "mlflow"

    def __init__(self, folder, title, config, id):
        from mlflow.tracking import MlflowClient

        self._client = MlflowClient()
        self.id = id if id is not None and self._exists(id) else self._start(title, config)
        self._client.update_run(self.id, status="RUNNING")

    def _exists(self, id: str) -> bool:
        from mlflow.exceptions import MlflowException

        try:
            self._client.get_run(id)
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":  # another server, or deleted
                return False
            raise
        return True

    def _start(self, title: str, config: Mapping[str, Any]) -> str:
        from mlflow.entities import Param

        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        experiment = self._client.get_experiment_by_name(name)
        place = experiment.experiment_id if experiment else self._client.create_experiment(name)
        id = self._client.create_run(place, run_name=title).info.run_id
        values = [
            Param(key, str(value)[:_LONGEST])
            for key, value in flatten_dict(_lists_as_dicts(config)).items()
        ]
        for start in range(0, len(values), _MOST):
            self._client.log_batch(id, params=values[start : start + _MOST])
        return id

    def add(self, epoch, figures):
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        metrics = [Metric(name, value, now, epoch) for name, value in figures.items()]
        self._client.log_batch(self.id, metrics=metrics)

    def close(self, finished):
        self._client.set_terminated(self.id, "FINISHED" if finished else "KILLED")


class Wandb(Client):
    """A run of Weights & Biases; its files lie in the job's folder."""

    package = "wandb"

    def __init__(self, folder, title, config, id):
        wandb = importlib.import_module("wandb")
        self.id = id or uuid.uuid4().hex
        mode = os.environ.get("WANDB_MODE")
        if mode is None and not wandb.api.api_key:  # it would ask for one
            mode = "offline"
            log.info("tracking: wandb: no API key; `wandb sync` sends what is in %s/wandb", folder)
        group, _, name = title.partition("/fold")
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            dir=str(folder),
            mode=mode,
            id=self.id,
            resume="allow",
            group=group,
            name=f"{group}/fold{name}" if name else title,
            config=dict(config),
            reinit="create_new",
            settings=wandb.Settings(silent=True, console="off"),
        )

    def add(self, epoch, figures):
        self._run.log(dict(figures), step=epoch)

    def close(self, finished):
        self._run.finish(exit_code=0 if finished else 1)


class Trackio(Client):
    """A run of trackio, which keeps its data in a folder of the user, and is found by its name."""

    package = "trackio"

    def __init__(self, folder, title, config, id):
        trackio = importlib.import_module("trackio")
        self.id = id or f"{title.replace('/', '-')}-{uuid.uuid4().hex[:8]}"
        self._run = trackio.init(
            project=os.environ.get("TRACKIO_PROJECT", PROJECT),
            name=self.id,
            config=dict(config),
            resume="allow",
            embed=False,
        )

    def add(self, epoch, figures):
        self._run.log(dict(figures), step=epoch)

    def close(self, finished):
        self._run.finish()


CLIENTS: dict[str, type[Client]] = {
    "tensorboard": TensorBoard,
    "mlflow": MLflow,
    "wandb": Wandb,
    "trackio": Trackio,
}


def check_trackers(names: Sequence[str]) -> None:
    """Make sure that the programs a config asks for are installed.

    TensorBoard is the default, so nobody may have asked for it: without it one line says so.

    Raises:
        InputError: another one is not installed; names the extra that installs it.
    """
    for name in names:
        error = load_error(name)
        if error and name == "tensorboard":
            _say_once(
                "tracking: no TensorBoard here (pip install tensorboard); "
                "log.csv of each training has its figures"
            )
        elif error:
            raise InputError(
                f"tracking: {name} cannot be loaded ({error}); install the extra {name} "
                f'(pip install -e ".[{name}]"), or leave it out'
            )


def load_error(name: str) -> str:
    """Return why a tracker's package cannot be loaded; "" if it can."""
    try:
        importlib.import_module(CLIENTS[name].package)
    except ImportError as error:
        return str(error)
    return ""


@functools.cache
def _say_once(text: str) -> None:
    log.info(text)


def _lists_as_dicts(value: Any) -> Any:
    """Return nested lists of mappings as mappings by number, so that each leaf has a path."""
    if isinstance(value, Mapping):
        return {key: _lists_as_dicts(inner) for key, inner in value.items()}
    if isinstance(value, list) and any(isinstance(item, Mapping) for item in value):
        return {str(index): _lists_as_dicts(item) for index, item in enumerate(value)}
    return value
