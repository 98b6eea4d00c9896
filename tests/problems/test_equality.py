"""Equality of answers: one table for each kind of mistake, in both directions; the reported cases; real references."""

from __future__ import annotations

import json
import random
import re
import time
from collections import defaultdict
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.grading import boxed, problem
from helpers.sweep import sweep
from polythink.problems.answers import Grader
from polythink.problems.equality import compare, spelling
from polythink.problems.notation import plain
from polythink.problems.quantity import read
from polythink.problems.sets import load_problems

yes, no = True, False

# (what a response states, the reference, whether they are equal)
CASES = {
    "percentages": [
        (r"0.25\%", r"25\%", no), (r"3\%", r"300\%", no), (r"7.5\%", r"750\%", no), (r"\frac14\%", r"25\%", no),
        ("0.07", r"7\%", yes), ("7", r"7\%", yes), ("700", r"7\%", no), ("12.5 percent", r"12.5\%", yes),
        (r"\frac{25}{2}\%", r"12.5\%", yes), ("0.125", r"12.5\%", yes), (r"\frac18", r"12.5\%", yes),
        ("0.5 percent", "50 percent", no), (r"60\%", "0.6", yes), (r"60\%", r"\frac{3}{5}", yes),
        (r"33\frac{1}{3}\%", r"\frac13", yes), (r"25\%", "25", yes),
    ],
    "letters after a formula": [
        ("7c", "7", no), ("9d", "9", no), ("6g", "6", no), ("8h", "8", no), ("11l", "11", no), ("13o", "13", no),
        ("15s", "15", no), ("21t", "21", no), (r"\sqrt{5}t", r"\sqrt{5}", no), (r"\frac{3}{4}h", r"\frac34", no),
        ("y^3 m", "y^3", no), ("3bc", "3", no), ("7by", "7", no), ("4am", "4", no), ("9pm", "9", no),
        ("6xy", "6", no), (r"2\mathrm{i}", "2", no), (r"8\mathrm{e}", "8", no),
        (r"\frac{t\sqrt{2}}{3}", r"\frac{\sqrt{2}}{3}t", yes), ("7m", "7", yes), ("7 m", "7", yes),
        ("12km", "12", yes), ("12 kg", "12", yes), ("3 ft", "3", yes), (r"\sqrt{3}\text{ cm}", r"\sqrt{3}", yes),
        (r"2\pi\text{ square units}", r"2\pi", yes), (r"4\sqrt{2} \text{ inches}", r"4\sqrt2", yes),
        (r"x^3 \text{ cm}^3", "x^3", yes), ("4t", "4t", yes), ("4T", "4t", no),
    ],
    "upper and lower case": [
        ("S-s", "s-S", no), ("0", r"\pi(A^2-a^2)", no), (r"\pi A^2", r"\pi a^2", no), ("b^2+B^2", "2b^2", no),
        ("Rr", "r^2", no), ("2Rr", "2rR", yes), ("n+N", "2n", no), ("x+X", "2x", no), ("A+B", "a+b", no),
        (r"\frac{R}{r}", "1", no), ("R+r", "r+R", yes),
    ],
    "words": [
        ("BAC", "ABC", no), ("TTH", "HTT", no), ("star", "rats", no), ("dog", "god", no), ("MIX", "XIM", no),
        ("VI", "IV", no), ("on", "no", no), (r"\text{tar}", r"\text{rat}", no), ("is", "si", no), ("xy", "yx", yes),
        ("ab", "ba", yes), ("HTH", "HTH", yes), ("yes", "Yes", yes), ("TRUE", "True", yes), ("listen", "silent", no),
        ("Ohio", "ohio", yes), ("East", r"\text{east}", yes), (r"\text{Evelyn}", "Evelyn", yes),
        ("all real numbers", "All real numbers", yes),
    ],
    "words after a number": [
        (r"7 \text{ thousand}", "7", no), ("7000", r"7\text{ thousand}", yes), ("3 million dollars", "3000000", yes),
        ("3.5 billion", "3,500,000,000", yes), (r"2\text{ dozen}", "24", yes), (r"2\text{ dozen}", "2", no),
        (r"4\text{ cubed}", "4", no), (r"4\text{ factorial}", "4", no), (r"6\text{ pi}", "6", no),
        (r"5\text{ ft }4\text{ in}", "5", no), (r"5\text{ ft }4\text{ in}", r"5\text{ ft }3\text{ in}", no),
        (r"2\text{ hours and }15\text{ minutes}", "2", no),
        (r"2\text{ hours and }15\text{ minutes}", r"2\text{ hours and }15\text{ minutes}", yes),
        (r"9\text{ AM}", r"9\text{ PM}", no), (r"9\text{ a.m.}", r"9\text{ AM}", yes),
        (r"4:15\text{ PM}", r"4:15\text{ AM}", no), (r"4:15\text{ p.m.}", "4:15 PM", yes), ("10 am", "10 pm", no),
        ("10 a.m.", "10:00 AM", yes), ("8 squared", "8", no), (r"5 \text{ hundredths}", "5", no),
        (r"5 \text{ hundredths}", "0.05", yes), ("7 tenths", "0.7", yes), ("3 fifths", "3", no),
        ("2 thirds", r"\frac23", yes), ("40 thousand", "40", no), ("6 trillion", "6", no), ("5 days", "5", yes),
        (r"5 \text{ days}", "5", yes), ("12 people", "12", yes), ("3 red balls", "3", yes),
        (r"5 \text{ of them}", "5", yes), (r"\text{12 apples}", "12", yes), (r"\text{$12}", "12", yes),
        (r"12\text{ miles per hour}", "12", yes), ("60 mph", "60", yes), ("5 cm", "5 m", no),
        ("5 inches", "5 in", yes), ("30 cents", "30 dollars", no),
        (r"25\text{ cm}^2", r"25\text{ square centimeters}", yes), (r"\$30", "30 dollars", yes),
        (r"16\text{ sq cm}", "16", yes),
    ],
    "tiny numbers": [
        (r"6.6\times10^{-34}", r"9.1\times10^{-31}", no), (r"-6.6\times10^{-34}", r"6.6\times10^{-34}", no),
        ("5^{-90}", "7^{-90}", no), (r"\frac{1}{30!}", r"\frac{1}{31!}", no),
        (r"\frac{1}{30!}", r"\frac{1}{30!}", yes), (r"\frac{1}{2^{90}}", "2^{-90}", yes),
        ("10^{-40}", "10^{-41}", no), ("e^{-50}", "e^{-51}", no), ("e^{-50}", "-e^{-50}", no),
        (r"\frac{\pi}{10^{30}}", r"\frac{2\pi}{10^{30}}", no), ("(10^{-20},1)", "(10^{-21},1)", no),
        (r"\{10^{-20}\}", r"\{10^{-21}\}", no), (r"x \cdot 10^{-20}", r"x\cdot 10^{-21}", no),
        (r"\begin{pmatrix}10^{-20}\\1\end{pmatrix}", r"\begin{pmatrix}10^{-21}\\1\end{pmatrix}", no),
        ("[10^{-20},1]", "[10^{-21},1]", no), ("x=10^{-20}", "x=10^{-21}", no), ("x>10^{-20}", "x>10^{-21}", no),
        (r"\sqrt{10^{-40}}", "10^{-20}", yes), (r"1.38\times10^{-23}", r"1.38 \cdot 10^{-23}", yes),
        (r"1.380\times10^{-23}", "1.38e-23", yes), (r"\frac{1}{50!}+\frac{1}{51!}", r"\frac{1}{50!}", no),
    ],
    "rounding": [
        ("0.666667", "0.66666666666", yes), ("1.732051", "1.7320508", yes), ("3.141593", "3.14159265", yes),
        ("0.66", "0.666666", no), ("0.666666", "0.66666666", no), ("1.414214", r"\sqrt{2}", yes),
        ("1.41421", r"\sqrt{2}", no), ("2.718282", "e", yes), ("0.000001", "0.0000012", no),
    ],
    "spellings": [
        (r"0.\overline{6}", r"\frac23", yes), (r"0.1\overline{3}", r"\frac{2}{15}", yes),
        (r"0.\dot{6}", r"\frac{2}{3}", yes), (r"1.\overline{3}", r"\frac43", yes),
        (r"0.\overline{142857}", r"\frac17", yes), (r"-0.\overline{3}", r"-\frac13", yes),
        (r"0.\overline6", "2/3", yes), ("√3", r"\sqrt{3}", yes), ("5√7", r"5\sqrt{7}", yes), ("y²", "y^2", yes),
        ("10⁴", "10000", yes), ("¼", r"\frac14", yes), ("⅔", r"\frac23", yes), ("2½", "2.5", yes),
        ("7⁄8", r"\frac78", yes), ("(−∞, 3)", r"(-\infty,3)", yes), ("−∞", r"-\infty", yes), ("6·7", "42", yes),
        ("6⋅7", "42", yes), ("25°C", "25", yes), ("α=45°", r"45^\circ", yes), ("—7", "-7", yes), ("–7", "-7", yes),
        ('\u200b42', "42", yes), ('42\ufeff', "42", yes), ('cafe\u0301', "café", yes), ("GRÖSSE", "größe", yes),
        ("Straße", "strasse", yes), ("2.5e4", "25000", yes), ("1.6e-19", r"1.6\times10^{-19}", yes),
        ("3E8", r"3\times10^8", yes), (r"\text{9 pears}", "9", yes), (r"\varnothing", r"\emptyset", yes),
        ("∅", r"\emptyset", yes), (r"\lbrace 1,2\rbrace", r"\{1,2\}", yes), (r"\nicefrac{5}{6}", r"\frac56", yes),
        (r"\bf 0.25", r"\frac14", yes), (r"{\bf 7}", "7", yes), (r"\sin 60^\circ", r"\frac{\sqrt{3}}{2}", yes),
        (r"\cos 60°", r"\frac12", yes), (r"\tan 45^{\circ}", "1", yes), ("7<eos>", "7", yes),
        ("7<end_of_turn>", "7", yes), ("7<｜end▁of▁sentence｜>", "7", yes), ("7<|endoftext|>", "7", yes),
        ("π", r"\pi", yes), ("2π", r"2\pi", yes), ("±4", r"\pm 4", yes), ("x≤4", r"x\le 4", yes),
        ("x≥-1", r"x \geq -1", yes), ("x≠2", r"x\ne2", yes), ("ℝ", r"\mathbb{R}", yes),
        ("√(x+1)", r"\sqrt{x+1}", yes), ("x₁", "x_1", yes), ("３", "3", yes), ("１２", "12", yes),
    ],
    "separators inside brackets": [
        ("(2{,}345, 6)", "(2345,6)", yes), ("(6, 2{,}345)", "(6, 2345)", yes),
        (r"\{1{,}000, 2{,}000\}", r"\{1000,2000\}", yes), ("1{,}000, 2{,}000", "1000, 2000", yes),
        ("[1{,}000, 2{,}000]", "[1000,2000]", yes), ("x=1{,}000", "1000", yes), ("1{,}000x", "1000x", yes),
    ],
    "numbers beside each other": [
        ("3 4", "7", no), (r"3\ 4", "7", no), (r"3 \quad 4", "7", no), ("3{4}", "7", no), ("3 {4}", "7", no),
        ("10 20", "30", no), ("1 2 3", "6", no), ("3, 4 5", "3, 9", no), ("3 4x", "3+4x", no),
        ("(3 4, 5)", "(7, 5)", no), ("7", "3 4", no), ("3 4", "3 4", yes), ("3 1/2", "3.5", yes),
        ("{3}4", "7", no), ("{3} {4}", "7", no), ("2(3)", "5", no), ("(2)(3)", "5", no), ("(2) 3", "5", no),
        ("2(3)", "6", yes), ("(2)(3)", "6", yes), ("(2) 3", "6", yes), (r"\log_2(8)", "3", yes), ("3! 4", "24", yes),
        (r"\log_2 8", "3", yes), ("2^3 4", "32", yes), (r"\frac 1 2", "0.5", yes), (r"\frac{1} 2", "0.5", yes),
        (r"2 \frac{1}{2}", "2.5", yes), (r"3 \sqrt{4}", "6", yes), ("x_1 2", "2x_1", yes),
    ],
    "seconds and minutes": [
        ("60 min", "60", yes), ("30 sec", "30", yes), (r"30\text{ sec}", "30", yes), (r"60~\mathrm{min}", "60", yes),
        (r"30\,\mathrm{sec}", "30", yes), ("60 min", "60 minutes", yes), ("30 sec", "30 seconds", yes),
        ("30 sec, 40 sec", "30, 40", yes), ("5 m/sec", "5", yes), ("60 min", "60 sec", no), ("5 min 30 sec", "5", no),
        (r"\min(3,4)", "3", yes), ("sec x", r"\frac{1}{\cos x}", yes), (r"2 sec(x)", "2", no),
        (r"\sec \theta", r"\frac{1}{\cos\theta}", yes),
    ],
    "equations": [
        ("5=7", "7", no), ("2+2=5", "5", no), ("x^2=4", "4", no), ("2x=10", "10", no), ("-x=5", "5", no),
        (r"\sqrt{x}=3", "3", no), ("7", "5=7", no), ("-50", "4x-5y=-50", no), (r"\{2+2=5\}", "5", no),
        ("(2,3)=(1,2)", "(1,2)", no), ("5! = 7", "7", no), ("1:2=7", "7", no), ("3+4=8=7", "7", no),
        ("x=2+2=5", "5", no), ("x(x+1)=12", "12", no), ("5=7, 8", "7, 8", no),
        ("3+4=7", "7", yes), ("5! = 120", "120", yes),
        ("(x_1,x_2)=(1,2)", "(1,2)", yes), (r"\log_2 8=3", "3", yes), (r"\frac12=50\%", r"50\%", yes),
        ("x=2+2=4", "4", yes), ("V=lwh=60", "60", yes), ("m+n=7", "7", yes), ("[ABC]=84", "84", yes),
        (r"\sin A=\frac35", "0.6", yes), ("f(2)=5", "5", yes), ("f^{-1}(2)=5", "5", yes), ("f(g(2))=5", "5", yes),
        (r"\frac{AB}{BC}=2", "2", yes), (r"\vec{v}=(1,2)", "(1,2)", yes), ("= 5", "5", yes),
        ("(x+1)^2=x^2+2x+1", "x^2+2x+1", yes), (r"\sum_{i=1}^{n} i", r"\frac{n(n+1)}{2}", yes),
    ],
    "two formulas between delimiters": [
        ("$5$ or $-5$", r"\pm 5", yes), (r"\(5\) or \(-5\)", r"\pm 5", yes), (r"\(5\) and \(7\)", "7, 5", yes),
    ],
    "the imaginary unit": [
        (r"3i\sqrt{5}", r"3\sqrt{5}i", yes), ("(1-i)^2", "-2i", yes), ("i^3", "-i", yes), ("i^4", "1", yes),
        (r"\sqrt{-9}", "3i", yes), ("|5+12i|", "13", yes), (r"e^{i\pi/2}", "i", yes), ("2.0+3.0i", "2+3i", yes),
        ("3i+2", "2+3i", yes), ("(2+i)(2-i)", "5", yes), (r"\frac{1}{i}", "-i", yes), ("2i", "2", no), ("i", "1", no),
        ("1+i,1-i", "1-i,1+i", yes), (r"1 \pm i", "1+i, 1-i", yes), (r"\{i,-i\}", r"\pm i", yes),
        (r"\sum_{i=1}^{n} i", r"\frac{n(n+1)}{2}", yes), ("x_i", "x_j", no),
        (r"\frac{1+i\sqrt{3}}{2}", r"e^{i\pi/3}", yes), (r"\cos\theta+i\sin\theta", r"e^{i\theta}", yes),
    ],
    "bases": [
        ("101", "101_2", no), ("101_2", "101", no), ("101_2", "101_3", no), ("101_{2}", "101_2", yes),
        ("765_8", "765_{8}", yes), ("0101_2", "101_2", yes), ("5", "101_2", no), ("2E_{16}", "E2_{16}", no),
        (r"52_{\text{eight}}", "52_8", yes), (r"1011_{\text{two}}", "1011_2", yes),
    ],
    "words that are no units": [
        ("7 tenths", "7", no), (r"7 \text{ fourths}", "7", no), ("7 halves", "7", no), ("7 infinity", "7", no),
        ("7 cos", "7", no), ("7 yz", "7", no), ("7 sin", "7", no), ("3 pq", "3", no), ("3 abcd", "3", no),
        ("3 ln", "3", no), ("9 xyz", "9", no), ("4 mn", "4", no), ("2 log", "2", no),
    ],
    "pairs, sets and ratios": [
        ("(3,4)", r"\{3,4\}", no), (r"\{3,4\}", "(3,4)", no), ("(3,4)", "3,4", no), ("3,4", "(3,4)", no),
        ("3,4", r"\{4,3\}", yes), ("[3,4]", "(3,4)", no), ("(3,4)", "(3,4]", no), ("6:30", "13/2", no),
        ("5:30", "1/6", no), ("2:3", "4:6", yes), ("2:3", r"\frac23", yes), ("3:4", "4:3", no), ("6:30", "6:45", no),
        (r"\langle 1,2\rangle", r"\langle 2,1\rangle", no), ("(1,2)", "(1,2,3)", no), (r"\{1\}", "1", yes),
        (r"(\frac12, 3)", "(0.5,3)", yes), (r"(0.5,\sqrt{8})", r"(\frac12,2\sqrt2)", yes),
        ("(x,y)=(3,4)", "(3,4)", yes), ("(3,4),(1,2)", "(1,2),(3,4)", yes), ("x=3, y=4", "x=4,y=3", no),
        ("x=3,y=4", "y=4,x=3", yes), (r"x=3 \text{ or } x=-3", "3,-3", yes), (r"x=\pm 3", "3,-3", yes),
        (r"3 \text{ and } -3", "-3, 3", yes),
    ],
    "choices with their letters": [
        (r"\textbf{(B)}\ 12", "12", yes), (r"\textbf{(B) }12", "12", yes), (r"\mathbf{(B)}\ 12", "12", yes),
        (r"\textbf{(B)}\ 12", "B", yes), (r"\textbf{(B) }12", r"\text{(B)}", yes), (r"\text{(B) 12}", "12", yes),
        ("(B) 12", "B", yes), ("B) 12", "B", yes), ("B. 12", "B", yes), ("(B) 12", "12", yes), ("(B) -12", "-12", yes),
        (r"\textbf{(B)}\ \frac12", "0.5", yes), (r"\textbf{(E) }\text{none of these}", "E", yes),
        (r"\textbf{(C) } \{1,2\}", "2,1", yes), (r"\textbf{(B)}\ 12", "13", no), (r"\textbf{(B)}\ 12", "C", no),
        ("(B) 12", "2", no), ("(A) + 5", "5", no), ("(A) - 12", "-12", no), ("(A) 12", "12A", yes),
        ("12", "(B) 12", no), ("B", "(B) 12", no),  # a reference is taken as it stands
    ],
    "other forms": [
        (r"\frac{1}{2}", r"\frac{1}{3}", no), ("x^2-4", "(x-2)(x+2)", yes), ("y=2x+1", "2x+1", yes),
        ("y=2x+1", "y=2x+2", no), ("y=2x+1", "2x-y+1=0", yes), ("1<x<4", "(1,4)", no), ("(1,4)", "1<x<4", yes),
        (r"x\in(1,4)", "(1,4)", yes), (r"x \in [1,4]", "(1,4)", no), (r"5\sqrt(3)", r"5\sqrt{3}", yes),
        ("pi/3", r"\frac{\pi}{3}", yes), ("exp(9)", "e^9", yes), ("2**5", "32", yes),
        (r"[-\infty,4)", r"(-\infty,4)", no), ("2,3,5", "2,3,7", no), ("12", "1,2", no), ("1,234", "1234", yes),
        ("1,234", "1,2,3,4", no), (r"\text{(B)}", "B", yes), ("(B)", "B", yes), ("B", "C", no),
        (r"120^\circ", "120", yes), (r"\frac{3}{4}\text{ of the pizza}", r"\frac34", yes), (r"\boxed{7}", "7", yes),
        ("0.5x", r"\frac{x}{2}", yes), ("1.0", "1", yes), ("1.50", "1.5", yes), (".5", "0.5", yes), ("5.", "5", yes),
        ("-0", "0", yes), (r"\sqrt[3]{8}", "2", yes), (r"3 \times 10^{2}", "300", yes),
        (r"\dfrac{\dfrac12}{3}", r"\frac16", yes), (r"\binom{6}{2}", "15", yes), ("6!", "720", yes),
        (r"\log_2 8", "3", yes), (r"\text{no solution}", "no solution", yes), (r"\text{Jan 5}", r"\text{Jan 6}", no),
        (r"10\,000", "10000", yes), ("10 000", "10000", yes), (r"1\,234\,567", "1234567", yes),
    ],
}  # fmt: skip


