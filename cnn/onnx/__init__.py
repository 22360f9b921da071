"""ONNX files: models written to them and read from them, each checked against ONNX Runtime."""
