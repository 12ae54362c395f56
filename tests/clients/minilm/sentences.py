"""A hundred texts of 1 to 256 tokens: several languages and scripts, numbers, punctuation, code and long ones."""

SHORT = [
    "Yes",
    "hello",
    "The cat sat on the mat.",
    "A dog was sleeping in the afternoon sun.",
    "How do I sort a list in Python?",
    "Sorting lists: use sorted() or list.sort().",
    "What is the capital of France?",
    "Paris has been the capital of France for most of its history.",
    "It rained all day, so we stayed inside and played chess.",
    "The quick brown fox jumps over the lazy dog",
    "THE QUICK BROWN FOX JUMPS OVER THE LAZY DOG",
    "In 1969, two people walked on the Moon; twelve had done so by 1972.",
    "3.14159 is roughly pi, and 2.71828 roughly e.",
    "The invoice of 12/03/2024 comes to $1,234.56 (VAT included).",
    "Call +1 (555) 010-9999 between 9:00 and 17:30.",
    "Write to someone@example.org or visit https://example.org/a/b?c=d&e=f#g",
    "Wait... what?! No -- really?",
    "\"Quotes\", 'single quotes', “curly quotes” and «guillemets»",
    "snake_case, camelCase and kebab-case are three ways to name things",
    "def add(a, b):\n    return a + b",
    "SELECT name, age FROM people WHERE age >= 18 ORDER BY name;",
    "if (x != y && !done) { x <<= 2; }",
    "{\"key\": [1, 2, 3], \"other\": null}",
    "C:\\Users\\someone\\file.txt and /usr/local/bin",
    "100% of 50% is 50%; 7 * 6 = 42; 2^10 = 1024",
    "naïve café, crème brûlée, jalapeño, Zürich, Ångström",
    "El niño comió una manzana roja en el jardín.",
    "La pluie en Espagne tombe surtout dans la plaine.",
    "Der Fluß fließt durch die Straßen der alten Stadt.",
    "Łódź i Kraków to duże miasta w Polsce.",
    "Привет, как дела? Всё хорошо.",
    "Ελλάδα και Κύπρος",
    "日本語のテキストです。",
    "我们今天去公园散步。",
    "한국어 문장입니다",
    "שלום עולם",
    "مرحبا بالعالم",
    "नमस्ते दुनिया",
    "สวัสดีชาวโลก",
    "Tiếng Việt có dấu",
    "Emoji 🙂🚀 and symbols ™ © ® € £ ¥",
    "x² + y² = z², ∑ and ∫ and √2 ≈ 1.414",
    "tabs\tand  double  spaces\n\nand lines",
    "   leading and trailing spaces   ",
    "a",
    "!",
    "42",
    "...",
    "I love this film; it is the best I have seen in years.",
    "This film was a complete waste of time.",
    "The stock fell by five percent after the announcement.",
    "Shares dropped 5% on the news.",
    "Photosynthesis turns light, water and carbon dioxide into sugar and oxygen.",
    "Mitochondria release the energy that cells need.",
    "To bake bread, mix flour, water, salt and yeast, then let it rise.",
    "Preheat the oven to 220 °C (425 °F).",
    "The treaty was signed by both sides after long negotiations.",
    "Antidisestablishmentarianism is a long word, and so is floccinaucinihilipilification.",
    "unbelievably uncharacteristically misinterpretations",
    "She sells sea shells by the sea shore.",
    "Buffalo buffalo Buffalo buffalo buffalo buffalo Buffalo buffalo.",
    "Turn left at the second light, go past the station, and it is on your right.",
    "My train was late, my phone was dead, and I had forgotten my umbrella.",
    "Version 2.0.1-beta+build.7 was released on 2024-02-29T23:59:59Z",
    "[bracketed] (parenthesised) <angled> {braced}",
    "it's, we're, they've, I'd, don't",
    "e.g. i.e. etc. cf. Dr. Mrs. U.S.A.",
    "ﬁne ligatures and ﬀ",
    "full ｗｉｄｔｈ letters",
    "zero\u200bwidth and soft\u00adhyphen",
]

SUBJECTS = ["The engineer", "A young doctor", "Our neighbour", "The old lighthouse keeper", "A group of students"]
VERBS = ["explained", "forgot", "repaired", "described", "painted", "measured"]
OBJECTS = ["the broken bridge", "seventeen maps", "an unusual recipe", "the orbit of Mars", "a wooden boat", "the 1998 report"]
ENDS = ["before breakfast", "in the rain", "without any help", "while everyone was watching", "for the third time"]


def sentence(i):
    """One of 900 different sentences."""
    pick = lambda list, n: list[n % len(list)]
    return f"{pick(SUBJECTS, i)} {pick(VERBS, i // 5)} {pick(OBJECTS, i // 3)} {pick(ENDS, i // 7)}"


def long(n):
    """Some `8 n` to `14 n` tokens."""
    marks = [".", "!", "?", ";", ","]
    return " ".join(sentence(31 * n + 17 * i) + marks[(n + i) % len(marks)] for i in range(n))


SENTENCES = SHORT + [long(n) for n in [1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 17, 18, 18, 19, 19, 20, 20]]
SENTENCES.append("one two three four five " * 50 + "six seven eight nine")
