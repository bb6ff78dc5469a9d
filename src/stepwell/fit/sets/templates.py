"""Small Python functions as templates: what is asked, four choices of its parameters, and a right answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
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
    two_lists,
    two_numbers,
    words,
)


@dataclass(frozen=True, slots=True)
class Template:
    """One sort of function."""

    name: str
    """Of the function; the kind of its items."""
    arguments: str
    does: str
    """``{0}`` and ``{1}`` stand for the parameters."""
    choices: tuple[Any, ...]
    """One item each: a parameter, or a tuple of them."""
    reference: Callable[..., Any]
    """Parameters first, then arguments."""
    inputs: Inputs

    def parameters(self, choice: int) -> tuple[Any, ...]:
        """The parameters of one item."""
        value = self.choices[choice]
        return value if isinstance(value, tuple) else (value,)


T = Template
FEWER = ", or all of them if there are fewer"

LISTS = (
    T("count_over", "xs", "return how many numbers in the list xs are greater than {0}", (3, 10, 0, 7),
      lambda k, xs: sum(x > k for x in xs), numbers),
    T("count_under", "xs", "return how many numbers in the list xs are less than {0}", (5, 0, 12, 8),
      lambda k, xs: sum(x < k for x in xs), numbers),
    T("keep_over", "xs", "return a list of the numbers in xs that are greater than {0}", (4, 0, 11, 6),
      lambda k, xs: [x for x in xs if x > k], numbers),
    T("keep_under", "xs", "return a list of the numbers in xs that are less than {0}", (9, 2, 13, 5),
      lambda k, xs: [x for x in xs if x < k], numbers),
    T("keep_between", "xs", "return a list of the numbers in xs that are at least {0} and at most {1}",
      ((2, 6), (0, 10), (5, 15), (-3, 3)), lambda a, b, xs: [x for x in xs if a <= x <= b], numbers),
    T("drop_value", "xs", "return the list xs without the number {0}", (4, 7, 1, 12),
      lambda k, xs: [x for x in xs if x != k], numbers),
    T("count_value", "xs", "return how many times the number {0} is in the list xs", (2, 5, 9, 14),
      lambda k, xs: xs.count(k), numbers),
    T("add_to_all", "xs", "return a list with {0} added to each number in xs", (5, 8, 11, 20),
      lambda k, xs: [x + k for x in xs], numbers),
    T("times_all", "xs", "return a list with each number in xs multiplied by {0}", (3, 4, 7, 10),
      lambda k, xs: [x * k for x in xs], numbers),
    T("minus_all", "xs", "return a list with {0} subtracted from each number in xs", (2, 6, 9, 15),
      lambda k, xs: [x - k for x in xs], numbers),
    T("power_all", "xs", "return a list with each number in xs raised to the power {0}", (2, 3, 4, 5),
      lambda k, xs: [x**k for x in xs], numbers),
    T("sum_over", "xs", "return the sum of the numbers in xs that are greater than {0}", (2, 5, 8, 10),
      lambda k, xs: sum(x for x in xs if x > k), numbers),
    T("sum_multiples", "xs", "return the sum of the numbers in xs that can be divided by {0}", (2, 3, 5, 7),
      lambda k, xs: sum(x for x in xs if x % k == 0), numbers),
    T("count_multiples", "xs", "return how many numbers in xs can be divided by {0}", (3, 4, 6, 2),
      lambda k, xs: sum(x % k == 0 for x in xs), numbers),
    T("keep_multiples", "xs", "return a list of the numbers in xs that can be divided by {0}", (2, 3, 4, 5),
      lambda k, xs: [x for x in xs if x % k == 0], numbers),
    T("every_nth", "xs", "return a list of every {0} element of xs, starting with the first",
      (("second", 2), ("third", 3), ("fourth", 4), ("fifth", 5)), lambda _, k, xs: xs[::k], numbers),
    T("first_items", "xs", "return a list of the first {0} elements of xs" + FEWER, (2, 3, 4, 5),
      lambda k, xs: xs[:k], numbers),
    T("last_items", "xs", "return a list of the last {0} elements of xs" + FEWER, (2, 3, 4, 5),
      lambda k, xs: xs[-k:], numbers),
    T("skip_first", "xs", "return the list xs without its first {0} elements", (2, 3, 4, 1),
      lambda k, xs: xs[k:], numbers),
    T("skip_last", "xs", "return the list xs without its last {0} elements", (2, 3, 4, 1),
      lambda k, xs: xs[:-k], numbers),
    T("all_over", "xs", "return True if all numbers in xs are greater than {0}, else False", (-5, -2, 0, 1),
      lambda k, xs: all(x > k for x in xs), some_numbers),
    T("any_over", "xs", "return True if any number in xs is greater than {0}, else False", (12, 15, 9, 18),
      lambda k, xs: any(x > k for x in xs), numbers),
    T("replace_value", "xs", "return the list xs with each {0} replaced by {1}",
      ((2, 9), (0, 1), (5, -5), (7, 70)), lambda a, b, xs: [b if x == a else x for x in xs], numbers),
    T("cap_all", "xs", "return the list xs with each number that is greater than {0} replaced by {0}",
      (10, 6, 3, 8), lambda k, xs: [min(x, k) for x in xs], numbers),
    T("largest_times", "xs", "return the largest number in xs multiplied by {0}", (2, 3, 5, 10),
      lambda k, xs: max(xs) * k, some_numbers),
    T("smallest_plus", "xs", "return the smallest number in xs plus {0}", (1, 4, 10, 25),
      lambda k, xs: min(xs) + k, some_numbers),
    T("sum_times", "xs", "return the sum of the numbers in xs multiplied by {0}", (2, 3, 6, 10),
      lambda k, xs: sum(xs) * k, numbers),
    T("sum_plus", "xs", "return the sum of the numbers in xs plus {0}", (5, 10, 7, 100),
      lambda k, xs: sum(xs) + k, numbers),
    T("first_over", "xs", "return the first number in xs that is greater than {0}, or None if there is none",
      (3, 6, 10, 0), lambda k, xs: next((x for x in xs if x > k), None), numbers),
    T("index_of_value", "xs", "return the index of the first {0} in xs, or -1 if it is not there", (3, 6, 8, 1),
      lambda k, xs: xs.index(k) if k in xs else -1, numbers),
    T("repeat_list", "xs", "return the list xs repeated {0} times", (2, 3, 4, 5),
      lambda k, xs: xs * k, numbers),
    T("with_last", "xs", "return a new list with the elements of xs and {0} at the end", (0, 9, 42, -1),
      lambda k, xs: [*xs, k], numbers),
    T("with_first", "xs", "return a new list with {0} followed by the elements of xs", (1, 8, 50, -7),
      lambda k, xs: [k, *xs], numbers),
    T("smallest_items", "xs", "return the {0} smallest numbers in xs, smallest first" + FEWER, (2, 3, 4, 5),
      lambda k, xs: sorted(xs)[:k], numbers),
    T("largest_items", "xs", "return the {0} largest numbers in xs, largest first" + FEWER, (2, 3, 4, 5),
      lambda k, xs: sorted(xs, reverse=True)[:k], numbers),
    T("remainders", "xs", "return a list with the remainder of each number in xs divided by {0}", (2, 3, 5, 7),
      lambda k, xs: [x % k for x in xs], naturals),
    T("add_lists", "a, b", "return the elements of a, then those of b, then the number {0}, in one list",
      (0, 7, 10, -1), lambda k, a, b: [*a, *b, k], two_lists),
)  # fmt: skip
TEXTS = (
    T("count_letter", "s", "return how many times the letter '{0}' occurs in the string s", tuple("aest"),
      lambda k, s: s.count(k), text),
    T("remove_letter", "s", "return the string s without the letter '{0}'", tuple("eoin"),
      lambda k, s: s.replace(k, ""), text),
    T("replace_letter", "s", "return the string s with each '{0}' replaced by '{1}'",
      (("a", "o"), ("e", "x"), ("t", "d"), ("s", "z")), lambda a, b, s: s.replace(a, b), text),
    T("starts_with", "s", "return True if the string s starts with '{0}', else False", ("a", "un", "re", "s"),
      lambda k, s: s.startswith(k), text),
    T("ends_with", "s", "return True if the string s ends with '{0}', else False", ("s", "ed", "er", "t"),
      lambda k, s: s.endswith(k), text),
    T("contains", "s", "return True if the string s contains '{0}', else False", ("a", "in", "o", "to"),
      lambda k, s: k in s, text),
    T("repeat_text", "s", "return the string s repeated {0} times", (2, 3, 4, 5), lambda k, s: s * k, text),
    T("first_letters", "s", "return the first {0} characters of the string s" + FEWER, (2, 3, 4, 5),
      lambda k, s: s[:k], text),
    T("last_letters", "s", "return the last {0} characters of the string s" + FEWER, (2, 3, 4, 5),
      lambda k, s: s[-k:], text),
    T("is_longer", "s", "return True if the string s has more than {0} characters, else False", (3, 4, 5, 7),
      lambda k, s: len(s) > k, text),
    T("wrap", "s", "return the string s with '{0}' before it and '{0}' after it", ("*", "-", "#", "_"),
      lambda k, s: k + s + k, text),
    T("every_nth_letter", "s", "return every {0} character of the string s, starting with the first",
      (("second", 2), ("third", 3), ("fourth", 4), ("fifth", 5)), lambda _, k, s: s[::k], text),
    T("raise_letter", "s", "return the string s with each '{0}' in upper case", tuple("aern"),
      lambda k, s: s.replace(k, k.upper()), text),
    T("index_of_letter", "s", "return the index of the first '{0}' in the string s, or -1 if it is not there",
      tuple("aort"), lambda k, s: s.find(k), text),
    T("long_words", "s", "return a list of the words of the string s with more than {0} letters", (2, 3, 4, 1),
      lambda k, s: [w for w in s.split() if len(w) > k], sentences),
    T("dash_spaces", "s", "return the string s with each space replaced by '{0}'", ("-", "_", "+", "/"),
      lambda k, s: s.replace(" ", k), sentences),
    T("join_words", "ws", "return the words in the list ws joined by '{0}'", ("-", ", ", "+", "/"),
      lambda k, ws: k.join(ws), words),
    T("prefix_words", "ws", "return a list with '{0}' in front of each word in the list ws",
      ("x", "re", "my ", "#"), lambda k, ws: [k + w for w in ws], words),
    T("suffix_words", "ws", "return a list with '{0}' after each word in the list ws", ("s", "!", "er", "_1"),
      lambda k, ws: [w + k for w in ws], words),
    T("count_starting", "ws", "return how many words in the list ws start with '{0}'", tuple("bcst"),
      lambda k, ws: sum(w.startswith(k) for w in ws), words),
    T("keep_starting", "ws", "return a list of the words in ws that start with '{0}'", tuple("fgpo"),
      lambda k, ws: [w for w in ws if w.startswith(k)], words),
    T("count_longer", "ws", "return how many words in the list ws have more than {0} letters", (3, 4, 2, 1),
      lambda k, ws: sum(len(w) > k for w in ws), words),
    T("keep_longer", "ws", "return a list of the words in ws with more than {0} letters", (4, 3, 2, 1),
      lambda k, ws: [w for w in ws if len(w) > k], words),
)  # fmt: skip
DICTIONARIES = (
    T("value_or", "d", "return the value of the key '{0}' in the dictionary d, or {1} if it is not there",
      (("apple", 0), ("goat", -1), ("tea", 10), ("moon", 5)), lambda k, v, d: d.get(k, v), counts),
    T("has_key", "d", "return True if the dictionary d has the key '{0}', else False",
      ("cat", "ship", "tree", "map"), lambda k, d: k in d, counts),
    T("keys_over", "d", "return a sorted list of the keys of d whose values are greater than {0}", (3, 8, 0, 5),
      lambda k, d: sorted(name for name, v in d.items() if v > k), counts),
    T("sum_values_over", "d", "return the sum of the values of d that are greater than {0}", (2, 6, 10, 4),
      lambda k, d: sum(v for v in d.values() if v > k), counts),
    T("count_values_over", "d", "return how many values of the dictionary d are greater than {0}", (5, 9, 1, 7),
      lambda k, d: sum(v > k for v in d.values()), counts),
    T("add_to_values", "d", "return a dictionary with {0} added to each value of d", (1, 5, 10, 3),
      lambda k, d: {name: v + k for name, v in d.items()}, counts),
    T("without_key", "d", "return the dictionary d without the key '{0}'", ("egg", "fish", "nut", "star"),
      lambda k, d: {name: v for name, v in d.items() if name != k}, counts),
    T("with_key", "d", "return a copy of the dictionary d in which the key '{0}' has the value {1}",
      (("dog", 1), ("ice", 7), ("sand", 0), ("wolf", 12)), lambda k, v, d: {**d, k: v}, counts),
)  # fmt: skip
NUMBERS = (
    T("times_plus", "n", "return n multiplied by {0}, plus {1}", ((2, 1), (3, 5), (5, 2), (10, 7)),
      lambda a, b, n: n * a + b, number),
    T("is_multiple", "n", "return True if n can be divided by {0}, else False", (3, 4, 5, 7),
      lambda k, n: n % k == 0, number),
    T("remainder", "n", "return the remainder of n divided by {0}", (3, 4, 7, 10),
      lambda k, n: n % k, natural),
    T("to_power", "n", "return n raised to the power {0}", (2, 3, 4, 5), lambda k, n: n**k, number),
    T("at_most", "n", "return n, or {0} if n is greater than {0}", (10, 25, 7, 40),
      lambda k, n: min(n, k), number),
    T("at_least", "n", "return n, or {0} if n is less than {0}", (5, 0, 12, 20),
      lambda k, n: max(n, k), number),
    T("distance", "n", "return the distance between n and {0}, which is never negative", (5, 10, 3, 20),
      lambda k, n: abs(n - k), number),
    T("convert", "n", "return how many {1} there are in n {0}",
      (("hours", "minutes", 60), ("weeks", "days", 7), ("metres", "centimetres", 100), ("days", "hours", 24)),
      lambda a, b, k, n: n * k, natural),
    T("is_between", "n", "return True if n is at least {0} and at most {1}, else False",
      ((1, 10), (5, 20), (-5, 5), (10, 30)), lambda a, b, n: a <= n <= b, number),
    T("multiples", "n", "return a list of the first n multiples of {0}, starting with {0}", (3, 5, 4, 10),
      lambda k, n: [k * i for i in range(1, n + 1)], small),
    T("count_to", "n", "return a list of the whole numbers from {0} to {0} + n", (1, 5, 0, 10),
      lambda k, n: list(range(k, k + n + 1)), small),
    T("count_digit", "n", "return how many times the digit {0} occurs in the whole number n", (1, 2, 3, 5),
      lambda k, n: str(n).count(str(k)), natural),
    T("label", "n", "return '{0}' if n is greater than {2}, else '{1}'",
      (("big", "small", 10), ("hot", "cold", 25), ("old", "young", 40), ("yes", "no", 0)),
      lambda a, b, k, n: a if n > k else b, number),
    T("sum_two", "a, b", "return the sum of a and b, multiplied by {0}", (2, 3, 5, 10),
      lambda k, a, b: (a + b) * k, two_numbers),
    T("larger_plus", "a, b", "return the larger of a and b, plus {0}", (1, 4, 10, 100),
      lambda k, a, b: max(a, b) + k, two_numbers),
)  # fmt: skip
TEMPLATES: tuple[Template, ...] = (*LISTS, *TEXTS, *DICTIONARIES, *NUMBERS)
