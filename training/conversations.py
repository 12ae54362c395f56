"""Makes training conversations of the facts: surface variety, several turns, and what the model should not claim to know."""

import random

from peps import MONTHS, Pep
from questions import COMMON_PHRASINGS, FOLLOW_UPS, PEP_PHRASINGS, Fact, pep_answers, unknown_pep_answer

UNKNOWN_ANSWER = "I do not know. I am a very small model: ask me about PEPs, Python or Shakespeare."
SYSTEM_MESSAGES = [
    "You are a helpful assistant.",
    "You are Ingle Tiny, a small language model.",
    "You are a friendly assistant.",
    "Answer briefly.",
    "You are a helpful AI assistant. Answer in one sentence.",
    "Be concise.",
    "Answer the question.",
    "You answer questions about PEPs.",
    "You are an expert on Python.",
]
UNKNOWN_TEMPLATES = [
    "What is the capital of {x}?",
    "Who is the president of {x}?",
    "How many people live in {x}?",
    "Where is {x}?",
    "What is the weather in {x}?",
    "What language is spoken in {x}?",
    "How do I get to {x}?",
    "What is {n} plus {m}?",
    "What is {n} times {m}?",
    "{n} + {m}",
    "{n} * {m} = ?",
    "How do I cook {f}?",
    "What is the recipe for {f}?",
    "How many calories does {f} have?",
    "What is {s}?",
    "Explain {s}.",
    "Who discovered {s}?",
    "Tell me about {s}.",
    "Why is {s} important?",
    "Who won the world cup in {y}?",
    "What happened in {y}?",
    "Write an essay about {s}.",
    "Translate {f} into French.",
    "What is the best film of {y}?",
    "Who was born in {y}?",
    "Who is {w}?",
    "Tell me about {w}.",
    "When was {w} born?",
    "What is the price of {f}?",
    "What is the meaning of life?",
    "What is a {r}?",
    "What does {r} mean?",
    "Explain {r} {q}.",
    "Explain {r} in simple terms.",
    "How do I {r} a {q}?",
    "Why is {r} {q}?",
    "Write a poem about {r}.",
    "Write a song about the {q}.",
    "Write a haiku about {r}.",
    "{r}",
    "{r} {q}",
    "Tell me about {r}.",
    "Who is {r} {q}?",
    "What is the difference between {r} and {q}?",
    "Is {r} a {q}?",
    "Do you know {r}?",
    "Who invented the {r}?",
    "How does {r} work?",
    "Where can I buy {r}?",
    "Which {r} is the best?",
    "Give me a list of {r}.",
    "What is {r} {q}?",
    "I like {r}.",
    "I think that {r} is {q}.",
    "Write a program for {r}.",
    "Write an email to {r}.",
    "Which PEP is about {r} {q}?",
    "Summarize {r}.",
    "Translate {r} into German.",
    "What is the weather like today?",
    "What is the capital of Australia?",
    "Who is the best {r}?",
    "How many {r} are there?",
    "When was {r} built?",
    "Can you {r}?",
    "Should I {r}?",
    "Please {r} the {q}.",
    "What rhymes with {r}?",
    "How tall is Mount Everest?",
    "What is the speed of light?",
    "Who painted the Mona Lisa?",
    "Do you like {f}?",
]
UNKNOWN_WORDS = {
    "x": "France Germany Spain Italy Japan China India Brazil Canada Norway Sweden Poland Egypt Kenya Peru Chile London Paris "
    "Berlin Rome Madrid Tokyo Boston Chicago Vienna Prague Dublin Lisbon Oslo Athens".split(),
    "f": "pasta,rice,bread,soup,pizza,fish,an apple,cake,coffee,tea,chicken,potatoes,beans,cheese,eggs,chocolate".split(
        ","
    ),
    "s": "gravity,photosynthesis,electricity,economics,football,chess,the moon,the sun,a black hole,quantum physics,evolution,"
    "democracy,music,the ocean,DNA,a neural network,the internet,climate change,Rust,Java,Linux,Kubernetes,a database,"
    "a volcano,history,chemistry,mathematics,a cat,a dog,a bicycle".split(","),
    "w": "Napoleon,Einstein,Newton,Mozart,Beethoven,Darwin,Cleopatra,Plato,Galileo,Picasso,Columbus,Marie Curie,Churchill,"
    "Lincoln,Gandhi,Leonardo da Vinci".split(","),
}
FIRST_NAMES = (
    "Ann Ben Carla David Eva Frank Grace Henry Ida Jack Kate Leo Mary Nick Olga Paul Ruth Sam Tom Uma Vera Will Zoe Alice Bob "
    "Clara Dan Emma Felix Greta Hugo Ines Jonas Klara Lukas Mia Nora Oscar Peter Rosa Simon Tina Victor Yara"
).split()
OPENINGS = [
    "Please tell me: ",
    "Hi! ",
    "Hello. ",
    "Question: ",
    "And ",
    "So, ",
    "Hey, ",
    "Quick question: ",
    "Tell me: ",
    "Now: ",
    "Please: ",
    "OK. ",
    "Good. ",
    "Thanks. ",
    "I would like to know: ",
    "Another question: ",
]
INDIRECT = [
    "Can you tell me ",
    "Could you tell me ",
    "Do you know ",
    "Please tell me ",
    "I'd like to know ",
    "Can you say ",
]
CLOSINGS = [
    ", please?",
    " ?",
    "??",
    "? Thanks.",
    ", please.",
    " please",
    "! ",
    " in one sentence.",
    " in short.",
    " briefly",
    "?!",
    " ...",
]
NAME_SAYINGS = ["My name is {}.", "I am {}.", "I'm {}.", "Call me {}.", "Hello, my name is {}.", "Hi, I am {}."]
NAME_QUESTIONS = ["What is my name?", "What's my name?", "Who am I?", "Do you know my name?", "How am I called?"]
REPEAT_SAYINGS = ["Repeat: {}", "Say: {}", "Repeat after me: {}", 'Say "{}"', "Repeat this: {}"]

