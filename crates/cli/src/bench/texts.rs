//! Texts for traces of speculation: what people have a model copy, edit and take apart.

/// Passages to copy.
pub(super) const PASSAGES: [(&str, &str); 4] = [
    (
        "prose",
        "The lighthouse at the end of the pier was built in three summers by men who had never seen one. They were \
         given a drawing, a barrel of nails and the promise of bread, and they began with the stair, because it was \
         the only part that they understood. When the lamp came on a barge from the north, the tower was too narrow \
         for it, and so the upper room was made twice.",
    ),
    (
        "code",
        "def read_records(path, limit):\n    records = []\n    with open(path) as file:\n        for line in file:\n            \
         fields = line.rstrip().split(',')\n            if len(fields) < 3:\n                continue\n            \
         records.append({'name': fields[0], 'size': int(fields[1]), 'kind': fields[2]})\n            \
         if len(records) == limit:\n                break\n    return records\n",
    ),
    (
        "letter",
        "Dear neighbours, on Thursday the twelfth the water will be turned off from nine in the morning until noon, \
         because the main valve in the cellar of the second house leaks and is to be replaced. Please fill a kettle \
         before, and leave the taps closed until somebody has rung your bell. The work was ordered by the whole \
         house in March, and costs each flat forty crowns.",
    ),
    (
        "table",
        "| station | opened | platforms | passengers |\n|---|---|---|---|\n| Harbour East | 1911 | 4 | 18200 |\n\
         | Old Market | 1924 | 2 | 30500 |\n| University | 1962 | 2 | 41300 |\n| Garden City | 1978 | 2 | 12750 |\n\
         | Airport | 2003 | 6 | 27800 |\n",
    ),
];

/// Questions whose answers are the model's own.
pub(super) const QUESTIONS: [&str; 8] = [
    "What is a PEP?",
    "How do I sort a list in Python?",
    "Tell me a story about a king.",
    "What does PEP 8 say about names?",
    "Who was Hamlet?",
    "Why are there type hints?",
    "Explain what a generator is.",
    "What is the Zen of Python?",
];

/// Texts to go on with.
pub(super) const OPENINGS: [&str; 6] = [
    "This PEP proposes",
    "HAMLET. To be, or not to be",
    "The motivation for this change is",
    "Enter the KING and attendants.",
    "Backwards compatibility\n\n",
    "ROMEO. But soft",
];

/// Names, prompts and answers of tasks whose answers repeat their prompts in part.
pub(super) fn quotes() -> Vec<(&'static str, String, String)> {
    let [prose, code, letter, table] = PASSAGES.map(|(_, text)| text);
    let sentence = |text: &'static str, n: usize| text.split_inclusive(". ").nth(n).unwrap_or(text).trim();
    vec![
        (
            "repeat a passage",
            format!("Repeat this passage without a change.\n\n{prose}"),
            prose.to_owned(),
        ),
        (
            "quote two sentences",
            format!("{prose}\n\nWhy was the upper room made twice? Quote what the text says."),
            format!(
                "The text says: \"{}\" Before that it says where they began: \"{}\"",
                sentence(prose, 2),
                sentence(prose, 1)
            ),
        ),
        (
            "correct a letter",
            format!("Change the day to Friday the thirteenth, and nothing else.\n\n{letter}"),
            letter.replace("Thursday the twelfth", "Friday the thirteenth"),
        ),
        (
            "rename in code",
            format!("Call the list `rows` instead of `records`.\n\n{code}"),
            code.replace("records", "rows").replace("read_rows", "read_records"),
        ),
        (
            "add to code",
            format!("Skip lines that begin with a hash.\n\n{code}"),
            code.replace(
                "        for line in file:\n",
                "        for line in file:\n            if line.startswith('#'):\n                continue\n",
            ),
        ),
        (
            "table to JSON",
            format!("Give this table as JSON.\n\n{table}"),
            table_as_json(table),
        ),
        (
            "fields of a letter",
            format!("{letter}\n\nTake out as JSON: when, where, why, what to do, the costs."),
            "{\"when\": \"on Thursday the twelfth the water will be turned off from nine in the morning until noon\", \
             \"where\": \"in the cellar of the second house\", \"why\": \"the main valve in the cellar of the second \
             house leaks and is to be replaced\", \"what to do\": \"Please fill a kettle before, and leave the taps \
             closed until somebody has rung your bell.\", \"costs\": \"forty crowns\"}"
                .to_owned(),
        ),
    ]
}

fn table_as_json(table: &str) -> String {
    let cells = |line: &str| -> Vec<String> {
        line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect()
    };
    let mut lines = table.lines();
    let names = lines.next().map(cells).unwrap_or_default();
    let rows = lines.skip(1).map(|line| {
        let fields = names.iter().zip(cells(line)).map(|(name, cell)| format!("\"{name}\": \"{cell}\""));
        format!("  {{{}}}", fields.collect::<Vec<_>>().join(", "))
    });
    format!("[\n{}\n]\n", rows.collect::<Vec<_>>().join(",\n"))
}
