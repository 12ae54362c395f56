//! Adapters: small changes to a model's weights (LoRA) that requests choose.

/// How a request names an adapter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AdapterName {
    /// By its name.
    Name(String),
    /// By its number: as llama-server's clients do it. A number never means a second adapter.
    Number(u32),
}

/// An adapter that a request asks for.
#[derive(Clone, Debug, PartialEq)]
pub struct AdapterWish {
    /// Which one.
    pub adapter: AdapterName,
    /// How strongly; 1 is as it was trained, 0 not at all.
    pub scale: f32,
}

/// An adapter that a model has.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AdapterInfo {
    /// Its number.
    pub number: u32,
    /// The name that requests use, also as a model's name.
    pub name: String,
    /// The file or folder that it came from.
    pub path: String,
    /// How strongly it is added to requests that choose no adapters; 0 is not at all.
    pub scale: f32,
    /// The largest rank of its matrices.
    pub rank: usize,
    /// How many matrices it changes.
    pub n_matrices: usize,
    /// Bytes in memory.
    pub memory_bytes: u64,
    /// SHA-256 over what it computes, in hexadecimal.
    pub digest: String,
    /// Seconds since the epoch when it was loaded.
    pub created: u64,
    /// What its maker called the task it is for.
    pub task_name: String,
    /// What its maker puts before each prompt.
    pub prompt_prefix: String,
}

/// A wish to load an adapter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadAdapter {
    /// The model that it is for; `None` is the default model.
    pub model: Option<String>,
    /// What requests will call it.
    pub name: String,
    /// The file or folder.
    pub path: String,
    /// Whether it takes the place of one that has the name already.
    pub replace: bool,
}
