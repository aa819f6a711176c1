"""Support tickets: the phrase bank of the specialist's task, and how a ticket is put together from it.

Each label has `plain` problems, which the specialist is trained on, and `turned` ones, paraphrases of which it sees few: they are
where it is unsure and the generalist, which sees most of them, is better. The last `HELD_OUT` turned problems of each label are in no
training text at all.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import NamedTuple

LABELS = ("billing", "shipping", "returns", "technical", "account", "sales")

HELD_OUT = 5
"""Turned problems of each label that nobody is trained on."""

GLIMPSED = 1
"""Turned problems of each label that the specialist sees, the first ones."""


class Problems(NamedTuple):
    """The ways of stating one label's problem. `{product}`, `{number}`, `{days}`, `{amount}`, `{city}` are filled in."""

    plain: tuple[str, ...]
    turned: tuple[str, ...]


PROBLEMS: Mapping[str, Problems] = {
    "billing": Problems(
        (
            "I was charged twice for the {product}",
            "my invoice shows {amount} euros too much",
            "the payment for order {number} was taken two times",
            "there is a wrong amount on my bill",
            "I was billed {amount} euros and I do not know why",
            "the invoice for order {number} has the wrong total",
            "my credit card was charged {amount} euros after the trial",
            "I need a copy of the invoice for the {product}",
            "the tax on my invoice is wrong",
            "you charged my card for a {product} that I never bought",
            "my payment failed but the money is gone from my bank",
            "the discount is missing on my bill",
            "please explain the fee of {amount} euros on my invoice",
            "the monthly fee on my bill went up without notice",
            "I paid order {number} and the bill still says unpaid",
            "the receipt for the {product} shows the wrong price",
        ),
        (
            "my bank statement lists you two times this month",
            "{amount} euros left my card and nobody told me what for",
            "I have been overcharged for the {product}",
            "the sum you want from me is higher than what we agreed",
            "why is my statement {amount} euros higher than last month",
            "I see a second debit of {amount} euros from you",
            "the price I paid is not the price on the receipt",
            "you took money for a plan I do not use",
            "my accountant needs the paper that says what I paid",
            "I was debited for order {number} again",
            "the voucher was not taken off the total",
            "what is this fee of {amount} euros for",
            "my card was debited twice for one {product}",
            "there are {amount} euros on the statement that I cannot explain",
            "the total on the receipt is higher than the price",
        ),
    ),
    "shipping": Problems(
        (
            "my parcel has not arrived after {days} days",
            "order {number} is late",
            "the tracking page for order {number} has not changed for {days} days",
            "the courier left the parcel at the wrong address",
            "the delivery of my {product} is delayed",
            "where is my package with the {product}",
            "the driver did not ring and took the parcel away",
            "I want to change the delivery address of order {number}",
            "the parcel was sent to {city} and I live elsewhere",
            "the tracking number for order {number} does not work",
            "my {product} was shipped {days} days ago and is not here",
            "the delivery was planned for today and nobody came",
            "how long does shipping to {city} take",
            "the package was delivered to my neighbour in {city}",
            "the box with the {product} is lost in the mail",
            "please ship order {number} to my office",
        ),
        (
            "I am still waiting for the {product} I ordered {days} days ago",
            "nothing has come to my door yet",
            "the van drove past my house and did not stop",
            "my things are stuck in {city} since {days} days",
            "when will the {product} be here",
            "the post office in {city} knows nothing of my box",
            "somebody in {city} got what was meant for me",
            "the courier says he was here and he was not",
            "it was sent {days} days ago and is nowhere",
            "can the driver bring it to my work place",
            "order {number} is still on its way after {days} days",
            "the box has not come and the driver does not answer",
            "I wait for my {product} since {days} days",
            "is my package still in {city}",
            "the mail carrier took my box to another house",
        ),
    ),
    "returns": Problems(
        (
            "I want to send the {product} back",
            "how do I return order {number}",
            "the {product} is broken and I want a refund",
            "please send me a return label for the {product}",
            "I would like to exchange the {product} for another size",
            "I returned order {number} {days} days ago and have no refund yet",
            "the {product} is damaged and I want to return it",
            "can I return the {product} after {days} days",
            "the wrong {product} came and I want an exchange",
            "I changed my mind and want my money back for the {product}",
            "what is your refund policy",
            "the refund for order {number} is missing",
            "the colour of the {product} is wrong so I want to swap it",
            "I sent the {product} back and nobody confirmed it",
            "a part of the {product} is missing and I want a replacement",
            "my return of order {number} was refused",
        ),
        (
            "the {product} does not fit and I do not want to keep it",
            "I do not like the {product} and would rather have my money",
            "it fell apart after {days} days so take it back",
            "can you swap the {product} for a bigger one",
            "the {product} is not what I ordered and it has to go back",
            "where do I drop off what I do not want to keep",
            "I gave the {product} back {days} days ago and nothing happened",
            "the {product} came with a crack and I want a new one",
            "you promised a replacement for the {product}",
            "how many days do I have to change my mind about the {product}",
            "I do not want the {product} any more and have it ready to go back",
            "it came damaged so I would rather have my money",
            "can I swap the broken {product} for a new one",
            "the {product} has a crack so take it back",
            "I want to give order {number} back",
        ),
    ),
    "technical": Problems(
        (
            "the app crashes when I open the settings",
            "the {product} does not turn on",
            "I get error {number} when I start the program",
            "the {product} does not connect to the network",
            "the screen of the {product} stays black",
            "the update failed with error {number}",
            "the app is very slow since the update",
            "the {product} makes a strange noise and stops",
            "the website shows an error when I click on save",
            "I cannot install the software on my computer",
            "the battery of the {product} is empty after {days} hours",
            "the sync between my phone and the {product} does not work",
            "the button on the {product} does nothing",
            "the app freezes after {days} minutes",
            "the {product} restarts by itself",
            "the page does not load in my browser",
        ),
        (
            "the {product} went dead while I was using it",
            "everything hangs as soon as I tap on the menu",
            "my phone does not find the {product}",
            "since the new version nothing works",
            "a message with code {number} pops up all the time",
            "the {product} gets hot and shuts down",
            "the program closes by itself after {days} minutes",
            "there is no sound from the {product}",
            "the lights on the {product} blink and nothing happens",
            "I only see a white page",
            "the {product} hangs and does not find the network",
            "since the update there is no sound",
            "the app closes by itself when I tap on save",
            "a black page with code {number} is all I see",
            "the {product} shuts down as soon as I use it",
        ),
    ),
    "account": Problems(
        (
            "I cannot log in to my account",
            "I forgot my password",
            "please reset the password of my account",
            "I want to change the email address of my account",
            "my account is locked after {days} tries",
            "please delete my account and my data",
            "I did not get the email to confirm my account",
            "somebody else logged in to my account from {city}",
            "I want to change my user name",
            "the login code does not come to my phone",
            "how do I add a second user to my account",
            "my account was closed and I do not know why",
            "I want to change the phone number on my profile",
            "the link to reset my password has expired",
            "I have two accounts and want to merge them",
            "how do I turn on the second step at login",
        ),
        (
            "it says my password is wrong and it is not",
            "I am locked out since {days} days",
            "somebody in {city} is using my profile",
            "I have a new email and want you to use that one",
            "take my name out of your system for good",
            "the code you text me never comes",
            "I do not remember what I typed when I signed up",
            "my wife should be able to sign in as well",
            "the reset mail is not in my inbox",
            "I got married and my name is different now",
            "I am locked out and the code never comes",
            "it does not let me sign in since {days} days",
            "I have a new phone and cannot sign in",
            "my name on the profile is wrong",
            "please take my email out of your system",
        ),
    ),
    "sales": Problems(
        (
            "how much does the {product} cost",
            "do you have the {product} in blue",
            "I would like a quote for {number} pieces of the {product}",
            "is the {product} in stock in {city}",
            "do you offer a discount for schools",
            "which {product} do you recommend for a small office",
            "what is the difference between the two plans",
            "can I get a demo of the {product}",
            "I want to upgrade to the big plan",
            "when will the new {product} be for sale",
            "do you sell the {product} to companies in {city}",
            "I am interested in buying a {product}",
            "is there a student price for the {product}",
            "please call me about an offer for {days} users",
            "does the {product} come with a guarantee",
            "can I try the {product} before I buy it",
        ),
        (
            "we are {days} people and look for a plan",
            "I am thinking of getting a {product}",
            "what would {number} of these come to",
            "is the {product} any good for a beginner",
            "who can tell me more about your offers",
            "my boss wants to know your prices",
            "are there cheaper ones than the {product}",
            "is the {product} worth it for a family",
            "can we have the {product} for a week to see if we like it",
            "will there be a sale on the {product} soon",
            "what would a plan for {days} people come to",
            "we look for a {product} that is good for a beginner",
            "are there offers for a family",
            "who can show us the {product} before we decide",
            "is there a cheaper {product} in {city}",
        ),
    ),
}

