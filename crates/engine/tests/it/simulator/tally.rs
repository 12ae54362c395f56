//! What happened in simulations, added up.

macro_rules! tally {
    ($($(#[doc = $doc:literal])* $name:ident: $what:literal, $least:literal;)*) => {
        /// Counts of what happened.
        #[derive(Clone, Debug, Default)]
        pub struct Tally {
            $($(#[doc = $doc])* pub $name: usize,)*
        }

        impl Tally {
            pub fn add(&mut self, other: &Self) {
                $(self.$name += other.$name;)*
            }

            /// A simulation in which a thing never happens proves nothing about it.
            pub fn check(&self) {
                $(assert!(self.$name >= $least, "{}: only {} in all simulations", $what, self.$name);)*
            }
        }

        impl std::fmt::Display for Tally {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                let all = [$((self.$name, $what)),*];
                let words: Vec<String> = all.iter().map(|(n, what)| format!("{n} {what}")).collect();
                f.write_str(&words.join(", "))
            }
        }
    };
}

tally! {
    steps: "checked steps", 100;
    rows: "rows", 100;
    finished: "finished", 100;
    pooled: "of them pooled", 100;
    background: "in the background", 100;
    /// Steps in which somebody of the background has begun and does not run.
    made_way: "steps in which the background made way", 100;
    aborted: "aborted", 100;
    failed: "failed", 100;
    refused: "refused", 100;
    tenant_refused: "refused for their tenant's sake", 100;
    late_queued: "begun too late", 100;
    late_running: "ended too late", 100;
    preemptions: "preemptions", 100;
    cached_tokens: "cached tokens", 100;
    published: "blocks published", 100;
    adopted: "blocks adopted", 100;
    tails: "tails published", 100;
    tails_adopted: "tails adopted", 100;
    swapped_in: "blocks moved out and back", 100;
    copies: "copies", 100;
    shifts: "shifts of the context", 100;
    jumped: "tokens jumped", 100;
    accepted: "guesses accepted", 100;
    rejected: "guesses rejected", 100;
    clock_jumps: "jumps of the clock", 10;
    ranked: "of another rank than the usual one", 100;
}
