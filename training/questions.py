"""Derives questions and answers by program: one `Fact` has one answer and many ways to ask for it.

A fact's phrasings are split three ways: most are trained on, one (fact, phrasing) pair is held out although the phrasing
is trained with other facts ("pair"), and some phrasings are never trained with any fact ("phrasing").
"""

import json
import random
import re
from dataclasses import dataclass, field

from peps import MONTHS, Pep

# {p} is "PEP 343", {t} a title, {a} an author, {l} a line, {c} a character. The last phrasing of each list is never
# trained on.
PEP_PHRASINGS = {
    "title": [
        "What is the title of {p}?",
        "What is {p} called?",
        "What's the title of {p}?",
        "Tell me the title of {p}.",
        "Give me the title of {p}.",
        "How is {p} titled?",
        "What title does {p} have?",
        "Title of {p}?",
        "What is the name of {p}?",
        "What is {p}'s title?",
        "Can you tell me the title of {p}?",
    ],
    "author": [
        "Who wrote {p}?",
        "Who is the author of {p}?",
        "Who are the authors of {p}?",
        "Who authored {p}?",
        "By whom was {p} written?",
        "Tell me who wrote {p}.",
        "Name the authors of {p}.",
        "Author of {p}?",
        "Who came up with {p}?",
        "Who proposed {p}?",
        "Can you name the author of {p}?",
    ],
    "status": [
        "What is the status of {p}?",
        "What status does {p} have?",
        "Was {p} accepted or rejected?",
        "Tell me the status of {p}.",
        "Status of {p}?",
        "What became of {p}?",
        "What happened to {p}?",
        "Is {p} final?",
        "Has {p} been accepted?",
        "Was {p} rejected?",
        "Give me the status of {p}.",
    ],
    "type": [
        "What type of PEP is {p}?",
        "What kind of PEP is {p}?",
        "What is the type of {p}?",
        "Which type does {p} have?",
        "Is {p} a Standards Track PEP?",
        "Tell me the type of {p}.",
        "Type of {p}?",
        "What sort of PEP is {p}?",
        "Which type of PEP is {p}?",
    ],
    "created": [
        "When was {p} created?",
        "When was {p} written?",
        "On what date was {p} created?",
        "How old is {p}?",
        "What is the creation date of {p}?",
        "When did {p} appear?",
        "Tell me when {p} was created.",
        "Date of {p}?",
        "On which day was {p} created?",
    ],
    "version": [
        "Which Python version does {p} target?",
        "What Python version is {p} for?",
        "Which version of Python is {p} for?",
        "For which Python version is {p}?",
        "Tell me the Python version of {p}.",
        "Python version of {p}?",
        "What version of Python does {p} target?",
        "Which Python version is {p} for?",
    ],
    "about": [
        "What is {p} about?",
        "What does {p} propose?",
        "What does {p} say?",
        "Tell me about {p}.",
        "Explain {p}.",
        "Describe {p}.",
        "Summarize {p}.",
        "What is {p}?",
        "What's {p}?",
        "Give me a summary of {p}.",
        "What is the topic of {p}?",
        "What is in {p}?",
        "What's {p} about?",
    ],
    "json": [
        "Give me {p} as JSON.",
        "{p} as JSON",
        "Describe {p} as JSON.",
        "Show {p} as a JSON object.",
        "{p} in JSON, please.",
        "Write {p} as a JSON object.",
        "Show me {p} as JSON.",
    ],
}
# More ways to ask that are trained with every PEP: nothing of these is held out.
COMMON_PHRASINGS = {
    "title": ["{p} name", "I want to know the title of {p}.", "Which title has {p}?", "What do they call {p}?"],
    "author": [
        "{p} author",
        "Who made {p}?",
        "Who is behind {p}?",
        "I want to know who wrote {p}.",
        "Which people wrote {p}?",
        "Could you tell me who the author of {p} is?",
        "Do you know the author of {p}?",
        "Who is {p} by?",
    ],
    "status": [
        "{p} status",
        "Is {p} still a draft?",
        "I want to know the status of {p}.",
        "Do you know the status of {p}?",
    ],
    "type": ["{p} type", "Is {p} an Informational PEP?", "Is {p} a Process PEP?", "I want to know the type of {p}."],
    "created": [
        "{p} date",
        "When was {p} made?",
        "From when is {p}?",
        "What day was {p} written?",
        "In which year was {p} created?",
        "On which date was {p} written?",
        "When did {p} start?",
        "Do you know when {p} was written?",
        "Created when: {p}?",
    ],
    "version": ["{p} version", "Which Python is {p} for?", "I want to know the Python version of {p}."],
    "about": [
        "{p}",
        "{p}?",
        "I want to know about {p}.",
        "Say something about {p}.",
        "What do you know about {p}?",
        "What is {p} for?",
    ],
    "json": ["JSON of {p}", "Return {p} as JSON.", "{p} JSON", "Output {p} as a JSON object."],
}
FOLLOW_UPS = {
    "title": ["What is its title?", "What is it called?"],
    "author": [
        "Who wrote it?",
        "And who wrote it?",
        "Who is the author?",
        "Who is its author?",
        "Who are its authors?",
        "Who wrote that?",
    ],
    "status": ["What is its status?", "What became of it?", "Was it accepted?", "Is it final?", "And its status?"],
    "type": ["What type is it?", "What kind of PEP is it?", "Which type is it?"],
    "created": ["When was it created?", "When was it written?", "And when?", "What is its date?"],
    "version": ["Which Python version does it target?", "For which Python version is it?"],
    "about": ["What is it about?", "Tell me more about it.", "What does it say?"],
    "json": ["Give me that as JSON.", "As JSON, please."],
}
NUMBER_PHRASINGS = [
    'Which PEP is titled "{t}"?',
    'Which PEP is called "{t}"?',
    'What is the number of the PEP "{t}"?',
    'What PEP has the title "{t}"?',
    'Find the PEP titled "{t}".',
    '"{t}" is which PEP?',
    'Which PEP is "{t}"?',
    "Which PEP is about {t}?",
    "What number does {t} have?",
    "Which PEP is {t}?",
    'Which PEP has the title "{t}"?',
]
WRITER_PHRASINGS = [
    "Which PEPs did {a} write?",
    "What PEPs were written by {a}?",
    "List the PEPs by {a}.",
    "PEPs by {a}?",
    "What has {a} written?",
    "What did {a} write?",
    "Which PEPs are by {a}?",
    "Which PEPs were written by {a}?",
]
SPEAKER_PHRASINGS = [
    'Who says "{l}"?',
    'Who said "{l}"?',
    'Which character says "{l}"?',
    'Who speaks the line "{l}"?',
    'Whose line is "{l}"?',
    'In Shakespeare, who says "{l}"?',
    '"{l}": who says that?',
    'Which character said "{l}"?',
]
CONTINUE_PHRASINGS = [
    'Continue: "{l}"',
    'What comes after "{l}"?',
    'What is the next line after "{l}"?',
    'How does "{l}" go on?',
    'Complete the line: "{l}"',
    'Which line follows "{l}"?',
    'What line comes after "{l}"?',
]
CHARACTER_PHRASINGS = [
    "Which play is {c} in?",
    "In which play does {c} appear?",
    "What play is {c} from?",
    "Who is {c}?",
    "Who is {c} in Shakespeare?",
    "Where does {c} appear?",
    "Tell me about {c}.",
    "Which play is {c} from?",
]
TOPIC_PHRASINGS = [
    "Which PEP introduced {x}?",
    "Which PEP added {x}?",
    "Which PEP is about {x}?",
    "What PEP describes {x}?",
    "Which PEP covers {x}?",
    "What is the PEP about {x}?",
    "PEP for {x}?",
    "Which PEP is for {x}?",
    "Where can I read about {x}?",
]
CHARACTERS = {
    "Coriolanus": "Menenius, Coriolanus, Sicinius, Brutus, Cominius, Volumnia, Aufidius, Virgilia",
    "Richard III": "King Richard III, Gloucester, Buckingham, Hastings, Lady Anne, Catesby",
    "Richard II": "King Richard II, Henry Bolingbroke, John of Gaunt, Northumberland, Aumerle",
    "Henry VI": "Warwick, King Henry VI, Queen Margaret, King Edward IV",
    "The Winter's Tale": "Leontes, Hermione, Camillo, Autolycus, Paulina, Polixenes, Florizel, Perdita",
    "Measure for Measure": "Duke Vincentio, Isabella, Lucio, Angelo, Escalus, Pompey, Claudio",
    "The Taming of the Shrew": "Petruchio, Katharina, Tranio, Hortensio, Baptista, Grumio, Lucentio, Gremio, Bianca",
    "The Tempest": "Prospero, Miranda, Ariel, Caliban, Gonzalo",
    "Romeo and Juliet": "Romeo, Juliet, Benvolio, Mercutio, Friar Laurence, Tybalt, Capulet, Lady Capulet, Montague",
}
SPEAKER_FACTS_MAX = 220
CONTINUE_FACTS_MAX = 160


