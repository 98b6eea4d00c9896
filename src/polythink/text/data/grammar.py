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


@dataclass(frozen=True)
class NounPhrase:
    """A noun with its determiner, adjective and modifier."""

    determiner: tuple[str, str]
    noun: str
    plural: bool
    adjective: str | None = None
    modifier: Clause | Place | None = None


@dataclass(frozen=True)
class Clause:
    """A relative clause: the head noun is its subject or its object, `other` the rest."""

    verb: str
    other: NounPhrase
    head_is_subject: bool


@dataclass(frozen=True)
class Place:
    """Where a noun is: near another one."""

    preposition: str
    other: NounPhrase


@dataclass(frozen=True)
class Sentence:
    subject: NounPhrase
    verb: str
    object: NounPhrase
    adverb: str | None = None


# ---- the two languages ----


def translate(sentence: Sentence) -> tuple[list[str], list[str]]:
    """The words of the sentence in the source and in the target language."""
    source, target = _phrase(sentence.subject)
    object_source, object_target = _phrase(sentence.object, case="k")
    verb_source, verb_target = _verb(sentence.verb, sentence.subject)
    adverb = [sentence.adverb] if sentence.adverb else []
    return (
        [*source, verb_source, *object_source, *adverb],
        [*(ADVERBS[word] for word in adverb), *target, *object_target, verb_target],
    )


def _verb(verb: str, subject: NounPhrase) -> tuple[str, str]:
    return (verb, VERBS[verb] + "unt") if subject.plural else (f"{verb}s", VERBS[verb] + "it")


def _phrase(phrase: NounPhrase, case: str = "") -> tuple[list[str], list[str]]:
    """`case` is the ending of the noun in the target language: none for the nominative, k for the accusative."""
    agreement = ("a" if phrase.noun in FEMININE else "o") + "n" * phrase.plural
    adjective = [phrase.adjective] if phrase.adjective else []
    source = [phrase.determiner[phrase.plural], *adjective, phrase.noun + "s" * phrase.plural]
    target = [DETERMINERS[phrase.determiner] + agreement, NOUNS[phrase.noun] + "n" * phrase.plural + case]
    target += [ADJECTIVES[word] + agreement for word in adjective]
    match phrase.modifier:
        case Place(preposition, other):
            other_source, other_target = _phrase(other)
            source += [preposition, *other_source]
            target = [*other_target, PLACES[preposition], *target]
        case Clause(verb, other, head_is_subject):
            other_source, other_target = _phrase(other, "k" if head_is_subject else "")
            verb_source, verb_target = _verb(verb, phrase if head_is_subject else other)
            clause = [verb_source, *other_source] if head_is_subject else [*other_source, verb_source]
            source += ["that", *clause]
            target = [*other_target, verb_target, "ke" if head_is_subject else "ko", *target]
    return source, target


# ---- drawing ----


def draw_pair(rng: random.Random) -> Pair:
    while True:
        source, target = translate(draw_sentence(rng))
        if len(source) <= LONGEST:
            return Pair(" ".join(source), " ".join(target))


def draw_sentence(rng: random.Random) -> Sentence:
    adverb = rng.choice(list(ADVERBS)) if rng.random() < ADVERB else None
    return Sentence(_draw_phrase(rng), rng.choice(list(VERBS)), _draw_phrase(rng), adverb)


def _draw_phrase(rng: random.Random, depth: int = 0) -> NounPhrase:
    return NounPhrase(
        determiner=rng.choice(list(DETERMINERS)),
        noun=rng.choice(list(NOUNS)),
        plural=rng.random() < PLURAL,
        adjective=rng.choice(list(ADJECTIVES)) if rng.random() < ADJECTIVE else None,
        modifier=_draw_modifier(rng, depth) if rng.random() < MODIFIED[depth] else None,
    )


def _draw_modifier(rng: random.Random, depth: int) -> Clause | Place:
    other = _draw_phrase(rng, depth + 1)
    if rng.random() < PLACE:
        return Place(rng.choice(list(PLACES)), other)
    return Clause(rng.choice(list(VERBS)), other, head_is_subject=rng.random() < 0.5)
