mod create;

use serde_json::json;

use super::*;

fn parse(text: &str) -> Result<Vec<Instruction>, String> {
    Modelfile::parse(text.as_bytes()).map(|m| m.instructions).map_err(|e| e.to_string())
}

fn from() -> Instruction {
    Instruction::From("m".into())
}

#[test]
fn instructions_and_their_values() {
    let check = |text: &str, expected: &[Instruction]| {
        assert_eq!(parse(text).as_deref(), Ok(expected), "{text}");
    };
    let text = |s: &str| s.to_owned();
    check("FROM m", &[from()]);
    check("from\tm  \r\n", &[from()]);
    check("# c\n\n  FROM m # not a comment", &[Instruction::From("m # not a comment".into())]);
    check("FrOm ./a folder/x.gguf", &[Instruction::From("./a folder/x.gguf".into())]);
    check("SYSTEM You are Mario.\nFROM m", &[Instruction::System(text("You are Mario.")), from()]);
    check("FROM m\nSYSTEM \"  quoted  \"", &[from(), Instruction::System(text("  quoted  "))]);
    check("FROM m\nSYSTEM \"two\nlines\"", &[from(), Instruction::System(text("two\nlines"))]);
    check("FROM m\nSYSTEM \"say \"hi\" now\"\n", &[from(), Instruction::System(text("say \"hi\" now"))]);
    check("FROM m\nSYSTEM \"\"", &[from(), Instruction::System(String::new())]);
    check("FROM m\nSYSTEM \"\"\"\"\"\"", &[from(), Instruction::System(String::new())]);
    check(
        "FROM m\nTEMPLATE \"\"\"{{ .System }}\nFROM x\n# kept\r\n\"quoted\"\n\"\"\"  \nLICENSE MIT",
        &[
            from(),
            Instruction::Template(text("{{ .System }}\nFROM x\n# kept\r\n\"quoted\"\n")),
            Instruction::License(text("MIT")),
        ],
    );
    check("FROM m\nTEMPLATE \"\"\"a \"\"\" b\"\"\"", &[from(), Instruction::Template(text("a \"\"\" b"))]);
    check(
        "FROM m\nMESSAGE user Is Toronto in Canada?\nMESSAGE Assistant \"yes\"\nMESSAGE system \"\"\"a\nb\"\"\"",
        &[
            from(),
            Instruction::Message(Role::User, text("Is Toronto in Canada?")),
            Instruction::Message(Role::Assistant, text("yes")),
            Instruction::Message(Role::System, text("a\nb")),
        ],
    );
    let parameter = |name: &str, value| Instruction::Parameter(name.into(), value);
    check(
        "FROM m\nPARAMETER temperature 1\nparameter NUM_CTX 4096\nPARAMETER stop \"AI assistant:\"\nPARAMETER stop </s>\n\
         PARAMETER seed -7\nPARAMETER use_mmap F\nPARAMETER top_p 0.9",
        &[
            from(),
            parameter("temperature", json!(1.0)),
            parameter("num_ctx", json!(4096)),
            parameter("stop", json!("AI assistant:")),
            parameter("stop", json!("</s>")),
            parameter("seed", json!(-7)),
            parameter("use_mmap", json!(false)),
            parameter("top_p", json!(0.9)),
        ],
    );
    check(
        "FROM a\nFROM b\nADAPTER ./x.gguf\nREQUIRES v0.14.0\nRENDERER qwen3\nPARSER qwen3\nDRAFT d.gguf",
        &[
            Instruction::From(text("a")),
            Instruction::From(text("b")),
            Instruction::Adapter(text("./x.gguf")),
            Instruction::Requires(text("0.14.0")),
            Instruction::Renderer(text("qwen3")),
            Instruction::Parser(text("qwen3")),
            Instruction::Draft(text("d.gguf")),
        ],
    );
    check("\u{feff}FROM m", &[from()]);
    let wide: Vec<u8> = "\u{feff}FROM m\n".encode_utf16().flat_map(u16::to_le_bytes).collect();
    assert_eq!(Modelfile::parse(&wide).expect("UTF-16").instructions, [from()]);
}

