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

from polythink.text.data.pairs import SIZES, Pair, generate_pairs

NAME = "grammar"
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
FEMININE = {
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
}
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


# ---- the source language ----


def english(sentence: Sentence) -> list[str]:
    verb = _english_verb(sentence.verb, sentence.subject)
    adverb = [sentence.adverb] if sentence.adverb else []
    return [*_english_phrase(sentence.subject), verb, *_english_phrase(sentence.object), *adverb]


def _english_verb(verb: str, subject: NounPhrase) -> str:
    return verb if subject.plural else f"{verb}s"


def _english_phrase(phrase: NounPhrase) -> list[str]:
    words = [phrase.determiner[phrase.plural]]
    words += [phrase.adjective] if phrase.adjective else []
    words.append(f"{phrase.noun}s" if phrase.plural else phrase.noun)
    match phrase.modifier:
        case None:
            return words
        case Place(preposition, other):
            return [*words, preposition, *_english_phrase(other)]
        case Clause(verb, other, head_is_subject=True):
            return [*words, "that", _english_verb(verb, phrase), *_english_phrase(other)]
        case Clause(verb, other):
            return [*words, "that", *_english_phrase(other), _english_verb(verb, other)]


# ---- the target language ----


def target(sentence: Sentence) -> list[str]:
    adverb = [ADVERBS[sentence.adverb]] if sentence.adverb else []
    verb = _target_verb(sentence.verb, sentence.subject)
    return [*adverb, *_target_phrase(sentence.subject, ""), *_target_phrase(sentence.object, "k"), verb]


def _target_verb(verb: str, subject: NounPhrase) -> str:
    return VERBS[verb] + ("unt" if subject.plural else "it")


def _target_phrase(phrase: NounPhrase, case: str) -> list[str]:
    """`case` is the noun's ending: none for the nominative, k for the accusative."""
    agreement = ("a" if phrase.noun in FEMININE else "o") + "n" * phrase.plural
    noun = NOUNS[phrase.noun] + "n" * phrase.plural + case
    words = [DETERMINERS[phrase.determiner] + agreement, noun]
    words += [ADJECTIVES[phrase.adjective] + agreement] if phrase.adjective else []
    match phrase.modifier:
        case None:
            return words
        case Place(preposition, other):
            return [*_target_phrase(other, ""), PLACES[preposition], *words]
        case Clause(verb, other, head_is_subject=True):
            return [*_target_phrase(other, "k"), _target_verb(verb, phrase), "ke", *words]
        case Clause(verb, other):
            return [*_target_phrase(other, ""), _target_verb(verb, other), "ko", *words]


# ---- drawing ----


def pairs(split: str, limit: int | None = None, seed: int = 0) -> tuple[Pair, ...]:
    """Pairs of a split: 30,000 to train on, 1,024 to validate and 1,024 to test on unless `limit` says otherwise."""
    return generate_pairs(NAME, draw_pair, split, limit or SIZES.get(split, 0), seed)


def draw_pair(rng: random.Random) -> Pair:
    while True:
        sentence = draw_sentence(rng)
        words = english(sentence)
        if len(words) <= LONGEST:
            return Pair(" ".join(words), " ".join(target(sentence)))


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
