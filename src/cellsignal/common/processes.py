"""What a worker process of a pool sets before its first task: an `initializer`."""

import multiprocessing
import os
import signal
import threading


def start_worker() -> None:
    """Leave Ctrl-C to the parent, keep OpenCV to one thread, and end when the parent ends."""
    import cv2

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    cv2.setNumThreads(1)
    end_with_parent()


def end_with_parent() -> None:
    """End this process when its parent ends, however it ends: by SIGKILL, too."""
    threading.Thread(target=_wait_for_parent, name="parent", daemon=True).start()


def _wait_for_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)
