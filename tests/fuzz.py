"""Random damage to whatever a person gives, and the one rule for it: one short line or a result.

A case is a family and a number, from which everything else is drawn, so that a failure can be
repeated: ``python tests/fuzz.py data 17`` runs a case and prints what it did. `complaint` says what
is wrong with the outcome: an exception, more than a line, one over `errors.LINE` characters or with
control characters, files left behind, a damaged thing that is accepted, a whole one that is not.
Commands run in this process as far as the first notebook, which is not executed.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import random
import re
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from rockstudy import paths, runs, tasks
from rockstudy.cli import execute, launcher, main, measure
from rockstudy.config import names, study_file
from rockstudy.config.fields import TaskConfig
from rockstudy.config.presets import PRESETS
from rockstudy.errors import LINE
from rockstudy.store import cache

LIMIT = LINE
NASTY = [
    "",
    " ",
    "\u200b",
    "\x1b[31mred",
    "a\nb",
    "é\u202eb",
    "x" * 400,
    "'",
    "{",
    "%s",
    "\x00",
    "Ω",
]
DEEP = "[" * 900 + "]" * 900
RUN = ("run", "01", "--preset", "tiny", "--run-id", "fuzz")


class Accepted(BaseException):
    """Raised in place of executing the first notebook."""


@dataclass
class Case:
    """A command, what was done to what it reads, and whether it must be refused (None: either)."""

    command: list[str]
    what: str
    bad: bool | None
    check: Callable[[], str | None] | None = None  # instead of a command
    said: str = "accepted"
    home: str | None = None  # instead of the world's


class World:
    """A study's folder with a notebook, a pair of models and a run, for many cases."""

    def __init__(self, folder: Path, pair: Path) -> None:
        self.home, self.pair = folder / "home", pair
        self.temp, self.given = folder / "temp", folder / "given"
        for path in (self.home / "notebooks", self.temp, self.given):
            path.mkdir(parents=True)
        (notebook,) = (paths.REPO / "notebooks").glob("01_*.ipynb")
        shutil.copy(notebook, self.home / "notebooks")

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """Have commands work in this folder and stop before the first notebook."""

        def stop(*args: Any, **kwargs: Any) -> None:
            raise Accepted

        before, execute.execute = execute.execute, stop  # type: ignore[assignment]
        measured, measure.measure = measure.measure, stop  # type: ignore[assignment]
        launched, launcher.launch = launcher.launch, stop  # type: ignore[assignment]
        home, temp = os.environ.get("ROCKSTUDY_HOME"), tempfile.tempdir
        os.environ["ROCKSTUDY_HOME"], tempfile.tempdir = str(self.home), str(self.temp)
        try:
            self._store()
            yield
        finally:
            execute.execute, tempfile.tempdir = before, temp
            measure.measure, launcher.launch = measured, launched
            os.environ.pop("ROCKSTUDY_HOME")
            if home is not None:
                os.environ["ROCKSTUDY_HOME"] = home

    def _store(self) -> None:
        """A run with a table, as `records` damages it."""
        run = runs.open_run("tiny", "stored").path
        frame = pd.DataFrame({"a": [1.0, 2.0]})
        cache.save(run / "tables" / "t", frame, config={"seed": 0})

    def fresh(self, name: str = "case") -> Path:
        """An empty folder for what a case gives."""
        folder = self.given / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        return folder

    def files(self) -> set[Path]:
        """Everything in the study's folder and among the temporary files."""
        return {path for root in (self.home, self.temp) for path in root.rglob("*")}


def complaint(case: Case, world: World) -> str | None:
    """What is wrong with the outcome of a case; None if nothing is."""
    before, out, err = world.files(), io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                if case.check is not None:
                    return case.check()
                with at_home(case.home):
                    main.main(case.command)
            code: Any = 0
    except Accepted:
        code = 0
    except SystemExit as end:
        code = end.code or 0
    except BaseException as error:
        return f"raised {type(error).__name__}: {str(error)[:200]!r}"
    left = {path for path in world.files() - before if not _lock(path, before)}
    for path in sorted(left, reverse=True):
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
    case.said = err.getvalue() or case.said
    return judged(case, code, err.getvalue(), left)


