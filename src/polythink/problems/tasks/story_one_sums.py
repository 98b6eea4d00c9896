"""Families of one step that add or subtract: see `story_words` for how they are written."""

from __future__ import annotations

from polythink.problems.tasks.story_words import Family

SUMS = (
    Family(
        "more", {"a": (12, 68), "b": (11, 39)}, "a+b", where="b%10",
        tellings=(
            "{A} has {a} {things}. {B} gives {him} {b} more. How many {things} does {A} have now?",
            "{A} collected {a} {things} on Saturday and {b} {things} on Sunday. How many {things} did {A} collect in "
            "all?",
            "There are {a} {things} on the table. {A} puts {b} more {things} next to them. How many {things} are on "
            "the table now?",
            "How many {things} does {A} have if {he} starts with {a} and then buys {b} more?",
            "{b} {things} are added to a {box} that already holds {a}. How many {things} are in it then?",
            "After {A} had won {b} {things}, {he} put them with the {a} that {he} owned already. What is the number "
            "of {things} now?",
            "In the first round of a game {A} scored {a} points, and in the second {b}. What was {his} total score? | "
            "points",
            "A bus carries {a} passengers. At the next stop {b} more get on, and nobody gets off. How many passengers "
            "does it carry now? | passengers",
            "The {color} {box} holds {a} {things} and the {hue} one {b}. If both are emptied onto the table, how many "
            "{things} lie there?",
            "{A} drove {a} miles before lunch. Another {b} miles were driven after lunch. How long was the drive, in "
            "miles? | miles",
            "This week {a} books were lent to children and {b} to adults. How many books did the library lend? | books",
            "{A} did {a} sit-ups. {B}, who is stronger, did {b} more than that. How many sit-ups did {B} do? | sit-ups",
        ),
        heldout=(
            "{a} {things} lie in one drawer and {b} in another. How many {things} lie in the two drawers together?",
            "Before {his} birthday {A} owned {a} {things}. As presents {he} got {b} {things}. How many {things} does "
            "{he} own after {his} birthday?",
        ),
        ways=(
            (
                "Add the two numbers: [a+b].",
                "In all that is [a+b] {unit}.",
                "Put {a} and {b} together: [a+b].",
            ),
            (
                "Add the tens first, [a+(b-b%10)], and then the ones, [(a+b-b%10)+(b%10)].",
                "Start at {a}. With the tens of {b} it is [a+(b-b%10)], and with its ones [(a+b-b%10)+(b%10)].",
                "{b} is {b-b%10} and {b%10}. Step by step: [a+(b-b%10)], then [(a+b-b%10)+(b%10)].",
            ),
        ),
    ),
    Family(
        "less", {"a": (35, 95), "b": (11, 29)}, "a-b", where="b%10",
        tellings=(
            "{A} has {a} {things} and gives {b} of them to {B}. How many {things} does {A} have left?",
            "A shop had {a} {things} in the morning and sold {b} of them during the day. How many {things} were left "
            "in the evening?",
            "There were {a} {things} in a {box}. {A} took {b} of them out. How many {things} are still in the {box}?",
            "How many {things} remain if {b} of {a} {things} are thrown away?",
            "{b} of the {a} {things} that {A} owned were lost on a trip. How many {things} does {he} still own?",
            "Out of {a} {things}, {A} sells {b} at the market. What number of {things} is unsold?",
            "A school has {a} teachers, {b} of whom are ill today. How many teachers came to work? | teachers",
            "{A} lent {B} {b} {things}. Before that {he} had {a}. How many {things} does {A} have now?",
            "Of the {a} questions in a test, {A} got {b} wrong and all others right. How many questions did {he} get "
            "right? | questions",
            "When {b} guests had left the party, which {a} guests had come to, how many were still there? | guests",
            "A tree had {a} leaves. The wind blew {b} of them off. How many leaves stayed on the tree? | leaves",
        ),
        heldout=(
            "{A} brought {a} {things} to school and handed out {b} of them. How many {things} did {he} take back home?",
            "Someone removed {b} {things} from a shelf on which {a} had stood. What number of {things} does the shelf "
            "hold now?",
        ),
        ways=(
            (
                "Take {b} from {a}: [a-b].",
                "What remains is [a-b] {unit}.",
                "Without the {b} there are [a-b].",
            ),
            (
                "Take away the tens first, [a-(b-b%10)], and then the ones, [(a-(b-b%10))-(b%10)].",
                "Start at {a}. Without the tens of {b} it is [a-(b-b%10)], and without its ones [(a-(b-b%10))-(b%10)].",
                "{b} is {b-b%10} and {b%10}. Step by step: [a-(b-b%10)], then [(a-(b-b%10))-(b%10)].",
            ),
        ),
    ),
    Family(
        "difference", {"a": (25, 85), "b": (8, 60)}, "a-b", where="a-b>4",
        tellings=(
            "{A} has {a} {things} and {B} has {b} {things}. How many more {things} does {A} have than {B}?",
            "{A} read {a} pages today and {b} pages yesterday. How many more pages did {he} read today than "
            "yesterday? | pages",
            "A red {box} holds {a} {things}, and a blue {box} holds {b} {things}. How many fewer {things} are in the "
            "blue {box}?",
            "By how many {things} is a {box} of {a} {things} fuller than one of {b}?",
            "{B} owns only {b} {things}, whereas {A} owns {a}. What is the difference?",
            "One rope is {a} feet long and another {b} feet. How many feet longer is the first rope? | feet",
            "{A} is {a} years old. {B} is {b}. How many years older is {A}? | years",
            "If {A} picked {a} {things} and {B} picked {b}, how many fewer did {B} pick?",
            "A shop sold {b} {things} on {day} but {a} on {next}. How many more were sold on {next}?",
            "It took {A} {a} minutes to walk to school. By bus it takes {b} minutes. How many minutes does the bus "
            "save? | minutes",
            "The {color} coat costs ${a}, the {hue} one ${b}. How many dollars cheaper is the {hue} coat? | dollars",
        ),
        heldout=(
            "In a game {A} scored {a} points and {B} scored {b} points. By how many points did {A} win? | points",
            "Compare two jars, one with {a} {things} and one with {b}. How many {things} does the second jar lack to "
            "be equal to the first?",
        ),
        ways=(
            (
                "The difference is [a-b].",
                "Subtract the smaller number from the larger one: [a-b].",
                "Compare {a} with {b}: [a-b] {unit}.",
            ),
            (
                "Count up from {b} to {a}: [b+(a-b)], so the difference is {a-b}.",
                "What must be added to {b} to make {a}? [b+(a-b)], so it is {a-b}.",
                "The smaller number and the difference make the larger one: [b+(a-b)]. So it is {a-b}.",
            ),
        ),
    ),
    Family(
        "change", {"t": (40, 99), "c": (11, 35)}, "t-c", where="c%10",
        tellings=(
            "{A} has {t} dollars and buys a game for {c} dollars. How many dollars does {he} have left? | dollars",
            "A coat costs {t} dollars. With a coupon {A} pays {c} dollars less. How many dollars does {A} pay for the "
            "coat? | dollars",
            "{A} wants to save {t} dollars and has saved {c} dollars so far. How many dollars are still missing? | "
            "dollars",
            "How many dollars remain of ${t} when ${c} is spent on lunch? | dollars",
            "A ribbon is {t} inches long. {A} cuts off {c} inches. How long is the rest, in inches? | inches",
            "The film runs for {t} minutes, and {c} of them have passed. How many minutes are still to come? | minutes",
            "{c} gallons are taken from a tank that holds {t} gallons of water. How many gallons stay in it? | gallons",
            "{A}, who weighed {t} kilograms last year, has lost {c} since then. How many kilograms does {he} weigh "
            "now? | kilograms",
            "Of a field of {t} acres, {c} are planted with corn and the rest with wheat. How many acres of wheat are "
            "there? | acres",
            "{A} needs {t} points to win and already has {c}. How many points does {he} still need? | points",
            "From a bill of {t} dollars the owner takes off {c}. What is left to pay, in dollars? | dollars",
        ),
        heldout=(
            "A train ride is {t} miles long. After {c} miles {A} falls asleep. How many miles of the ride are left? | "
            "miles",
            "{A} must practice for {t} minutes a day. Today {he} has done {c}. For how many more minutes must {he} "
            "practice? | minutes",
        ),
        ways=(
            (
                "What is left is [t-c] {unit}.",
                "Subtract the {c} from {t}: [t-c] {unit}.",
                "The rest is [t-c] {unit}.",
            ),
            (
                "In two steps: [t-(c-c%10)], and then [(t-(c-c%10))-(c%10)] {unit}.",
                "First the tens: [t-(c-c%10)]. Then the ones: [(t-(c-c%10))-(c%10)] {unit}.",
                "Without {c-c%10} it is [t-(c-c%10)], and without {c%10} more it is [(t-(c-c%10))-(c%10)] {unit}.",
            ),
        ),
    ),
    Family(
        "at_first", {"c": (21, 68), "b": (11, 29)}, "c+b", where="b%10",
        tellings=(
            "After giving {b} {things} to {B}, {A} has {c} left. How many {things} did {he} have at first?",
            "{A} took {b} {things} out of a {box}. Now {c} are in it. How many {things} were in the {box} before?",
            "A shop sold {b} {things} today and still has {c}. How many {things} did it have this morning?",
            "How many {things} were there at first if {b} were lost and {c} are left?",
            "{A} spent {b} dollars and came home with {c} dollars. How many dollars did {he} have before? | dollars",
            "{c} pages of a book are unread, since {A} has read only {b} so far. How many pages does the book have? | "
            "pages",
            "{b} children have left the playground, and {c} are still playing. How many children were there before? | "
            "children",
            "A piece of {b} inches was cut off a board. The board is now {c} inches long. How many inches long was it "
            "before? | inches",
            "When {A} had sold {b} of {his} {things}, {he} counted the rest: {c}. What was the number of {things} "
            "before the sale?",
            "{c} {things} lie on the table, {b} fewer than yesterday. How many {things} lay there yesterday?",
        ),
        heldout=(
            "{A} threw away {b} old {things} and kept the other {c}. How many {things} did {he} have to begin with?",
            "A coat is now ${b} cheaper and costs ${c}. What was the old price in dollars? | dollars",
        ),
        ways=(
            (
                "Put the {b} back: [c+b].",
                "Before that it was [c+b] {unit}.",
                "Add what went away to what is left: [c+b].",
            ),
            (
                "Go back the tens first, [c+(b-b%10)], and then the ones, [(c+b-b%10)+(b%10)].",
                "{b} is {b-b%10} and {b%10}. Back step by step: [c+(b-b%10)], then [(c+b-b%10)+(b%10)].",
                "Start at {c}. With the tens of {b} it is [c+(b-b%10)], and with its ones [(c+b-b%10)+(b%10)].",
            ),
        ),
    ),
    Family(
        "added", {"a": (12, 55), "d": (6, 38)}, "d", derived={"t": "a+d"},
        tellings=(
            "{A} had {a} {things}. After {B} gave {him} some more, {he} has {t}. How many {things} did {B} give {him}?",
            "A {box} held {a} {things}. {A} put more into it, and now it holds {t}. How many {things} did {he} put in?",
            "How many {things} must {A} buy to have {t}, if {he} has {a} already?",
            "{t} {things} fit into a {box}. {a} are in it. How many more {things} can be put in?",
            "{A} has read {a} of the {t} pages of a book. How many pages does {he} still have to read? | pages",
            "In the morning there were {a} cars in a lot, and at noon {t}. How many cars had come in between, if none "
            "left? | cars",
            "The plant was {a} inches tall in {month}. Today it is {t} inches tall. By how many inches has it grown? "
            "| inches",
            "{A} and {B} have {t} {things} together, of which {a} are {A}'s. How many {things} does {B} have?",
            "Of {t} children in a choir, {a} are girls. How many are boys? | children",
            "{a} of the {t} seats are taken. How many seats are free? | seats",
            "{A} scored {a} points in the first half of a game and {t} in the whole game. How many points came in the "
            "second half? | points",
        ),
        heldout=(
            "A jar with {a} {things} is filled up until {t} are in it. How many {things} were added?",
            "{A}'s savings rose from {a} dollars to {t} dollars. How many dollars did {he} add? | dollars",
        ),
        ways=(
            (
                "Subtract: [t-a].",
                "What is missing from {a} to {t} is [t-a] {unit}.",
                "Take the {a} away from {t}: [t-a].",
            ),
            (
                "Count on from {a}: [a+d], so it is {d}.",
                "{a} and what other number make {t}? [a+d], so it is {d}.",
                "[a+d] is the whole, so the missing part is {d}.",
            ),
        ),
    ),
)  # fmt: skip
