"""Models as callables, whatever computes them: torch, OpenVINO or ONNX Runtime."""
