"""The offline side of densepack: ONNX, engines, gates, the build pipeline and the command line."""
