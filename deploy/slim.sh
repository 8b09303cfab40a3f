#!/bin/sh
# Removes from an environment what no server needs: tests, headers, tools and symbols of libraries. About 370 MB.
#
#   sh deploy/slim.sh /opt/thetaprime
set -eu
packages=$(echo "$1"/lib/python3.*/site-packages)
rm -rf "$packages"/torch/test "$packages"/torch/include "$packages"/onnx/backend/test
# torch looks for one program when it is imported.
find "$packages"/torch/bin -type f ! -name torch_shm_manager -delete
find "$packages" -type d -name tests -prune -exec rm -rf {} +
strip --strip-unneeded "$packages"/torch/lib/libtorch_cpu.so "$packages"/torch/lib/libtorch_python.so
