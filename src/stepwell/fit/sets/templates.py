"""Small Python functions: what is asked, and a right answer. Four of each kind."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from stepwell.fit.sets.inputs import (
    Inputs,
    counts,
    natural,
    naturals,
    number,
    numbers,
    sentences,
    small,
    some_numbers,
    text,
    words,
)

PER_KIND = 4


@dataclass(frozen=True, slots=True)
class FunctionTemplate:
    """One function that is asked for."""

    kind: str
    name: str
    arguments: str
    returns: str
    """What it returns, in words."""
    reference: Callable[..., Any]
    inputs: Inputs
    parameters: tuple[Any, ...] = ()
    """What the inputs should be near to."""


def varied(
    name: str,
    arguments: str,
    returns: str,
    choices: tuple[Any, ...],
    reference: Callable[..., Any],
    inputs: Inputs,
) -> tuple[FunctionTemplate, ...]:
    """One function with other parameters: ``{0}`` and ``{1}`` in ``returns``, first for ``reference``."""
    made = []
    for choice in choices:
        parameters = choice if isinstance(choice, tuple) else (choice,)
        said = returns.format(*parameters)
        made.append(
            FunctionTemplate(name, name, arguments, said, partial(reference, *parameters), inputs, parameters)
        )
    return tuple(made)


LISTS = (
    varied("count_over", "xs", "how many numbers in the list xs are greater than {0}", (3, 10, 0, 7),
      lambda k, xs: sum(x > k for x in xs), numbers),
    varied("count_under", "xs", "how many numbers in the list xs are less than {0}", (5, 0, 12, 8),
      lambda k, xs: sum(x < k for x in xs), numbers),
    varied("keep_over", "xs", "a list of the numbers in xs that are greater than {0}", (4, 0, 11, 6),
      lambda k, xs: [x for x in xs if x > k], numbers),
    varied("keep_under", "xs", "a list of the numbers in xs that are less than {0}", (9, 2, 13, 5),
      lambda k, xs: [x for x in xs if x < k], numbers),
    varied("drop_value", "xs", "the list xs without the number {0}", (4, 7, 1, 12),
      lambda k, xs: [x for x in xs if x != k], numbers),
    varied("count_value", "xs", "how many times the number {0} is in the list xs", (2, 5, 9, 14),
      lambda k, xs: xs.count(k), numbers),
    varied("add_to_all", "xs", "a list with {0} added to each number in xs", (5, 8, 11, 20),
      lambda k, xs: [x + k for x in xs], numbers),
    varied("times_all", "xs", "a list with each number in xs multiplied by {0}", (3, 4, 7, 10),
      lambda k, xs: [x * k for x in xs], numbers),
    varied("minus_all", "xs", "a list with {0} subtracted from each number in xs", (2, 6, 9, 15),
      lambda k, xs: [x - k for x in xs], numbers),
    varied("power_all", "xs", "a list with each number in xs raised to the power {0}", (2, 3, 4, 5),
      lambda k, xs: [x**k for x in xs], numbers),
    varied("sum_over", "xs", "the sum of the numbers in xs that are greater than {0}", (2, 5, 8, 10),
      lambda k, xs: sum(x for x in xs if x > k), numbers),
    varied("sum_multiples", "xs", "the sum of the numbers in xs that can be divided by {0}", (2, 3, 5, 7),
      lambda k, xs: sum(x for x in xs if x % k == 0), numbers),
    varied("count_multiples", "xs", "how many numbers in xs can be divided by {0}", (3, 4, 6, 2),
      lambda k, xs: sum(x % k == 0 for x in xs), numbers),
    varied("keep_multiples", "xs", "a list of the numbers in xs that can be divided by {0}", (2, 3, 4, 5),
      lambda k, xs: [x for x in xs if x % k == 0], numbers),
    varied("all_over", "xs", "True if all numbers in xs are greater than {0}, else False", (-5, -2, 0, 1),
      lambda k, xs: all(x > k for x in xs), some_numbers),
    varied("any_over", "xs", "True if any number in xs is greater than {0}, else False", (12, 15, 9, 18),
      lambda k, xs: any(x > k for x in xs), numbers),
    varied("largest_times", "xs", "the largest number in xs multiplied by {0}", (2, 3, 5, 10),
      lambda k, xs: max(xs) * k, some_numbers),
    varied("smallest_plus", "xs", "the smallest number in xs plus {0}", (1, 4, 10, 25),
      lambda k, xs: min(xs) + k, some_numbers),
    varied("sum_times", "xs", "the sum of the numbers in xs multiplied by {0}", (2, 3, 6, 10),
      lambda k, xs: sum(xs) * k, numbers),
    varied("sum_plus", "xs", "the sum of the numbers in xs plus {0}", (5, 10, 7, 100),
      lambda k, xs: sum(xs) + k, numbers),
    varied("with_last", "xs", "a new list with the elements of xs and {0} at the end", (0, 9, 42, -1),
      lambda k, xs: [*xs, k], numbers),
    varied("remainders", "xs", "a list with the remainder of each number in xs divided by {0}", (2, 3, 5, 7),
      lambda k, xs: [x % k for x in xs], naturals),
)  # fmt: skip
TEXTS = (
    varied("count_letter", "s", "how many times the letter '{0}' occurs in the string s", tuple("aest"),
      lambda k, s: s.count(k), text),
    varied("remove_letter", "s", "the string s without the letter '{0}'", tuple("eoin"),
      lambda k, s: s.replace(k, ""), text),
    varied("replace_letter", "s", "the string s with each '{0}' replaced by '{1}'",
      (("a", "o"), ("e", "x"), ("t", "d"), ("s", "z")), lambda a, b, s: s.replace(a, b), text),
    varied("starts_with", "s", "True if the string s starts with '{0}', else False", ("a", "un", "re", "s"),
      lambda k, s: s.startswith(k), text),
    varied("ends_with", "s", "True if the string s ends with '{0}', else False", ("s", "ed", "er", "t"),
      lambda k, s: s.endswith(k), text),
    varied("contains", "s", "True if the string s contains '{0}', else False", ("a", "in", "o", "to"),
      lambda k, s: k in s, text),
    varied("repeat_text", "s", "the string s repeated {0} times", (2, 3, 4, 5), lambda k, s: s * k, text),
    varied("is_longer", "s", "True if the string s has more than {0} characters, else False", (3, 4, 5, 7),
      lambda k, s: len(s) > k, text),
    varied("dash_spaces", "s", "the string s with each space replaced by '{0}'", ("-", "_", "+", "/"),
      lambda k, s: s.replace(" ", k), sentences),
    varied("join_words", "ws", "the words in the list ws joined by '{0}'", ("-", ", ", "+", "/"),
      lambda k, ws: k.join(ws), words),
    varied("prefix_words", "ws", "a list with '{0}' in front of each word in the list ws",
      ("x", "re", "my ", "#"), lambda k, ws: [k + w for w in ws], words),
    varied("suffix_words", "ws", "a list with '{0}' after each word in the list ws", ("s", "!", "er", "_1"),
      lambda k, ws: [w + k for w in ws], words),
    varied("count_starting", "ws", "how many words in the list ws start with '{0}'", tuple("bcst"),
      lambda k, ws: sum(w.startswith(k) for w in ws), words),
    varied("keep_starting", "ws", "a list of the words in ws that start with '{0}'", tuple("fgpo"),
      lambda k, ws: [w for w in ws if w.startswith(k)], words),
    varied("count_longer", "ws", "how many words in the list ws have more than {0} letters", (3, 4, 5, 6),
      lambda k, ws: sum(len(w) > k for w in ws), words),
    varied("keep_longer", "ws", "a list of the words in ws with more than {0} letters", (4, 3, 5, 6),
      lambda k, ws: [w for w in ws if len(w) > k], words),
)  # fmt: skip
DICTIONARIES = (
    varied("has_key", "d", "True if the dictionary d has the key '{0}', else False",
      ("cat", "ship", "tree", "map"), lambda k, d: k in d, counts),
    varied("sum_values_over", "d", "the sum of the values of d that are greater than {0}", (2, 6, 10, 4),
      lambda k, d: sum(v for v in d.values() if v > k), counts),
    varied("count_values_over", "d", "how many values of the dictionary d are greater than {0}", (5, 9, 1, 7),
      lambda k, d: sum(v > k for v in d.values()), counts),
    varied("add_to_values", "d", "a dictionary with {0} added to each value of d", (1, 5, 10, 3),
      lambda k, d: {name: v + k for name, v in d.items()}, counts),
)  # fmt: skip
NUMBERS = (
    varied("times_plus", "n", "n multiplied by {0}, plus {1}", ((2, 1), (3, 5), (5, 2), (10, 7)),
      lambda a, b, n: n * a + b, number),
    varied("is_multiple", "n", "True if n can be divided by {0}, else False", (3, 4, 5, 7),
      lambda k, n: n % k == 0, number),
    varied("remainder", "n", "the remainder of n divided by {0}", (3, 4, 7, 10),
      lambda k, n: n % k, natural),
    varied("to_power", "n", "n raised to the power {0}", (2, 3, 4, 5), lambda k, n: n**k, number),
    varied("at_most", "n", "n, or {0} if n is greater than {0}", (10, 25, 7, 40),
      lambda k, n: min(n, k), number),
    varied("at_least", "n", "n, or {0} if n is less than {0}", (5, 0, 12, 20),
      lambda k, n: max(n, k), number),
    varied("distance", "n", "the distance between n and {0}, which is never negative", (5, 10, 3, 20),
      lambda k, n: abs(n - k), number),
    varied("is_between", "n", "True if n is at least {0} and at most {1}, else False",
      ((1, 10), (5, 20), (-5, 5), (10, 30)), lambda a, b, n: a <= n <= b, number),
    varied("multiples", "n", "a list of the first n multiples of {0}, starting with {0}", (3, 5, 4, 10),
      lambda k, n: [k * i for i in range(1, n + 1)], small),
    varied("count_digit", "n", "how many times the digit {0} occurs in the whole number n", (1, 2, 3, 5),
      lambda k, n: str(n).count(str(k)), natural),
    varied("label", "n", "'{0}' if n is greater than {2}, else '{1}'",
      (("big", "small", 10), ("hot", "cold", 25), ("old", "young", 40), ("yes", "no", 0)),
      lambda a, b, k, n: a if n > k else b, number),
)  # fmt: skip
TEMPLATES: tuple[tuple[FunctionTemplate, ...], ...] = (*LISTS, *TEXTS, *DICTIONARIES, *NUMBERS)
