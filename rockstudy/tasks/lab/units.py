r"""The lines of a lab solution: the wordings of every slot and the units made of them.

`grammar` explains slots, causes and units; `register` draws the wordings.
"""

import numpy as np

from rockstudy.tasks.lab import grammar, words
from rockstudy.tasks.lab.grammar import (
    ARITHMETIC,
    BEYOND,
    BOXED,
    COPY,
    EQUATION,
    FORMAT,
    NOISE,
    STYLE,
    Choice,
    Unit,
    Value,
)
from rockstudy.tasks.problem import Problem

# The wordings of each reason; the register picks one.
REASONS: dict[str, tuple[str, ...]] = {
    name: tuple(wordings.split("|"))
    for name, wordings in {
        "gain": "add the new {thing}|put the found {thing} on top|count the extra {thing} as well|"
        "include the {thing} that came",
        "lose": "take away the {thing} given|remove the gift from the pile|"
        "subtract what was given|reduce the {thing} by the gift",
        "times": "multiply the {thing}|scale the number up|repeat the pile of {thing}|"
        "enlarge the heap of {thing}",
        "isolate": "subtract the constant from both sides|move the constant to the right|"
        "isolate the term with the unknown|clear the left of its constant",
        "scale": "divide by the coefficient|undo the multiplication|scale the equation down|"
        "free the unknown of its factor",
        "euclid": "divide and keep the remainder|replace the larger number|"
        "apply the algorithm of Euclid once|continue with the rest of the division",
        "plus": "add the last number|complete the sum|join the remaining term|"
        "attach what was left aside",
        "divisor": "find the common divisor|look for shared factors|"
        "work out the greatest common factor|see which divisor both have",
        "product": "multiply the two numbers|form the product|take one number times the other|"
        "combine both as factors",
        "cancel": "divide by the common divisor|cancel what was counted twice|"
        "drop the shared factors|split the product by the divisor",
        "share": "take the share|turn the percentage into a number|compute the given part|"
        "evaluate the portion",
        "later": "add the other {thing}|include the later sale|sum both sales of {thing}|"
        "join the {thing} sold after that",
        "bottom": "find the common denominator|choose a shared bottom|multiply the denominators|"
        "bring both to one bottom",
        "left": "rewrite the first numerator|expand the left fraction|adjust the first top|"
        "stretch the left numerator",
        "right": "rewrite the second numerator|expand the right fraction|adjust the second top|"
        "stretch the right numerator",
        "tops": "add the numerators|combine both tops|sum the expanded parts|"
        "merge the two numerators",
        "gaps": "count the steps between the terms|see how many gaps there are|"
        "use one less than the position|get the number of jumps",
        "growth": "multiply by the common difference|find the total growth|"
        "take that many equal jumps|measure how far the jumps lead",
        "begin": "add the first term|start from the initial value|shift by the first term|"
        "return to where it starts",
        "sheet": "find the area of the sheet|measure the whole rectangle|"
        "multiply the outer sides|take the full area",
        "piece": "find the area of the piece|measure the small rectangle|"
        "multiply the inner sides|take the area of the hole",
        "cut": "subtract the piece|remove the cut region|compare both areas|leave out the hole",
        "first": "multiply first|handle the product before the sum|evaluate the leading product|"
        "settle the factors at once",
        "summand": "add the summand|raise the product by the summand|bring in the final summand|"
        "join the lone number",
        "modulus": "keep the remainder|reduce by the modulus|throw away full multiples|"
        "see what is over",
        "hats": "multiply hats and coats|pair every hat with every coat|"
        "combine the first two choices|match hats against coats",
        "bags": "multiply by the bags|attach each possible bag|extend the pairs by one choice|"
        "give every pair its bag",
        "exclude": "take away what is not allowed|exclude the forbidden outfits|"
        "discard the banned combinations|strike the outfits that are not allowed",
    }.items()
}
MARKERS = ("First", "Initially", "So", "Thus", "Hence", "Now", "Next", "Then")
START, EVEN, ODD = MARKERS[:2], MARKERS[2:5], MARKERS[5:]
PHRASES = ("That is all.", "Thank you.", "I hope this helps.", "Done.")

