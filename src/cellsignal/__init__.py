"""cellsignal: reading from microscope images what a drug or a gene knock-down did to cells."""

__version__ = "0.1.0"