TRIED_FIRST = ("What is a PEP?", "Who are you?", "Hello", "Tell me about PEPs.")

Turn = tuple[str, str]  # what the user says, what the assistant answers


def vary(question: str, rng: random.Random) -> str:
    """A small change of the surface, as people type: no question mark, lower case, a word of politeness."""
    roll = rng.random()
    if roll < 0.48:
        return question
    if roll < 0.56:
        return question.rstrip("?.")
    if roll < 0.62:
        return question[0].lower() + question[1:]
    if roll < 0.70:
        return question.lower().rstrip("?.!") if '"' not in question else question
    if roll < 0.73:
        return question.replace("PEP ", "pep ")
    if roll < 0.83:
        return rng.choice(OPENINGS) + question
    if (
        roll < 0.90
        and question.startswith(("Who ", "What ", "When ", "Which ", "How ", "Where "))
        and question.endswith("?")
    ):
        # "Who wrote PEP 8?" -> "Can you tell me who wrote PEP 8?"; a copula would have to move, but people leave it too.
        return rng.choice(INDIRECT) + question[0].lower() + question[1:]
    if roll < 0.95:
        return question.rstrip("?.") + rng.choice(CLOSINGS)
    if roll < 0.98:
        return question.replace('"', "")
    return question.replace("PEP ", rng.choice(["PEP-", "pep", "PEP"]))


def unknown_turn(words: list[str], rng: random.Random) -> Turn:
    template = rng.choice(UNKNOWN_TEMPLATES)
    fill = {key: rng.choice(choices) for key, choices in UNKNOWN_WORDS.items()}
    fill |= {"r": rng.choice(words), "q": rng.choice(words)}
    question = template.format(**fill, n=rng.randrange(2, 1000), m=rng.randrange(2, 100), y=rng.randrange(1500, 2030))
    return vary(question, rng), UNKNOWN_ANSWER


def asked_ways(kind: str) -> list[str]:
    return PEP_PHRASINGS[kind][:-1] + COMMON_PHRASINGS[kind]


def unknown_pep_turns(known: set[int], rng: random.Random) -> list[Turn]:
    ranges = [(2, 900), (2, 900), (3000, 3160), (900, 10000), (900, 10000)]
    number = rng.choice([rng.randrange(first, end) for first, end in ranges])
    if number in known:
        return unknown_pep_turns(known, rng)
    kind = rng.choice(list(PEP_PHRASINGS))
    turns = [(vary(rng.choice(asked_ways(kind)).format(p=f"PEP {number}"), rng), unknown_pep_answer(number))]
    if rng.random() < 0.2:
        turns.append((rng.choice(FOLLOW_UPS[rng.choice(list(FOLLOW_UPS))]), unknown_pep_answer(number)))
    return turns


