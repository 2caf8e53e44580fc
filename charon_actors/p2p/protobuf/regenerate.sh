#!/usr/bin/env bash
# Makes the *_pb2 modules anew from the .proto files. Needs grpcio-tools (development dependency).
set -eu
cd "$(dirname "$0")"
python -m grpc_tools.protoc -I . --python_out=. --pyi_out=. ./*.proto