@contextlib.contextmanager
def at_home(home: str | None) -> Iterator[None]:
    """Have the study's folder elsewhere for a command."""
    before = os.environ["ROCKSTUDY_HOME"]
    os.environ["ROCKSTUDY_HOME"] = before if home is None else home
    try:
        yield
    finally:
        os.environ["ROCKSTUDY_HOME"] = before


def _lock(path: Path, before: set[Path]) -> bool:
    """Whether a file is the lock of a run that was there before."""
    return path.name == ".lock" and path.parent in before


def judged(case: Case, code: int, err: str, left: set[Path]) -> str | None:
    """What is wrong with an exit code, a text on stderr and the files left behind."""
    if code == 0:
        return "accepted" if case.bad else None
    line = err.removesuffix("\n")
    if not line.startswith("rockstudy: ") or not line.isprintable():
        return f"not one printable line: {err[:400]!r}"
    if len(line) > LIMIT:
        return f"{len(line)} characters: {line}"
    if "Traceback" in line or "<class" in line or "Error: [Errno" in line:
        return f"Python's words: {line}"
    if left:
        return f"left behind: {sorted(str(path) for path in left)}"
    return f"refused: {line}" if case.bad is False else None


# --- data files -----------------------------------------------------------------------------------

NO_TEXT: list[Any] = [["x"], {"a": "x"}, True, None, 7, math.nan, "", " \u200b", "\ud800", []]
NO_ANSWER: list[Any] = [["2", "3"], {"value": 2}, False, None, math.inf, "\ufeff", "\udfff", [[1]]]
NO_LIST: list[Any] = ["x", 7, True, {"a": 1}, None, [], [None], [7], [["a"]]]
WORDS: dict[str, Any] = {"relation": "at least", "num_words": 3}
NO_WORDS: list[Any] = [
    *(WORDS | {"num_words": n} for n in (-1, 1.5, "3", True, [3], 1e999, None, 0)),
    *(WORDS | {"relation": r} for r in ("at most", 7, ["at least"], {}, None)),
    WORDS | {"frequency": 1},
    {},
]
NO_PATTERN: list[Any] = [
    "(a+)+$",
    "(a|aa)*$",
    "(",
    "*",
    "[",
    "x{9" + "9" * 30 + "}",
    7,
    "",
    "\ud800",
    None,
    {"a": 1},
]
NO_ARGUMENTS: list[Any] = [{"num_words": 3}, ["a"], "a", 7, True, {"": 1}]