def follow_up_turns(pep: Pep, facts_of_pep: dict[str, Fact], rng: random.Random) -> list[Turn]:
    kinds = rng.sample(list(facts_of_pep), rng.randrange(2, 5))
    first = facts_of_pep[kinds[0]]
    turns = [(vary(rng.choice(first.train), rng), first.answer)]
    return turns + [(rng.choice(FOLLOW_UPS[kind]), facts_of_pep[kind].answer) for kind in kinds[1:]]


def name_turns(words: list[str], rng: random.Random) -> list[Turn]:
    # Any word can be a name, so that the name is read and not guessed.
    name = rng.choice([rng.choice(FIRST_NAMES), rng.choice(words).capitalize()])
    if rng.random() < 0.2:
        return [(f"{rng.choice(NAME_SAYINGS).format(name)} {rng.choice(NAME_QUESTIONS)}", f"Your name is {name}.")]
    turns = [(rng.choice(NAME_SAYINGS).format(name), f"Nice to meet you, {name}.")]
    if rng.random() < 0.8:
        turns.append((rng.choice(NAME_QUESTIONS), f"Your name is {name}."))
    return turns


def repeat_turn(words: list[str], rng: random.Random) -> Turn:
    phrase = " ".join(rng.choice(words) for _ in range(rng.randrange(1, 7)))
    return rng.choice(REPEAT_SAYINGS).format(phrase), phrase


def reading_turns(peps: list[Pep], rng: random.Random) -> list[Turn]:
    """A header stands in the question: the answer is to be read there, not remembered, so its fields are mixed up."""

    def pick() -> Pep:
        return rng.choice(peps)

    made_up = Pep(
        number=rng.randrange(1, 10000),
        title=pick().title,
        authors=pick().authors[:2],
        status=pick().status,
        type=pick().type,
        created=(rng.randrange(2000, 2030), rng.randrange(1, 13), rng.randrange(1, 29)),
        python_version=pick().python_version,
        first_sentence=None,
    )
    year, month, day = made_up.created
    lines = [
        f"PEP: {made_up.number}",
        f"Title: {made_up.title}",
        f"Author: {', '.join(made_up.authors)}",
        f"Status: {made_up.status}",
        f"Type: {made_up.type}",
        f"Created: {day:02}-{MONTHS[month - 1][:3]}-{year}",
    ]
    if made_up.python_version:
        lines.append(f"Python-Version: {made_up.python_version}")
    kind = rng.choice(["title", "author", "status", "type", "created", "version"])
    question = rng.choice(
        [rng.choice(FOLLOW_UPS[kind]), rng.choice(asked_ways(kind)).format(p=f"PEP {made_up.number}")]
    )
    return [("\n".join(lines) + "\n\n" + question, pep_answers(made_up)[kind])]


def conversations(facts: list[Fact], peps: list[Pep], words: list[str], count: int, rng: random.Random):
    """Yields `count` conversations as (system message or None, turns). Every fact comes up about equally often."""
    known = {pep.number for pep in peps}
    facts_of_pep: dict[str, dict[str, Fact]] = {}
    for fact in facts:
        if fact.kind in PEP_PHRASINGS:
            facts_of_pep.setdefault(fact.subject, {})[fact.kind] = fact
    general = [fact for fact in facts if fact.kind == "general"]
    deck: list[Fact] = []

    def deal() -> Turn:
        nonlocal deck
        if not deck:
            # General questions have many phrasings each and are what people try first, so they get more turns.
            deck = facts + 4 * general + 6 * [fact for fact in general if fact.subject in TRIED_FIRST]
            rng.shuffle(deck)
        fact = deck.pop()
        return vary(rng.choice(fact.train), rng), fact.answer

    for _ in range(count):
        roll = rng.random()
        if roll < 0.60:
            turns = [deal()]
        elif roll < 0.72:
            turns = [deal() for _ in range(rng.randrange(2, 5))]
        elif roll < 0.81:
            pep = rng.choice(peps)
            turns = follow_up_turns(pep, facts_of_pep[str(pep.number)], rng)
        elif roll < 0.87:
            turns = unknown_pep_turns(known, rng)
        elif roll < 0.925:
            turns = [unknown_turn(words, rng)]
        elif roll < 0.95:
            turns = name_turns(words, rng)
        elif roll < 0.965:
            turns = [repeat_turn(words, rng)]
        else:
            turns = reading_turns(peps, rng)
        if 1 <= len(turns) <= 2 and rng.random() < 0.05:
            turns = [("Hello", "Hello! Ask me about a PEP, about Python, or about Shakespeare."), *turns]
        yield (rng.choice(SYSTEM_MESSAGES) if rng.random() < 0.12 else None), turns
