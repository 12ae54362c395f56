//! For whom a request runs.

/// How far a request's data may travel. Ordered: a later class is more sensitive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DataClass {
    /// May be answered anywhere.
    Public,
    /// May be answered where policy says.
    #[default]
    Internal,
    /// Never leaves the house.
    Sensitive,
}

/// Who asks: every request carries one, from the first hop to the ledger.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Principal {
    /// The tenant, for isolation and fairness.
    pub tenant: String,
    /// Which of the tenant's keys was shown: an id, never the secret.
    pub key: String,
    /// How far the data may travel.
    pub class: DataClass,
    /// Whether raw prompts may spell control tokens, with which a caller can speak as anyone in a conversation.
    pub may_write_control_tokens: bool,
    /// Whether requests may go before others' (a rank below 0).
    pub may_go_first: bool,
    /// The tenant's part of the machine beside those of others; at least 1.
    pub weight: u32,
}

impl Principal {
    /// The one user of a program on their own machine.
    pub fn local() -> Self {
        Self {
            tenant: "local".into(),
            key: "none".into(),
            class: DataClass::default(),
            may_write_control_tokens: true,
            may_go_first: true,
            weight: 1,
        }
    }
}
