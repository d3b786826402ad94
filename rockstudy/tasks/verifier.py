r"""The process that compares two expressions for `grading`: run as a file, never imported.

An input line is a JSON list ``[answer, given]``; an output line is 1 if they are equal, else 0.
Before each comparison a kernel timer is set to end this process after the first argument's seconds
of processor time. Unlike an exception from a signal handler, the timer also stops sympy inside C
code, and it leaves no process behind after the caller's end.

math-verify's parser (latex2sympy2) reads the texts; the comparison is ours, since math-verify's own
one rounds differences to absolute decimals, reads ``1, 2, \ldots, n`` as its first number that
parses, and depends on which of the two is the answer. Here, in either order:

- exact values are equal only exactly; expressions with variables at three rational points;
- a decimal equals a value that rounds, or is cut, to it, if it has at least six significant digits;
- bare lists and sets match in any order, pairs and lists with an ellipsis in their own;
- an inequality in one variable, or a membership, is the set of its solutions; ``x = 3`` is also 3;
- ``50\%`` is 1/2, and also 50, since many problems ask for a number of percent;
- a unit may be left out, but two different known units are two different answers.
"""

import contextlib
import itertools
import json
import logging
import re
import resource
import signal
import sys
from decimal import Decimal

import sympy as sp
from latex2sympy2_extended import is_expr_of_only_symbols
from latex2sympy2_extended.latex2sympy2 import (
    ConversionConfig,
    NormalizationConfig,
    latex2sympy,
    normalize_latex,
)
from sympy.core.function import AppliedUndef
from sympy.core.relational import Relational
from sympy.logic.boolalg import And

