#!/usr/bin/env bash
# What the feature `mpi` needs on Debian and Ubuntu: OpenMPI, and the libclang that its bindings are made with.
set -euo pipefail
run=()
[ "$(id -u)" = 0 ] || run=(sudo)
"${run[@]}" apt-get install -y libopenmpi-dev openmpi-bin libclang-dev