/// The end of a quoted value, as it is told in one sentence: the first end of a line before which, blanks aside, the text
/// ends with the quote.
#[test]
fn quoted_values_end_where_they_should() {
    let plain = |text: &str, quote: &str| -> Option<(String, usize)> {
        let ends = text.match_indices(['\r', '\n']).map(|(at, _)| at).chain([text.len()]);
        ends.into_iter().find_map(|n| {
            let taken = text[..n].trim_end();
            let is_end = taken.len() >= 2 * quote.len() && taken.ends_with(quote);
            is_end.then(|| (taken[quote.len()..taken.len() - quote.len()].to_owned(), n))
        })
    };
    const SIGNS: [char; 6] = ['"', '\n', '\r', ' ', 'a', '\u{2003}'];
    for quote in ["\"", "\"\"\""] {
        for n_signs in 0..=6 {
            for mut number in 0..SIGNS.len().pow(n_signs) {
                let mut text = quote.to_owned();
                for _ in 0..n_signs {
                    text.push(SIGNS[number % SIGNS.len()]);
                    number /= SIGNS.len();
                }
                let found = parse::quoted(&text, quote).map(|(quoted, n)| (quoted.to_owned(), n));
                assert_eq!(found, plain(&text, quote), "{text:?}");
            }
        }
    }
}

/// Whatever is read as often as there are lines would take hours of these.
#[test]
fn megabytes_of_blanks_are_read_once() {
    for blanks in ["\n", "\r\n", " \n", "\u{2003}\t\n", " "] {
        let head = "FROM m\nSYSTEM \"\"\"";
        let inner = blanks.repeat((MODELFILE_BYTES_MAX - head.len() - 3) / blanks.len());
        let text = format!("{head}{inner}\"\"\"");
        assert!(parse(&text) == Ok(vec![from(), Instruction::System(inner)]), "{blanks:?}");
        let open = &text[..text.len() - 3];
        assert!(parse(open).is_err_and(|error| error.contains("has no end")), "{blanks:?}");
    }
}

#[test]
fn faults_are_told_with_their_place() {
    let check = |text: &str, expected: &str| {
        let error = parse(text).expect_err(text);
        assert!(error.contains(expected), "{text:?}: {error}");
    };
    check("", "line 1, column 1: there is no FROM");
    check("SYSTEM x\n", "there is no FROM");
    check("FROM m\n  BUILD x", "line 2, column 3: `BUILD` is no instruction; there are FROM");
    check("FROM", "FROM has no value");
    check("FROM m\nSYSTEM\n\"x\"", "line 2, column 7: SYSTEM has no value");
    check("FROM \"\"", "FROM has no value");
    check("FROM m\nSYSTEM \"\"\"abc", "line 2, column 8: this value begins with \"\"\" and has no end");
    check("FROM m\nSYSTEM \"abc\n", "this value begins with \" and has no end");
    check(
        "FROM m\nMESSAGE tool x",
        "line 2, column 9: a message is said by system, user or assistant, not by `tool`",
    );
    check("FROM m\nMESSAGE user", "MESSAGE has no value");
    check("FROM m\nPARAMETER", "PARAMETER has no value");
    check(
        "FROM m\nPARAMETER warmth 1",
        "line 2, column 11: there is no parameter `warmth`; there are num_ctx",
    );
    check("FROM m\nPARAMETER warmth", "there is no parameter `warmth`");
    check(
        "FROM m\nPARAMETER temperature hot",
        "line 2, column 23: `temperature` must be a number from 0 to 100, not hot",
    );
    check("FROM m\nPARAMETER top_p 1.5", "`top_p` must be a number from 0 to 1");
    check("FROM m\nPARAMETER temperature nan", "must be a number");
    check("FROM m\nPARAMETER num_ctx 0", "`num_ctx` must be a whole number from 1");
    check("FROM m\nPARAMETER num_ctx 1.5", "`num_ctx` must be a whole number");
    check("FROM m\nPARAMETER seed 99999999999999999999", "`seed` must be a whole number");
    check("FROM m\nPARAMETER use_mmap maybe", "`use_mmap` must be true or false");
    check("FROM m\nPARAMETER f16_kv false", "`f16_kv` must be true");
    check("FROM m\nPARAMETER stop \"\"", "`stop` must be a text of 1 to 256 bytes");
    check("FROM m\nPARAMETER top_k 1\nPARAMETER top_k 2", "line 3, column 1: a second PARAMETER top_k");
    check("FROM m\nSYSTEM a\nSYSTEM b", "line 3, column 1: a second SYSTEM");
    check("FROM m\nREQUIRES new", "a version is three numbers");
    check("FROM m\nREQUIRES 1.02.3", "a version is three numbers");
    let error = Modelfile::parse(b"FROM m\nSYSTEM \xff").expect_err("no text").to_string();
    assert!(error.contains("line 2, column 8: this is no UTF-8 text"), "{error}");
    assert!(Modelfile::parse(&vec![b'#'; MODELFILE_BYTES_MAX + 1]).is_err());
    let many = "LICENSE x\n".repeat(5000);
    check(&many, "at most 4096 instructions");
}

