"""The first half hour on a CUDA machine: every part that has never run there, in one command.

    make gpu                              all parts, by worth, at most half an hour
    make gpu ARGS='precision tiny'        some of them
    make gpu ARGS=--shrunken              all in small sizes on the CPU, which shows that they work

Each part (`half_hour_parts`) is a process with a limit of its own and a log. A folder has

    parts.csv     a row per part: its state, seconds, why, and the machine it ran on
    results.csv   ``part, name, value, note``: what the parts measured
    table.md      both to read
    logs/         all that a part printed; home/ has the studies

The files are replaced whole after every part. A part that is done on the same machine is passed
over by the next call; those that failed, were skipped, interrupted or out of time run again, and a
study then goes on where it stopped. The exit code is 0 if no part failed, 130 after Ctrl-C.
"""

import argparse
import contextlib
import csv
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rockstudy import paths
from rockstudy.cli import running
from rockstudy.cli.half_hour_parts import Part, lacking, parts
from rockstudy.errors import StudyError, line
from rockstudy.store import files

TOTAL = 1_800.0  # seconds
SLOWER = 4.0  # ours: shrunken parts take a minute on a CPU, and minutes on a busy one
PATIENCE = 15.0  # seconds that an ended part has, to end its own processes
DONE, FAILED, SKIPPED, LATE, STOPPED = "done", "failed", "skipped", "out of time", "interrupted"
MACHINE = ("card", "memory_gb", "torch", "cuda", "python", "transformers", "trl", "vllm", "cpus")
COLUMNS = ("part", "state", "seconds", "limit_s", "why", "size", *MACHINE)
_PROBE = """
import json, os, platform, torch
from importlib.metadata import PackageNotFoundError, version
def of(name):
    try: return version(name)
    except PackageNotFoundError: return ""
there = torch.cuda.is_available()
card = torch.cuda.get_device_properties(0) if there else None
print(json.dumps({"card": card.name if there else "cpu", "torch": torch.__version__,
    "memory_gb": round(card.total_memory / 1e9, 1) if there else "",
    "cuda": torch.version.cuda or "",
    "python": platform.python_version(), "cpus": os.cpu_count(),
    **{name: of(name) for name in ("transformers", "trl", "vllm")}}))
"""


def machine(environment: Mapping[str, str]) -> dict[str, Any]:
    """The card's name (``cpu`` without one) and versions, from a process that then frees the card.

    `StudyError`: torch cannot be imported.
    """
    command = [sys.executable, "-c", _PROBE]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise StudyError(f"torch: must be importable by {sys.executable}; {last}")
    return json.loads(done.stdout.splitlines()[-1])


