"""Records which fields of the configuration each step reads, in every process that finds this file.

Python imports ``sitecustomize`` when it starts. With this folder first in ``PYTHONPATH`` and a file
named by ``FIELDS_READ``, a notebook's kernel appends a JSON line to that file for every table that
it computes: the fields that the step declares and the fields that it has read. Reads inside what a
step takes from elsewhere (other tables, trainings, samples) are left out: these have keys of their
own, and their hashes are inputs of the step.
"""

import functools
import importlib.abc
import importlib.util
import json
import os
import sys

WATCHED = "rockstudy.runs"
reading: list[set[str] | None] = []  # a set for each step that computes, None inside what it takes


class WatchOnImport(importlib.abc.MetaPathFinder):
    """Patches `rockstudy.runs` as soon as it has been imported."""

    def find_spec(self, name, path, target=None):
        if name != WATCHED:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        execute = spec.loader.exec_module

        def execute_and_watch(module):
            execute(module)
            watch_fields()
            watch_run(module)

        spec.loader.exec_module = execute_and_watch
        return spec


def watch_fields() -> None:
    from pydantic import BaseModel

    from rockstudy.config import fields

    for section in vars(fields).values():
        if isinstance(section, type) and issubclass(section, BaseModel) and section.model_fields:
            names = frozenset(section.model_fields)

            def read(self, name, names=names):
                if name in names and reading and reading[-1] is not None:
                    reading[-1].add(f"{type(self).__name__}.{name}")
                return object.__getattribute__(self, name)

            section.__getattribute__ = read


def watch_run(runs) -> None:
    def apart(method):
        @functools.wraps(method)
        def taking(*args, **kwargs):
            reading.append(None)
            try:
                return method(*args, **kwargs)
            finally:
                reading.pop()

        return taking

    for name in ("sampled", "folder", "is_stored", "addressed"):
        setattr(runs.Run, name, apart(getattr(runs.Run, name)))
    table = runs.Run.table

    @functools.wraps(table)
    def recording(self, compute, *given, fields=(), **kwargs):
        @functools.wraps(compute)
        def step(*args):
            reading.append(set())
            try:
                return compute(*args)
            finally:
                line = {"step": compute.__qualname__, "declared": list(fields)}
                line["read"] = sorted(reading.pop())
                with open(os.environ["FIELDS_READ"], "a", encoding="utf-8") as file:
                    file.write(json.dumps(line) + "\n")

        return table(self, step, *given, fields=fields, **kwargs)

    runs.Run.table = apart(recording)


if "FIELDS_READ" in os.environ:
    sys.meta_path.insert(0, WatchOnImport())
