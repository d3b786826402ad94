#!/usr/bin/env bash
# Everything on one CUDA card that shows whether the study runs there, by worth, in half an hour:
# launch/first_half_hour.sh [PART ...] [--limit SECONDS]. It takes the machine's own torch and needs
# no network. PYTHON names the interpreter. A second call goes on. We have not run it on a card.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

fits='import pip, sys, importlib.metadata as m
torch = tuple(map(int, m.version("torch").split(".")[:2]))
sys.exit(sys.version_info < (3, 11) or torch < (2, 11))'
if [ -z "${PYTHON:-}" ]; then
	for one in python3 python3.12 python3.11 python3.13 .venv/bin/python; do
		if "$one" -c "$fits" 2>/dev/null; then
			PYTHON=$one
			break
		fi
	done
fi
if [ -z "${PYTHON:-}" ]; then
	echo "first_half_hour: Python 3.11 or newer with pip and torch 2.11 or newer is needed, none found;" \
		"name one with PYTHON=/path/to/python3, or run make setup where there is a network" >&2
	exit 2
fi
"$PYTHON" launch/gpu_environment.py install
export PYTHONPATH=$PWD/.gpu/site:$PWD${PYTHONPATH:+:$PYTHONPATH}
export CUDA_VISIBLE_DEVICES=${CUDA_VISIBLE_DEVICES:-0} # one card, whatever else is there
exec "$PYTHON" -m rockstudy.cli.half_hour "$@"
