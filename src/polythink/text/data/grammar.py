"""A compositional grammar between two small languages: word order is reversed, and endings agree.

    source   the dog that sees some cats follows these girls today
    target   oma man morank dapit ke to kelu son nironk lirit

Source, each rule with its words in order:

    S   ->  NP V NP (Adv)          NP  ->  Det (Adj) N (M)          M  ->  that V NP  |  that NP V  |  P NP

Target of the same tree:

    S   ->  (Adv) NP/nominative NP/accusative V        the verb agrees in number with the subject
    NP  ->  (M) Det N (Adj)                            Det, Adj agree with N in gender and number, N bears case
    M   ->  NP/accusative V ke                         a relative clause with the noun as its subject
         |  NP/nominative V ko                         with the noun as its object
         |  NP/nominative P                            a place

Source verbs and nouns mark number by an s, as in English. A noun's gender has to be memorised. All words are
separated by single spaces.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from polythink.text.data.pairs import Pair

MODIFIED = (0.8, 0.6, 0.4, 0.2, 0.0)  # probability that a noun has a clause or a place, at each depth
ADJECTIVE, PLURAL, ADVERB, PLACE = 0.25, 0.5, 0.25, 0.33
LONGEST = 28  # words of a source; longer ones are sampled again


def _words(text: str) -> dict[str, str]:
    """`english:target` pairs."""
    return dict(word.split(":") for word in text.split())


NOUNS = _words(
    "dog:kelu cat:mora bird:tisa farmer:banor teacher:sulim doctor:vedat singer:lopun king:garas queen:ofeli "
    "girl:niro wolf:hatum horse:zefi sailor:pirak baker:dolem painter:cusav student:yemin driver:rakol "
    "hunter:temus lawyer:wolan soldier:jubet poet:falin dancer:gosur monk:hilep robber:kuvan"
)
FEMININE = [
    "cat",
    "teacher",
    "singer",
    "queen",
    "wolf",
    "baker",
    "student",
    "hunter",
    "poet",
    "dancer",
    "bird",
    "lawyer",
]
VERBS = _words(
    "see:dap follow:lir love:mok hear:sut fear:bel help:gim find:rov call:nas greet:pog guide:fud guard:zil trust:wem "
    "paint:hok carry:jat blame:vun know:tec"
)
ADJECTIVES = _words(
    "red:pal old:gin small:mur happy:teb tall:sor brave:lef quiet:kud rich:vas clever:nop lonely:hid"
)  # stems
ADVERBS = _words("today:oma often:ire never:ulo quickly:ebi again:asu gladly:iko")
PLACES = _words("near:uri behind:apu beside:exa under:inde above:opla")
DETERMINERS = {("the", "the"): "t", ("a", "some"): "m", ("this", "these"): "s"}  # singular and plural -> stem


# ---- the two languages ----


@dataclass(frozen=True)
class Phrase:
    """A noun phrase as words of both languages; the target in both cases."""

    source: list[str]
    nominative: list[str]
    accusative: list[str]
    plural: bool


Place = tuple[str, Phrase]  # preposition, and what the noun is near to
Clause = tuple[str, Phrase, bool]  # relative clause: verb, other noun, whether the head is the subject


def noun_phrase(
    determiner: tuple[str, str], noun: str, plural: bool, adjective: str | None = None,
    modifier: Place | Clause | None = None,
) -> Phrase:  # fmt: skip
    """A noun with its determiner, adjective and modifier. `determiner` is its singular and its plural."""
    agreement = ("a" if noun in FEMININE else "o") + "n" * plural
    adjectives = [adjective] if adjective else []
    source = [determiner[plural], *adjectives, noun + "s" * plural]
    before: list[str] = []  # of the target
    match modifier:
        case (preposition, other):
            source += [preposition, *other.source]
            before = [*other.nominative, PLACES[preposition]]
        case (verb, other, True):
            words, target_verb = _verb(verb, plural)
            source += ["that", words, *other.source]
            before = [*other.accusative, target_verb, "ke"]
        case (verb, other, False):
            words, target_verb = _verb(verb, other.plural)
            source += ["that", *other.source, words]
            before = [*other.nominative, target_verb, "ko"]

    def target(case: str) -> list[str]:
        stem = NOUNS[noun] + "n" * plural + case
        return [*before, DETERMINERS[determiner] + agreement, stem, *(ADJECTIVES[x] + agreement for x in adjectives)]

    return Phrase(source, target(""), target("k"), plural)


def _verb(verb: str, plural: bool) -> tuple[str, str]:
    return (verb, VERBS[verb] + "unt") if plural else (f"{verb}s", VERBS[verb] + "it")


def sentence(subject: Phrase, verb: str, object_: Phrase, adverb: str | None = None) -> Pair:
    """The sentence in the source and in the target language."""
    source_verb, target_verb = _verb(verb, subject.plural)
    adverbs = [adverb] if adverb else []
    source = [*subject.source, source_verb, *object_.source, *adverbs]
    target = [*(ADVERBS[x] for x in adverbs), *subject.nominative, *object_.accusative, target_verb]
    return Pair(" ".join(source), " ".join(target))


# ---- drawing ----


def draw_pair(rng: random.Random) -> Pair:
    while True:
        adverb = rng.choice(list(ADVERBS)) if rng.random() < ADVERB else None
        pair = sentence(_draw_phrase(rng), rng.choice(list(VERBS)), _draw_phrase(rng), adverb)
        if len(pair.source.split()) <= LONGEST:
            return pair


def _draw_phrase(rng: random.Random, depth: int = 0) -> Phrase:
    return noun_phrase(
        determiner=rng.choice(list(DETERMINERS)),
        noun=rng.choice(list(NOUNS)),
        plural=rng.random() < PLURAL,
        adjective=rng.choice(list(ADJECTIVES)) if rng.random() < ADJECTIVE else None,
        modifier=_draw_modifier(rng, depth) if rng.random() < MODIFIED[depth] else None,
    )


def _draw_modifier(rng: random.Random, depth: int) -> Place | Clause:
    other = _draw_phrase(rng, depth + 1)
    if rng.random() < PLACE:
        return rng.choice(list(PLACES)), other
    return rng.choice(list(VERBS)), other, rng.random() < 0.5