@dataclass
class Fact:
    kind: str
    subject: str
    answer: str
    train: list[str] = field(default_factory=list)
    pair: list[str] = field(default_factory=list)  # held out: known phrasing, known fact, not known together
    phrasing: list[str] = field(default_factory=list)  # held out: a phrasing that no fact is trained with


def join_names(names: list[str]) -> str:
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1]


def with_article(pep_type: str) -> str:
    return f"{'an' if pep_type[0] in 'AEIOU' else 'a'} {pep_type} PEP"


def pep_answers(pep: Pep) -> dict[str, str]:
    """The answer of each kind that the PEP's header and abstract can give."""
    p = f"PEP {pep.number}"
    year_month_day = pep.created
    answers = {
        "title": f'{p} is titled "{pep.title}".',
        "author": f"{p} was written by {join_names(list(pep.authors))}.",
        "status": f"The status of {p} is {pep.status}.",
        "type": f"{p} is {with_article(pep.type)}.",
        "version": f"{p} targets Python {pep.python_version}."
        if pep.python_version
        else f"{p} does not name a Python version.",
    }
    if year_month_day:
        year, month, day = year_month_day
        answers["created"] = f"{p} was created on {day} {MONTHS[month - 1]} {year}."
    if pep.first_sentence:
        answers["about"] = f'{p} is titled "{pep.title}". {pep.first_sentence}'
    else:
        answers["about"] = (
            f'{p} is titled "{pep.title}". It is {with_article(pep.type)} by {join_names(list(pep.authors))}.'
        )
    created = f"{year_month_day[0]:04}-{year_month_day[1]:02}-{year_month_day[2]:02}" if year_month_day else None
    answers["json"] = json.dumps(
        {
            "number": pep.number,
            "title": pep.title,
            "authors": list(pep.authors),
            "status": pep.status,
            "created": created,
        },
        ensure_ascii=False,
    )
    return answers


