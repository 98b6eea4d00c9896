"""Families of one step that multiply or divide: see `story_words` for how they are written."""

from __future__ import annotations

from polythink.problems.tasks.story_words import Family

GROUPS = (
    Family(
        "groups", {"a": (3, 9), "b": (4, 12)}, "a*b",
        tellings=(
            "{A} has {a} {boxes} with {b} {things} in each of them. How many {things} does {A} have?",
            "A shop sells {things} in {boxes} of {b}. {A} buys {a} {boxes}. How many {things} does {A} get?",
            "Every day {A} collects {b} {things}. How many {things} does {he} collect in {a} days?",
            "How many {things} are in {a} {boxes} if each {box} holds {b}?",
            "{b} {things} fit into one {box}. How many fit into {a} {boxes}?",
            "{A} gives {b} {things} to each of {a} friends. How many {things} does {he} give away?",
            "On every one of {a} shelves stand {b} {things}. What is the number of {things} on all the shelves?",
            "A garden has {a} rows, and {b} trees grow in each row. How many trees grow in the garden? | trees",
            "{A} lays {things} out in {a} rows of {b}. How many {things} does {he} lay out?",
            "There are {a} tables in a room. At each of them sit {b} people. How many people sit in the room? | people",
            "If a page has room for {b} photos, how many photos fit on {a} pages? | photos",
            "{a} vans drove to the game. Each carried {b} players. How many players were carried in all? | players",
        ),
        heldout=(
            "{a} children come to a party, and each of them brings {b} {things}. How many {things} do they bring "
            "together?",
            "Each of the {a} drawers of a desk contains {b} {things}. What do the drawers contain in total?",
        ),
        ways=(
            (
                "There are {a} groups of {b}: [a*b].",
                "Multiply: [a*b].",
                "{b} comes {a} times: [a*b].",
            ),
            (
                "Count all but one first, [(a-1)*b], and then the last {b}: [((a-1)*b)+b].",
                "{a-1} times it is [(a-1)*b]. Once more makes [((a-1)*b)+b].",
                "Leave one {b} out: [(a-1)*b]. Then put it back: [((a-1)*b)+b].",
            ),
        ),
    ),
    Family(
        "shares", {"n": (2, 9), "q": (3, 12)}, "q", derived={"t": "n*q"},
        tellings=(
            "{A} shares {t} {things} equally among {n} friends. How many {things} does each friend get?",
            "{t} {things} are packed into {n} {boxes}, the same number into each. How many {things} are in one {box}?",
            "A teacher hands out {t} {things} to {n} groups of children, and every group gets equally many. How many "
            "{things} does each group get?",
            "How many {things} does each of {n} children get when {t} {things} are divided equally among them?",
            "In {n} days {A} found {t} {things}, equally many every day. How many {things} did {he} find a day?",
            "{n} {boxes} hold {t} {things} in all, and each holds as many as the others. How many does one hold?",
            "{n} tickets cost {t} dollars together. What does one ticket cost, in dollars? | dollars",
            "{A} cuts a rope of {t} feet into {n} pieces of the same length. How many feet long is each piece? | feet",
            "{t} chairs are placed in {n} equal rows. How many chairs are in a row? | chairs",
            "If {n} equally full plates carry {t} {things} altogether, how many {things} are on each plate?",
            "{A} worked {t} hours in {n} days, always for the same time. For how many hours did {he} work each day? | "
            "hours",
        ),
        heldout=(
            "{A} sorts {t} {things} into {n} equal piles. How many {things} are in every pile?",
            "Each of {n} painters uses the same amount of paint, and together they use {t} liters. How many liters "
            "does one painter use? | liters",
        ),
        ways=(
            (
                "Divide {t} by {n}: [t/n].",
                "One of {n} equal parts of {t} is [t/n].",
                "Each gets [t/n].",
            ),
            (
                "Which number taken {n} times gives {t}? [n*q], so it is {q}.",
                "Look for the number that makes {t} with {n}: [n*q]. It is {q}.",
                "[n*q] shows that each part is {q}.",
            ),
        ),
    ),
    Family(
        "times", {"a": (4, 15), "k": (3, 6)}, "a*k",
        tellings=(
            "{A} has {a} {things}. {B} has {k} times as many. How many {things} does {B} have?",
            "A book costs {a} dollars, and a school bag costs {k} times as much. How many dollars does the school bag "
            "cost? | dollars",
            "A small {box} holds {a} {things}. A large {box} holds {k} times as many. How many {things} fit into the "
            "large {box}?",
            "How many {things} does {B} have if {A} has {a} and {B} has {k} times that number?",
            "{B} owns {k} times as many {things} as {A}, who owns {a}. How many {things} are {B}'s?",
            "The garden is {a} feet wide. Its length is {k} times its width. How many feet long is it? | feet",
            "{A} is {a} years old. {His} uncle is {k} times as old. How old is the uncle? | years",
            "Yesterday {a} {things} were sold. Today the shop sold {k} times as many. How many {things} were sold "
            "today?",
            "{A} needs {a} minutes for one lap. For the whole course {he} needs {k} times as long. How many minutes "
            "does the course take? | minutes",
            "A cat weighs {a} pounds, and a dog weighs {k} times as much as the cat. How many pounds does the dog "
            "weigh? | pounds",
            "{A} baked {a} rolls. {k} times as many were baked by {B}. How many rolls did {B} bake? | rolls",
        ),
        heldout=(
            "Last month {A} ran {a} miles. This month {he} ran {k} times as far. How many miles did {he} run this "
            "month? | miles",
            "Compared with {A}'s {a} {things}, the collection of {B} is {k} times as large. How large is it?",
        ),
        ways=(
            (
                "{k} times {a} is [k*a].",
                "Multiply {a} by {k}: [k*a].",
                "{k} times as much is [k*a] {unit}.",
            ),
            (
                "{k-1} times {a} is [(k-1)*a], and once more makes [((k-1)*a)+a].",
                "First {k-1} times, [(k-1)*a], and then one more {a}: [((k-1)*a)+a].",
                "Leave one {a} out: [(k-1)*a]. With it there are [((k-1)*a)+a].",
            ),
        ),
    ),
    Family(
        "price", {"p": (3, 15), "n": (3, 9)}, "n*p",
        tellings=(
            "One {thing} costs {p} dollars. How many dollars do {n} {things} cost? | dollars",
            "{A} earns {p} dollars an hour. How many dollars does {he} earn in {n} hours? | dollars",
            "Tickets for the zoo cost {p} dollars each. How many dollars does {A} pay for {n} tickets? | dollars",
            "What is the price of {n} {things} in dollars if every {thing} costs {p} dollars? | dollars",
            "{A} buys {n} {things} at ${p} each. How many dollars does {he} spend? | dollars",
            "For each {thing} that {A} sells {he} gets {p} dollars. {He} sells {n}. How many dollars does {he} get? | "
            "dollars",
            "A room at the inn is ${p} a night. {A} stays for {n} nights. How many dollars does {he} owe? | dollars",
            "{n} children go to a show, and {p} dollars must be paid for every child. How many dollars must be paid? "
            "| dollars",
            "How many dollars does {A} need for {n} {boxes} of {things} when one {box} costs {p} dollars? | dollars",
            "{n} times this month {A} took a taxi. Each ride cost {p} dollars. How many dollars did {he} spend on "
            "taxis? | dollars",
            "A worker is paid {p} dollars for every window. After {n} windows, how many dollars has the worker made? "
            "| dollars",
        ),
        heldout=(
            "{A} saves {p} dollars every week. How many dollars does {he} save in {n} weeks? | dollars",
            "Renting a bike costs ${p} a day. How many dollars does it cost {A} to rent one for {n} days? | dollars",
        ),
        ways=(
            (
                "{n} times {p} dollars is [n*p] dollars.",
                "Multiply the price by {n}: [n*p] dollars.",
                "It is {p} dollars {n} times, [n*p] dollars.",
            ),
            (
                "For all but one it is [(n-1)*p] dollars, and with the last one [((n-1)*p)+p] dollars.",
                "{n-1} times it makes [(n-1)*p] dollars. The last time adds {p}: [((n-1)*p)+p] dollars.",
                "Without the first one it is [(n-1)*p], and with it [((n-1)*p)+p] dollars.",
            ),
        ),
    ),
    Family(
        "how_many_groups", {"n": (3, 9), "q": (3, 12)}, "q", derived={"t": "n*q"},
        tellings=(
            "{A} packs {t} {things} into {boxes} of {n}. How many {boxes} does {he} need? | {boxes}",
            "{t} {things} are handed out, {n} to each child. How many children get some? | children",
            "How many {boxes} can be filled with {t} {things} if {n} go into each {box}? | {boxes}",
            "{A} has {t} dollars. One {thing} costs {n} dollars. How many {things} can {he} buy?",
            "{A} reads {n} pages a day. For how many days does a book of {t} pages last? | days",
            "Each car takes {n} people. How many cars are needed for {t} people? | cars",
            "A rope of {t} feet is cut into pieces of {n} feet. How many pieces are there? | pieces",
            "{t} chairs stand in rows of {n}. How many rows are there? | rows",
            "Saving {n} dollars a week, {A} has come to {t} dollars. How many weeks did it take? | weeks",
            "If every shelf holds {n} {things}, how many shelves do {t} {things} fill? | shelves",
            "{A} walked {t} miles at {n} miles an hour. How many hours did {he} walk? | hours",
        ),
        heldout=(
            "{A} puts {n} {things} on each plate until all {t} are used. How many plates does {he} fill? | plates",
            "A baker has {t} eggs, and one cake takes {n} of them. How many cakes can be baked? | cakes",
        ),
        ways=(
            (
                "Divide {t} by {n}: [t/n] {unit}.",
                "{n} fits into {t} this often: [t/n].",
                "Groups of {n} out of {t}: [t/n].",
            ),
            (
                "How often is {n} taken to make {t}? [q*n], so it is {q}.",
                "[q*n], so {n} is needed {q} times.",
                "Count by {n}: {q-1} of them make [(q-1)*n], one more makes {t}. That is {q}.",
            ),
        ),
    ),
    Family(
        "compared_back", {"q": (3, 15), "k": (3, 6)}, "q", derived={"t": "k*q"},
        tellings=(
            "{A} has {t} {things}, {k} times as many as {B}. How many {things} does {B} have?",
            "A bag costs {t} dollars. That is {k} times the price of a book. How many dollars does the book cost? | "
            "dollars",
            "{A} is {k} times as old as {his} {kin}. How old is the {kin} if {A} is {t}? | years",
            "How many {things} are in the small {box} if the large one holds {t}, which is {k} times as many?",
            "The {color} ribbon is {t} inches long and {k} times as long as the {hue} one. How many inches long is "
            "the {hue} one? | inches",
            "{t} {things} were sold on {next}, {k} times as many as on {day}. How many were sold on {day}?",
            "Having run {t} miles, {A} has run {k} times as far as {B}. How many miles did {B} run? | miles",
            "A dog weighs {t} pounds, {k} times as much as a cat. What does the cat weigh, in pounds? | pounds",
            "{A} baked {k} times as many rolls as {B}. {A} baked {t}. How many were baked by {B}? | rolls",
            "It takes {k} times the number of {B}'s {things} to make the {t} that {A} has. How many {things} does {B} "
            "have?",
        ),
        heldout=(
            "{k} times the number of {B}'s {things} is the number of {A}'s. {A} has {t}. How many does {B} have?",
            "By train the trip takes {t} minutes, {k} times as long as by plane. How many minutes does it take by "
            "plane? | minutes",
        ),
        ways=(
            (
                "Divide {t} by {k}: [t/k].",
                "The smaller number is one of {k} equal parts of {t}: [t/k].",
                "{t} is {k} times the other, so it is [t/k].",
            ),
            (
                "Which number taken {k} times gives {t}? [k*q], so it is {q}.",
                "[k*q], so the smaller number is {q}.",
                "Look for the number that makes {t} with {k}: [k*q]. It is {q}.",
            ),
        ),
    ),
)  # fmt: skip
