"""Families of two steps with groups of equal size: see `story_words` for how they are written."""

from __future__ import annotations

from polythink.problems.tasks.story_words import Family

GROUPS = (
    Family(
        "groups_less", {"a": (3, 8), "b": (5, 12), "c": (2, 9)}, "a*b-c", where="b-c>1",
        tellings=(
            "{A} buys {a} {boxes} with {b} {things} in each and gives {c} {things} to {B}. How many {things} does {A} "
            "have left?",
            "A hall has {a} rows of {b} chairs. {c} chairs are broken. How many chairs can be used? | chairs",
            "{A} collects {b} {things} a day for {a} days and then loses {c} of them. How many {things} are left?",
            "How many {things} are left of {a} {boxes} of {b} when {c} {things} have been sold?",
            "Each of {a} children brought {b} {things}, and {c} of all these {things} were lost. How many {things} "
            "were not lost?",
            "{c} of the pupils are ill. The school has {a} classes of {b} pupils. How many pupils are at school "
            "today? | pupils",
            "{A} bought {a} packs of {b} pens. By now {c} pens are empty. How many still write? | pens",
            "{b} trees were planted in each of {a} rows, and {c} of the trees died. How many trees are alive? | trees",
            "If {a} cars with {b} seats each have {c} empty seats in all, how many seats are taken? | seats",
            "On {a} plates lay {b} rolls each. Then {A} ate {c} rolls. How many rolls were left? | rolls",
            "{A} needs {a} times {b} {things} for a game, and {c} are missing. How many {things} does {he} have?",
            "A baker made {b} cakes a day for {a} days. All but {c} of them were sold. How many cakes were sold? | "
            "cakes",
        ),
        heldout=(
            "{A} earned {b} dollars a week for {a} weeks and spent {c} dollars on a book. How many dollars are left? "
            "| dollars",
            "From {a} full {boxes}, each with {b} {things}, {A} takes {c} {things} altogether. What number of "
            "{things} stays behind?",
        ),
        ways=(
            (
                "There are [a*b] {unit} at first. Then [(a*b)-c] {unit} are left.",
                "Multiply: [a*b]. Take away {c}: [(a*b)-c] {unit}.",
                "All of them are [a*b] {unit}, and without {c} it is [(a*b)-c] {unit}.",
            ),
            (
                "Of one group [b-c] {unit} are left. The other {a-1} groups have [(a-1)*b] {unit}. Together that is "
                "[((a-1)*b)+(b-c)] {unit}.",
                "Take the {c} from one group: [b-c]. The others make [(a-1)*b]. All in all it is [((a-1)*b)+(b-c)] "
                "{unit}.",
                "{a-1} full groups are [(a-1)*b] {unit}. The last one has [b-c] left, so [((a-1)*b)+(b-c)] {unit}.",
            ),
        ),
    ),
    Family(
        "groups_more", {"a": (3, 8), "b": (4, 12), "c": (3, 15)}, "a*b+c",
        tellings=(
            "{A} has {a} {boxes} with {b} {things} in each and {c} {things} on the shelf. How many {things} does {A} "
            "have in all?",
            "{A} has {c} dollars and earns {b} dollars a day for {a} days. How many dollars does {he} have then? | "
            "dollars",
            "A baker packs {a} {boxes} of {b} cakes and has {c} cakes left over. How many cakes did the baker bake? | "
            "cakes",
            "How many {things} are {a} {boxes} of {b} and {c} loose ones?",
            "{c} {things} lie on the floor. {a} {boxes} hold {b} {things} each. How many {things} are there in all?",
            "{A} buys {a} toys for {b} dollars each. For a bag {he} pays {c} dollars. How many dollars does {he} pay? "
            "| dollars",
            "There are {a} tables with {b} guests each, and {c} guests are standing. How many guests have come? | "
            "guests",
            "{B} gives {A} {b} {things} on each of {a} days, and {A} had {c} before. How many {things} does {A} have "
            "after that?",
            "A plant was {c} inches tall. It then grew {b} inches a month for {a} months. How many inches tall is it "
            "now? | inches",
            "{a} teams of {b} players and {c} coaches go by bus. How many people go? | people",
            "When {A} has filled {a} {boxes} with {b} {things} each, {c} {things} do not fit in. How many {things} "
            "does {he} have?",
            "A ticket is ${b}, and parking is ${c}. How many dollars do {a} tickets and one parking place cost? | "
            "dollars",
        ),
        heldout=(
            "{A} reads {b} pages every evening. After {a} evenings there are {c} pages left in the book. How many "
            "pages does the book have? | pages",
            "{a} friends each put {b} {things} on a pile that had {c} {things} in it. How large is the pile now?",
        ),
        ways=(
            (
                "[a*b] {unit}, and {c} more make [(a*b)+c] {unit}.",
                "Multiply: [a*b]. Add {c}: [(a*b)+c] {unit}.",
                "{a} times {b} is [a*b]. With the {c} it is [(a*b)+c] {unit}.",
            ),
            (
                "Put the {c} to one {b} first: [c+b]. The other {a-1} times {b} are [(a-1)*b]. Together that is "
                "[(c+b)+((a-1)*b)] {unit}.",
                "Start with {c} and one {b}, [c+b]. The rest is [(a-1)*b], so all is [(c+b)+((a-1)*b)] {unit}.",
            ),
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
            "How many {things} are in {n} {boxes} if each holds {a} {color} and {b} {hue} ones?",
            "{n} teams have {a} boys and {b} girls each. How many children play? | children",
            "A meal costs {a} dollars and a drink {b} dollars. What do {n} people pay who take both, in dollars? | "
            "dollars",
            "{A} packs {n} bags. Into each {he} puts {a} {things} and then {b} more. How many {things} does {he} pack?",
            "Every week {A} works {a} hours at a shop and {b} hours at home. How many hours is that in {n} weeks? | "
            "hours",
            "{n} times {A} walked {a} miles to the lake and {b} miles on to the village. How many miles were walked? "
            "| miles",
            "In each of {n} rooms stand {a} chairs and {b} stools. How many seats do the rooms have? | seats",
            "{B} and {A} save together, {a} and {b} dollars every month. How many dollars have they saved in {n} "
            "months? | dollars",
        ),
        heldout=(
            "In each of {n} {boxes} there are {a} red {things} and {b} green {things}. How many {things} are there "
            "altogether?",
            "{n} farms each have {a} cows and {b} horses. What number of animals do the farms have together? | animals",
        ),
        ways=(
            (
                "[a+b] {unit} go together each time. {n} times that is [n*(a+b)] {unit}.",
                "Each has [a+b] {unit}, so all have [n*(a+b)] {unit}.",
                "Add first: [a+b]. Then multiply: [n*(a+b)] {unit}.",
            ),
            (
                "The first kind makes [n*a] {unit}, the second [n*b]. Together that is [(n*a)+(n*b)] {unit}.",
                "{n} times {a} is [n*a], and {n} times {b} is [n*b]. The sum is [(n*a)+(n*b)] {unit}.",
                "Keep the two apart: [n*a] and [n*b]. In all it is [(n*a)+(n*b)] {unit}.",
            ),
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
            "How many {things} are on {a} tables if each carries {b} {boxes} of {c}?",
            "{A} gives each of {a} friends {b} {boxes}. Every {box} contains {c} {things}. How many {things} does "
            "{he} give away?",
            "For each of {a} shows {A} prints {b} posters with {c} photos on every one. How many photos does {he} "
            "print? | photos",
            "A ticket costs {c} dollars. {A} and {his} family need {b} tickets on each of {a} days. How many dollars "
            "do they pay? | dollars",
            "There are {b} tents in each of {a} camps, and {c} people sleep in every tent. How many people sleep "
            "there? | people",
            "A book has {a} parts with {b} chapters each. If every chapter has {c} pages, how many pages does the "
            "book have? | pages",
            "{A} runs {b} times a week, always {c} miles. How many miles does {he} run in {a} weeks? | miles",
            "Each of {a} trucks is loaded with {b} crates, and {c} lamps are packed in every crate. How many lamps "
            "are loaded? | lamps",
            "{b} dogs eat {c} cups of food a day each. How many cups do they need for {a} days? | cups",
        ),
        heldout=(
            "A building has {a} floors with {b} rooms each, and every room has {c} windows. How many windows does the "
            "building have? | windows",
            "{a} gardeners plant {b} rows each, with {c} bushes in a row. How many bushes are planted? | bushes",
        ),
        ways=(
            (
                "First [a*b], and {c} for each of these makes [(a*b)*c] {unit}.",
                "{a} times {b} is [a*b], and {c} for each: [(a*b)*c] {unit}.",
                "Multiply from the front: [a*b], then [(a*b)*c] {unit}.",
            ),
            (
                "First [b*c], and {a} times that makes [a*(b*c)] {unit}.",
                "For each of the {a} it is [b*c] {unit}, and for all of them [a*(b*c)] {unit}.",
                "Multiply from the end: [b*c], then [a*(b*c)] {unit}.",
            ),
        ),
    ),
    Family(
        "profit", {"n": (3, 9), "a": (7, 15), "b": (2, 9)}, "n*(a-b)", where="a-b>2",
        tellings=(
            "{A} buys {n} {things} for {b} dollars each and sells them for {a} dollars each. How many dollars does "
            "{he} gain? | dollars",
            "{A} earns {a} dollars a day and spends {b} dollars a day. How many dollars does {he} have after {n} "
            "days? | dollars",
            "{n} children each have {a} {things}, and each of them gives {b} away. How many {things} do the children "
            "still have?",
            "How many dollars does {A} save on {n} {things} that cost {b} dollars each today instead of {a}? | dollars",
            "{n} shirts cost {a} dollars each, but {A} has a coupon for {b} dollars off every shirt. How many dollars "
            "does {he} pay? | dollars",
            "Every week {a} liters of water run into a tank, and {b} liters are used. How many more liters does it "
            "hold after {n} weeks? | liters",
            "{A} baked {n} trays of {a} rolls. On each tray {b} rolls were burnt. How many rolls were good? | rolls",
            "A bus has {a} seats, and {b} of them are broken. How many good seats do {n} such buses have? | seats",
            "{b} of the {a} players in each team are ill. There are {n} teams. How many players are well? | players",
            "{A} makes {a} toys a day and {B} makes {b}. How many more toys than {B} does {A} make in {n} days? | toys",
            "Out of each of {n} bags of {a} apples, {b} apples are thrown away. What is left in the bags? | apples",
        ),
        heldout=(
            "Each of {n} {boxes} held {a} {things}, and {A} took {b} out of each. How many {things} are left in the "
            "{boxes}?",
            "Each day a snail climbs {a} feet and slides back {b} feet at night. How many feet higher is it after {n} "
            "days and nights? | feet",
        ),
        ways=(
            (
                "Each time [a-b] {unit} remain. {n} times that is [n*(a-b)] {unit}.",
                "For one it is [a-b] {unit}, and for {n} it is [n*(a-b)] {unit}.",
                "Subtract first: [a-b]. Then multiply: [n*(a-b)] {unit}.",
            ),
            (
                "It begins with [n*a] {unit}, and [n*b] go away. So [(n*a)-(n*b)] {unit} remain.",
                "{n} times {a} is [n*a], and {n} times {b} is [n*b]. The difference is [(n*a)-(n*b)] {unit}.",
                "Keep the two apart: [n*a] and [n*b]. Subtracted, that is [(n*a)-(n*b)] {unit}.",
            ),
        ),
    ),
    Family(
        "pay_change", {"t": (60, 99), "n": (3, 6), "p": (4, 9)}, "t-n*p", where="t-n*p>4",
        tellings=(
            "{A} has {t} dollars and buys {n} books for {p} dollars each. How many dollars does {he} have left? | "
            "dollars",
            "{A} had {t} {things} and gave {p} of them to each of {n} friends. How many {things} does {he} still have?",
            "How many dollars remain of ${t} after {n} tickets for ${p} each have been paid? | dollars",
            "From a rope of {t} feet, {n} pieces of {p} feet are cut. How many feet of rope are left? | feet",
            "Every day {p} of the {t} pages of a book are read. How many pages are left after {n} days? | pages",
            "A jar held {t} {things}. {n} children took {p} each. How many {things} are still in the jar?",
            "There are {t} chairs in a hall. {A} carries out {p} at a time, and {he} goes {n} times. How many chairs "
            "stay? | chairs",
            "{n} {boxes} are filled with {p} {things} each. {A} had {t} {things}. How many did not go into a {box}?",
            "If a tank of {t} liters loses {p} liters an hour, how many liters does it hold after {n} hours? | liters",
            "{A} must walk {t} miles. {He} has walked {p} miles a day for {n} days. How many miles are still ahead? | "
            "miles",
            "Out of {t} eggs, a cook uses {p} for each of {n} cakes. What is the number of eggs left? | eggs",
        ),
        heldout=(
            "{A} pays {n} friends {p} dollars each for their help, out of the {t} dollars that {he} has. How many "
            "dollars does {he} keep? | dollars",
            "A farm has {t} hens. On each of {n} market days {p} hens are sold. How many hens does the farm keep? | "
            "hens",
        ),
        ways=(
            (
                "{n} times {p} is [n*p] {unit}. That leaves [t-(n*p)] {unit}.",
                "All of them take [n*p] {unit}, so [t-(n*p)] {unit} are left.",
                "Multiply: [n*p]. Subtract that from {t}: [t-(n*p)] {unit}.",
            ),
            (
                "After the first time [t-p] {unit} are left. The other {n-1} times take [(n-1)*p], which leaves "
                "[(t-p)-((n-1)*p)] {unit}.",
                "Take away one {p}: [t-p]. The other {n-1} make [(n-1)*p], so it is [(t-p)-((n-1)*p)] {unit}.",
            ),
        ),
    ),
    Family(
        "repacked", {"c": (2, 5), "p": (2, 4), "b": (3, 9)}, "p*b", derived={"a": "c*p"}, where="c-p",
        tellings=(
            "{A} has {a} {boxes} with {b} {things} each. {He} puts all of them into {c} bigger {boxes}, equally many "
            "into each. How many {things} are in a big {box}?",
            "{a} bags of {b} rolls are shared equally by {c} families. How many rolls does each family get? | rolls",
            "How many {things} does each of {c} friends get when {a} packs of {b} {things} are shared equally?",
            "{A} earns {b} dollars a day for {a} days. With the money {he} buys {c} equal gifts. How many dollars "
            "does one gift cost? | dollars",
            "{a} rows of {b} chairs are moved into {c} rooms, the same number into each. How many chairs are in one "
            "room? | chairs",
            "A class reads {b} pages a day and finishes {c} books of equal length in {a} days. How many pages has "
            "each book? | pages",
            "{c} buses carry {a} groups of {b} children, equally many in every bus. How many children are in one bus? "
            "| children",
            "{a} friends bring {b} {things} each. Then all the {things} are divided into {c} equal piles. How many "
            "are in a pile?",
            "{b} dollars were paid by each of {a} people, and {c} helpers share the money equally. How many dollars "
            "does a helper get? | dollars",
            "A farmer fills {a} sacks with {b} pounds of corn each and sells all of it, the same weight to each of "
            "{c} shops. How many pounds does a shop get? | pounds",
        ),
        heldout=(
            "{A} cuts {b} pieces from each of {a} cakes and lays them on {c} plates, equally many on each. How many "
            "pieces does a plate hold? | pieces",
            "{a} hoses give {b} liters a minute each, and the water is led evenly into {c} pools. How many liters "
            "does a pool get a minute? | liters",
        ),
        ways=(
            (
                "There are [a*b] {unit}. Divided by {c}, that is [(a*b)/c] {unit}.",
                "Multiply: [a*b]. Then divide by {c}: [(a*b)/c] {unit}.",
                "All in all it is [a*b] {unit}, and one of {c} equal parts is [(a*b)/c] {unit}.",
            ),
            (
                "Divide the {a} by {c}: [a/c]. Each of these stands for {b}, so it is [(a/c)*b] {unit}.",
                "Of the {a}, [a/c] belong to each part. They make [(a/c)*b] {unit}.",
                "Each part gets [a/c] of the {a}, and these make [(a/c)*b] {unit}.",
            ),
        ),
    ),
)  # fmt: skip