MEMORY = 2 << 30  # ours: bytes; a power tower exhausts memory before its time
DIGITS = 6  # ours: a decimal with so many significant digits may stand for a value it rounds
READ = ConversionConfig(lowercase_symbols=False)
CONFIG = NormalizationConfig(boxed="none")
COLLECTIONS = (list, sp.Tuple, sp.Set)
UNORDERED = (list, sp.FiniteSet)
MATRICES = (sp.MatrixBase, sp.MatrixExpr)
ORDER = (sp.StrictGreaterThan, sp.GreaterThan)
POINTS = ((17, 23, 31, 43, 59), (-13, 29, -37, 41, -47), (5, -11, 19, -61, 67))  # sevenths
SIGNS = str.maketrans(
    {"−": "-", "×": "\\times ", "·": "\\cdot ", "÷": "\\div ", "π": "\\pi ", "∞": "\\infty "}
    | {"≤": "\\le ", "≥": "\\ge ", "°": "^\\circ ", "\u222a": "\\cup ", "∈": "\\in ", "±": "\\pm "}
    | {"√": "\\sqrt ", "≠": "\\ne ", "\xa0": " ", "\u2009": " ", "\u202f": " ", "…": "\\ldots "}
)
CLEANED = [
    (r"\\[lc]?dots[cbmio]?(?![a-zA-Z])|\.{3,}", "…"),
    (r"\\text(?:bf|it|rm|sf|normal)|\\math(?:rm|bf|it)|\\[mh]box", r"\\text"),
    (r"\\[bB]igg?[lr]?(?![a-zA-Z])|\\displaystyle", ""),
    (r"\\text\s*\{([^{}A-Za-z]*)\}", r"\1"),
    (r"\\varnothing", r"\\emptyset"),
    (r"<=", r"\\le "),
    (r">=", r"\\ge "),
    (r"^(?:\\[(\[]|[\s*_`=]|(?<!\\)\$)+", ""),
    (r"(?:\\[)\]]|(?<!\\right)\.|[\s*`,;:]|(?<!\\)\$|\\[,;:! ])+$", ""),
    (r"\\text\s*\{\s*(?:percent|pct|%|\\%)\s*\}|\s*\bpercent$", r"\\%"),
    (r"\\[dtc]?(frac|binom)(?![a-zA-Z])\s*(\w)\s*(\w)", r"\\\1{\2}{\3}"),
    (r"\\[dtc]?frac\s*(\d)\s*(?=\{)", r"\\frac{\1}"),
    (r"\\[dtc]?frac\s*\{([^{}]*)\}\s*(\d)", r"\\frac{\1}{\2}"),
    (r"([_^])\s*(\d)(?=\s)", r"\1{\2}"),
    (r"(?<![_^\d.,])(\d+)\s*(?=(?:\\left\s*)?\()", r"\1 \\cdot "),  # 2(1/3) is not 2 1/3
    (r"\^\s*\(([^()]*)\)", r"^{\1}"),
    (r"(?<![\\a-z])sqrt\s*\(([^()]*)\)", r"\\sqrt{\1}"),
    (r"\\sqrt\s*(\d)", r"\\sqrt{\1}"),
    (r"\\log_\s*(\d)", r"\\log_{\1}"),
    (r"(?<![\d.])(\d+)\s+(\d+)/(\d+)$", r"\1\\frac{\2}{\3}"),  # 1 1/2
    (r"^\(([A-Za-z])\)$|^([A-Za-z])\)$", r"\1\2"),  # (B)
]
CLEANED = [(re.compile(pattern), to) for pattern, to in CLEANED]
NAMED = re.compile(r"^\\?[A-Za-z]+(?: [A-Z]+)?(?:_\{?\w+\}?)?(?:\([a-z]\))?\s*=\s*(?=[^=]+$)")
GROUP = r"(?:,?\\!\s*|\\[,;: ]\s*|~|\{,\}|\s)(?=\d)"
THOUSANDS = re.compile(rf"(?<![\d.])\d{{1,3}}(?:{GROUP}\d{{3}})+(?!\d)")
WORDS = re.compile(r"[^\W\d_]+(?:[ '-][^\W\d_]+)*")
UNIT = re.compile(
    r"(?P<value>.*[\d})])\s*(?:\\[ ,;]|~)?\s*(?:\\text\s*\{(?P<text>[^{}]*)\}|"
    r"(?P<bare>[A-Za-z]{2,}(?: [a-z]+)*))\s*(?:\^\{?(?P<power>\d)\}?)?",
    re.DOTALL,
)
UNITS = {
    alias: names.split()[0]
    for names in (
        "mm millimeter millimetre; cm centimeter centimetre; m meter metre; km kilometer kilometre;"
        "inch inche in; foot ft feet; yard yd; mile mi; mg milligram; g gram; kg kilogram; "
        "lb pound lbs; ounce oz; second s sec; minute min; hour h hr; day; week; month; year yr; "
        "cent ¢; dollar usd; degree deg; radian rad; mph; km/h kmh kmph kph; m/s; acre; "
        "liter litre l; ml milliliter millilitre; gallon gal; unit; square; cube"
    ).split(";")
    for alias in names.split()
}


def clean(text: str) -> str:
    """A text without markup around it, with one spelling of dots, small fractions, thousands."""
    text = text.translate(SIGNS)
    for pattern, to in CLEANED:
        text = pattern.sub(to, text)
    return THOUSANDS.sub(lambda number: re.sub(r"\D", "", number[0]), text)


def squeezed(text: str) -> str:
    """A text without the spaces that separate no words or numbers."""
    return re.sub(r"(?<!\w)\s+|\s+(?!\w)", "", text)


def bare(text: str) -> str:
    r"""A squeezed text without ``\text{}`` around its words."""
    return squeezed(re.sub(r"\\text\s*\{([^{}]*)\}", r"\1", text)).strip(" .")


def words(text: str) -> str | None:
    r"""The words of a text answer such as ``\text{east}``, or None."""
    named = bare(text).strip("() .")
    if not WORDS.fullmatch(named):
        return None
    return named.casefold() if len(named) > 1 else named