class HalfHour:
    """The parts in a folder, on one machine.

    `shrunken` takes the small commands and hides the card. `total` is in seconds, for one call.
    """

    def __init__(self, folder: Path, shrunken: bool, total: float = TOTAL) -> None:
        self.folder, self.shrunken, self.total = folder, shrunken, total
        self.size = "shrunken" if shrunken else "whole"
        (folder / "home").mkdir(parents=True, exist_ok=True)
        (folder / "logs").mkdir(exist_ok=True)
        known = filter(None, (str(paths.REPO), os.environ.get("PYTHONPATH")))
        self.environment = os.environ | {
            "PYTHONPATH": os.pathsep.join(known),
            "ROCKSTUDY_HOME": str((folder / "home").resolve()),
            "HF_HUB_OFFLINE": "1",  # no part waits for a network
            **({"CUDA_VISIBLE_DEVICES": ""} if shrunken else {}),
        }
        self.machine = machine(self.environment)
        self.records = self._read()

    def run(self, chosen: Sequence[Part]) -> None:
        """Run parts in order; `KeyboardInterrupt` passes on after the part's end is recorded."""
        end = time.monotonic() + self.total
        for part in chosen:
            if self._is_done(part):
                self._tell(part, "done before")
                continue
            try:
                record = self._record(part, end - time.monotonic())
            except KeyboardInterrupt:
                self._put(part, {"state": STOPPED, "why": "the next call runs it again"})
                raise
            self._put(part, record)
            seconds = f" in {record['seconds']:.0f} s" if "seconds" in record else ""
            self._tell(part, record["state"] + seconds, record.get("why", ""))

    def failed(self, chosen: Sequence[Part]) -> list[str]:
        """Names of the parts that failed."""
        return [p.name for p in chosen if self.records.get(p.name, {}).get("state") == FAILED]

    def _record(self, part: Part, left: float) -> dict[str, Any]:
        """Run one part if it can be run; its state, seconds, reason and results."""
        needs = part.small_needs if self.shrunken else part.needs
        if missing := lacking(needs, self.machine["card"] != "cpu"):
            return {"state": SKIPPED, "why": f"needs {', '.join(missing)}"}
        if left <= 0:
            return {"state": LATE, "why": f"the {self.total:.0f} s of the call were over before it"}
        limit, start = min(self._limit(part), left), time.monotonic()
        self._tell(part, f"{self.size}, at most {limit:.0f} s", part.about)
        log = self.folder / "logs" / f"{part.name}.log"
        log.write_bytes(b"")
        code = None
        for command in part.small if self.shrunken else part.commands:
            code = self._call(command, log, start + limit - time.monotonic())
            if code != 0:
                break
        seconds = {"seconds": round(time.monotonic() - start, 1)}
        text = log.read_text(encoding="utf-8", errors="replace")
        if code is None:
            return {"state": LATE, "why": f"ended after {limit:.0f} s; {_last(text)}"} | seconds
        results = [list(one) for one in part.read(text)]
        if code:
            return {"state": FAILED, "why": _last(text), "results": results} | seconds
        return {"state": DONE, "why": "", "results": results} | seconds

    def _call(self, command: Sequence[str], log: Path, seconds: float) -> int | None:
        """Exit code of one command, whose output goes to the log; None where time ran out."""
        with log.open("ab") as stream:
            process = subprocess.Popen(
                [sys.executable, *command], cwd=paths.REPO, env=self.environment,
                stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, start_new_session=True,
            )  # fmt: skip
            try:
                return process.wait(max(seconds, 0))
            except subprocess.TimeoutExpired:
                return None
            finally:
                _end(process)

    def _limit(self, part: Part) -> float:
        return part.limit * (SLOWER if self.shrunken else 1)

    def _is_done(self, part: Part) -> bool:
        record = self.records.get(part.name, {})
        now = {"size": self.size} | {name: self.machine[name] for name in ("card", "torch")}
        return record.get("state") == DONE and all(record.get(k) == v for k, v in now.items())

    def _put(self, part: Part, record: dict[str, Any]) -> None:
        """Record a part, and write every file anew."""
        about = {"part": part.name, "limit_s": self._limit(part), "size": self.size}
        self.records[part.name] = about | self.machine | record
        known = {one.name: i for i, one in enumerate(parts())}
        rows = sorted(self.records.values(), key=lambda one: known.get(one["part"], len(known)))
        files.write_json(self.folder / "records.json", {"records": rows})
        found = [[row["part"], *one] for row in rows for one in row.get("results", [])]
        table = [[row.get(name, "") for name in COLUMNS] for row in rows]
        self._write("parts.csv", _csv(COLUMNS, table))
        self._write("results.csv", _csv(("part", "name", "value", "note"), found))
        self._write("table.md", markdown(rows, found))

    def _read(self) -> dict[str, dict[str, Any]]:
        file = self.folder / "records.json"
        if not file.exists():
            return {}
        try:
            return {one["part"]: one for one in files.read_json(file)["records"]}
        except (ValueError, KeyError, TypeError):
            raise StudyError(f"{file}: must be what this command wrote; remove it") from None

    def _write(self, name: str, text: str) -> None:
        with files.temporary(self.folder / name) as waiting:
            waiting.write_text(text, encoding="utf-8")
            files.put(waiting, self.folder / name)

    def _tell(self, part: Part, state: str, why: str = "") -> None:
        print(f"{part.name:18}{state}{': ' if why else ''}{why}", flush=True)


