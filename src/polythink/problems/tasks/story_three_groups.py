"""Families of three steps with groups of equal size: see `story_words` for how they are written."""

from __future__ import annotations

from polythink.problems.tasks.story_words import Family

GROUPS = (
    Family(
        "two_kinds_less", {"n": (3, 7), "a": (3, 9), "b": (2, 8), "c": (4, 15)}, "n*(a+b)-c", where="n*(a+b)-c>5",
        tellings=(
            "In each of {n} {boxes} there are {a} red and {b} white {things}. {A} takes out {c} {things}. How many "
            "{things} are left in the {boxes}?",
            "Every day {A} earns {a} dollars in the morning and {b} dollars in the evening. After {n} days {he} "
            "spends {c} dollars. How many dollars are left? | dollars",
            "{n} children bring {a} sandwiches and {b} cakes each. {c} of these are eaten. How many are left over? | "
            "pieces",
            "How many {things} are left of {n} {boxes}, each with {a} {color} and {b} {hue} ones, once {c} are sold?",
            "{n} teams of {a} boys and {b} girls come to the game, but {c} of the children cannot play. How many can "
            "play? | children",
            "{A} buys {n} meals for {a} dollars each and {n} drinks for {b} dollars each. A coupon takes off {c} "
            "dollars. What does {he} pay, in dollars? | dollars",
            "A hall has {n} rows, each with {a} chairs on the left and {b} on the right. {c} chairs are empty. How "
            "many are taken? | chairs",
            "For {n} weeks, {A} has saved {a} dollars and {B} {b} dollars a week. They give {c} dollars away. How "
            "many dollars do they keep? | dollars",
            "On each of {n} days {A} walks {a} miles and then rides {b} miles. Of all these miles, {c} are uphill. "
            "How many are not? | miles",
            "Each of {n} trees has {a} ripe and {b} green apples. The wind blows {c} apples down. How many apples "
            "still hang on the trees? | apples",
            "{A} put {a} {things} into each of {n} bags, and {B} put {b} more into each. Later {c} {things} were "
            "lost. How many {things} were not lost?",
            "{n} cars carry {a} adults and {b} children each. After a while {c} people get out. How many people are "
            "in the cars now? | people",
        ),
        heldout=(
            "For {n} weeks {A} gets {a} {things} from {B} and {b} from {C} every week. Then {he} gives {c} of them "
            "away. How many {things} does {he} have left?",
            "On each of {n} shelves stand {a} cups and {b} glasses. An accident breaks {c} of them. How many are "
            "whole? | pieces",
        ),
        ways=(
            (
                "Each time it is [a+b] {unit}. {n} times that is [n*(a+b)], and then [(n*(a+b))-c] {unit} are left.",
                "Add first: [a+b]. Multiply: [n*(a+b)]. Take away {c}: [(n*(a+b))-c] {unit}.",
                "One has [a+b], all {n} have [n*(a+b)], and without {c} it is [(n*(a+b))-c] {unit}.",
            ),
            (
                "The first kind makes [n*a] {unit}, the second [n*b]. Together that is [(n*a)+(n*b)], and without the "
                "{c} it is [(n*a+n*b)-c] {unit}.",
                "Keep the two apart: [n*a] and [n*b]. The sum is [(n*a)+(n*b)]. Take away {c}: [(n*a+n*b)-c] {unit}.",
            ),
        ),
    ),
    Family(
        "groups_of_groups_less", {"a": (2, 5), "b": (2, 6), "c": (3, 8), "d": (3, 15)}, "a*b*c-d", where="a*b*c-d>5",
        tellings=(
            "{A} has {a} shelves with {b} {boxes} on each, and there are {c} {things} in each {box}. {He} sells {d} "
            "{things}. How many {things} are left?",
            "{A} works {b} hours a day for {a} days and earns {c} dollars an hour. Then {he} spends {d} dollars. How "
            "many dollars are left? | dollars",
            "{a} buses have {b} rows with {c} seats each. {d} seats are empty. How many seats are taken? | seats",
            "How many {things} are left of {a} crates with {b} {boxes} of {c} when {d} are taken out?",
            "{a} schools sent {b} teams each, with {c} children in a team. {d} of the children were ill. How many "
            "were well? | children",
            "Each of {a} friends gave {A} {b} {boxes} of {c} {things}. {A} lost {d} {things}. How many {things} does "
            "{he} still have?",
            "A book has {a} parts of {b} chapters, and every chapter has {c} pages. All but {d} pages were read. How "
            "many pages were read? | pages",
            "{d} of the lamps in a house do not work. On each of {a} floors are {b} rooms with {c} lamps each. How "
            "many lamps work? | lamps",
            "For {a} weeks {A} went {c} miles {b} times a week. {He} walked {d} of all these miles and ran the "
            "others. How many miles did {he} run? | miles",
            "A farmer plants {a} fields with {b} rows of {c} trees. {d} trees die. What is the number of trees that "
            "live? | trees",
            "If {a} trucks bring {b} crates each, with {c} lamps in every crate, and {d} lamps are broken, how many "
            "are good? | lamps",
        ),
        heldout=(
            "{A} drinks {b} glasses of water a day, and each glass holds {c} ounces. {He} does so for {a} days, but "
            "once spills {d} ounces. How many ounces does {he} drink? | ounces",
            "In {a} camps stand {b} tents each. {c} people could sleep in every tent, but {d} places are free. How "
            "many people sleep there? | people",
        ),
        ways=(
            (
                "First [a*b], and {c} for each of these makes [(a*b)*c]. Without the {d} it is [(a*b*c)-d] {unit}.",
                "Multiply from the front: [a*b], then [(a*b)*c]. Take away {d}: [(a*b*c)-d] {unit}.",
            ),
            (
                "First [b*c], and {a} times that makes [a*(b*c)]. Without the {d} it is [(a*b*c)-d] {unit}.",
                "Multiply from the end: [b*c], then [a*(b*c)]. What is left is [(a*b*c)-d] {unit}.",
                "For each of the {a} it is [b*c], for all [a*(b*c)], and without {d} it is [(a*b*c)-d] {unit}.",
            ),
        ),
    ),
    Family(
        "groups_more_shared", {"n": (2, 5), "p": (2, 4), "b": (3, 9), "r": (2, 6)}, "p*b+r",
        derived={"a": "n*p", "c": "n*r"},
        tellings=(
            "{A} has {a} {boxes} of {b} {things} and {c} single {things}. {He} shares all of them equally among {n} "
            "friends. How many {things} does each friend get?",
            "{n} friends rent a boat for {a} hours at {b} dollars an hour and pay {c} dollars for drinks. They share "
            "the costs equally. How many dollars does each friend pay? | dollars",
            "{A} saves {b} dollars a week for {a} weeks and gets {c} dollars from {B}. With this money {he} buys {n} "
            "equal presents. How many dollars does one present cost? | dollars",
            "How many {things} does each of {n} children get from {a} packs of {b} and {c} loose ones, if all get "
            "equally many?",
            "{a} rows of {b} chairs and {c} single chairs are put into {n} rooms, the same number into each. How many "
            "chairs are in a room? | chairs",
            "{c} adults and {a} classes of {b} children ride in {n} buses, equally many people in each. How many "
            "people are in one bus? | people",
            "{A} reads {b} pages a day for {a} days and {c} pages on the day after. {He} has then read {n} books of "
            "equal length. How many pages has one book? | pages",
            "A baker made {a} trays of {b} rolls and then {c} more. {n} shops got equal parts. How many rolls did "
            "each shop get? | rolls",
            "{a} friends of {A} brought {b} {things} each, and {A} had {c}. They made {n} equal piles of them. How "
            "many are in each pile?",
            "{n} helpers share equally what {a} guests paid, {b} dollars each, and {c} dollars that were in a jar. "
            "How many dollars does a helper get? | dollars",
            "If {a} sacks of {b} pounds and one sack of {c} pounds are loaded evenly onto {n} carts, how many pounds "
            "does a cart carry? | pounds",
        ),
        heldout=(
            "A school has {a} packs of {b} pens and {c} loose pens. It gives the same number of pens to each of {n} "
            "classes. How many pens does a class get? | pens",
            "{A} picks {b} plums from each of {a} trees and finds {c} on the ground. {He} fills {n} jars equally with "
            "them. How many plums are in a jar? | plums",
        ),
        ways=(
            (
                "There are [a*b] and {c} more, so [(a*b)+c] {unit}. Divided by {n}, that is [(a*b+c)/n] {unit}.",
                "Multiply: [a*b]. Add {c}: [(a*b)+c]. Divide by {n}: [(a*b+c)/n] {unit}.",
                "First [a*b], with the {c} it is [(a*b)+c], and one of {n} equal parts is [(a*b+c)/n] {unit}.",
            ),
            (
                "For each of the {n} it is [a/n] times {b}, so [(a/n)*b] {unit}, and [c/n] more. Together that is "
                "[(a/n*b)+(c/n)] {unit}.",
                "Divide both: [a/n] and [c/n]. The first part is worth [(a/n)*b] {unit}, and in all it is "
                "[(a/n*b)+(c/n)] {unit}.",
            ),
        ),
    ),
    Family(
        "two_kinds_shared", {"m": (2, 4), "p": (2, 3), "a": (2, 8), "b": (2, 8)}, "p*(a+b)", derived={"n": "m*p"},
        where="a-b",
        tellings=(
            "{n} {boxes} hold {a} {color} and {b} {hue} {things} each. {A} shares all the {things} equally among {m} "
            "friends. How many does each friend get?",
            "For {n} days {A} earns {a} dollars in the morning and {b} in the evening. {He} buys {m} equal gifts with "
            "all the money. How many dollars does one gift cost? | dollars",
            "{n} classes of {a} boys and {b} girls are divided into {m} equal groups. How many children are in a "
            "group? | children",
            "How many {things} are in each of {m} equal piles made from {n} {boxes} with {a} large and {b} small "
            "{things} in each?",
            "{n} people order a meal for {a} dollars and a drink for {b} dollars each. {m} of them pay for all, in "
            "equal parts. How many dollars does each of these pay? | dollars",
            "{A} baked {n} trays, each with {a} rolls and {b} buns, for {m} shops. All shops got equally many. What "
            "did one shop get? | pieces",
            "{m} buses take {n} teams, equally many people in each bus. Every team is made of {a} players and {b} "
            "helpers. How many people are in a bus? | people",
            "Every week {A} reads {a} pages at school and {b} at home. In {n} weeks {he} reads {m} books of equal "
            "length. How many pages has each? | pages",
            "{a} chairs and {b} stools stand in each of {n} rooms. They are moved to {m} halls, the same number to "
            "each. How many seats does a hall get? | seats",
            "Each of {n} children brings {a} {things} and then {b} more. The teacher gives the same number to each of "
            "{m} groups. How many {things} does a group get?",
        ),
        heldout=(
            "{n} bushes bear {a} red and {b} white roses each. {A} makes {m} equal bunches of all of them. How many "
            "roses are in a bunch? | roses",
            "From each of {n} farms come {a} cows and {b} horses. {m} trains carry them, equally many in each train. "
            "How many animals ride in one? | animals",
        ),
        ways=(
            (
                "Each has [a+b] {unit}. All have [n*(a+b)], and divided by {m} that is [(n*(a+b))/m] {unit}.",
                "Add: [a+b]. Multiply: [n*(a+b)]. Divide by {m}: [(n*(a+b))/m] {unit}.",
            ),
            (
                "Each part gets [n/m] of the {n}. They make [(n/m)*a] and [(n/m)*b], together [(n/m*a)+(n/m*b)] "
                "{unit}.",
                "Divide the {n} first: [n/m]. One kind makes [(n/m)*a], the other [(n/m)*b]. In all it is "
                "[(n/m*a)+(n/m*b)] {unit}.",
            ),
        ),
    ),
    Family(
        "profit_more", {"n": (3, 8), "a": (7, 15), "b": (2, 8), "c": (4, 20)}, "n*(a-b)+c", where="a-b>2",
        tellings=(
            "{A} has {c} {things} at home and {n} {boxes} with {a} {things} each at school. {He} gives away {b} "
            "{things} from each {box}. How many {things} does {he} still have?",
            "{A} has {c} dollars saved. For {n} days {he} earns {a} dollars a day and spends {b} dollars a day. How "
            "many dollars does {he} have then? | dollars",
            "Each of {n} {boxes} held {a} {things}, and {A} took {b} out of each. Then {he} put {c} new {things} into "
            "one of them. How many {things} are in the {boxes} now?",
            "{A} buys {n} {things} for ${b} each and sells them for ${a} each. Before that {he} had earned ${c}. What "
            "has {he} gained in all, in dollars? | dollars",
            "How many dollars does {A} pay for {n} shirts of {a} dollars, each with {b} dollars off, and a cap for "
            "{c} dollars? | dollars",
            "A tank held {c} liters. Every day {a} liters were filled in, and {b} were used. How many liters did it "
            "hold after {n} days? | liters",
            "{n} trays had {a} rolls each, and {b} rolls of each tray were burnt. {A} baked {c} good rolls more. How "
            "many good rolls are there? | rolls",
            "A bus has {a} seats, of which {b} are broken. {n} such buses come, and a van with {c} seats. How many "
            "good seats are there? | seats",
            "{n} notebooks have {a} pages each, and in every one {b} pages are used. Besides, {A} has {c} loose empty "
            "pages. How many empty pages are there? | pages",
            "{a} people were in each of {n} rooms until {b} left each room. {c} others wait in the hall. How many "
            "people are in the rooms and the hall, without those who left? | people",
            "{n} children had {a} {things} each, and each gave {b} away. {A} had {c} {things} and gave none away. How "
            "many {things} do the children and {A} have now?",
        ),
        heldout=(
            "{n} teams have {a} players each. {b} players leave each team, and {c} new players join in. How many "
            "players are there now? | players",
            "A snail is {c} feet up a wall. For {n} days it climbs {a} feet a day and slides back {b} feet a night. "
            "How high is it then, in feet? | feet",
        ),
        ways=(
            (
                "Each time [a-b] {unit} remain. {n} times that is [n*(a-b)], and with the {c} it is [(n*(a-b))+c] "
                "{unit}.",
                "Subtract: [a-b]. Multiply: [n*(a-b)]. Add {c}: [(n*(a-b))+c] {unit}.",
                "For one it is [a-b], for {n} it is [n*(a-b)], and {c} more make [(n*(a-b))+c] {unit}.",
            ),
            (
                "At first it is [n*a], and with the {c} it is [(n*a)+c] {unit}. Then [n*b] go away, and "
                "[(n*a+c)-(n*b)] remain.",
                "Add the {c} to [n*a], which makes [(n*a)+c]. Take [n*b] away: [(n*a+c)-(n*b)] {unit}.",
            ),
        ),
    ),
)  # fmt: skip
