"""The `onnxdam` command: parse, call one library function, print."""
