"""Shared code of the ECMF notebooks: reproducible multimodal emotion recognition."""

__version__ = "0.1.0"