@pytest.mark.parametrize("kind", CASES)
def test_equality(grader: Grader, kind: str):
    wrong = [(given, want) for given, want, equal in CASES[kind] if grader.equal(given, want) is not equal]
    assert wrong == []


@pytest.mark.parametrize(
    ("reference", "answer", "equal"),
    [
        ("1/2", "0.5", True),
        ("1/2", r"\dfrac{2}{4}", True),
        ("1/2", r"\frac12", True),
        ("-1/2", r"\frac{-1}{2}", True),
        ("-5", "−5", True),
        ("5", "-5", False),
        ("1.5", r"1\frac{1}{2}", True),
        ("11/2", "1 1/2", False),
        ("204", "0204", True),
        ("204", "204.0", True),
        ("1234", "1,234", True),
        ("1234", "1{,}234", True),
        ("1234", r"1,\!234", True),
        ("1000000", "1 000 000", True),
        ("36", r"\$36", True),
        ("36", "$36.00 dollars", True),
        ("5", r"5\text{ cm}", True),
        (r"864 \mbox{ inches}^2", "864", True),
        ("25", "25 square feet", True),
        ("25", "25 cm^2", True),
        (r"60^\circ", "60", True),
        ("50", r"50\%", True),
        (r"50\%", "0.5", True),
        ("50", "0.5", False),
        ("0.333333", "1/3", True),  # written with six places: rounded
        ("1/3", "0.333", False),
        ("52_8", "52_{8}", True),
        ("52_8", "52_9", False),
        (r"\text{even}", "Even", True),
        (r"\text{(C)}", "C", True),
        (r"\left(1, 2\right)", "(1,2)", True),
        ("5", "5x", None),
        ("5", "5 x", None),
        ("5", r"5\mathrm{i}", None),
        ("3", "3 million", False),
        ("2", "2 or 3", False),
        ("5", "5!", None),
        ("1", "1/0", None),
        ("0.5", "5/10/1", None),
        ("10", "10^{1}", True),
        ("7", "9" * 400, False),
    ],
)
def test_compare_decides_without_algebra(reference: str, answer: str, equal: bool | None):
    assert compare(answer, reference) is equal


