#!/usr/bin/env bash
# Installs the two independent libp2p peers of the interop tests into a cache directory. Does nothing when they are there.
#   js-libp2p         from npm, versions pinned by package-lock.json (Node 20 or newer)
#   go-libp2p daemon  the static `p2pd` binary inside the PyPI wheel hivemind 1.1.12 (linux x86_64; MIT)
# CHARON_LIBP2P_CACHE names another directory. Source: specification 03-p2p, section 13.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=${CHARON_LIBP2P_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/charon-actors/libp2p}
python=${PYTHON:-python3}
mkdir -p "$cache"

stamp=$(cat "$here/package.json" "$here/package-lock.json" | sha256sum | cut -d' ' -f1)
if [ "$(cat "$cache/.complete" 2>/dev/null || true)" != "$stamp" ]; then
  rm -f "$cache/.complete"
  cp "$here/package.json" "$here/package-lock.json" "$cache/"
  (cd "$cache" && npm ci --ignore-scripts --omit=optional --no-audit --no-fund --loglevel=error)
  echo "$stamp" > "$cache/.complete"
fi
cp "$here/peer.mjs" "$here/preload.cjs" "$cache/"

if [ ! -x "$cache/p2pd" ]; then
  wheel=$(mktemp -d)
  trap 'rm -rf "$wheel"' EXIT
  "$python" -m pip download --quiet --no-deps --dest "$wheel" hivemind==1.1.12
  "$python" - "$wheel" "$cache/p2pd" <<'PY'
import pathlib, sys, zipfile

wheel = next(pathlib.Path(sys.argv[1]).glob("hivemind-*.whl"))
with zipfile.ZipFile(wheel) as archive:
    pathlib.Path(sys.argv[2]).write_bytes(archive.read("hivemind/hivemind_cli/p2pd"))
PY
  chmod 755 "$cache/p2pd"
fi
echo "installed in $cache"
