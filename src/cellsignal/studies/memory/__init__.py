"""How much memory commands need at the full size of RxRx1, measured on simulated inputs."""
