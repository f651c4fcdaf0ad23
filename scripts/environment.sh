# Sourced by demo, test and check: makes .venv with the pinned versions, once. uv installs them in a third of the time
# that pip takes; it reads pip's index and UV_* variables, but not the other settings of pip.
# usage: prepare [EXTRA]      EXTRA is an optional dependency group of pyproject.toml, such as dev
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

find_python() {
  local candidate
  for candidate in "${PYTHON:-}" python3 python3.13 python3.12 python3.11; do
    if [ -n "$candidate" ] && "$candidate" -c 'import sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      echo "$candidate"
      return
    fi
  done
  echo "pocketvit needs Python 3.11 or newer with venv (Debian: apt install python3-venv). Set PYTHON to name one." >&2
  return 1
}

prepare() {
  local extra="${1:+[$1]}" stamp wanted python index
  stamp=".venv/installed-${1:-run}"
  wanted="$(cat pyproject.toml constraints.txt | cksum)"
  if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ]; then return; fi
  python="$(find_python)"
  echo "Setting up .venv (PyTorch and friends: about 6 GB and a few minutes, once)…" >&2
  [ -x .venv/bin/python ] || "$python" -m venv .venv
  .venv/bin/python -m pip install --quiet --disable-pip-version-check uv==0.13.9
  # A mirror that pip is set up to use is uv's too; without one uv has its own default.
  index="${UV_DEFAULT_INDEX:-${PIP_INDEX_URL:-$(.venv/bin/python -m pip config get global.index-url 2>/dev/null || true)}}"
  if [ -n "$index" ]; then export UV_DEFAULT_INDEX="$index"; fi
  .venv/bin/uv pip install --quiet --compile-bytecode --python .venv/bin/python -c constraints.txt -e ".$extra"
  echo "$wanted" > "$stamp"
}