#[test]
fn what_is_written_says_the_same() {
    let texts = [
        "plain",
        "",
        " blanks ",
        "\"quoted\"",
        "\"",
        "a\nb",
        "a\n\"b\"\nc",
        "ends\"",
        "a \"\"\" b",
        "\"\"\"x",
        "x\n\n",
        "\n",
        "# no comment",
        "FROM x\nSYSTEM y",
        "a\r\nb",
        "\ta\t",
        "é漢🙂\u{200d}",
        "say \"hi\"\nand \"bye\"",
        "\"\"",
    ];
    for text in texts {
        let own = text.to_owned();
        let modelfile = Modelfile {
            instructions: vec![
                from(),
                Instruction::System(own.clone()),
                Instruction::Message(Role::User, own.clone()),
                Instruction::License(own.clone()),
                Instruction::License(own),
                Instruction::Parameter("stop".into(), json!("</s> ")),
                Instruction::Parameter("temperature".into(), json!(0.25)),
            ],
        };
        let written = modelfile.to_text().unwrap_or_else(|error| panic!("{text:?}: {error}"));
        assert_eq!(Modelfile::parse(written.as_bytes()).as_ref(), Ok(&modelfile), "{written}");
    }
    let odd = Modelfile { instructions: vec![Instruction::System("a\"\"\"\nb\"\nc".into())] };
    assert_eq!(odd.to_text(), Err(Unwritable { what: "SYSTEM".into() }));
    // As others keep it, and as one may have it that a later version of them made.
    let others = Modelfile {
        instructions: vec![
            from(),
            Instruction::Parameter("temperature".into(), json!(1)),
            Instruction::Parameter("top_p".into(), json!(0)),
            odd.instructions[0].clone(),
            Instruction::Parameter("from_the_future".into(), json!(1)),
            Instruction::Parameter("num_ctx".into(), json!("much")),
        ],
    };
    assert_eq!(
        others.to_text_with_gaps(),
        "FROM m\nPARAMETER temperature 1\nPARAMETER top_p 0\n\
         # SYSTEM is left out: no Modelfile can spell its value\n\
         # PARAMETER from_the_future is left out: no Modelfile can spell its value\n\
         # PARAMETER num_ctx is left out: no Modelfile can spell its value\n"
    );
}

#[test]
fn parameters_that_came_as_json() {
    let check = |name: &str, given: serde_json::Value, expected: Option<serde_json::Value>| {
        assert_eq!(check_parameter(name, &given).ok(), expected, "{name} {given}");
    };
    check("temperature", json!(0), Some(json!(0)));
    check("num_ctx", json!(4096.0), Some(json!(4096)));
    check("num_ctx", json!("4096"), None);
    check("stop", json!("x"), Some(json!(["x"])));
    check("stop", json!(["x", "y"]), Some(json!(["x", "y"])));
    check("stop", json!([1]), None);
    check("top_k", json!([1]), None);
    check("use_mmap", json!(true), Some(json!(true)));
    check("nothing", json!(true), None);
}
