"""Trained models as files that other programs run: torch.export and ONNX, with a model card."""
