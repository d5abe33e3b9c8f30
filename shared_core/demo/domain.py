"""The demo's task: a house that is run by commands which no model has ever seen.

The command language was invented for this demo, so a model cannot know it: alone it can only guess. It can be read
off examples. Every request fills two or three slots from wide ranges, so the nearest past request nearly always
names another room, time or number: its *answer* is wrong although its *form* is right. That is the difference
between a semantic cache, which returns the neighbour's answer, and in-context caching, which shows it to a model.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from string import Formatter

SYSTEM = "Translate the request into one house command. Reply with the command only."

SIZE = 240


@dataclass(frozen=True, slots=True)
class Pair:
    """A request and the one right answer to it."""

    request: str
    answer: str


@dataclass(frozen=True, slots=True)
class Form:
    """One kind of command: how it is written, and the ways in which people ask for it."""

    command: str
    phrasings: tuple[str, ...]

    def slots(self) -> tuple[str, ...]:
        """Names of the slots, in the order of the command."""
        return tuple(name for _, name, _, _ in Formatter().parse(self.command) if name)


ROOMS = ("kitchen", "bedroom", "bathroom", "hall", "office", "cellar", "attic", "nursery", "garage", "library")
VALUES: dict[str, tuple[str, ...]] = {
    "room": ROOMS,
    "degrees": tuple(str(n) for n in range(14, 31)),
    "percent": tuple(str(n) for n in range(5, 100, 5)),
    "minutes": tuple(str(n) for n in range(3, 60)),
    "time": tuple(f"{hour}:{minute:02}" for hour in range(5, 23) for minute in (0, 10, 15, 20, 30, 40, 45, 50)),
    "day": ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"),
    "dish": ("pasta", "rice", "eggs", "bread", "soup", "tea", "pizza", "beans", "cake", "stew"),
    "music": ("jazz", "blues", "opera", "folk", "techno", "swing", "soul", "punk", "reggae", "disco"),
    "count": tuple(str(n) for n in range(2, 25)),
    "item": ("apples", "onions", "candles", "batteries", "lemons", "bulbs", "towels", "carrots", "nails", "cups"),
    "bed": ("roses", "lawn", "tomatoes", "hedge", "herbs", "tulips", "orchard", "beans", "ferns", "pond"),
    "mood": ("dinner", "cinema", "party", "sleep", "work", "guests", "breakfast", "reading", "yoga", "games"),
    "guest": ("plumber", "gardener", "painter", "cleaner", "postman", "doctor", "neighbour", "nanny"),
    "door": ("front", "back", "side", "cellar", "garage", "balcony", "garden", "shed"),
}

FORMS = (
    Form(
        "climate set {room} --target {degrees}",
        (
            "heat the {room} to {degrees} degrees",
            "make it {degrees} degrees in the {room}",
            "bring the {room} to {degrees} degrees please",
            "I want {degrees} degrees in the {room}",
        ),
    ),
    Form(
        "lamp dim {room} --level {percent}",
        (
            "dim the lights in the {room} to {percent} percent",
            "set the {room} lights to {percent} percent",
            "{room} lights at {percent} percent please",
            "I want the light in the {room} at {percent} percent",
        ),
    ),
    Form(
        "shutter move {room} --open {percent}",
        (
            "open the {room} shutters to {percent} percent",
            "move the shutters in the {room} to {percent} percent",
            "shutters in the {room} at {percent} percent please",
            "I want the {room} shutters at {percent} percent",
        ),
    ),
    Form(
        "timer start {dish} --minutes {minutes}",
        (
            "start a timer of {minutes} minutes for the {dish}",
            "tell me when the {dish} has had {minutes} minutes",
            "the {dish} needs {minutes} minutes, set a timer",
            "set a {minutes} minute timer for the {dish}",
        ),
    ),
    Form(
        "audio play {room} --music {music} --volume {percent}",
        (
            "play {music} in the {room} at volume {percent}",
            "I want to hear {music} in the {room}, volume {percent}",
            "put on some {music} in the {room} at volume {percent}",
            "{music} in the {room} please, volume {percent}",
        ),
    ),
    Form(
        "alarm add {day} --at {time}",
        (
            "wake me at {time} on {day}",
            "set an alarm for {day} at {time}",
            "I have to get up at {time} on {day}",
            "alarm on {day} at {time} please",
        ),
    ),
    Form(
        "door lock {door} --until {time}",
        (
            "lock the {door} door until {time}",
            "keep the {door} door locked until {time}",
            "nobody opens the {door} door before {time}",
            "the {door} door stays locked until {time} please",
        ),
    ),
    Form(
        "basket add {item} --count {count}",
        (
            "put {count} {item} on the shopping list",
            "we need {count} {item} from the shop",
            "add {count} {item} to the shopping",
            "buy {count} {item} please",
        ),
    ),
    Form(
        "water run {bed} --minutes {minutes}",
        (
            "water the {bed} for {minutes} minutes",
            "give the {bed} water for {minutes} minutes",
            "sprinkle the {bed} for {minutes} minutes please",
            "the {bed} need {minutes} minutes of water",
        ),
    ),
    Form(
        "robot clean {room} --start {time}",
        (
            "vacuum the {room} at {time}",
            "send the robot to clean the {room} at {time}",
            "clean the {room} floor at {time} please",
            "the {room} floor should be vacuumed at {time}",
        ),
    ),
    Form(
        "scene show {mood}",
        (
            "make the house ready for {mood}",
            "switch everything to {mood}",
            "it is time for {mood}",
            "prepare the rooms for {mood} please",
        ),
    ),
    Form(
        "gate pass {guest} --day {day}",
        (
            "let the {guest} in on {day}",
            "the {guest} may come in on {day}",
            "on {day} the {guest} needs to get through the gate",
            "open the gate for the {guest} on {day} please",
        ),
    ),
)


def pairs(seed: int = 0, size: int = SIZE) -> tuple[Pair, ...]:
    """`size` different requests with their answers, every form equally often, in an order fixed by `seed`."""
    rng = random.Random(seed)
    made: dict[str, Pair] = {}
    while len(made) < size:
        form = FORMS[len(made) % len(FORMS)]
        values = {name: rng.choice(VALUES[name]) for name in form.slots()}
        request = rng.choice(form.phrasings).format(**values)
        made.setdefault(request, Pair(request, form.command.format(**values)))
    order = list(made.values())
    rng.shuffle(order)
    return tuple(order)