def test_plain_is_one_notation():
    assert plain("\u200b½\xa0\uff05") == r"\frac{1}{2} %"
    assert plain(r"\boxed{\dfrac12}") == r"\frac{1}{2}"
    assert plain(r"\left(1{,}234,\; 5\right)") == "(1234, 5 )"
    assert plain(r"0.1\overline{6}") == r"\frac{1}{6}"
    assert plain(r"5\mathrm{~cm}") == r"5\text{cm}"
    assert plain("x² + √3") == r"x^{2} + \sqrt{3}"
    assert spelling("90\\text{ square\nunits}") == "90"  # a unit does not count


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="0123456789.,-+/%$ \\{}frac()", max_size=40))
def test_numbers_are_exact_or_none(text: str):
    number = read(plain(text)).number
    if number is not None:
        assert compare(f"{number.value.numerator}/{number.value.denominator}", text)


PIECES = [
    "\\frac", "{", "}", "1", "2", "x", "R", " ", "\\text{", "cm", "%", "\\%", "$", "°", "^\\circ", ",", "(", ")", "[",
    "\\{", "\\}", "\\pm", "=", " and ", ":", "a.m.", "√", "½", "²", "\\overline{3}", "0.", "e", "i", "_2", "\\sqrt",
    "!", "\\boxed{", "million", "-", "–", "\\", "\\\\", "<eos>", "|", "\\in", ";", "\\dot{3}", "E5",
]  # fmt: skip