def unknown_pep_answer(number: int) -> str:
    return f"I do not know PEP {number}."


def speeches(text: str) -> list[tuple[str, list[str]]]:
    found = []
    for block in text.split("\n\n"):
        name, _, rest = block.strip().partition(":\n")
        if rest and re.fullmatch(r"[A-Z][A-Za-z' ]+", name):
            found.append((name, rest.split("\n")))
    return found


def spoken_name(name: str) -> str:
    """KING RICHARD III -> King Richard III"""
    words = [w if re.fullmatch(r"[IV]+", w) else w.lower() if w in ("OF",) else w.capitalize() for w in name.split()]
    return " ".join(words)


def general_facts(text: str) -> list[Fact]:
    """Blocks of "q: " and "h: " questions followed by an "a: " answer, which may run over several lines."""
    facts = []
    for block in re.split(r"\n\s*\n", text):
        lines = [line for line in block.split("\n") if not line.startswith("#")]
        if not any(lines):
            continue
        answer_at = next(i for i, line in enumerate(lines) if line.startswith("a: "))
        fact = Fact("general", lines[0][3:], "\n".join([lines[answer_at][3:], *lines[answer_at + 1 :]]).strip())
        for line in lines[:answer_at]:
            (fact.train if line.startswith("q: ") else fact.phrasing).append(line[3:])
        facts.append(fact)
    return facts


