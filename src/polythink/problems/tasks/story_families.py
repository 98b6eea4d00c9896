"""The families of word problems by number of steps: see `story_words` for how they are written."""

from __future__ import annotations

from polythink.problems.tasks.story_words import ONE, Family

TWO = (
    Family(
        "more_less", {"a": (12, 48), "b": (12, 30), "c": (3, 11)}, "a+b-c",
        tellings=(
            "{A} has {a} {things}. {He} finds {b} more and then gives {c} of them to {B}. How many {things} does {A} "
            "have now?",
            "There are {a} people on a train. At the next station {b} people get on and {c} people get off. How many "
            "people are on the train now? | people",
            "A shop had {a} {things}. On Monday it received {b} more, and on Tuesday it sold {c}. How many {things} "
            "does the shop have now?",
            "{A} picked up {a} {things} on the way to school and {b} on the way back, but lost {c} of them. How many "
            "{things} did {he} bring home?",
        ),
        ways=(
            "With the {b} more it is [a+b] {unit}. Without the {c} it is [(a+b)-c] {unit}.",
            "All in all [b-c] {unit} are added. So there are [a+(b-c)] {unit}.",
        ),
    ),
    Family(
        "groups_less", {"a": (3, 8), "b": (5, 12), "c": (2, 9)}, "a*b-c", where="c<b",
        tellings=(
            "{A} buys {a} {boxes} with {b} {things} in each and gives {c} {things} to {B}. How many {things} does {A} "
            "have left?",
            "A hall has {a} rows of {b} chairs. {c} chairs are broken. How many chairs can be used? | chairs",
            "{A} collects {b} {things} a day for {a} days and then loses {c} of them. How many {things} are left?",
            "{A} earned {b} dollars a week for {a} weeks and spent {c} dollars on a book. How many dollars are left? "
            "| dollars",
        ),
        ways=(
            "There are [a*b] {unit} at first. Then [(a*b)-c] {unit} are left.",
            "Of one group [b-c] {unit} are left. The other {a-1} groups have [(a-1)*b] {unit}. Together that is "
            "[((a-1)*b)+(b-c)] {unit}.",
        ),
    ),
    Family(
        "groups_more", {"a": (3, 8), "b": (4, 12), "c": (3, 15)}, "a*b+c",
        tellings=(
            "{A} has {a} {boxes} with {b} {things} in each and {c} {things} on the shelf. How many {things} does {A} "
            "have in all?",
            "{A} has {c} dollars and earns {b} dollars a day for {a} days. How many dollars does {he} have then? "
            "| dollars",
            "A baker packs {a} {boxes} of {b} cakes and has {c} cakes left over. How many cakes did the baker bake? "
            "| cakes",
            "{A} reads {b} pages every evening. After {a} evenings there are {c} pages left in the book. How many "
            "pages does the book have? | pages",
        ),
        ways=(
            "[a*b] {unit}, and {c} more make [(a*b)+c] {unit}.",
            "Put the {c} to one {b} first: [c+b]. The other {a-1} times {b} are [(a-1)*b]. Together that is "
            "[(c+b)+((a-1)*b)] {unit}.",
        ),
    ),
    Family(
        "each_two_kinds", {"n": (3, 8), "a": (3, 9), "b": (2, 8)}, "n*(a+b)",
        tellings=(
            "Each of {n} children gets {a} {things} from {A} and {b} {things} from {B}. How many {things} do the "
            "children get in all?",
            "{A} buys {n} sandwiches for {a} dollars each and {n} drinks for {b} dollars each. How many dollars does "
            "{he} pay? | dollars",
            "For {n} days {A} swims {a} laps in the morning and {b} laps in the evening. How many laps does {he} swim "
            "in all? | laps",
            "In each of {n} {boxes} there are {a} red {things} and {b} green {things}. How many {things} are there "
            "altogether?",
        ),
        ways=(
            "[a+b] {unit} go together each time. {n} times that is [n*(a+b)] {unit}.",
            "The first kind makes [n*a] {unit}, the second [n*b]. Together that is [(n*a)+(n*b)] {unit}.",
        ),
    ),
    Family(
        "sum_shared", {"n": (2, 6), "p": (2, 9), "q": (2, 9)}, "p+q", derived={"a": "n*p", "b": "n*q"}, where="p-q",
        tellings=(
            "{A} has {a} {things} and {B} has {b} {things}. They share all of them equally among {n} friends. How many "
            "{things} does each friend get?",
            "{A} puts {a} red {things} and {b} blue {things} into {n} {boxes}, equally many into each. How many "
            "{things} are in one {box}?",
            "On two days {A} drove {a} miles and {b} miles. That took {n} tanks of gas. How many miles did {he} drive "
            "with one tank? | miles",
            "A class baked {a} cookies in the morning and {b} cookies at noon and laid them on {n} plates, equally "
            "many on each. How many cookies are on each plate? | cookies",
        ),
        ways=(
            "Together there are [a+b] {unit}. Divided by {n}, that is [(a+b)/n] {unit}.",
            "Of the first part each has [a/n] {unit}, of the second [b/n]. Together that is [(a/n)+(b/n)] {unit}.",
        ),
    ),
    Family(
        "times_together", {"a": (4, 15), "k": (3, 5)}, "a+k*a",
        tellings=(
            "{A} has {a} {things}. {B} has {k} times as many. How many {things} do they have together?",
            "A cap costs {a} dollars, and a shirt costs {k} times as much. How many dollars do both of them cost "
            "together? | dollars",
            "{A} ran {a} miles in May and {k} times as far in June. How many miles did {he} run in both months? "
            "| miles",
            "In the first hour {A} sold {a} {things}, and in the second hour {k} times as many. How many {things} did "
            "{he} sell in the two hours?",
        ),
        ways=(
            "The larger number is [k*a] {unit}. Together that is [a+(k*a)] {unit}.",
            "Together it is {a} taken [k+1] times. That is [(k+1)*a] {unit}.",
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
            "Of {t} {things} in a shop, {b} were sold in the morning and {c} in the afternoon. How many {things} were "
            "not sold?",
        ),
        ways=(
            "After the first time [t-b] {unit} are left. After the second time [(t-b)-c] {unit} are left.",
            "Both together are [b+c] {unit}. So [t-(b+c)] {unit} are left.",
        ),
    ),
    Family(
        "groups_of_groups", {"a": (2, 5), "b": (2, 6), "c": (3, 8)}, "a*b*c",
        tellings=(
            "{A} has {a} shelves. On each shelf there are {b} {boxes}, and in each {box} there are {c} {things}. How "
            "many {things} does {A} have?",
            "{A} works {c} hours a day, {b} days a week. How many hours does {he} work in {a} weeks? | hours",
            "{a} classes go to the zoo. Each class has {b} groups, and each group has {c} children. How many children "
            "go to the zoo? | children",
            "A building has {a} floors with {b} rooms each, and every room has {c} windows. How many windows does the "
            "building have? | windows",
        ),
        ways=(
            "First [a*b], and {c} for each of these makes [(a*b)*c] {unit}.",
            "First [b*c], and {a} times that makes [a*(b*c)] {unit}.",
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
            "{A} caught {a} fish, and {B} caught {b} fish more than {A}. How many fish did the two catch? | fish",
        ),
        ways=(
            "The second number is [a+b]. Together that is [a+(a+b)] {unit}.",
            "Twice {a} is [2*a]. With the {b} more it is [(2*a)+b] {unit}.",
        ),
    ),
    Family(
        "profit", {"n": (3, 9), "a": (7, 15), "b": (2, 9)}, "n*(a-b)", where="a-b>2",
        tellings=(
            "{A} buys {n} {things} for {b} dollars each and sells them for {a} dollars each. How many dollars does "
            "{he} gain? | dollars",
            "{A} earns {a} dollars a day and spends {b} dollars a day. How many dollars does {he} have after {n} days? "
            "| dollars",
            "{n} children each have {a} {things}, and each of them gives {b} away. How many {things} do the children "
            "still have?",
            "Each of {n} {boxes} held {a} {things}, and {A} took {b} out of each. How many {things} are left in the "
            "{boxes}?",
        ),
        ways=(
            "Each time [a-b] {unit} remain. {n} times that is [n*(a-b)] {unit}.",
            "It begins with [n*a] {unit}, and [n*b] go away. So [(n*a)-(n*b)] {unit} remain.",
        ),
    ),
)  # fmt: skip