def without_unit(text: str) -> tuple[str, tuple[str, int] | None]:
    r"""A text without its unit, and the unit with its power if we know it: ``(3, (cm, 2))``."""
    if text.startswith("\\$"):
        return text[2:], ("dollar", 1)
    if (degrees := re.sub(r"\^\s*\{?\s*\\circ\s*\}?$", "", text)) != text:
        return degrees, ("degree", 1)
    based = re.fullmatch(r"(\d+)_\{?(\d+)\}?", text)
    if based is not None:
        return based[1], ("base", int(based[2]))
    match = UNIT.fullmatch(text)
    if match is None or not re.search(r"\d|\\pi", match["value"]):
        return text, None
    named = (match["text"] or match["bare"] or "").strip().rstrip(".").casefold()
    squared = re.sub(r"^(?:square|sq\.?) | squared$|\^?2$", "", named)
    cubed = re.sub(r"^(?:cubic|cu\.?) | cubed$|\^?3$", "", named)
    base = min(squared, cubed, key=len)
    power = int(match["power"] or (2 if squared != named else 3 if cubed != named else 1))
    known = UNITS.get(base, UNITS.get(base.removesuffix("s")))
    if known is None and match["bare"]:
        return text, None  # letters after a number are variables
    return match["value"], known and (known, power)


def same(answer: str, given: str) -> bool:
    """Whether two texts are one answer."""
    a, b = clean(answer), clean(given)
    if ("=" in a) != ("=" in b):
        a, b = NAMED.sub("", a), NAMED.sub("", b)
    texts = a, b
    if bare(a) == bare(b):
        return True
    if "…" in a + b:
        return _same_with_dots(a, b)
    named = words(a), words(b)
    written = any(word and "\\text" in text for word, text in zip(named, texts, strict=True))
    if written or (None not in named and min(map(len, named)) > 2):
        alike = named[0] == named[1]
        if alike or written or max(map(len, named)) > 3:  # abc may be a product
            return alike
    if any(re.search(r"\d(?:\s|\\[ ,;:]|~)+\d", text) for text in texts):
        return False  # numbers side by side are no product
    (a, unit), (b, other) = without_unit(a), without_unit(b)
    if unit and other and unit != other:
        return False
    percent = [bool(re.search(r"\\?%$", text)) for text in (a, b)]
    values = [parsed(re.sub(r"\s*\\?%$", "", text)) for text in (a, b)]
    if None in values:
        return bare(a) == bare(b)
    if percent[0] == percent[1] or any(isinstance(value, COLLECTIONS) for value in values):
        return equal(*values)
    share, value = values if percent[0] else values[::-1]
    whole = value.is_Integer or (value.is_number and bool(abs(value) >= 1))
    return (whole and equal(share, value)) or equal(share / 100, value)


def _same_with_dots(a: str, b: str) -> bool:
    items = [re.sub(r"^\\?[{(](.*?)\\?[})]$", r"\1", t, flags=re.DOTALL).split(",") for t in (a, b)]
    return len(items[0]) == len(items[1]) and all(
        squeezed(x) == squeezed(y) if "…" in x + y else same(x, y)
        for x, y in zip(*items, strict=True)
    )


def parsed(text: str):
    r"""A sympy expression with plain symbols, a list for a bare ``1, 2``, or None if unreadable."""
    with contextlib.suppress(Exception):
        text = normalize_latex(text, CONFIG)
        read = latex2sympy(text, conversion_config=READ, normalization_config=None)
        bare_list = isinstance(read, sp.FiniteSet) and "\\{" not in text
        return [*map(plain, _written(read))] if bare_list else plain(read)
    return None


def _written(x) -> list:
    """Arguments in the order of the text, where the parser has kept it."""
    return list(getattr(x, "_unsorted_args", x.args))


def plain(expression):
    """Replace symbols by ones without assumptions, i and e by the constants."""
    if _is_relation(expression):  # evaluated, x in S would be an equation that is false
        return type(expression)(*map(plain, _written(expression)), evaluate=False)
    constants = {"i": sp.I, "e": sp.E}
    names = {s: constants.get(s.name, sp.Symbol(s.name)) for s in expression.free_symbols}
    return expression.subs(names) if isinstance(expression, sp.Set) else expression.xreplace(names)


def equal(a, b) -> bool:
    """Whether two parsed answers are equal, in either order."""
    if _is_relation(a) and _is_relation(b):
        return _same_relation(a, b)
    if _is_relation(b):
        a, b = b, a
    if _is_relation(a):
        if (solved := _solved(a)) is not None:
            return isinstance(b, sp.Set) and equal(solved[1], b)
        value = _assigned(a)
        return value is not None and equal(value[1], b)
    if isinstance(a, COLLECTIONS) or isinstance(b, COLLECTIONS):
        return _same_collection(a, b)
    if isinstance(a, MATRICES) and isinstance(b, MATRICES):
        a, b = a.doit(), b.doit()
        return a.shape == b.shape and all(map(equal, a, b))
    return not isinstance(a, MATRICES) and not isinstance(b, MATRICES) and _same_value(a, b)