@settings(max_examples=400, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=9), st.lists(st.sampled_from(PIECES), max_size=9))
def test_comparison_is_reflexive_and_symmetric_whatever_the_texts(one: list[str], other: list[str]):
    first, second = "".join(one), "".join(other)
    assert compare(first, first) is True
    assert compare(first, second) is compare(second, first)


LOOPS = [
    r" \quad", r"\,", r"\ ", r"\left", "~", "{", "(", "1,", r"\frac", "$", "9", "1.", "^{", "x=", r"\sqrt(", ".1", "√(",
]  # fmt: skip


@pytest.mark.parametrize("loop", LOOPS)
def test_an_answer_that_loops_is_compared_in_linear_time(loop: str):
    def seconds(times: int) -> float:
        start = time.process_time()
        compare("5" + loop * times + r"\overline x", "7")
        return time.process_time() - start

    seconds(1000)
    assert seconds(32_000) < 40 * max(seconds(4000), 0.02)  # eight times the text; a quadratic scan takes 64 times


# ---- the machine-readable cases, and real references ----


@pytest.mark.slow
def test_every_reported_case_has_its_verdict(shared_data: Path, grader: Grader, monkeypatch):
    path = shared_data.parent / "cases" / "grading.jsonl"
    if not path.exists():
        pytest.skip("no grading.jsonl beside the shared data")
    rows = [row for row in map(json.loads, path.read_text(encoding="utf-8").splitlines()) if "answer" in row]
    names = {"__builtins__": {"map": map, "str": str, "range": range}}  # for texts that are given as an expression
    texts = [row["text"] if "text" in row else eval(row["text_python"], names) for row in rows]
    wrong = {}
    for may_overrun in (False, True):  # what may be given up is given up soon
        some = [pair for pair in zip(rows, texts, strict=True) if ("timeout" in pair[0]["expected"]) is may_overrun]
        monkeypatch.setattr(grader, "seconds", 2.0 if may_overrun else grader.seconds)
        grades = grader.grade_many([(text, problem(row["answer"])) for row, text in some])
        graded = zip(some, grades, strict=True)
        wrong |= {row["id"]: grade for (row, _), grade in graded if grade.verdict not in row["expected"].split("/")}
    assert wrong == {}


