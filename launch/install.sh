# Sourced by the launch scripts from the repository: the environment and what CUDA runs need beside.
make .venv/.installed
python -m pip install -q -e '.[vllm,ifeval]'
python -m nltk.downloader -q punkt_tab # two of IFEval's checkers split sentences with it
