//! Random templates from seeds: mostly sound ones, over the data of the tests.

/// A template.
pub fn template(seed: u64) -> String {
    let mut random =
        Random { state: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1, vars: Vec::new(), loops: 0 };
    let mut out = String::new();
    random.list(3, &mut out);
    out
}

struct Random {
    state: u64,
    vars: Vec<String>,
    loops: u32,
}

const TEXTS: [&str; 8] = ["a", " ", "\n", " x ", "\n  ", "<|t|>", "{", "é"];
const FIELDS: [&str; 22] = [
    ".s", ".u", ".esc", ".n", ".zero", ".neg", ".big", ".t", ".f", ".nil", ".l", ".words", ".mixed", ".none",
    ".m", ".m.c.d", ".m.c.d.e", ".nothing", ".people", ".missing", ".", "$.s",
];
const CONSTANTS: [&str; 12] =
    ["1", "0", "-1", "2.5", "\"hello\"", "\"\"", "true", "false", "nil", "`r`", "'x'", "3"];
const FORMATS: [&str; 9] =
    ["\"%s\"", "\"%v|%v\"", "\"%d\"", "\"%q\"", "\"%5s|\"", "\"%-4v|\"", "\"%x\"", "\"%.1f\"", "\"%05d\""];

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        (self.state >> 33) as usize % n
    }

    fn pick<'a>(&mut self, items: &[&'a str]) -> &'a str {
        items[self.below(items.len())]
    }

    fn open(&mut self) -> &'static str {
        self.pick(&["{{", "{{ ", "{{- ", "{{ "])
    }

    fn close(&mut self) -> &'static str {
        self.pick(&["}}", " }}", " -}}", " }}"])
    }

    fn action(&mut self, inner: &str, out: &mut String) {
        let (open, close) = (self.open(), self.close());
        out.push_str(open);
        out.push_str(inner);
        out.push_str(close);
    }

    fn list(&mut self, depth: u32, out: &mut String) {
        for _ in 0..=self.below(4) {
            self.statement(depth, out);
        }
    }

    fn block(&mut self, head: &str, depth: u32, out: &mut String) {
        self.action(head, out);
        self.list(depth, out);
    }

    fn statement(&mut self, depth: u32, out: &mut String) {
        let n_vars = self.vars.len();
        match self.below(if depth == 0 { 5 } else { 11 }) {
            0 | 1 => out.push_str(self.pick(&TEXTS)),
            2 | 3 => {
                let pipe = self.pipeline(2);
                self.action(&pipe, out);
            }
            4 => {
                let pipe = self.pipeline(1);
                if !self.vars.is_empty() && self.below(2) == 0 {
                    let at = self.below(self.vars.len());
                    let set = format!("{} = {pipe}", self.vars[at]);
                    self.action(&set, out);
                } else {
                    let name = format!("$v{}", self.vars.len());
                    self.action(&format!("{name} := {pipe}"), out);
                    self.vars.push(name);
                }
            }
            5 | 6 => {
                let head = format!("if {}", self.pipeline(2));
                self.block(&head, depth - 1, out);
                self.vars.truncate(n_vars);
                if self.below(3) == 0 {
                    let head = format!("else if {}", self.pipeline(1));
                    self.block(&head, depth - 1, out);
                    self.vars.truncate(n_vars);
                }
                self.otherwise(depth, out);
            }
            7 => {
                let head = format!("with {}", self.pipeline(1));
                self.block(&head, depth - 1, out);
                self.vars.truncate(n_vars);
                self.otherwise(depth, out);
            }
            8 | 9 => {
                let over =
                    self.pick(&[".l", ".words", ".m", ".people", ".mixed", ".none", ".", "$.l", "$.m"]);
                let head = match self.below(3) {
                    0 => format!("range {over}"),
                    1 => {
                        self.vars.push(format!("$v{}", self.vars.len()));
                        format!("range {} := {over}", self.vars[n_vars])
                    }
                    _ => {
                        self.vars.push(format!("$v{}", self.vars.len()));
                        self.vars.push(format!("$v{}", self.vars.len()));
                        format!("range {}, {} := {over}", self.vars[n_vars], self.vars[n_vars + 1])
                    }
                };
                self.loops += 1;
                self.block(&head, depth - 1, out);
                if self.below(4) == 0 {
                    let leave = self.pick(&["break", "continue"]);
                    out.push_str(&format!("{{{{ if {} }}}}{{{{ {leave} }}}}{{{{ end }}}}", self.operand(0)));
                }
                self.loops -= 1;
                self.vars.truncate(n_vars);
                self.otherwise(depth, out);
            }
            _ => out.push_str("{{- /* c */ -}}"),
        }
    }

    fn otherwise(&mut self, depth: u32, out: &mut String) {
        let n_vars = self.vars.len();
        if self.below(3) == 0 {
            self.block("else", depth - 1, out);
            self.vars.truncate(n_vars);
        }
        self.action("end", out);
    }

    fn pipeline(&mut self, depth: u32) -> String {
        let mut text = self.command(depth);
        if self.below(5) == 0 {
            let stage = self.pick(&[
                "print",
                "len",
                "not",
                "json",
                "html",
                "printf \"%v\"",
                "and true",
                "eq 1",
                "js",
            ]);
            text.push_str(" | ");
            text.push_str(stage);
        }
        text
    }

    fn command(&mut self, depth: u32) -> String {
        if self.below(2) == 0 {
            return self.operand(depth);
        }
        let mut a = || self.operand(depth);
        let (x, y, z) = (a(), a(), a());
        match self.below(16) {
            0 => format!("and {x} {y}"),
            1 => format!("or {x} {y} {z}"),
            2 => format!("not {x}"),
            3 => format!("eq {x} {y}"),
            4 => format!("eq {x} {y} {z}"),
            5 => format!("ne {x} {y}"),
            6 => format!("{} {x} {y}", self.pick(&["lt", "le", "gt", "ge"])),
            7 => format!("len {x}"),
            8 => format!("index {x} {y}"),
            9 => format!("slice {x} {}", self.below(3)),
            10 => format!("print {x} {y}"),
            11 => format!("printf {} {x} {y}", self.pick(&FORMATS)),
            12 => format!("printf {} {x}", self.pick(&FORMATS)),
            13 => format!("println {x}"),
            14 => format!("json {x}"),
            _ => format!("{} {x}", self.pick(&["html", "js", "urlquery"])),
        }
    }

    fn operand(&mut self, depth: u32) -> String {
        match self.below(if depth == 0 { 5 } else { 7 }) {
            0 | 1 => self.pick(&FIELDS).to_owned(),
            2 => self.pick(&CONSTANTS).to_owned(),
            3 | 4 if !self.vars.is_empty() => {
                let at = self.below(self.vars.len());
                self.vars[at].clone()
            }
            3 | 4 => self.pick(&FIELDS).to_owned(),
            _ => format!("({})", self.command(depth - 1)),
        }
    }
}
