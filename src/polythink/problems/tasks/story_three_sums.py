"""Families of three steps that take parts from a whole, or add them: see `story_words` for how they are written."""

from __future__ import annotations

from polythink.problems.tasks.story_words import Family

SUMS = (
    Family(
        "change_of_two", {"t": (70, 99), "a": (2, 5), "b": (3, 8), "c": (2, 4), "d": (3, 8)}, "t-(a*b+c*d)",
        where="(t-a*b-c*d>4)*(b-d)",
        tellings=(
            "{A} has {t} dollars. {He} buys {a} books for {b} dollars each and {c} toys for {d} dollars each. How "
            "many dollars does {he} have left? | dollars",
            "{A} has {t} {things}. {He} gives {b} of them to each of {a} cousins and {d} of them to each of {c} "
            "friends. How many {things} does {A} keep?",
            "A bakery made {t} rolls. It sold {a} bags of {b} rolls and {c} bags of {d} rolls. How many rolls are "
            "left? | rolls",
            "How many {things} remain of {t} when {a} {boxes} of {b} and {c} {boxes} of {d} have been filled?",
            "{A} pays ${b} for each of {a} tickets and ${d} for each of {c} drinks. {He} had ${t}. How many dollars "
            "remain? | dollars",
            "Of {t} seats, {a} rows of {b} and {c} rows of {d} are taken. How many seats are free? | seats",
            "There were {t} liters of juice. {a} jugs of {b} liters and {c} jugs of {d} liters were drunk. How many "
            "liters were not? | liters",
            "A book has {t} pages. {A} reads {b} pages a day for {a} days and then {d} pages a day for {c} days. How "
            "many pages are unread? | pages",
            "{A} must drive {t} miles. First {he} drives {a} times {b} miles and then {c} times {d} miles. How many "
            "miles are left? | miles",
            "{a} cats eat {b} cans each and {c} dogs eat {d} cans each. {A} had {t} cans. How many cans are left "
            "over? | cans",
            "A school of {t} pupils sends {a} teams of {b} to one game and {c} teams of {d} to another. How many "
            "pupils stay? | pupils",
            "If {A} works {a} hours on {b} days and {c} hours on {d} other days, how many of {his} {t} hours are "
            "still to be done? | hours",
        ),
        heldout=(
            "From a roll of {t} feet of ribbon {A} cuts {a} pieces of {b} feet and {c} pieces of {d} feet. How many "
            "feet of ribbon are left? | feet",
            "{A} sells {a} {boxes} of {b} {things} and {c} {boxes} of {d} {things}. Before that {he} had {t} "
            "{things}. What number of them is unsold?",
        ),
        ways=(
            (
                "The first make [a*b] {unit}, the second [c*d]. Together that is [(a*b)+(c*d)], so [t-(a*b+c*d)] "
                "{unit} are left.",
                "Multiply both: [a*b] and [c*d]. The sum is [(a*b)+(c*d)]. What is left of {t} is [t-(a*b+c*d)] "
                "{unit}.",
                "First [a*b] and then [c*d] {unit} go away. That is [(a*b)+(c*d)] in all, and [t-(a*b+c*d)] {unit} "
                "stay.",
            ),
            (
                "The first make [a*b] {unit}, which leaves [t-(a*b)]. The second make [c*d], which leaves "
                "[(t-a*b)-(c*d)] {unit}.",
                "Take away [a*b] first: [t-(a*b)]. Then take away [c*d]: [(t-a*b)-(c*d)] {unit}.",
                "Without the first [a*b] there are [t-(a*b)] {unit}. Without the second [c*d] there are "
                "[(t-a*b)-(c*d)].",
            ),
        ),
    ),
    Family(
        "two_groups_more", {"a": (2, 6), "b": (3, 9), "c": (2, 6), "d": (3, 9), "e": (5, 25)}, "a*b+c*d+e", where="b-d",
        tellings=(
            "{A} has {a} {boxes} of {b} {things}, {c} {boxes} of {d} {things}, and {e} loose {things}. How many "
            "{things} does {he} have?",
            "{A} buys {a} books for {b} dollars each, {c} pens for {d} dollars each and a bag for {e} dollars. How "
            "many dollars does {he} pay? | dollars",
            "There are {a} tables with {b} guests each and {c} tables with {d} guests each. {e} guests are standing. "
            "How many guests are there? | guests",
            "How many dollars does {A} get for {a} hours at ${b} an hour and {c} hours at ${d} an hour, with a tip of "
            "${e} on top? | dollars",
            "{e} people go by car. {a} buses take {b} people each, and {c} vans take {d} each. How many people go? | "
            "people",
            "{A} had {e} {things}. {a} friends gave {him} {b} each, and {c} cousins gave {him} {d} each. How many "
            "does {he} have now?",
            "A book has {a} chapters of {b} pages, {c} chapters of {d} pages, and {e} pages of pictures. How many "
            "pages does it have? | pages",
            "For {a} days {A} ran {b} miles a day, then for {c} days {d} miles a day. The day after that {he} ran {e} "
            "miles. How many miles is that in all? | miles",
            "On a farm, {a} pens hold {b} sheep each and {c} pens hold {d} goats each. {e} hens walk around. How many "
            "animals live there? | animals",
            "A plant was {e} inches tall. It grew {b} inches a month for {a} months and {d} a month for {c} months. "
            "How many inches tall is it now? | inches",
            "{a} shelves carry {b} {things} each, {c} shelves carry {d} each, and {e} {things} are in a {box}. What "
            "is the total?",
        ),
        heldout=(
            "{A} swims {a} times {b} laps in May, {c} times {d} laps in June, and {e} laps in July. How many laps "
            "does {he} swim in all? | laps",
            "In a garden grow {e} tulips, {a} rows of {b} roses and {c} rows of {d} lilies. How many flowers grow "
            "there? | flowers",
        ),
        ways=(
            (
                "The first make [a*b] {unit}, the second [c*d]. Together that is [(a*b)+(c*d)], and with {e} more it "
                "is [(a*b+c*d)+e] {unit}.",
                "Multiply both: [a*b] and [c*d]. The sum is [(a*b)+(c*d)]. Add {e}: [(a*b+c*d)+e] {unit}.",
            ),
            (
                "Start with the {e}. The first add [a*b], which makes [e+(a*b)]. The second add [c*d], which makes "
                "[(e+a*b)+(c*d)] {unit}.",
                "To {e} add [a*b]: [e+(a*b)]. Then add [c*d]: [(e+a*b)+(c*d)] {unit}.",
            ),
        ),
    ),
    Family(
        "left_after_both", {"t": (80, 150), "n": (3, 6), "a": (5, 11), "b": (2, 6)}, "t-n*(a+b)", where="t-n*(a+b)>4",
        tellings=(
            "{A} has {t} dollars. For {n} days {he} spends {a} dollars on food and {b} dollars on the bus every day. "
            "How many dollars are left? | dollars",
            "{A} buys {n} shirts for {a} dollars each and {n} caps for {b} dollars each. {He} had {t} dollars. How "
            "many dollars does {he} have now? | dollars",
            "There were {t} {things}. Each of {n} children took {a}, and later each took {b} more. How many {things} "
            "were not taken?",
            "{n} people eat {a} plums and {b} pears each. There were {t} pieces of fruit. How many pieces are left? | "
            "pieces",
            "How many of {t} {things} are left if {a} are put into each of {n} {boxes} and {b} on top of each?",
            "A tank holds {t} liters. Every day {a} liters are used in the house and {b} in the garden. How many "
            "liters are left after {n} days? | liters",
            "Of a course of {t} hours, {A} does {a} hours at school and {b} hours at home each week. How many hours "
            "remain after {n} weeks? | hours",
            "{n} classes send {a} boys and {b} girls each to a game. The school has {t} pupils. How many pupils stay "
            "at school? | pupils",
            "From {t} inches of ribbon, {n} pieces of {a} inches and {n} pieces of {b} inches are cut. How many "
            "inches remain? | inches",
            "In a lesson of {t} minutes there are {n} rounds, each with {a} minutes of reading and {b} of talk. How "
            "many minutes remain? | minutes",
            "{A} reads {a} pages every morning and {b} every evening in a book of {t} pages. What number of pages is "
            "unread after {n} days? | pages",
        ),
        heldout=(
            "{A} must walk {t} miles and walks {a} miles every morning and {b} every afternoon. How many miles are "
            "left to walk after {n} days? | miles",
            "{A} packs {n} gifts with {a} {things} and {b} sweets each, out of {t} pieces in all. How many pieces are "
            "not packed? | pieces",
        ),
        ways=(
            (
                "Each time it is [a+b] {unit}. {n} times that is [n*(a+b)], and [t-(n*(a+b))] {unit} are left.",
                "Add first: [a+b]. Multiply: [n*(a+b)]. Subtract that from {t}: [t-(n*(a+b))] {unit}.",
            ),
            (
                "The first take [n*a] {unit}, which leaves [t-(n*a)]. The second take [n*b], which leaves "
                "[(t-n*a)-(n*b)] {unit}.",
                "Take away [n*a] first: [t-(n*a)]. Then take away [n*b]: [(t-n*a)-(n*b)] {unit}.",
            ),
        ),
    ),
    Family(
        "three_people", {"a": (4, 12), "k": (3, 4), "d": (2, 9)}, "a+k*a+k*a+d",
        tellings=(
            "{A} has {a} {things}. {B} has {k} times as many, and {C} has {d} more than {B}. How many {things} do the "
            "three have together?",
            "On Monday {A} read {a} pages, on Tuesday {k} times as many, and on Wednesday {d} pages more than on "
            "Tuesday. How many pages did {he} read in the three days? | pages",
            "A cup costs {a} dollars, a plate {k} times as much, and a bowl {d} dollars more than the plate. How many "
            "dollars do the three cost together? | dollars",
            "How many {things} are in three {boxes} if the first holds {a}, the second {k} times as many, and the "
            "third {d} more than the second?",
            "{B} found {k} times as many {things} as {A}, who found {a}. {C} found {d} more than {B}. What did all of "
            "them find in total?",
            "The first part of a trip takes {a} minutes. The second takes {k} times as long, and the third {d} "
            "minutes longer than the second. How many minutes is that in all? | minutes",
            "There are {a} goats on a farm. The sheep are {k} times as many, and there are {d} more hens than sheep. "
            "How many animals are there? | animals",
            "{A} ran {a} miles, and {B} ran {k} times as far. With {d} miles more than {B}, {C} ran farthest. How "
            "many miles did they run altogether? | miles",
            "A shop sold {a} {things} on {day} and {k} times as many on {next}. On the day after that, {d} more were "
            "sold than on {next}. How many were sold in the three days?",
            "In a club there are {a} adults, {k} times as many boys as adults, and {d} more girls than boys. How many "
            "people are in the club? | people",
            "{A} won {a} points in the first game and {k} times that number in the second. In the third {he} won {d} "
            "more than in the second. What is the sum? | points",
        ),
        heldout=(
            "{A} planted {a} trees, {B} planted {k} times as many, and {C} planted {d} trees more than {B}. How many "
            "trees did they plant in all? | trees",
            "A hat weighs {a} ounces, a coat weighs {k} times as much, and a pair of boots {d} ounces more than the "
            "coat. How many ounces do they weigh together? | ounces",
        ),
        ways=(
            (
                "The second number is [k*a] and the third [(k*a)+d]. The first two are [a+(k*a)], and all three "
                "[(a+k*a)+(k*a+d)] {unit}.",
                "Second: [k*a]. Third: [(k*a)+d]. Add them up: [a+(k*a)], and then [(a+k*a)+(k*a+d)] {unit}.",
            ),
            (
                "Without the {d} it is {a} once and twice {k} times, so [2*k+1] times {a}, which is [(2*k+1)*a]. With "
                "the {d} it is [((2*k+1)*a)+d] {unit}.",
                "Leave out the {d} first. Then there are [2*k+1] equal parts of {a}: [(2*k+1)*a]. The {d} make it "
                "[((2*k+1)*a)+d] {unit}.",
            ),
        ),
    ),
)  # fmt: skip
