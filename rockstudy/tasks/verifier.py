"""The process that compares two expressions for `grading`: run as a file, never imported.

An input line is a JSON list ``[answer, given]``; an output line is 1 if math-verify calls them
equal, else 0. Before each comparison a kernel timer is set to end this process after the first
argument's seconds of processor time. Unlike an exception from a signal handler, the timer also
stops sympy inside C code, and it leaves no process behind after the caller's end.
"""

import contextlib
import json
import logging
import resource
import signal
import sys

from math_verify import parse, verify

MEMORY = 2 << 30  # ours: bytes; a power tower exhausts memory before its time


def same(answer: str, given: str) -> bool:
    """Whether math-verify calls two expressions equal, without its own time limits."""
    gold, got = (parse(f"$\\boxed{{{text}}}$", parsing_timeout=None) for text in (answer, given))
    return verify(gold, got, timeout_seconds=None)


def main() -> None:
    """Answer one line after another until the caller closes the pipe."""
    replies, sys.stdout = sys.stdout, sys.stderr  # other prints must not become replies
    logging.disable(logging.CRITICAL)
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    with contextlib.suppress(ValueError, OSError):  # not every system has this limit
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    same("\\frac{1}{2}", "0.5")  # builds the parser's tables before any clock runs
    print("ready", file=replies, flush=True)
    for line in sys.stdin:
        signal.setitimer(signal.ITIMER_PROF, float(sys.argv[1]))
        verdict = same(*json.loads(line))
        signal.setitimer(signal.ITIMER_PROF, 0)
        print(int(verdict), file=replies, flush=True)


if __name__ == "__main__":
    main()
