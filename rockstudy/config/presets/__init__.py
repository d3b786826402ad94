"""The presets, one TOML file each: from seconds on a laptop to the paper's own run.

Values marked "paper" carry their locator in arXiv 2605.09253, in our summary's numbering. The
others are ours, chosen for the machine in the file's first line.
"""

import tomllib
from collections.abc import Mapping
from pathlib import Path

from rockstudy.config.fields import StudyConfig


def _read(name: str) -> StudyConfig:
    text = (Path(__file__).parent / f"{name}.toml").read_text(encoding="utf-8")
    return StudyConfig.model_validate({"preset": name} | tomllib.loads(text))


PRESETS: Mapping[str, StudyConfig] = {
    name: _read(name) for name in ("tiny", "lab", "smollm2", "qwen3", "paper", "own")
}
