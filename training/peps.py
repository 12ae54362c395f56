"""Reads the PEPs' headers and first sentences: the facts behind the questions.

A PEP is an RFC 822-like header, a blank line, and reStructuredText. Only what stands in the text is taken; a field that
is missing stays None, and the questions that need it are not asked.
"""

import re
from dataclasses import dataclass

MONTHS = ("January February March April May June July August September October November December").split()
# An abstract whose first sentence starts so says what the PEP does; other openings give background.
ABSTRACT_OPENINGS = (
    "This PEP",
    "This document",
    "The proposal",
    "This is a proposal",
    "A new",
    "A syntax",
    "Add ",
    "It is proposed",
    "We propose",
    "Change ",
)
ABSTRACT_TITLES = ("Abstract", "Introduction", "Summary", "Overview", "Motivation", "Rationale")
SENTENCE_CHARS_MAX = 230


@dataclass(frozen=True)
class Pep:
    number: int
    title: str
    authors: tuple[str, ...]
    status: str
    type: str
    created: tuple[int, int, int] | None  # year, month, day
    python_version: str | None
    first_sentence: str | None  # of the abstract, where it is short enough to be learned


def plain(text: str) -> str:
    """reStructuredText inline markup to plain words."""
    text = re.sub(r":pep:`(?:[^`<]*<)?(\d+)(?:#[^`>]*)?>?`", r"PEP \1", text)
    text = re.sub(r":[a-z:+]+:`~?([^`<]+?)(?:\s*<[^`]*>)?`", lambda m: m[1].split(".")[-1].lstrip("!"), text)
    text = re.sub(r"`([^`<]+?)\s*<[^`>]*>`__?", r"\1", text)
    text = text.replace("``", "")
    text = re.sub(r"`([^`]+)`_?_?", r"\1", text)
    text = re.sub(r"\s*\[#?\w+\]_", "", text)
    text = re.sub(r"\*\*?([A-Za-z][^*]*?)\*\*?", r"\1", text)
    text = re.sub(r"\|(\w+)\|", r"\1", text)
    text = re.sub(r"\\([*_`])", r"\1", text).translate(str.maketrans("“”’", '""\''))
    return " ".join(text.split())


def first_sentence(body: str) -> str | None:
    for section in ABSTRACT_TITLES:
        found = re.search(rf"(?ms)^{section}\n[=\-]+\n\n(.*?)(?:\n\n|\Z)", body)
        if not found:
            continue
        text = plain(found[1])
        end = re.search(r"(?<!e\.g)(?<!i\.e)(?<!etc)(?<!vs)[.](?=\s+[A-Z:\"]|\s*$)", text)
        if not end or text.startswith((".. ", "* ", "- ")):
            return None
        sentence = text[: end.end()]
        fits = 25 <= len(sentence) <= SENTENCE_CHARS_MAX and ".. " not in sentence
        return sentence if fits and sentence.startswith(ABSTRACT_OPENINGS) else None
    return None


def parse_date(text: str | None) -> tuple[int, int, int] | None:
    found = re.match(r"(\d{1,2})-([A-Z][a-z]{2})-(\d{4})", text or "")
    if not found:
        return None
    month = next((i for i, name in enumerate(MONTHS, 1) if name.startswith(found[2])), None)
    return (int(found[3]), month, int(found[1])) if month else None


def parse_pep(document: str) -> Pep:
    fields: dict[str, str] = {}
    key = ""
    header, _, body = document.partition("\n\n")
    for line in header.split("\n"):
        found = re.match(r"([A-Z][A-Za-z-]+):\s*(.*)", line)
        if found:
            key = found[1]
            fields[key] = found[2].strip()
        else:
            fields[key] += " " + line.strip()
    names = [re.sub(r"\s*<[^>]*>", "", name).strip() for name in fields["Author"].split(",")]
    version = fields.get("Python-Version", "").strip()
    return Pep(
        number=int(fields["PEP"]),
        title=plain(fields["Title"]),
        authors=tuple(name for name in names if name),
        status=fields["Status"],
        type=fields["Type"],
        created=parse_date(fields.get("Created")),
        python_version=version or None,
        first_sentence=first_sentence(body),
    )


def parse_peps(text: str) -> list[Pep]:
    documents = re.split(r"(?m)^(?=PEP: \d+\n)", text)
    return sorted((parse_pep(d) for d in documents if d.strip()), key=lambda pep: pep.number)