LEAD = Choice(STYLE, (("For", "With", "To help", "From", "As asked by"),))
VERB = Choice(STYLE, (("we take", "we note", "we use", "we write"),))
GIVENS = Value(COPY, r"the numbers given|\d+(?:,? \d+)*(?: and \d+)?", str.isdigit)
NAME = Value(COPY, "[A-Za-z]+")
MARKER = Choice(STYLE, (MARKERS,))
PRONOUN = Choice(STYLE, (("we", "I"),), once=True)
REASON = Choice(STYLE, tuple(REASONS.values()))
BULLET = Choice(STYLE, (("- ", "* "),), once=True)
DOLLAR = Choice(STYLE, (("$", r"\("),), once=True)
CLOSE = Value(FORMAT, r"\$|\\\)")
DISPLAY = Choice(STYLE, (("$$\n", "\\[\n"),), once=True)
CLOSE_DISPLAY = Value(FORMAT, r"\s+(?:\$\$|\\\])")
NUMBER = Value(FORMAT, r"\d+")
CHECK = Choice(STYLE, (("A check shows that this looks right", "It looks right when checked"),))
REMARK = Choice(BEYOND, (("This", "Our", "Each", "My"),))
ADJECTIVE = Choice(NOISE, (tuple(words.ADJECTIVES),))
NOUN = Choice(NOISE, (tuple(words.NOUNS),))
OCCASION = Choice(NOISE, (tuple(words.OCCASIONS),))
CLOSING = Choice(
    BEYOND, (("So the answer is", "Thus the result is", "Hence we find", "In all it is"),)
)
TAIL = Choice(BEYOND, ((".", " in the end.", " as the answer."),))
PHRASE = Choice(COPY, (PHRASES,))

CLOSES = {"$": "$", r"\(": r"\)", "$$\n": "\n$$", "\\[\n": "\n\\]"}

_STEP = (MARKER, " ", PRONOUN, " ", REASON)
_MATHS = (DOLLAR, EQUATION, CLOSE)
_DISPLAYED = (DISPLAY, EQUATION, CLOSE_DISPLAY)
_BOX = (DOLLAR, r"\boxed{", BOXED, "}", CLOSE)
UNITS = {
    unit.name: unit
    for unit in (
        Unit("opening", (LEAD, " ", NAME, " ", VERB, " ", GIVENS, ".")),
        Unit("prose", (*_STEP, ": ", *_MATHS, "."), STYLE),
        Unit("words", (*_STEP, "."), STYLE),
        Unit("bullets", (BULLET, "**", REASON, ":** ", *_MATHS, "."), STYLE),
        Unit("joined", ("**", REASON, ":** ", *_MATHS, ".")),
        Unit("headings", ("### Step ", NUMBER, "\n\n", *_STEP, ":\n\n", *_DISPLAYED), STYLE),
        Unit("display", ("**Step ", NUMBER, ":** ", *_STEP, ":\n\n", *_DISPLAYED), STYLE),
        Unit("correction", ("Wait, ", *_MATHS, "."), ARITHMETIC),
        Unit("check", (CHECK, "."), STYLE),
        Unit("padding", (BULLET, "**Check:** this is fine."), STYLE),
        Unit("remark", (REMARK, " ", ADJECTIVE, " ", NOUN, " suits the ", OCCASION, ".")),
        Unit("closing", (CLOSING, " ", *_BOX, TAIL)),
        Unit("bold closing", ("**The answer is ", *_BOX, ".**"), STYLE),
        Unit("heading", ("## Solution",), STYLE),
        Unit("lead", ("We work ", Value(COPY, "[A-Za-z]+"), "."), STYLE),
        Unit("end", ("We checked it ", Value(COPY, "[A-Za-z]+"), "."), STYLE),
        Unit("phrase", (PHRASE,), STYLE),
    )
}


def annotate(problem: Problem, text: str) -> np.ndarray:
    """The cause of each character of a completion (`grammar.annotate`)."""
    return grammar.annotate(tuple(UNITS.values()), text)