def _same_collection(a, b) -> bool:
    if isinstance(b, list) or not isinstance(a, COLLECTIONS):
        a, b = b, a
    if not isinstance(b, COLLECTIONS):
        return isinstance(a, UNORDERED) and len(_items(a)) == 1 and equal(_items(a)[0], b)
    if isinstance(a, sp.Interval) and isinstance(b, sp.Interval):
        sides = (a.left_open, a.right_open) == (b.left_open, b.right_open)
        return sides and equal(a.start, b.start) and equal(a.end, b.end)
    items = [_items(x) for x in (a, b)]
    if None not in items:
        if isinstance(a, UNORDERED) and isinstance(b, UNORDERED):
            return _match(*items)
        if isinstance(a, sp.FiniteSet) or isinstance(b, sp.FiniteSet):
            return False  # braces have no order
        return len(items[0]) == len(items[1]) and all(map(equal, *items))
    if isinstance(a, list) and not isinstance(b, list):  # x < 1 or x > 3
        solved = [_solved(x) for x in a if _is_relation(x)]
        if len(solved) < len(a) or None in solved or len({name for name, _ in solved}) > 1:
            return False
        a = sp.Union(*(values for _, values in solved))
    if a.doit() == b.doit():
        return True
    return type(a) is type(b) and not isinstance(a, sp.Interval) and _match(a.args, b.args)


def _items(x):
    """The elements of a list, set or tuple; ends of an open interval, which is also a point."""
    if isinstance(x, list | sp.FiniteSet | sp.Tuple):
        return x if isinstance(x, list) else list(x.args)
    return [x.start, x.end] if isinstance(x, sp.Interval) and x.is_open else None


def _match(items, others) -> bool:
    """Whether each item has its own equal among the others."""
    left = list(others)
    for item in items:
        own = next((i for i, other in enumerate(left) if equal(item, other)), len(left))
        del left[own : own + 1]
    return len(items) == len(others) and not left


def _is_relation(x) -> bool:
    return isinstance(x, Relational) or (isinstance(x, And) and all(map(_is_relation, x.args)))


def _parts(relation) -> list:
    """A chain such as ``1 < x < 2`` as its relations, in their order."""
    return _written(relation) if isinstance(relation, And) else [relation]


def _assigned(relation):
    """Left side and value of ``x = 1 + 2 = 3`` or ``f(x) = 3`` or ``1 + 2 = 3``, or None."""
    parts = _parts(relation)
    left, value = parts[0].lhs, parts[-1].rhs
    if not all(isinstance(part, sp.Eq) for part in parts):
        return None
    named = isinstance(left, AppliedUndef) or (is_expr_of_only_symbols(left) and not left.is_Add)
    return (left, value) if named or (left.is_number and equal(left, value)) else None


def _solved(relation):
    """The variable and the solutions of an inequality in it or of ``x in S``, or None."""
    parts, names = _parts(relation), relation.free_symbols
    if isinstance(parts[0], sp.Eq):
        is_set = len(parts) == 1 and isinstance(parts[0].rhs, sp.Set)
        return (parts[0].lhs, parts[0].rhs) if is_set else None
    if len(names) != 1 or any(isinstance(part, sp.Eq) for part in parts):
        return None
    (name,), real = names, sp.Symbol("x", real=True)
    sets = [part.xreplace({name: real}).doit().as_set() for part in parts]
    return name, sp.Intersection(*sets)


def _same_relation(a, b) -> bool:
    solved = _solved(a), _solved(b)
    if None not in solved:
        return solved[0][0] == solved[1][0] and equal(solved[0][1], solved[1][1])
    assigned = _assigned(a), _assigned(b)
    if None not in assigned and assigned[0][0] == assigned[1][0]:
        return equal(assigned[0][1], assigned[1][1])
    parts = _parts(a), _parts(b)
    if len(parts[0]) != len(parts[1]):
        return False
    if len(parts[0]) > 1:
        return _match(*parts)
    (x, f), (y, g) = (_signed(part) for (part,) in parts)
    if x is not y or f.free_symbols != g.free_symbols:
        return False
    at = _points(f)[0]
    ratio = exact(f).subs(at) / exact(g).subs(at)
    if not ratio.is_finite or ratio.is_zero or (x in ORDER and not ratio.is_positive):
        return False
    return _same_value(f, ratio * g)