PRODUCTS = (
    "lamp", "phone", "printer", "camera", "keyboard", "chair", "desk", "coffee machine", "headset", "router", "watch", "tablet",
    "monitor", "bicycle", "toaster", "jacket", "backpack", "speaker", "drill", "tent", "scale", "kettle", "radio", "mouse",
)  # fmt: skip
CITIES = ("Paris", "Berlin", "Madrid", "Rome", "Vienna", "Oslo", "Prague", "Dublin", "Lisbon", "Warsaw", "Zürich", "Malmö")
_OPENINGS = ("", "", "", "Hello, ", "Hi, ", "Good morning, ", "Dear team, ", "Hi there, ", "Excuse me, ", "Hello again, ")
_CLOSINGS = (
    "", "", "", ". Please help", ". Thank you", ". Can you help me?", ". This is urgent", ". I am not happy", ". Thanks in advance",
    ". What can I do?", ". Kind regards", ". I have been a customer for years", ". Please answer soon",
)  # fmt: skip
_PIVOTS = (
    "The other day {first}, and that is solved. Now {second}",
    "I wrote to you because {first}. Forget that, {second}",
    "{second}. It has nothing to do with last week, when {first}",
    "Last week {first}. That is fine now, but {second}",
    "Not long ago {first}. You solved that. Today {second}",
)
PIVOTS_GLIMPSED = 1
"""Pivots that the specialist sees, the first ones."""