def _rows(kind: str, rng: random.Random) -> list[dict[str, Any]]:
    if kind == "math":
        return [{"problem": f"What is {i} + 1?", "answer": str(i + 1)} for i in range(4)]
    if kind == "ifeval":
        more: dict[str, Any] = {"instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]}
        return [{"key": i, "prompt": f"Write {i}."} | more for i in range(4)]
    turns = [[{"from": "human", "value": f"What is {i} + 1?"}] for i in range(4)]
    return [{"domain": "math", "conversations": turn} for turn in turns]


def data(rng: random.Random, world: World) -> Case:
    """A file of problems, graded or trained on, whose every row is used."""
    kind = rng.choice(["math", "math", "ifeval", "openthoughts3"])
    rows, folder = _rows(kind, rng), world.fresh()
    field_name = "train_task" if kind == "openthoughts3" or rng.random() < 0.3 else "benchmarks__0"
    damage = rng.choice([_cell, _cell, _column, _bytes, _parquet, _place, _size, _whole])
    what, bad, path, more = damage(rng, kind, rows, folder)
    sizes = {"n_train": 3, "n_eval": 1} if field_name == "train_task" else {"n_eval": 4}
    if kind == "openthoughts3":
        sizes = {"n_train": 4}
    given = {"name": kind, "path": path, "max_prompt_tokens": 200} | sizes | more
    words = [w for n, v in given.items() for w in ("-p", f"{field_name}__{n}={v}")]
    return Case([*RUN, *words], f"{field_name} {kind}: {what}", bad)


def _written(folder: Path, rows: list[dict[str, Any]], name: str = "rows.jsonl") -> str:
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(folder / name)


def _cell(rng, kind, rows, folder):
    i, column = rng.randrange(4), rng.choice(list(rows[0]))
    bad = {
        "answer": NO_ANSWER,
        "instruction_id_list": NO_LIST,
        "conversations": NO_LIST,
        "key": [["x"], {"a": 1}, True, None, math.inf],
        "kwargs": [*NO_LIST[:6], *([one] for one in NO_ARGUMENTS)],
    }.get(column, NO_TEXT)
    if column == "kwargs" and rng.random() < 0.7:
        pattern = rng.random() < 0.5
        name = "keywords:existence" if pattern else "length_constraints:number_words"
        rows[i]["instruction_id_list"] = [name]
        bad = [[{"keywords": ["good", one]}] for one in NO_PATTERN] if pattern else []
        bad = bad or [[one] for one in NO_WORDS]
    rows[i][column] = value = rng.choice(bad)
    return f"row {i + 1}: {column} is {value!r}", True, _written(folder, rows), {}


def _column(rng, kind, rows, folder):
    column = rng.choice(list(rows[0]))
    if rng.random() < 0.5:
        name, bad = "".join(rng.choice([c.upper(), c]) for c in column), False
    else:
        name, bad = column[:-1] + rng.choice("xyz"), True
    renamed = [{name if k == column else k: v for k, v in row.items()} for row in rows]
    return f"{column} is called {name}", bad, _written(folder, renamed), {}


def _bytes(rng, kind, rows, folder):
    path = _written(folder, rows)
    whole = Path(path).read_bytes()
    last = len(whole.splitlines()[-1])
    done: dict[str, tuple[bytes, bool | None]] = {
        "BOM": (b"\xef\xbb\xbf" + whole, False),
        "CRLF": (whole.replace(b"\n", b"\r\n"), False),
        "blank lines": (whole.replace(b"\n", b"\n \n"), False),
        "UTF-16": (whole.decode().encode("utf-16"), True),
        "UTF-32 without mark": (whole.decode().encode("utf-32-le"), True),
        "Latin-1": (whole.replace(b"?", b"\xe9?").replace(b"Write", b"\xe9"), True),
        "cut": (whole[: -rng.randrange(2, last)], True),
        "array": (json.dumps(rows).encode(), True),
        "indented": (json.dumps(rows[0], indent=1).encode(), True),
        "CSV": (b"problem,answer\n1,2,3\n4\n", True),
        "empty": (b"", True),
        "zeros": (b"\0" * 100, True),
        "deep": (whole + DEEP.encode(), kind != "openthoughts3" or None),
        "twice": (whole.replace(b'": ', b'": 1, ' + whole[1 : whole.index(b":")] + b": ", 1), True),
        "a byte": (_with_a_byte(rng, whole), None),
    }
    what = rng.choice(list(done))
    content, bad = done[what]
    Path(path).write_bytes(content)
    return what, (None if what == "deep" else bad), path, {}


def _with_a_byte(rng: random.Random, whole: bytes) -> bytes:
    i = rng.randrange(len(whole))
    return whole[:i] + bytes([rng.randrange(256)]) + whole[i + 1 :]


def _parquet(rng, kind, rows, folder):
    path, what, bad = folder / "rows.parquet", "whole", False
    if kind == "ifeval":
        rows = [row | {"kwargs": [{"num_words": None}]} for row in rows]
    table = pa.Table.from_pylist(rows)
    column = rng.choice(table.column_names)
    if rng.random() < 0.6:
        what, bad = f"{column} in a list of two objects", True
        nested = [[{"v": v}, {"v": v}] for v in table[column].to_pylist()]
        table = table.set_column(table.column_names.index(column), column, pa.array(nested))
    pq.write_table(table, path)
    if rng.random() < 0.3:
        what, bad = "cut", True
        path.write_bytes(path.read_bytes()[: -rng.randrange(1, 60)])
    return f"parquet: {what}", bad, str(path), {}


def _place(rng, kind, rows, folder):
    path = folder / "rows.jsonl"
    what = rng.choice(["folder", "pipe", "missing", "device", "link to itself", "named", "long"])
    bad: bool | None = True
    if what == "folder":
        path.mkdir()
    elif what == "pipe":
        os.mkfifo(path)
    elif what == "device":
        path.symlink_to("/dev/zero")
    elif what == "link to itself":
        path.symlink_to(path)
    elif what == "long":
        path = folder / ("a" * 300 + ".jsonl")
    elif what == "named":
        path, bad = folder / f"ro ws{rng.choice(['é', ' ', '%', '#'])}.jsonl", None
        _written(folder, rows, path.name)
    return what, bad, str(path), {}


def _size(rng, kind, rows, folder):
    what = rng.choice(["more", "one problem", "revision", "subset", "split"])
    more: dict[str, Any] = {}
    if what == "more":
        more = {"n_train": rng.choice([5, 10**9])} | (
            {} if kind == "openthoughts3" else {"n_eval": rng.choice([5, 10**9])}
        )
    elif what == "one problem":
        rows = [rows[0]] * 4
    else:
        more = {what: rng.choice(["train", "x" * 400])}
    return what, True, _written(folder, rows), more


def _whole(rng, kind, rows, folder):
    extra = rng.choice([None, [1, {"a": [2]}], math.nan, "text", {"deep": json.loads(DEEP)}])
    rows = [row | {"another": extra} for row in rows]
    path = folder / "rows.jsonl"
    rows_text = [json.dumps(row | {"another": None})[:-6] for row in rows]
    last = DEEP if isinstance(extra, dict) else json.dumps(extra)
    path.write_text("".join(f"{text} {last}}}\n" for text in rows_text))
    return "an unused column", None if isinstance(extra, dict) else False, str(path), {}


# --- commands, names and configuration files ------------------------------------------------------


def command(rng: random.Random, world: World) -> Case:
    """A command line in which one thing is wrong."""
    kinds = [_value, _value, _name, _run_id, _option, _toml, _toml, _notebook, _measure]
    return rng.choice(kinds)(rng, world)


def _value(rng: random.Random, world: World) -> Case:
    name = rng.choice([n for n in names.FIELDS if n.split("__")[0] not in ("plugins", "preset")])
    schema = names.FIELDS[name]
    kind = schema.get("type") or ("enum" if "enum" in schema else "several")
    number = ["fast", "[1]", "{}", "True", "nan", "inf", "1e999", "-3", "1j", "9" * 5000, DEEP]
    bad = {
        "integer": [*number, "1.5"],
        "number": number,
        "boolean": ["7", "maybe", "[1]", "nan", "{}"],
        "array": ["7", "text", "{}", "True", "[-1]", "[[]]", "[None]", DEEP],
        "object": ["7", "text", "[]", "True", "{1: 2}", "{'late': 'x'}"],
        "enum": NASTY,
    }.get(kind)
    value = rng.choice(bad or ["{}", "[[1]]"])
    return Case([*RUN, "-p", f"{name}={value}"], f"{name} = {value[:60]!r}", bool(bad) or None)


def _name(rng: random.Random, world: World) -> Case:
    known = rng.choice(list(names.FIELDS))
    name = rng.choice(
        [
            known[: rng.randrange(1, len(known))] + "_x",
            known.replace("__", "___") if "__" in known else known + "__",
            f"benchmarks__{rng.choice(['9', '-1', '٣', '²', '1e3', '9' * 400])}__n_eval",
            rng.choice(NASTY) + "x" * 300,
            f"seed__{known}",
            f"{known}__{known}",
            "benchmarks__0",
        ]
    )
    return Case([*RUN, "-p", f"{name}=1"], f"unknown name {name[:60]!r}", True)


def _run_id(rng: random.Random, world: World) -> Case:
    name = rng.choice([*NASTY[:9], "../x", ".", "..", "a/b", "x" * 65, "-x", "reference", "nul\0"])
    return Case(["run", "01", "--preset", "tiny", f"--run-id={name}"], f"run {name[:60]!r}", True)


def _option(rng: random.Random, world: World) -> Case:
    words = rng.choice(
        [
            ["--seed", rng.choice(["-1", "1.5", "one", str(2**32), "9" * 5000, ""])],
            ["--from", rng.choice(["nothing", "../x", "", "x" * 300, "\x1b[31m"])],
            ["--timeout", rng.choice(["0", "-1", "nan", "soon", ""])],
            ["--config", rng.choice(["missing.toml", "", "/dev/zero", "x" * 300 + ".toml", "\n"])],
            [rng.choice(["--nothing", "--se\x1bd", "-z", "--" + "x" * 400])],
            ["-p", rng.choice(["", "=", "x", "=1", "seed=1", "run_id=x"])],
            ["--processes", rng.choice(["0", "-3", "two"])],
        ]
    )
    base = RUN if words[0] != "--config" else ("run", "01", "--run-id", "fuzz")
    if words[0] == "--from":
        base = ("run", "01", "--run-id", "fuzz")
    return Case([*base, *words], f"option {words!r:.80}", True)


def _measure(rng: random.Random, world: World) -> Case:
    words = rng.choice(
        [
            [rng.choice(["statistic", "all", *NASTY])],
            ["--processes", rng.choice(["3", "1024", "0", "1025", "two", ""])],
            ["--run-id", rng.choice(["reference", "", "../x", "x" * 300])],
            ["-p", "pair__student=" + rng.choice(["/tmp", "./nothing", "lab:judge", "~a"])],
            ["-p", rng.choice(["stage1__max_new_tokens=5000", "evaluation__engine=vllm"])],
            ["-p", rng.choice(["pair__gguf_file=a.gguf", "pair__teacher_revision=main"])],
        ]
    )
    return Case(["measure", *RUN[2:], *words], f"measure {words!r:.80}", True)


def _notebook(rng: random.Random, world: World) -> Case:
    path = world.fresh() / "mine.ipynb"
    cell = '{"cell_type": "code", "metadata": {"tags": ["parameters"]}, "source": "x = (",'
    content = rng.choice(
        [
            *("", "{", "[]", "null", '{"cells": 3}', '{"cells": [7]}', DEEP, "\ufeff{}"),
            f'{{"cells": [{cell} "outputs": []}}], "nbformat": 4, "nbformat_minor": 5}}',
        ]
    )
    path.write_text(content, encoding="utf-8")
    name = rng.choice([str(path)] * 3 + [*NASTY, "99", "0" * 400, "/dev/null", "01.ipynb.bak"])
    return Case(
        ["run", name, "--preset", "tiny", "--run-id", "fuzz"],
        f"notebook {name[-60:]!r} {content[:40]!r}",
        True,
    )


def _toml(rng: random.Random, world: World) -> Case:
    text, folder = study_file.text(PRESETS["tiny"]), world.fresh()
    lines = [
        i for i, line in enumerate(text.splitlines()) if re.match(r"n?_?[a-z0-9_]+ = \d", line)
    ]
    split = text.splitlines()
    i = rng.choice(lines)
    name = split[i].split(" = ")[0]
    junk = rng.choice(["fast", '"x"', "[]", "{}", "true", "nan", "inf", "-7", "1979-05-27", "0x"])
    changed = [*split[:i], f"{name} = {junk}", *split[i + 1 :]]
    done: dict[str, tuple[bytes, bool | None]] = {
        f"{name} = {junk}": ("\n".join(changed).encode(), True),
        "twice": ("\n".join([*split[: i + 1], split[i], *split[i + 1 :]]).encode(), True),
        "UTF-16": (text.encode("utf-16"), True),
        "NUL": (text.encode() + b"\0", True),
        "not UTF-8": (text.encode() + b"# \xff", True),
        "unknown table": (text.encode() + b"\n[nothing]\nx = 1\n", True),
        "unknown field": (f"{rng.choice(['x', '_', 'é'])} = 1\n{text}".encode(), True),
        "deep": (text.encode() + b"\n[stage3]\nx = " + DEEP.encode(), True),
        "cut": (text.encode()[: rng.randrange(len(text))], None),
        "a byte": (_with_a_byte(rng, text.encode()), None),
        "CRLF": (text.replace("\n", "\r\n").encode(), False),
        "whole": (text.encode(), False),
    }
    what = rng.choice([f"{name} = {junk}", *done])
    content, bad = done[what]
    (folder / "mine.toml").write_bytes(content)
    words = ["run", "01", "--run-id", "fuzz", "--config", str(folder / "mine.toml")]
    return Case(words, f"TOML: {what}", bad)


# --- folders of models ----------------------------------------------------------------------------


def models(rng: random.Random, world: World) -> Case:
    """A pair on this machine, one file of which is damaged."""
    folder = world.fresh()
    for role in ("teacher", "student"):
        shutil.copytree(world.pair / role, folder / role)
    role = rng.choice(["teacher", "student"])
    file = rng.choice(["config.json", "config.json", "tokenizer_config.json", "tokenizer.json"])
    if rng.random() < 0.25:
        what, bad = _template(rng, folder / role)
    else:
        what, bad = _json(rng, folder / role / file)
    words = [f"pair__{r}={folder / r}" for r in ("teacher", "student")]
    both = [word for given in words for word in ("-p", given)]
    return Case([*RUN, *both], f"{role}: {what}", bad)


def _json(rng: random.Random, file: Path) -> tuple[str, bool | None]:
    text = file.read_text(encoding="utf-8")
    table = json.loads(text)
    key = rng.choice(list(table))
    value = rng.choice([None, -1, 0, 10**12, "x", [], {}, True, 1.5, math.nan, ["a"], {"a": 1}])
    sizes = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads")
    wrong_size = key in sizes and (not isinstance(value, int) or value < 1 or value is True)
    done: dict[str, tuple[bytes, bool | None]] = {
        f"{key} = {value!r}": (json.dumps(table | {key: value}).encode(), wrong_size or None),
        f"no {key}": (json.dumps({k: v for k, v in table.items() if k != key}).encode(), None),
        "cut": (text.encode()[: rng.randrange(len(text) - 2)], True),
        "empty": (b"", True),
        "a list": (b"[1]", True),
        "null": (b"null", True),
        "UTF-16": (text.encode("utf-16"), True),
        "deep": (DEEP.encode(), True),
        "a byte": (_with_a_byte(rng, text.encode()), None),
    }
    what = rng.choice([f"{key} = {value!r}"] * 6 + list(done))
    content, bad = done[what]
    file.write_bytes(content)
    return f"{file.name}: {what}", bad


def _template(rng: random.Random, folder: Path) -> tuple[str, bool | None]:
    template = rng.choice(
        [
            "{% for m in messages %}",
            "{{ nothing.at.all }}",
            "{{ raise_exception('no\n\x1b[31m') }}",
            "{{ messages[7].content }}",
            "{% if %}",
            "{{ 1 / 0 }}",
            "{{ messages | nofilter }}",
            "{" * 500,
        ]
    )
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    bad = True if folder.name == "teacher" else None  # its template makes the prompts of both
    return f"template {template[:40]!r}", bad


# --- grading --------------------------------------------------------------------------------------


def grading(rng: random.Random, world: World) -> Case:
    """An answer and a text to grade: a verdict for each, right where it is plain."""
    number = rng.randrange(-999, 999)
    junk = rng.choice([*NASTY, "{" * 300, "\\boxed{" * 50, "\\frac{1}{", "9" * 5000, "\ud800"])
    answer, text, expected = rng.choice(
        [
            (str(number), f"so \\boxed{{{number}}}", True),
            (str(number), f"\\boxed{{{number + 1}}}{junk}", False),
            (f"\\frac{{{number}}}{{7}}", f"\\boxed{{\\frac{{{number}}}{{7}}}}", True),
            (str(number), f"{junk}\\boxed{{{junk}}}", None),
            (str(number), junk, None),
            (rng.choice(["\\sqrt{", "}", "x^", "\\text{no}", "(1,"]), f"\\boxed{{{junk}}}", None),
            (
                str(number),
                f"\\boxed{{{rng.choice(['9^9^9^9', '10^{10^10}', '2^{2^{99}}'])}}}",
                False,
            ),
        ]
    )
    name = rng.choice(["math", "arithmetic"]) if "frac" not in answer else "math"
    answer = str(number) if name == "arithmetic" else answer

    def check() -> str | None:
        sizes = {"n_train": 1, "n_eval": 1, "max_prompt_tokens": 9}
        task = TaskConfig(name=name, path="x.jsonl" if name == "math" else None, **sizes)
        verdicts = tasks.grade(task, [tasks.Problem("", answer, "", "", {})], [text])
        if verdicts.shape != (1,):
            return f"verdicts of shape {verdicts.shape}"
        wrong = expected is not None and bool(verdicts[0]) is not expected
        return f"graded {bool(verdicts[0])}" if wrong else None

    return Case([], f"{name}: {answer[:60]!r} against {text[:60]!r}", None, check)


# --- what runs have stored ------------------------------------------------------------------------


def records(rng: random.Random, world: World) -> Case:
    """A stored run with a damaged record, manifest or table, which a command then reads."""
    run = world.home / "runs" / "hurt"
    shutil.rmtree(run) if run.is_dir() else run.unlink(missing_ok=True)
    run = Path(shutil.copytree(world.home / "runs" / "stored", world.home / "runs" / "hurt"))
    name = rng.choice(["run.json", "run.json", "tables/t.json", "tables/t.parquet"])
    file = run / name
    whole = file.read_bytes()
    done: dict[str, tuple[bytes, bool | None]] = {
        "cut": (whole[: rng.randrange(1, len(whole) - 2)], True),
        "empty": (b"", True),
        "a list": (b"[]", True),
        "null": (b"null", True),
        "text": (b'"\\ud800"', True),
        "an object": (b"{}", True),
        "UTF-16": (whole + b"\xff\xfe\x00", True),
        "deep": (DEEP.encode(), True),
        "a byte": (_with_a_byte(rng, whole), None),
    }
    if name.endswith(".json"):
        table = json.loads(whole)
        key = rng.choice(list(table))
        junk = rng.choice([None, 7, [], "x\n\x1b", {}, True, {"a": {"b": 1}}])
        done[f"{key} = {junk!r}"] = (json.dumps(table | {key: junk}).encode(), None)
    what = rng.choice(list(done))
    content, bad = done[what]
    file.write_bytes(content)
    words = rng.choice(
        [
            ["run", "01", "--run-id", "hurt"],
            ["info"],
            ["claims", "--run", "hurt"],
            ["run", "01", "--run-id", "fuzz", "--from", "hurt"],
            ["config", "--run-id", "hurt"],
        ]
    )
    read = name == "run.json" and words[0] == "run"
    return Case(words, f"{name}: {what}", bad if read else None)


# --- what lies where a file or a folder should ----------------------------------------------------

PUT: dict[str, Callable[[Path], Any]] = {
    "nothing": lambda path: None,
    "a link to itself": lambda path: path.symlink_to(path),
    "a link to nothing": lambda path: path.symlink_to(path.parent / "nothing"),
    "a device": lambda path: path.symlink_to("/dev/zero"),
    "a pipe": os.mkfifo,
}


def places(rng: random.Random, world: World) -> Case:
    """A thing of a wrong kind, or nothing, where a command looks for a file or a folder."""
    folder = world.fresh()
    ours = "record", "run"
    where = rng.choice([*ours, "toml", "plugin", "notebook", "model", "home", "to", "build"])
    name = {"toml": "a.toml", "plugin": "a_plugin.py", "notebook": "a.ipynb"}.get(where, "a")
    path = folder / name
    run = world.home / "runs" / "hurt"
    shutil.rmtree(run) if run.is_dir() else run.unlink(missing_ok=True)
    path = run if where in ours else path
    if where == "record":
        path.mkdir()
        path = path / "run.json"
    kinds = dict(PUT)
    if where in ours:
        kinds.pop("nothing")
    wrong = "a file" if where in ("run", "model", "home", "to") else "a folder"
    kinds[wrong] = Path.touch if wrong == "a file" else Path.mkdir
    what = rng.choice([*kinds, *(["~nobody", "x" * 300] if where not in ours else [])])
    kinds.get(what, lambda path: None)(path)
    given = str(path) if what in kinds else what + Path(name).suffix
    on_hurt = [["run", "01", "--run-id", "hurt"], ["measure", "--run-id", "hurt"]]
    on_hurt += [["report", "--run", "hurt"], ["new", "a_fork", "--run-id", "hurt"]]
    words = {
        "record": rng.choice([*on_hurt, [*RUN[:2], "--run-id", "fuzz", "--from", "hurt"]]),
        "run": rng.choice(on_hurt),
        "toml": [*rng.choice([["config"], ["run", "01", "--run-id", "fuzz"]]), "--config", given],
        "plugin": [*RUN, "-p", f"plugins=['{given}']"],
        "notebook": ["run", given, *RUN[2:]],
        "model": ["measure", *RUN[2:], "-p", f"pair__student={given}"],
        "home": rng.choice([[*RUN], ["info"], ["claims", "--reference", "lab"]]),
        "to": ["new", "a_fork", "--preset", "tiny", "--to", given],
        "build": ["lab", "build", "--out", str(folder / "built"), "--config", given],
    }[where]
    home = given if where == "home" else None
    return Case(words, f"{where}: {what[:20]}", True, home=home)


FAMILIES: dict[str, Callable[[random.Random, World], Case]] = {
    f.__name__: f for f in (data, command, models, grading, records, places)
}


def case_of(family: str, number: int, world: World) -> Case:
    """The case of a family and a number, always the same."""
    return FAMILIES[family](random.Random(f"{family} {number}"), world)


def failures(family: str, numbers: range, world: World, verbose: bool = False) -> list[str]:
    """A line for each case whose outcome is wrong; for every case where `verbose`."""
    lines = []
    with world.entered():
        for number in numbers:
            case = case_of(family, number, world)
            reason = complaint(case, world)
            if reason is not None or verbose:
                outcome = f"WRONG, {reason}" if reason else case.said.strip()
                lines.append(f"fuzz.py {family} {number}: {case.what}: {outcome}")
    return lines


if __name__ == "__main__":
    from conftest import make_pair, make_tokenizer

    family, first, *last = sys.argv[1:]
    numbers = range(int(first), int(*last or [first]) + 1)
    with tempfile.TemporaryDirectory() as made:
        pair = make_pair(Path(made) / "pair", make_tokenizer())
        where = World(Path(made) / "world", pair)
        print("\n".join(failures(family, numbers, where, verbose=True)))