THREE = (
    Family(
        "change_of_two", {"t": (70, 99), "a": (2, 5), "b": (3, 8), "c": (2, 4), "d": (3, 8)}, "t-(a*b+c*d)",
        where="t-a*b-c*d>4",
        tellings=(
            "{A} has {t} dollars. {He} buys {a} books for {b} dollars each and {c} toys for {d} dollars each. How many "
            "dollars does {he} have left? | dollars",
            "{A} has {t} {things}. {He} gives {b} of them to each of {a} cousins and {d} of them to each of {c} "
            "friends. How many {things} does {A} keep?",
            "A bakery made {t} rolls. It sold {a} bags of {b} rolls and {c} bags of {d} rolls. How many rolls are "
            "left? | rolls",
            "From a roll of {t} feet of ribbon {A} cuts {a} pieces of {b} feet and {c} pieces of {d} feet. How many "
            "feet of ribbon are left? | feet",
        ),
        ways=(
            "The first make [a*b] {unit}, the second [c*d]. Together that is [(a*b)+(c*d)], so [t-(a*b+c*d)] {unit} "
            "are left.",
            "The first make [a*b] {unit}, which leaves [t-(a*b)]. The second make [c*d], which leaves "
            "[(t-a*b)-(c*d)] {unit}.",
        ),
    ),
    Family(
        "two_kinds_less", {"n": (3, 7), "a": (3, 9), "b": (2, 8), "c": (4, 15)}, "n*(a+b)-c", where="n*(a+b)-c>5",
        tellings=(
            "In each of {n} {boxes} there are {a} red and {b} white {things}. {A} takes out {c} {things}. How many "
            "{things} are left in the {boxes}?",
            "Every day {A} earns {a} dollars in the morning and {b} dollars in the evening. After {n} days {he} spends "
            "{c} dollars. How many dollars are left? | dollars",
            "{n} children bring {a} sandwiches and {b} cakes each. {c} of these are eaten. How many are left over? "
            "| pieces",
            "For {n} weeks {A} gets {a} {things} from {B} and {b} from {C} every week. Then {he} gives {c} of them "
            "away. How many {things} does {he} have left?",
        ),
        ways=(
            "Each time it is [a+b] {unit}. {n} times that is [n*(a+b)], and then [(n*(a+b))-c] {unit} are left.",
            "The first kind makes [n*a] {unit}, the second [n*b]. Together that is [(n*a)+(n*b)], and without the {c} "
            "it is [(n*a+n*b)-c] {unit}.",
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
            "{A} drinks {b} glasses of water a day, and each glass holds {c} ounces. {He} does so for {a} days, but "
            "once spills {d} ounces. How many ounces does {he} drink? | ounces",
        ),
        ways=(
            "First [a*b], and {c} for each of these makes [(a*b)*c]. Without the {d} it is [(a*b*c)-d] {unit}.",
            "First [b*c], and {a} times that makes [a*(b*c)]. Without the {d} it is [(a*b*c)-d] {unit}.",
        ),
    ),
    Family(
        "groups_more_shared", {"n": (2, 5), "p": (1, 4), "b": (3, 9), "r": (1, 6)}, "p*b+r",
        derived={"a": "n*p", "c": "n*r"}, where="(p>1)*(r>1)",
        tellings=(
            "{A} has {a} {boxes} of {b} {things} and {c} single {things}. {He} shares all of them equally among {n} "
            "friends. How many {things} does each friend get?",
            "{n} friends rent a boat for {a} hours at {b} dollars an hour and pay {c} dollars for drinks. They share "
            "the costs equally. How many dollars does each friend pay? | dollars",
            "{A} saves {b} dollars a week for {a} weeks and gets {c} dollars from {B}. With this money {he} buys {n} "
            "equal presents. How many dollars does one present cost? | dollars",
            "A school has {a} packs of {b} pens and {c} loose pens. It gives the same number of pens to each of {n} "
            "classes. How many pens does a class get? | pens",
        ),
        ways=(
            "There are [a*b] and {c} more, so [(a*b)+c] {unit}. Divided by {n}, that is [(a*b+c)/n] {unit}.",
            "For each of the {n} it is [a/n] times {b}, so [(a/n)*b] {unit}, and [c/n] more. Together that is "
            "[(a/n*b)+(c/n)] {unit}.",
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
            "{A} planted {a} trees, {B} planted {k} times as many, and {C} planted {d} trees more than {B}. How many "
            "trees did they plant in all? | trees",
        ),
        ways=(
            "The second number is [k*a] and the third [(k*a)+d]. The first two are [a+(k*a)], and all three "
            "[(a+k*a)+(k*a+d)] {unit}.",
            "Without the {d} it is {a} once and twice {k} times, so [2*k+1] times {a}, which is [(2*k+1)*a]. With the "
            "{d} it is [((2*k+1)*a)+d] {unit}.",
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
            "{n} teams have {a} players each. {b} players leave each team, and {c} new players join in. How many "
            "players are there now? | players",
        ),
        ways=(
            "Each time [a-b] {unit} remain. {n} times that is [n*(a-b)], and with the {c} it is [(n*(a-b))+c] {unit}.",
            "At first it is [n*a], and with the {c} it is [(n*a)+c] {unit}. Then [n*b] go away, and "
            "[(n*a+c)-(n*b)] remain.",
        ),
    ),
)  # fmt: skip

LEVELS: dict[str, tuple[Family, ...]] = {"one": ONE, "two": TWO, "three": THREE}
