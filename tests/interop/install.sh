#!/usr/bin/env bash
# Installs what the interop tests talk to: Lodestar (two generations) and libp2p implementations. Needs node and npm. Idempotent.
set -eu
cd "$(dirname "$0")"
bash libp2p/install.sh
bash devnet/install.sh
bash devnet/bench/install.sh