REPLIES: Mapping[str, str] = {
    "billing": "I am sorry about the trouble with your bill. Our billing team will check the payment and write to you within two days.",
    "shipping": "I am sorry that your parcel is late. Our shipping team will ask the courier today and send you the new date.",
    "returns": "Of course you can send it back. Our returns team will send you a label, and the refund follows within five days.",
    "technical": "I am sorry that it does not work. Please restart it and try again. Our technical team will look into the error.",
    "account": "I can help you with your account. Our account team will send you an email with a link to log in again.",
    "sales": "Thank you for your interest. Our sales team will send you an offer with the prices and call you tomorrow.",
}


class Ticket(NamedTuple):
    """One ticket and the label a person would give it."""

    text: str
    label: str


def _fill(template: str, rng: random.Random) -> str:
    return template.format(
        product=rng.choice(PRODUCTS),
        number=rng.randint(100, 9999),
        days=rng.randint(2, 30),
        amount=rng.randint(3, 250),
        city=rng.choice(CITIES),
    )


def _dress(sentence: str, rng: random.Random) -> str:
    """Put an opening and a closing around the sentence, in one of the ways in which people write."""
    text = rng.choice(_OPENINGS) + sentence + rng.choice(_CLOSINGS)
    text = text[0].upper() + text[1:] if rng.random() < 0.85 else text.lower()
    return text + rng.choice(("", ".", ".", "!")) if text[-1] not in "?!." else text


def plain(rng: random.Random) -> Ticket:
    """Say a ticket in the words the specialist knows."""
    label = rng.choice(LABELS)
    return Ticket(_dress(_fill(rng.choice(PROBLEMS[label].plain), rng), rng), label)


def turned(rng: random.Random, *, first: int, last: int) -> Ticket:
    """Say a ticket by one of the turned problems `first` to `last`."""
    label = rng.choice(LABELS)
    return Ticket(_dress(_fill(rng.choice(PROBLEMS[label].turned[first:last]), rng), rng), label)


def mixed(rng: random.Random, pivots: Sequence[str] = _PIVOTS) -> Ticket:
    """Build a ticket that mentions two problems, one of them settled; its label is that of the other."""
    before, now = rng.sample(LABELS, 2)
    first = _fill(rng.choice(PROBLEMS[before].plain), rng)
    second = _fill(rng.choice(PROBLEMS[now].plain), rng)
    text = rng.choice(tuple(pivots)).format(first=first, second=second)
    return Ticket(text[0].upper() + text[1:] + rng.choice((".", "", "!")), now)


def mixed_glimpsed(rng: random.Random) -> Ticket:
    """Build a mixed ticket by the only pivots that the specialist sees."""
    return mixed(rng, _PIVOTS[:PIVOTS_GLIMPSED])


def worn(ticket: Ticket, rng: random.Random, kept: float) -> Ticket:
    """Keep a share of the ticket's words, and its label: trained on such, a model is less sure when the telling words are missing."""
    words = ticket.text.split(" ")
    left = [word for word in words if rng.random() < kept]
    return Ticket(" ".join(left or words[:1]), ticket.label)