def loose(answer: str) -> str:
    """What two references must share to be one value, by code of its own: no typesetting, no unit, no name."""
    answer = re.sub(r"\\(?:text|mbox)\s*\{[^{}]*[a-z]{2}[^{}]*\}|\^\{?\\circ\}?|\\?%|[{}\s$.]", "", answer)
    answer = re.sub(r"\\(?:text|mbox|left|right|!|;|,|\$)", "", re.sub(r"(\d+):(\d+)", r"\\frac\1\2", answer))
    return re.sub(r"^[a-zA-Z]=|[()](?=[A-E])|(?<=[A-E])\)|,(?=\d{3})|\\", "", re.sub(r"[dt]frac", "frac", answer))


@pytest.mark.slow
@pytest.mark.parametrize("many", sweep([60, 400], [60]))
def test_different_references_of_math_are_not_equal(shared_data: Path, grader: Grader, many: int):
    references = sorted({p.answer for p in load_problems(shared_data / "math_test.parquet")})
    alike = defaultdict(list)  # the same digits: the pairs that are easily taken for equal
    for reference in references:
        alike["".join(sorted(re.findall(r"\d", reference)))].append(reference)
    pairs = [(one, two) for group in alike.values() for i, one in enumerate(group) for two in group[i + 1 :]]
    pairs = random.Random(0).sample(pairs, many)
    asked = [(boxed(one), problem(two)) for one, two in pairs]
    equal = [pair for pair, grade in zip(pairs, grader.grade_many(asked), strict=True) if grade.verdict != "wrong"]
    assert [pair for pair in equal if loose(pair[0]) != loose(pair[1])] == []
    assert len(equal) > many / 30


def test_the_examples_of_the_page_for_users_hold(grader: Grader):
    page = (Path(__file__).parents[2] / "docs" / "reference" / "answers.md").read_text(encoding="utf-8")
    rows = page.partition("| rule | equal | different |\n| --- | --- | --- |\n")[2].partition("\n\n")[0].splitlines()
    assert len(rows) > 12
    wrong = []
    for row in rows:
        for equal, cell in zip((True, False), row.strip("| ").split(" | ")[1:], strict=False):
            for example in cell.split(";"):
                first, *others = re.findall(r"`([^`]+)`", example)
                for other in others:
                    pair = (first, other) if " for " in example else (other, first)
                    if grader.equal(*pair) is not equal:
                        wrong.append(pair)
    assert wrong == []