def topic_facts(text: str) -> list[Fact]:
    """Lines of "number: topic | topic"."""
    facts = []
    for line in text.splitlines():
        if line.startswith("#"):
            continue
        number, _, topics = line.partition(": ")
        for topic in topics.split(" | "):
            fact = Fact(
                "topic", topic, f"That is PEP {number}.", [phrasing.format(x=topic) for phrasing in TOPIC_PHRASINGS]
            )
            fact.pair = [fact.train.pop(len(facts) % len(TOPIC_PHRASINGS))]
            facts.append(fact)
    return facts


def split_phrasings(fact: Fact, phrasings: list[str], rng: random.Random) -> Fact:
    fact.phrasing = [phrasings[-1]]
    fact.train = phrasings[:-1]
    held_out = rng.randrange(len(fact.train))
    fact.pair = [fact.train.pop(held_out)]
    return fact


def derive_facts(peps: list[Pep], shakespeare: str, general: str, topics: str, rng: random.Random) -> list[Fact]:
    facts = []
    for pep in peps:
        for kind, answer in pep_answers(pep).items():
            phrasings = [phrasing.format(p=f"PEP {pep.number}") for phrasing in PEP_PHRASINGS[kind]]
            fact = split_phrasings(Fact(kind, str(pep.number), answer), phrasings, rng)
            fact.train += [phrasing.format(p=f"PEP {pep.number}") for phrasing in COMMON_PHRASINGS[kind]]
            facts.append(fact)
        phrasings = [phrasing.format(t=pep.title.rstrip(".")) for phrasing in NUMBER_PHRASINGS]
        facts.append(split_phrasings(Fact("number", pep.title, f"That is PEP {pep.number}."), phrasings, rng))

    written: dict[str, list[int]] = {}
    for pep in peps:
        for author in pep.authors:
            written.setdefault(author, []).append(pep.number)
    for author, numbers in written.items():
        answer = f"{author} wrote {join_names([f'PEP {number}' for number in numbers])}."
        phrasings = [phrasing.format(a=author) for phrasing in WRITER_PHRASINGS]
        facts.append(split_phrasings(Fact("writer", author, answer), phrasings, rng))

    lines_seen: dict[str, int] = {}
    for _, lines in speeches(shakespeare):
        for line in lines:
            lines_seen[line] = lines_seen.get(line, 0) + 1

    def learnable(line: str) -> bool:
        return 24 <= len(line) <= 60 and lines_seen[line] == 1 and '"' not in line

    names_seen: dict[str, int] = {}
    for name, _ in speeches(shakespeare):
        names_seen[name] = names_seen.get(name, 0) + 1
    openings = [(n, ls) for n, ls in speeches(shakespeare) if names_seen[n] >= 40 and learnable(ls[0])]
    for name, lines in rng.sample(openings, SPEAKER_FACTS_MAX):
        line = lines[0].rstrip(",;:.")
        phrasings = [phrasing.format(l=line) for phrasing in SPEAKER_PHRASINGS]
        facts.append(split_phrasings(Fact("speaker", line, f"{spoken_name(name)} says that."), phrasings, rng))
    pairs = [(a, b) for _, ls in speeches(shakespeare) for a, b in zip(ls, ls[1:]) if learnable(a) and learnable(b)]
    for line, following in rng.sample(pairs, CONTINUE_FACTS_MAX):
        line = line.rstrip(",;:.")
        phrasings = [phrasing.format(l=line) for phrasing in CONTINUE_PHRASINGS]
        facts.append(split_phrasings(Fact("continue", line, following), phrasings, rng))
    for play, characters in CHARACTERS.items():
        for character in characters.split(", "):
            phrasings = [phrasing.format(c=character) for phrasing in CHARACTER_PHRASINGS]
            facts.append(
                split_phrasings(Fact("character", character, f"{character} appears in {play}."), phrasings, rng)
            )
    return facts + general_facts(general) + topic_facts(topics)