def _signed(relation):
    """The kind of a relation, and what it compares with 0, larger side first."""
    if isinstance(relation, sp.StrictLessThan | sp.LessThan):
        relation = relation.reversed
    return type(relation), relation.lhs - relation.rhs


def exact(x):
    """An evaluated expression with its decimals as fractions."""
    x = sp.sympify(x)
    return x.xreplace({f: sp.Rational(str(f)) for f in x.atoms(sp.Float)}).doit()


def _points(x) -> list[dict]:
    names = sorted(x.free_symbols, key=str)
    sevenths = ([sp.Rational(value, 7) for value in point] for point in POINTS)
    return [dict(zip(names, itertools.cycle(values))) for values in sevenths]


def _same_value(a, b) -> bool:
    x, y = exact(a), exact(b)
    if x == y:
        return True
    if not isinstance(x, sp.Expr) or not isinstance(y, sp.Expr):
        return isinstance(x, sp.Basic) and str(a) == str(b)
    if not x.free_symbols | y.free_symbols:
        return _same_number(x, y) or _rounded(a, b, x, y)
    pairs = [(x.subs(point), y.subs(point)) for point in _points(x + y)]
    if all(value.is_number for pair in pairs for value in pair):
        return all(_same_number(*pair, proven=False) for pair in pairs)
    return sp.simplify(x - y) == 0


def _same_number(x, y, proven: bool = True) -> bool:
    """Whether two numbers are equal; if not `proven`, 60 digits of irrational ones suffice."""
    difference = x - y
    if difference.is_Rational or not difference.is_finite:
        return difference == 0
    if not _close(x, y, sp.Float(10, 60) ** -50, 60):
        return False
    return not proven or sp.simplify(difference).equals(0) is not False


def _close(x, y, relative, digits: int) -> bool:
    x, y = x.evalf(digits), y.evalf(digits)
    return bool(abs(x - y) <= relative * max(abs(x), abs(y)))


def _rounded(a, b, x, y) -> bool:
    """Whether a decimal with enough digits is the other value, rounded or cut."""
    for written, value, other in ((a, x, y), (b, y, x)):
        floats = sp.sympify(written).atoms(sp.Float)
        longest = max((len(_decimal(f).as_tuple().digits) for f in floats), default=0)
        if longest < DIGITS or not other.is_finite:
            continue
        if not (value.is_Rational and len(floats) == 1 and abs(value) == abs(exact(*floats))):
            if _close(value, other, sp.Rational(1, 999_999), 30):  # within an expression
                return True
            continue
        unit = sp.Rational(10) ** _decimal(*floats).as_tuple().exponent
        beyond = ((other - value) / unit * sp.sign(value)).evalf(15)
        if unit < 1 and beyond.is_real and -0.5 <= beyond < 1:
            return True
    return False


def _decimal(number) -> Decimal:
    return Decimal(str(number)).normalize()


def main() -> None:
    """Answer one line after another until the caller closes the pipe."""
    replies, sys.stdout = sys.stdout, sys.stderr  # other prints must not become replies
    logging.disable(logging.CRITICAL)
    sys.set_int_max_str_digits(0)
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    with contextlib.suppress(ValueError, OSError):  # not every system has this limit
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    same("(-\\infty, \\frac{1}{2})", "x < 0.5")  # builds the parser's tables before any clock runs
    print("ready", file=replies, flush=True)
    for line in sys.stdin:
        signal.setitimer(signal.ITIMER_PROF, float(sys.argv[1]))
        verdict = False
        with contextlib.suppress(Exception):  # what sympy cannot compare is not equal
            verdict = same(*json.loads(line))
        signal.setitimer(signal.ITIMER_PROF, 0)
        print(int(verdict), file=replies, flush=True)


if __name__ == "__main__":
    main()
