"""A script that renders a chat template within limits: JSON on standard input, a length on output.

It knows the tags and functions that transformers gives to templates and nothing else of it, so that
it starts quickly. Beyond its processor time the system ends it; beyond its memory it prints -1.
"""

import contextlib
import json
import sys

from jinja2.exceptions import TemplateError
from jinja2.ext import Extension
from jinja2.sandbox import ImmutableSandboxedEnvironment


class Generation(Extension):
    """The tag around what an assistant writes, which changes no text."""

    tags = frozenset({"generation"})

    def parse(self, parser):
        """Return the tag's contents."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def refuse(message: str) -> None:
    """The function ``raise_exception`` of templates."""
    raise TemplateError(message)


def main() -> None:
    """Print the length of the chat, or -1 where it does not fit the memory."""
    asked = json.load(sys.stdin)
    with contextlib.suppress(ImportError, ValueError, OSError):  # not every system has limits
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_CPU, (asked["seconds"], asked["seconds"]))
        resource.setrlimit(resource.RLIMIT_AS, (asked["memory"], asked["memory"]))
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, "jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = lambda value, **how: json.dumps(
        value, ensure_ascii=False, indent=how.get("indent")
    )
    environment.globals["raise_exception"] = refuse
    try:
        text = environment.from_string(asked["template"]).render(**asked["values"])
        print(len(text))
    except MemoryError:
        print(-1)


if __name__ == "__main__":
    main()
