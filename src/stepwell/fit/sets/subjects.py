"""What the documents of the set ``facts`` are about: names, fields, sentences and questions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random

Draw = Callable[[Random], str]

STARTS = ("Ka", "Mo", "Ti", "Ru", "Be", "Sa", "Lo", "Ne", "Vi", "Du", "Pa", "Ge", "Ha", "Zo", "Mi")
MIDDLES = ("rin", "dal", "vek", "tor", "nas", "lim", "par", "gos", "hel", "mar")
ENDS = ("", "a", "o", "um", "eth")
FIRST_NAMES = (
    "Anna", "Boris", "Clara", "David", "Elena", "Frank", "Greta", "Hugo", "Irma", "Jonas", "Katja", "Leon",
    "Marta", "Nils", "Olga", "Pavel",
)  # fmt: skip
COLOURS = ("Silver", "Golden", "White", "Scarlet", "Green", "Swift", "Quiet", "Bright", "Northern", "Proud")
ANIMALS = (
    "Heron",
    "Otter",
    "Falcon",
    "Dolphin",
    "Swallow",
    "Gull",
    "Petrel",
    "Stag",
    "Lynx",
    "Raven",
    "Curlew",
    "Badger",
)
STONES = (
    "granite", "marble", "sandstone", "basalt", "limestone", "slate", "quartzite", "travertine", "gneiss",
    "porphyry", "brick", "alabaster",
)  # fmt: skip
PAYERS = (
    "merchant", "queen", "monk", "widow", "miller", "potter", "general", "dyer", "goldsmith", "shepherd",
    "doctor", "weaver",
)  # fmt: skip
CARGOES = (
    "salt", "timber", "copper", "wheat", "coffee", "wool", "olives", "cement", "tea", "sugar", "cotton",
    "coal",
)  # fmt: skip
PRODUCTS = (
    "cheese", "glass", "carpets", "pottery", "honey", "candles", "knives", "lace", "violins", "paper",
    "clocks", "leather",
)  # fmt: skip
DISHES = (
    "dumplings", "roast goose", "bean soup", "smoked trout", "pancakes", "mushroom pie", "lentil stew",
    "fried cod", "baked apples", "pickled plums", "barley bread", "lamb skewers",
)  # fmt: skip
HONOURED = (
    "bakers", "fishermen", "beekeepers", "masons", "gardeners", "drummers", "ferrymen", "tailors",
    "foresters", "millers", "sailors", "teachers",
)  # fmt: skip
GOODS = (
    "bicycles", "pumps", "umbrellas", "pianos", "lenses", "tractors", "ropes", "batteries", "kettles",
    "boots", "ladders", "buttons",
)  # fmt: skip


def place(rng: Random) -> str:
    """A name that no subject has."""
    return rng.choice(STARTS) + rng.choice(MIDDLES) + rng.choice(ENDS)


def person(rng: Random) -> str:
    """First name and surname."""
    return f"{rng.choice(FIRST_NAMES)} {place(rng)}"


def ship(rng: Random) -> str:
    """Two words."""
    return f"{rng.choice(COLOURS)} {rng.choice(ANIMALS)}"


def one_of(*values: str) -> Draw:
    """Any of the values."""
    return lambda rng: rng.choice(values)


def between(low: int, high: int) -> Draw:
    """A whole number."""
    return lambda rng: str(rng.randint(low, high))


@dataclass(frozen=True, slots=True)
class Field:
    """One fact that every passage of a document tells."""

    draw: Draw
    questions: tuple[str, ...]
    """``{name}`` is whom the passage is about."""


@dataclass(frozen=True, slots=True)
class Subject:
    """A sort of document."""

    kind: str
    draw_name: Draw
    passages: tuple[str, ...]
    """Wordings; each tells all fields. The first names in every sentence whom it is about."""
    fields: Mapping[str, Field]


WELL = Subject(
    "well",
    place,
    (
        "The stepwell of {name} was dug in {year}. The stepwell of {name} was paid for by a {payer}. The "
        "stepwell of {name} is {depth} metres deep. The stepwell of {name} has {steps} steps. The steps of "
        "the stepwell of {name} are made of {stone}. The mason of the stepwell of {name} was {mason}.",
        "The stepwell of {name} was dug in {year} and paid for by a {payer}. It is {depth} metres deep and "
        "has {steps} steps of {stone}. Its mason was {mason}.",
    ),
    {
        "year": Field(
            between(1201, 1899),
            ("In which year was the stepwell of {name} dug?", "When was the stepwell of {name} dug?"),
        ),
        "payer": Field(
            one_of(*PAYERS),
            ("Who paid for the stepwell of {name}?", "Whose money paid for the stepwell of {name}?"),
        ),
        "depth": Field(
            between(8, 95),
            ("How many metres deep is the stepwell of {name}?", "How deep is the stepwell of {name}?"),
        ),
        "steps": Field(
            between(100, 400),
            (
                "How many steps does the stepwell of {name} have?",
                "How many steps are there in the stepwell of {name}?",
            ),
        ),
        "stone": Field(
            one_of(*STONES),
            (
                "Of which stone are the steps of the stepwell of {name}?",
                "What are the steps of the stepwell of {name} made of?",
            ),
        ),
        "mason": Field(
            person,
            ("Who was the mason of the stepwell of {name}?", "Which mason built the stepwell of {name}?"),
        ),
    },
)
SHIP = Subject(
    "ship",
    ship,
    (
        "The {name} was launched in {year}. The {name} was launched in the port of {port}. The {name} is "
        "{length} metres long. The {name} carries {cargo}. The captain of the {name} is {captain}. The "
        "{name} has a crew of {crew}.",
        "The {name} was launched in {year} in the port of {port}. She is {length} metres long and carries "
        "{cargo}. Her captain is {captain}, who has a crew of {crew}.",
    ),
    {
        "year": Field(
            between(1901, 1999), ("In which year was the {name} launched?", "When was the {name} launched?")
        ),
        "port": Field(
            place,
            ("In which port was the {name} launched?", "Where was the {name} launched?"),
        ),
        "length": Field(between(30, 190), ("How many metres long is the {name}?", "How long is the {name}?")),
        "cargo": Field(one_of(*CARGOES), ("What does the {name} carry?", "What is the cargo of the {name}?")),
        "captain": Field(person, ("Who is the captain of the {name}?", "Which captain sails the {name}?")),
        "crew": Field(
            between(6, 29),
            ("How many people are in the crew of the {name}?", "How large is the crew of the {name}?"),
        ),
    },
)
TOWN = Subject(
    "town",
    place,
    (
        "{name} lies on the river {river}. {name} has {people} inhabitants. {name} is known for its "
        "{product}. The mayor of {name} is {mayor}. The town hall of {name} was built in "
        "{year}. The tower of {name} is {height} metres high.",
        "The town of {name} lies on the river {river} and has {people} inhabitants. It is known for its "
        "{product}. The mayor is {mayor}. The town hall dates from {year} and its tower is {height} "
        "metres high.",
    ),
    {
        "river": Field(
            place,
            ("On which river does {name} lie?", "What is the name of the river that flows through {name}?"),
        ),
        "people": Field(
            between(2100, 9900),
            ("How many inhabitants does {name} have?", "How many people live in the town of {name}?"),
        ),
        "product": Field(
            one_of(*PRODUCTS), ("What is the town of {name} known for?", "Which product is {name} known for?")
        ),
        "mayor": Field(person, ("Who is the mayor of {name}?", "What is the name of the mayor of {name}?")),
        "year": Field(
            between(1301, 1899),
            (
                "From which year is the town hall of {name}?",
                "In which year was the town hall of {name} built?",
            ),
        ),
        "height": Field(
            between(21, 99),
            (
                "How many metres high is the tower in {name}?",
                "How high is the tower of the town hall of {name}?",
            ),
        ),
    },
)
FESTIVAL = Subject(
    "festival",
    place,
    (
        "The festival of {name} was first held in {year}. The festival of {name} lasts {days} days. The "
        "festival of {name} honours the {honoured}. The festival of {name} has {guests} guests. The festival "
        "of {name} is opened by {opener}. The dish of the festival of {name} is {dish}.",
        "The festival of {name} was first held in {year}. It lasts {days} days, honours the {honoured} and "
        "draws {guests} guests. It is opened by {opener}, and the dish of the festival is {dish}.",
    ),
    {
        "year": Field(
            between(1701, 1999),
            (
                "In which year was the festival of {name} first held?",
                "When was the festival of {name} first held?",
            ),
        ),
        "days": Field(
            between(3, 28),
            (
                "How many days does the festival of {name} last?",
                "How long is the festival of {name}, in days?",
            ),
        ),
        "honoured": Field(
            one_of(*HONOURED),
            ("Whom does the festival of {name} honour?", "Which people does the festival of {name} honour?"),
        ),
        "guests": Field(
            between(2100, 9900),
            (
                "How many guests come to the festival of {name}?",
                "How many guests does the festival of {name} draw?",
            ),
        ),
        "opener": Field(
            person, ("Who opens the festival of {name}?", "By whom is the festival of {name} opened?")
        ),
        "dish": Field(
            one_of(*DISHES),
            ("What is the dish of the festival of {name}?", "What do people eat at the festival of {name}?"),
        ),
    },
)
COMPANY = Subject(
    "company",
    place,
    (
        "{name} Limited was founded in {year}. The founder of {name} Limited was {founder}. {name} Limited "
        "makes {goods}. {name} Limited is in the town of {town}. {name} Limited has {staff} employees. "
        "{name} Limited has {shops} shops.",
        "{name} Limited was founded in {year} by {founder}. The company makes {goods} in the town of {town}. "
        "It has {staff} employees and {shops} shops.",
    ),
    {
        "year": Field(
            between(1801, 1999),
            ("In which year was {name} Limited founded?", "When was the company {name} Limited founded?"),
        ),
        "founder": Field(person, ("Who founded {name} Limited?", "Who was the founder of {name} Limited?")),
        "goods": Field(
            one_of(*GOODS), ("What does {name} Limited make?", "What are the products of {name} Limited?")
        ),
        "town": Field(place, ("In which town is {name} Limited?", "Where is the company {name} Limited?")),
        "staff": Field(
            between(110, 990),
            ("How many employees does {name} Limited have?", "How many people work for {name} Limited?"),
        ),
        "shops": Field(
            between(4, 95),
            ("How many shops does {name} Limited have?", "In how many shops does {name} Limited sell?"),
        ),
    },
)
SUBJECTS: tuple[Subject, ...] = (WELL, SHIP, TOWN, FESTIVAL, COMPANY)
