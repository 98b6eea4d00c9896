"""Families of two steps that mostly add or subtract: see `story_words` for how they are written."""

from __future__ import annotations

from polythink.problems.tasks.story_words import Family

SUMS = (
    Family(
        "more_less", {"a": (12, 48), "b": (14, 30), "c": (3, 11)}, "a+b-c",
        tellings=(
            "{A} has {a} {things}. {He} finds {b} more and then gives {c} of them to {B}. How many {things} does {A} "
            "have now?",
            "There are {a} people on a train. At the next station {b} people get on and {c} people get off. How many "
            "people are on the train now? | people",
            "A shop had {a} {things}. On Monday it received {b} more, and on Tuesday it sold {c}. How many {things} "
            "does the shop have now?",
            "How many {things} are in a {box} of {a} after {b} have been added and {c} taken out?",
            "{A} had {a} dollars, earned {b} and spent {c}. How many dollars does {he} have now? | dollars",
            "{b} new books came to a library that had {a}. Then {c} old ones were thrown out. What is the number of "
            "books now? | books",
            "After buying {b} {things} to go with {his} {a}, {A} lost {c}. How many {things} are left?",
            "A farmer had {a} sheep. {b} lambs were born, but {c} animals were sold. How many animals are there now? "
            "| animals",
            "{A} baked {a} rolls, and {B} baked {b}. {c} of the rolls were burnt. How many good rolls are there? | "
            "rolls",
            "A tank held {a} liters of water. {b} liters were poured in, and later {c} liters leaked out. How many "
            "liters does it hold now? | liters",
            "Since {day} {A} has won {b} {things} and lost {c}. On {day} {he} had {a}. How many does {he} have today?",
            "{A} scored {a} points and then {b} points, but {c} points were taken away for a mistake. What is {his} "
            "score? | points",
        ),
        heldout=(
            "{A} picked up {a} {things} on the way to school and {b} on the way back, but lost {c} of them. How many "
            "{things} did {he} bring home?",
            "{B} adds {b} {things} to the {a} on the shelf, and {C} removes {c}. How many {things} does the shelf "
            "hold at last?",
        ),
        ways=(
            (
                "With the {b} more it is [a+b] {unit}. Without the {c} it is [(a+b)-c] {unit}.",
                "First [a+b] {unit}, then [(a+b)-c] {unit}.",
                "Add {b}: [a+b]. Take away {c}: [(a+b)-c] {unit}.",
            ),
            (
                "All in all [b-c] {unit} are added. So there are [a+(b-c)] {unit}.",
                "The two changes together add [b-c]. From {a} that leads to [a+(b-c)] {unit}.",
                "{b} come and {c} go, so the gain is [b-c], and [a+(b-c)] {unit}.",
            ),
        ),
    ),
    Family(
        "spent_twice", {"t": (50, 99), "b": (8, 25), "c": (6, 22)}, "t-b-c",
        tellings=(
            "{A} has {t} dollars. {He} spends {b} dollars on a shirt and {c} dollars on a book. How many dollars does "
            "{he} have left? | dollars",
            "{A} had {t} {things}. {He} gave {b} of them to {B} and {c} of them to {C}. How many {things} does {A} "
            "have left?",
            "A book has {t} pages. {A} read {b} pages on Monday and {c} pages on Tuesday. How many pages are left to "
            "read? | pages",
            "How many of {t} {things} remain after {A} has taken {b} and {B} has taken {c}?",
            "A ribbon of {t} inches is used for two bows. One takes {b} inches, the other {c}. How many inches are "
            "unused? | inches",
            "{b} of {t} passengers leave the bus at the first stop, and {c} leave at the second. How many ride on? | "
            "passengers",
            "Of the {t} {things} in a {box}, {b} are {color}, {c} are {hue}, and the others are gray. How many are "
            "gray?",
            "{A} wants to walk {t} miles in three days. {He} walked {b} on the first and {c} on the second. How many "
            "miles are left for the third day? | miles",
            "Having paid ${b} for food and ${c} for a ticket out of ${t}, how many dollars does {A} keep? | dollars",
            "There were {t} eggs. {b} were boiled for breakfast, and {c} went into a cake. How many eggs were not "
            "used? | eggs",
            "In a class of {t} minutes, {b} minutes are spent on reading and {c} on spelling. How many minutes "
            "remain? | minutes",
        ),
        heldout=(
            "Of {t} {things} in a shop, {b} were sold in the morning and {c} in the afternoon. How many {things} were "
            "not sold?",
            "{B} borrowed {b} and {C} borrowed {c} of the {t} {things} that {A} owned. How many stayed with {A}?",
        ),
        ways=(
            (
                "After the first time [t-b] {unit} are left. After the second time [(t-b)-c] {unit} are left.",
                "Take away {b}: [t-b]. Take away {c} as well: [(t-b)-c] {unit}.",
                "First [t-b] {unit}, and then [(t-b)-c] {unit}.",
            ),
            (
                "Both together are [b+c] {unit}. So [t-(b+c)] {unit} are left.",
                "What goes away is [b+c] in all. That leaves [t-(b+c)] {unit}.",
                "Add the two parts: [b+c]. The rest is [t-(b+c)] {unit}.",
            ),
        ),
    ),
    Family(
        "three_parts", {"a": (8, 29), "b": (7, 28), "c": (4, 19)}, "a+b+c",
        tellings=(
            "{A} has {a} red, {b} blue and {c} green {things}. How many {things} does {he} have?",
            "{A} has {a} {things}, {B} has {b}, and {C} has {c}. How many {things} do the three have together?",
            "On Monday {A} ran {a} miles, on Wednesday {b}, and on Friday {c}. How many miles did {he} run in all? | "
            "miles",
            "A shirt costs {a} dollars, a hat {b} dollars and a scarf {c} dollars. How many dollars do all three "
            "cost? | dollars",
            "How many {things} are there if {a} are in a {box}, {b} on the table and {c} on the floor?",
            "{a} boys, {b} girls and {c} adults were on the boat. How many people were on it? | people",
            "{A} first found {a} {things}. Then {b} more were found, and at the end another {c}. How many were found "
            "altogether?",
            "A trip has three parts: {a} minutes on foot, {b} by bus and {c} by train. How many minutes does it take? "
            "| minutes",
            "A path around a pond has three parts, {a}, {b} and {c} feet long. How many feet long is the whole path? "
            "| feet",
            "In a vase there are {a} roses and {b} tulips. {A} puts {c} lilies with them. What is the number of "
            "flowers now? | flowers",
            "{c} {things} came from {C}, {b} from {B} and {a} from {A}'s own room. How many is that together?",
        ),
        heldout=(
            "During one day a shop sold {a} {things} in the morning, {b} at noon and {c} in the evening. How many did "
            "it sell that day?",
            "Three shelves carry {a}, {b} and {c} {things}. What is the total?",
        ),
        ways=(
            (
                "The first two make [a+b] {unit}. With the third it is [(a+b)+c] {unit}.",
                "Add {a} and {b}: [a+b]. Add {c}: [(a+b)+c] {unit}.",
                "Step by step it is [a+b] and then [(a+b)+c] {unit}.",
            ),
            (
                "The last two make [b+c] {unit}. With the first it is [a+(b+c)] {unit}.",
                "Put {b} and {c} together: [b+c]. Then [a+(b+c)] {unit}.",
                "Begin with the end, [b+c], and add it to {a}: [a+(b+c)] {unit}.",
            ),
        ),
    ),
    Family(
        "more_than_other", {"a": (9, 40), "b": (3, 20)}, "2*a+b",
        tellings=(
            "{A} has {a} {things}. {B} has {b} {things} more than {A}. How many {things} do they have together?",
            "On Monday {A} read {a} pages, and on Tuesday {b} pages more than on Monday. How many pages did {he} read "
            "on both days? | pages",
            "A cake costs {a} dollars, and a pie costs {b} dollars more than the cake. How many dollars do a cake and "
            "a pie cost together? | dollars",
            "How many {things} are in two {boxes} if one holds {a} and the other {b} more than that?",
            "{A} walked {a} miles. {B} walked {b} miles farther. How many miles did both of them walk in total? | "
            "miles",
            "{B} has {b} {things} more than {A}, who has {a}. If both put all of theirs on a table, how many {things} "
            "lie there?",
            "A shop sold {a} {things} on {day}. On {next} {b} more were sold than on {day}. How many were sold in the "
            "two days?",
            "The first part of a film lasts {a} minutes, and the second is {b} minutes longer. How many minutes does "
            "the film last? | minutes",
            "There are {a} boys in a club, and there are {b} more girls than boys. How many children are in the club? "
            "| children",
            "{A} picked {a} apples from one tree and {b} more than that from another. What was picked in all? | apples",
            "In the first game {A} got {a} points. In the second {he} did better by {b} points. How many points are "
            "that together? | points",
        ),
        heldout=(
            "{A} caught {a} fish, and {B} caught {b} fish more than {A}. How many fish did the two catch? | fish",
            "Last week {A} worked {a} hours, but this week {b} hours more than last week. For how many hours did {he} "
            "work in both weeks? | hours",
        ),
        ways=(
            (
                "The second number is [a+b]. Together that is [a+(a+b)] {unit}.",
                "The larger one is [a+b] {unit}, and both make [a+(a+b)] {unit}.",
                "First [a+b] for the second. Then add the first: [a+(a+b)] {unit}.",
            ),
            (
                "Twice {a} is [2*a]. With the {b} more it is [(2*a)+b] {unit}.",
                "If both were {a}, there would be [2*a]. But it is {b} more: [(2*a)+b] {unit}.",
                "Two times the first is [2*a], and the extra {b} make [(2*a)+b] {unit}.",
            ),
        ),
    ),
    Family(
        "times_together", {"a": (4, 15), "k": (3, 5)}, "a+k*a",
        tellings=(
            "{A} has {a} {things}. {B} has {k} times as many. How many {things} do they have together?",
            "A cap costs {a} dollars, and a shirt costs {k} times as much. How many dollars do both of them cost "
            "together? | dollars",
            "{A} ran {a} miles in May and {k} times as far in June. How many miles did {he} run in both months? | "
            "miles",
            "How many {things} are in two {boxes} if one holds {a} and the other {k} times as many?",
            "{B} owns {k} times as many {things} as {A}. Since {A} owns {a}, how many do the two own in all?",
            "{A} found {a} {things}. {k} times that number was found by {B}. What is the total?",
            "A farm has {a} goats and {k} times as many hens. What is the number of animals? | animals",
            "The way up took {a} minutes. The way down took {k} times as long, because of the snow. How many minutes "
            "did the whole way take? | minutes",
            "On {day} {a} {things} were sold, but on {next} {k} times as many. How many were sold on both days?",
            "There are {k} times as many children as adults at a party. If {a} adults are there, how many people is "
            "that? | people",
            "A pen weighs {a} grams and a book {k} times as much. What do the two weigh together, in grams? | grams",
        ),
        heldout=(
            "In the first hour {A} sold {a} {things}, and in the second hour {k} times as many. How many {things} did "
            "{he} sell in the two hours?",
            "{A} has {a} cousins on one side of the family and {k} times as many on the other. How many cousins does "
            "{he} have? | cousins",
        ),
        ways=(
            (
                "The larger number is [k*a] {unit}. Together that is [a+(k*a)] {unit}.",
                "{k} times {a} is [k*a]. Add the {a}: [a+(k*a)] {unit}.",
                "The second is [k*a] {unit}, and both make [a+(k*a)] {unit}.",
            ),
            (
                "Together it is {a} taken [k+1] times. That is [(k+1)*a] {unit}.",
                "One time and {k} times are [1+k] times. So it is [(k+1)*a] {unit}.",
                "There are [k+1] equal parts of {a}, so [(k+1)*a] {unit}.",
            ),
        ),
    ),
    Family(
        "minutes", {"h": (3, 9), "m": (5, 55)}, "h*60+m",
        tellings=(
            "A flight takes {h} hours and {m} minutes. How many minutes is that? | minutes",
            "{A} slept for {h} hours and {m} minutes. For how many minutes did {he} sleep? | minutes",
            "How many minutes are {h} hours and {m} minutes? | minutes",
            "It took {A} {h} hours to paint a fence and {m} minutes to clean up. How many minutes did both take "
            "together? | minutes",
            "{A} worked in the garden for {h} hours, and then {he} cooked for {m} minutes. How many minutes was {he} "
            "busy? | minutes",
            "The drive lasted {h} hours. A stop of {m} minutes came on top of that. What was the whole time in "
            "minutes? | minutes",
            "A song lasts {h} minutes and {m} seconds. How many seconds is that? | seconds",
            "{A} held {his} breath for {m} seconds. {B} swam for {h} minutes. How many seconds is that together? | "
            "seconds",
            "If a film is {h} hours long and is followed by {m} minutes of talk, how many minutes does the evening "
            "last? | minutes",
            "{m} minutes after a train ride of {h} hours, {A} is at home. How many minutes was {he} on {his} way? | "
            "minutes",
        ),
        heldout=(
            "The battery of {A}'s phone lasted {h} hours and {m} minutes. How long was that in minutes? | minutes",
            "{A} needs {h} minutes and {m} seconds for a lap. Say it in seconds: how many are they? | seconds",
        ),
        ways=(
            (
                "[h*60] {unit}, and {m} more make [(h*60)+m] {unit}.",
                "Each of the {h} has 60 {unit}: [h*60]. With {m} it is [(h*60)+m] {unit}.",
                "First [h*60] {unit}. Add the {m}: [(h*60)+m] {unit}.",
            ),
            (
                "The last 60 and the {m} are [60+m]. The other {h-1} times 60 are [(h-1)*60]. Together that is "
                "[((h-1)*60)+(60+m)] {unit}.",
                "Put {m} to one 60: [60+m] {unit}. The rest is [(h-1)*60], and all is [(60+m)+((h-1)*60)] {unit}.",
            ),
        ),
    ),
    Family(
        "sum_shared", {"n": (2, 6), "p": (2, 9), "q": (2, 9)}, "p+q", derived={"a": "n*p", "b": "n*q"}, where="p-q",
        tellings=(
            "{A} has {a} {things} and {B} has {b} {things}. They share all of them equally among {n} friends. How "
            "many {things} does each friend get?",
            "{A} puts {a} red {things} and {b} blue {things} into {n} {boxes}, equally many into each. How many "
            "{things} are in one {box}?",
            "On two days {A} drove {a} miles and {b} miles. That took {n} tanks of gas. How many miles did {he} drive "
            "with one tank? | miles",
            "How many {things} does each of {n} children get from {a} {color} and {b} {hue} ones, if all get the same "
            "number?",
            "{n} friends pay {a} dollars for food and {b} dollars for drinks in equal parts. How many dollars does "
            "each pay? | dollars",
            "{a} boys and {b} girls form {n} teams of the same size. How many children are in a team? | children",
            "{A} found {a} {things}, and {b} were found by {B}. They laid them out in {n} equal rows. How many "
            "{things} are in a row?",
            "Two ropes of {a} and {b} feet are tied together and divided into {n} equal parts. How many feet long is "
            "a part? | feet",
            "After earning {a} dollars and then {b} dollars, {A} spends all of it on {n} gifts of equal price. What "
            "does one gift cost, in dollars? | dollars",
            "A teacher has {a} pens and {b} pencils. Each of {n} groups gets the same number of them. How many does a "
            "group get? | pieces",
            "In {n} days {A} read a book of {a} pages and one of {b}, equally much every day. How many pages did {he} "
            "read a day? | pages",
        ),
        heldout=(
            "A class baked {a} cookies in the morning and {b} cookies at noon and laid them on {n} plates, equally "
            "many on each. How many cookies are on each plate? | cookies",
            "{n} vans carry {a} adults and {b} children, and all vans carry equally many people. How many people are "
            "in a van? | people",
        ),
        ways=(
            (
                "Together there are [a+b] {unit}. Divided by {n}, that is [(a+b)/n] {unit}.",
                "Add first: [a+b]. Then divide by {n}: [(a+b)/n] {unit}.",
                "All in all it is [a+b] {unit}, and one of {n} equal parts is [(a+b)/n] {unit}.",
            ),
            (
                "Of the first part each has [a/n] {unit}, of the second [b/n]. Together that is [(a/n)+(b/n)] {unit}.",
                "Divide both: [a/n] and [b/n]. Together that is [(a/n)+(b/n)] {unit}.",
                "A share of {a} is [a/n], a share of {b} is [b/n], and both make [(a/n)+(b/n)] {unit}.",
            ),
        ),
    ),
)  # fmt: skip
