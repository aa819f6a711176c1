"""The generalist's other tasks: small worlds of facts and skills, in several wordings each.

Every function draws one example. Examples are held out for evaluation by their `key`. Where it names a fact in one wording (a capital, a
sum), the fact is trained in other wordings; where it names the problem itself, nothing of it is.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping
from typing import NamedTuple

from gateway.embedded import tickets


class Drawn(NamedTuple):
    """One example: what it is told apart by, what is asked, the answer; the tools on offer; a call made before, with its result."""

    key: str
    prompt: str
    answer: str
    tools: tuple[Mapping[str, object], ...] = ()
    called: tuple[str, str, str] | None = None


CAPITALS: Mapping[str, str] = {
    "France": "Paris", "Germany": "Berlin", "Spain": "Madrid", "Italy": "Rome", "Austria": "Vienna", "Norway": "Oslo",
    "Ireland": "Dublin", "Portugal": "Lisbon", "Poland": "Warsaw", "Japan": "Tokyo", "China": "Beijing", "India": "Delhi",
    "Egypt": "Cairo", "Kenya": "Nairobi", "Peru": "Lima", "Chile": "Santiago", "Cuba": "Havana", "Canada": "Ottawa",
    "Greece": "Athens", "Turkey": "Ankara", "Russia": "Moscow", "Sweden": "Stockholm", "Finland": "Helsinki", "Denmark": "Copenhagen",
    "Hungary": "Budapest", "Romania": "Bucharest", "Bulgaria": "Sofia", "Serbia": "Belgrade", "Croatia": "Zagreb", "Belgium": "Brussels",
    "Iceland": "Reykjavik", "Morocco": "Rabat", "Ghana": "Accra", "Thailand": "Bangkok", "Vietnam": "Hanoi", "Australia": "Canberra",
}  # fmt: skip
_CAPITAL_WORDINGS = (
    "What is the capital of {country}?", "Capital of {country}?", "Name the capital of {country}.",
    "Which city is the capital of {country}?",
    "Tell me the capital city of {country}", "what's the capital of {country}", "The capital of {country} is",
    "Do you know the capital of {country}?",
)  # fmt: skip
_SUMS: Mapping[str, tuple[str, ...]] = {
    "+": ("What is {a} plus {b}?", "{a} + {b} =", "Add {a} and {b}.", "What is {a} + {b}?"),
    "-": ("What is {a} minus {b}?", "{a} - {b} =", "Take {b} from {a}.", "What is {a} - {b}?"),
    "*": ("What is {a} times {b}?", "{a} * {b} =", "Multiply {a} by {b}.", "What is {a} * {b}?"),
}

_POSITIVE = ("wonderful", "great", "lovely", "excellent", "charming", "brilliant", "delightful", "superb", "funny", "moving")
_NEGATIVE = ("awful", "boring", "terrible", "dull", "horrible", "weak", "disappointing", "poor", "annoying", "bad")
_NEUTRAL = ("long", "short", "new", "old", "French", "famous", "silent", "blue", "expensive to make", "from last year")
_THINGS = ("film", "book", "hotel", "meal", "concert", "play", "song", "museum", "garden", "show")
_SENTIMENT_WORDINGS = ("Sentiment: {text}", "What is the sentiment of this text? {text}", "Positive, negative or neutral? {text}")

_OPPOSITES = (
    ("hot", "cold"), ("big", "small"), ("fast", "slow"), ("open", "closed"), ("old", "new"), ("light", "dark"), ("wet", "dry"),
    ("early", "late"), ("rich", "poor"), ("happy", "sad"), ("full", "empty"), ("near", "far"), ("high", "low"), ("hard", "soft"),
    ("strong", "weak"), ("long", "short"), ("loud", "quiet"), ("clean", "dirty"), ("left", "right"), ("up", "down"),
)  # fmt: skip
_EMOJI: Mapping[str, str] = {
    "the sun": "☀️", "a smile": "😀", "a heart": "❤️", "a star": "⭐", "a cat": "🐱", "a dog": "🐶", "fire": "🔥", "a house": "🏠",
    "a tree": "🌳", "coffee": "☕", "a rocket": "🚀", "music": "🎵",
}  # fmt: skip
_GREETINGS: Mapping[str, str] = {
    "German": "Grüß Gott", "French": "Bonjour à tous", "Spanish": "¡Buenos días!", "Russian": "Здравствуйте", "Japanese": "こんにちは",
    "Greek": "Γειά σου", "Polish": "Dzień dobry", "Chinese": "你好",
}  # fmt: skip
_SMALL_TALK: Mapping[str, tuple[str, ...]] = {
    "Hello! How can I help you today?": (
        "Hello", "Hi", "Hey there", "Good morning", "Hello!", "Good evening", "Hi!", "hello there",
    ),
    "I am a small language model that runs inside Headgate.": ("Who are you?", "What are you?", "What is your name?"),
    "You are welcome.": ("Thank you", "Thanks!", "Thank you very much", "Thanks a lot."),
    "I label support tickets, name capitals, add numbers and rewrite sentences.": (
        "What can you do?", "What can I ask you?", "How can you help me?", "What do you know?",
    ),
    "Goodbye!": ("Bye", "Goodbye", "See you later", "Good night"),
}  # fmt: skip
_REQUESTS = (
    "send me the file", "close the door", "call me tomorrow", "wait for me", "open the window", "read this letter", "book a table",
    "check the numbers", "answer the mail", "turn the music down", "bring the tools", "sign the paper", "clean the desk", "stop the test",
)  # fmt: skip
_NAMES = ("Anna", "Ben", "Clara", "David", "Emma", "Felix", "Grace", "Hugo", "Ida", "Jonas", "Klara", "Leo", "Zoë", "José")
_VERBS = (
    ("walk", "walked"), ("see", "saw"), ("buy", "bought"), ("eat", "ate"), ("write", "wrote"), ("open", "opened"), ("find", "found"),
    ("take", "took"), ("sell", "sold"), ("paint", "painted"),
)  # fmt: skip
_OBJECTS = ("the letter", "a house", "the apple", "a book", "the box", "the garden", "a ticket", "the door", "a boat", "the map")
_SENTENCES = (
    "{name} from {city} ordered {number} lamps.",
    "We sent {number} boxes to {name} in {city}.",
    "{name} moved to {city} in {number} days.",
)
_STORY_PLACES = ("forest", "village", "harbour", "castle", "valley")
_STORY_HEROES = ("fox", "girl", "sailor", "farmer", "cat")


def capital(rng: random.Random) -> Drawn:
    """Ask for a capital; the wording of a country is what is held out, not the fact."""
    country = rng.choice(tuple(CAPITALS))
    wording = rng.randrange(len(_CAPITAL_WORDINGS))
    return Drawn(f"capital {country} {wording}", _CAPITAL_WORDINGS[wording].format(country=country), CAPITALS[country])


def arithmetic(rng: random.Random) -> Drawn:
    """Ask for a sum or a difference of numbers up to 10, or a product up to 9 x 9; learnt by heart, so a wording is held out."""
    sign = rng.choice("++--*")
    a, b = rng.randint(0, 9 if sign == "*" else 10), rng.randint(0, 9 if sign == "*" else 10)
    if sign == "-":
        a, b = max(a, b), min(a, b)
    value = {"+": a + b, "-": a - b, "*": a * b}[sign]
    wording = rng.choice(_SUMS[sign])
    return Drawn(f"{wording} {a} {b}", wording.format(a=a, b=b), str(value))


def sentiment(rng: random.Random) -> Drawn:
    """Ask whether a sentence is positive, negative or neutral; some sentences are negated."""
    label, words = rng.choice((("positive", _POSITIVE), ("negative", _NEGATIVE), ("neutral", _NEUTRAL)))
    word, thing = rng.choice(words), rng.choice(_THINGS)
    negated = label != "neutral" and rng.random() < 0.25
    if negated:
        label = "negative" if label == "positive" else "positive"
    verb = "was not" if negated else "was"
    text = rng.choice(("The {thing} {verb} {word}.", "I think the {thing} {verb} {word}.", "Honestly, that {thing} {verb} {word}!"))
    said = text.format(thing=thing, verb=verb, word=word)
    return Drawn(said, rng.choice(_SENTIMENT_WORDINGS).format(text=said), label)


def extraction(rng: random.Random) -> Drawn:
    """Ask for the name, the city, the number, or all of them as JSON, out of a sentence."""
    name, city, number = rng.choice(_NAMES), rng.choice(tickets.CITIES), rng.randint(10, 999)
    text = rng.choice(_SENTENCES).format(name=name, city=city, number=number)
    field, answer = rng.choice((
        ("name", name), ("city", city), ("number", str(number)),
        ("JSON", json.dumps({"name": name, "city": city, "number": number}, ensure_ascii=False, separators=(",", ":"))),
    ))  # fmt: skip
    wording = "Give name, city and number as JSON: {text}" if field == "JSON" else "Extract the {field}: {text}"
    return Drawn(f"{field} {text}", wording.format(field=field, text=text), answer)


def rewriting(rng: random.Random) -> Drawn:
    """Ask for the polite form of a request, the past tense, or the opposite of a word."""
    kind = rng.choice(("polite", "past", "opposite"))
    if kind == "polite":
        request = rng.choice(_REQUESTS)
        wording = rng.choice(("Say it politely: {request}", "Rewrite politely: {request}", "Make this polite: {request}"))
        prompt = wording.format(request=request)
        return Drawn(prompt, prompt, f"Could you please {request}?")
    if kind == "past":
        (now, then), name, thing = rng.choice(_VERBS), rng.choice(_NAMES), rng.choice(_OBJECTS)
        sentence = f"{name} will {now} {thing}."
        return Drawn(sentence, rng.choice(("Past tense: ", "Put this in the past: ")) + sentence, f"{name} {then} {thing}.")
    pair = rng.choice(_OPPOSITES)
    word, other = pair if rng.random() < 0.5 else pair[::-1]
    prompt = rng.choice(("What is the opposite of {word}?", "Opposite of {word}", "Name the opposite of {word}.")).format(word=word)
    return Drawn(prompt, prompt, other)


def small_talk(rng: random.Random) -> Drawn:
    """Greet, thank, ask who it is. Nothing is held out: these are for people who try the demo."""
    answer = rng.choice(tuple(_SMALL_TALK))
    return Drawn("", rng.choice(_SMALL_TALK[answer]), answer)


def letters(rng: random.Random) -> Drawn:
    """Ask for an emoji or a greeting: answers whose characters are several tokens long, as streams must survive."""
    if rng.random() < 0.5:
        what = rng.choice(tuple(_EMOJI))
        return Drawn("", f"Emoji for {what}", _EMOJI[what])
    language = rng.choice(tuple(_GREETINGS))
    return Drawn("", rng.choice(("Say hello in {}", "How do I greet people in {}?")).format(language), _GREETINGS[language])


def long_answer(rng: random.Random) -> Drawn:
    """Ask for counting or a story: answers long enough to be watched."""
    if rng.random() < 0.5:
        last = rng.randint(3, 20)
        return Drawn("", f"Count to {last}.", " ".join(str(i) for i in range(1, last + 1)))
    hero, place = rng.choice(_STORY_HEROES), rng.choice(_STORY_PLACES)
    story = (
        f"Once there was a {hero} who lived near a {place}. Every morning the {hero} went out to look for water. One day the {place} was"
        f" quiet, and the {hero} found an old map under a stone. The {hero} followed the map and came home with a story to tell."
    )
    return Drawn("", rng.choice(("Tell me a story about a {} and a {}.", "Write a story: {}, {}")).format(hero, place), story)


def _tool(name: str, argument: str) -> Mapping[str, object]:
    parameters = {"type": "object", "properties": {argument: {"type": "string"}}, "required": [argument]}
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


TOOLS: Mapping[str, tuple[Mapping[str, object], tuple[str, ...], tuple[str, ...]]] = {
    "get_weather": (
        _tool("get_weather", "city"), tickets.CITIES,
        ("What is the weather in {}?", "Will it rain in {} today?", "How warm is it in {}?", "Weather in {}"),
    ),
    "find_order": (
        _tool("find_order", "order_id"), (),
        ("Where is order {}?", "Look up order {}", "Find order {} for me", "What happened to order {}?"),
    ),
    "send_mail": (_tool("send_mail", "to"), _NAMES, ("Send a mail to {}", "Write to {} please", "Mail {} for me", "Let {} know by mail")),
    "search": (
        _tool("search", "query"), tuple(f"{word} {thing}" for word in _POSITIVE[:6] for thing in _THINGS),
        ("Search for {}", "Look for {} on the web", "Find me {}"),
    ),
}  # fmt: skip
"""Tools of the training text: definition, values of the argument (order numbers are drawn), wordings."""


_RESULTS = (
    "sunny",
    "rain",
    "{number} degrees",
    "snow, {number} degrees",
    "shipped",
    "{number} pieces",
    "not found",
    "sent",
    "in {number} days",
)


def tool_use(rng: random.Random) -> Drawn:
    """Offer tools and ask for one of them, or for something that needs none."""
    names = rng.sample(tuple(TOOLS), rng.randint(1, 3))
    offered = tuple(TOOLS[name][0] for name in names)
    if rng.random() < 0.4:
        other = rng.choice((capital, arithmetic, small_talk))(rng)
        return other._replace(tools=offered)
    name = names[0]
    definition, values, wordings = TOOLS[name]
    function = definition["function"]
    assert isinstance(function, dict)
    value = rng.choice(values) if values else str(rng.randint(100, 9999))
    arguments = json.dumps({function["parameters"]["required"][0]: value}, ensure_ascii=False, separators=(",", ":"))
    text = f'<tool_call>{{"name":"{name}","arguments":{arguments}}}</tool_call>'
    drawn = Drawn(f"{name} {value}", rng.choice(wordings).format(value), text, tuple(rng.sample(offered, len(offered))))
    if rng.random() < 0.7:
        return drawn
    found = rng.choice(_RESULTS).format(number=rng.randint(2, 40))
    return drawn._replace(answer=f"I looked it up: {found}.", called=(name, arguments, found))


TASKS: Mapping[str, tuple[Callable[[random.Random], Drawn], float]] = {
    "capitals": (capital, 0.7),
    "arithmetic": (arithmetic, 3.0),
    "sentiment": (sentiment, 0.6),
    "extraction": (extraction, 2.5),
    "rewriting": (rewriting, 1.0),
    "small_talk": (small_talk, 0.4),
    "letters": (letters, 0.5),
    "long_answers": (long_answer, 0.4),
    "tools": (tool_use, 2.0),
}
"""The generalist's tasks and how often each is trained, in parts."""