def markdown(rows: Sequence[Mapping[str, Any]], found: Sequence[Sequence[Any]]) -> str:
    """The two tables to read, below the machines that made them."""
    cards = dict.fromkeys(
        f"{row['card']}, torch {row['torch']}, Python {row['python']}, "
        f"transformers {row['transformers']}, {row['size']}"
        for row in rows
    )
    lines = ["# The first half hour", "", *[f"- {card}" for card in cards], ""]
    lines += ["| part | state | seconds | why |", "|---|---|---|---|"]
    for row in rows:
        cells = (row["part"], row["state"], row.get("seconds", ""), row.get("why", ""))
        lines.append("| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |")
    lines += ["", "| part | result | value | |", "|---|---|---|---|"]
    for part, name, value, note in found:
        number = f"{value:,.4g}" if isinstance(value, float) else "" if value is None else value
        lines.append(f"| {part} | {name} | {number} | {note} |")
    return "\n".join(lines) + "\n"


def _csv(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerows([head, *rows])
    return stream.getvalue()


def _last(log: str) -> str:
    """The line of a log that tells most: the last about memory, else the last one."""
    lines = [one.strip() for one in log.splitlines() if one.strip()]
    memory = [one for one in lines if "out of memory" in one.lower()]
    return line((memory or lines or ["it printed nothing"])[-1])


def _end(process: subprocess.Popen) -> None:
    """End a part and what it has started; what does not end by itself is killed."""
    if process.poll() is None:
        _signal(process, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired, KeyboardInterrupt):
            process.wait(PATIENCE)
    _signal(process, signal.SIGKILL)  # the group can outlive its first process
    process.wait()


def _signal(process: subprocess.Popen, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):  # all have ended
        os.killpg(process.pid, number)  # the session's first process has the group's number


def main(arguments: Sequence[str] | None = None) -> int:
    """Run parts and return the exit code; errors of a user are one line."""
    known = {part.name: part for part in parts()}
    parser = argparse.ArgumentParser(prog="half_hour", description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(known)}")
    parser.add_argument("--shrunken", action="store_true", help="small sizes, on the CPU")
    parser.add_argument("--limit", type=float, default=TOTAL, help="seconds of this call")
    parser.add_argument("--folder", type=Path, help="of the results; half-hour by default")
    given = parser.parse_args(arguments)
    if unknown := [name for name in given.parts if name not in known]:
        parser.error(f"PART: must be one of {', '.join(known)}; got {unknown[0]!r}")
    if not given.limit > 0:
        parser.error(f"--limit: must be above 0 seconds; got {given.limit:g}")
    chosen = [part for part in known.values() if not given.parts or part.name in given.parts]
    try:
        folder = given.folder or paths.home() / "half-hour"
        with running.locked(folder):
            return _run(HalfHour(folder, given.shrunken, given.limit), chosen)
    except StudyError as error:
        print(f"half_hour: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("half_hour: interrupted; the same command goes on", file=sys.stderr)
        return 130


def _run(made: HalfHour, chosen: Sequence[Part]) -> int:
    about = made.machine
    if about["card"] == "cpu" and not made.shrunken:
        raise StudyError(
            "card: must be a CUDA device that torch sees, unless --shrunken is given; got none"
        )
    print(f"{about['card']}, torch {about['torch']}, Python {about['python']}", flush=True)
    made.run(chosen)
    print(made.folder / "table.md")
    return 1 if made.failed(chosen) else 0


if __name__ == "__main__":
    for number in (signal.SIGTERM, signal.SIGHUP):  # a closed terminal too ends as Ctrl-C does
        signal.signal(number, signal.default_int_handler)
    sys.exit(main())
