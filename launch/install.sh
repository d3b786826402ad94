# Sourced by the launch scripts from the repository: the environment and further packages for CUDA.
# A second call finds its stamp newer than make's, installs nothing and needs no network.
make .venv/.installed
if [ ! .venv/.launch -nt .venv/.installed ]; then
	python -m pip install -q -e '.[vllm,ifeval]' &&
		python -m nltk.downloader -q punkt_tab && # two of IFEval's checkers split sentences with it
		touch .venv/.launch || return 1
fi
