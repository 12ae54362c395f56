//! Draft models: small models of the same vocabulary that guess for a larger one.

use std::sync::Arc;

use ingle_gguf::GgufFile;
use ingle_kernels::Pool;
use ingle_model::CpuExecutor;
use ingle_model::sizing::BLOCK_SIZE;
use ingle_step::TokenId;
use ingle_tokenizer::Tokenizer;

use crate::load::{LoadError, Source};

/// A draft model that was opened and checked.
pub(crate) struct Draft {
    file: Arc<GgufFile>,
    options: ingle_model::LoadOptions,
    /// Bytes of memory that it needs.
    pub bytes: u64,
}

impl Draft {
    /// Opens a draft model for a model with this vocabulary. `options` are the model's own: where the draft model was
    /// trained for less context, it guesses within that.
    ///
    /// # Errors
    /// If the file cannot be used, or has another vocabulary.
    pub fn prepare(
        source: &Source,
        tokenizer: &Tokenizer,
        options: &ingle_model::LoadOptions,
    ) -> Result<Self, LoadError> {
        open(source, tokenizer, options).map_err(of_draft)
    }

    /// Takes memory for it and returns while its weights are on their way there.
    ///
    /// # Errors
    /// If there is no memory, or no thread.
    pub fn start(self, pool: Arc<Pool>) -> Result<CpuExecutor, LoadError> {
        CpuExecutor::start(self.file, pool, &self.options).map_err(|error| of_draft(error.into()))
    }
}

fn of_draft(error: LoadError) -> LoadError {
    match error {
        LoadError::DraftVocabulary(_) => error,
        error => LoadError::Draft(Box::new(error)),
    }
}

fn open(
    source: &Source,
    tokenizer: &Tokenizer,
    options: &ingle_model::LoadOptions,
) -> Result<Draft, LoadError> {
    let file = Arc::new(source.open()?);
    let own = Tokenizer::from_metadata(file.metadata())?;
    compare(tokenizer, &own).map_err(LoadError::DraftVocabulary)?;
    let n_ctx = options.n_ctx.unwrap_or(usize::MAX).min(trained_for(&file)?);
    let kv_tokens =
        options.kv_tokens.min(n_ctx.saturating_mul(super::load::FULL_SEQS_DEFAULT)).max(n_ctx + BLOCK_SIZE);
    let options = ingle_model::LoadOptions { n_ctx: Some(n_ctx), kv_tokens, ..options.clone() };
    let planned = CpuExecutor::plan(&file, &options)?;
    let info = &planned.info;
    if info.n_vocab < own.n_vocab() {
        return Err(LoadError::VocabMismatch { tokenizer: own.n_vocab(), weights: info.n_vocab });
    }
    let bytes = info.weight_bytes + info.kv_bytes;
    Ok(Draft { file, options, bytes })
}

fn trained_for(file: &GgufFile) -> Result<usize, LoadError> {
    let md = file.metadata();
    Ok(md.u64(&format!("{}.context_length", md.str("general.architecture")?))? as usize)
}

/// Whether two vocabularies give tokens the same meaning: each is the same text and of the same kind. Padding at the
/// end, which is no text, may differ in length. What differs is the error.
fn compare(model: &Tokenizer, draft: &Tokenizer) -> Result<(), String> {
    let (n_model, n_draft) = (model.n_vocab(), draft.n_vocab());
    let ids = |range: std::ops::Range<usize>| range.map(|id| TokenId(id as u32));
    let n_both = n_model.min(n_draft);
    for id in ids(0..n_both) {
        let kind =
            |tokenizer: &Tokenizer| (tokenizer.is_text(id), tokenizer.is_control(id), tokenizer.is_end(id));
        if model.token_bytes(id) != draft.token_bytes(id) || kind(model) != kind(draft) {
            return Err(format!(
                "token {id} is {} in the model and {} in the draft model",
                described(model, id),
                described(draft, id)
            ));
        }
    }
    let longer = if n_model > n_draft { model } else { draft };
    match ids(n_both..longer.n_vocab()).find(|&id| longer.is_text(id)) {
        Some(id) => Err(format!(
            "the model has {n_model} tokens and the draft model {n_draft}: only one has token {id}, {}",
            described(longer, id)
        )),
        None => Ok(()),
    }
}

fn described(tokenizer: &Tokenizer, id: TokenId) -> String {
    let what = if tokenizer.is_end(id) {
        "an end, "
    } else if tokenizer.is_control(id) {
        "a control token, "
    } else {
        ""
    };
    format!("{what}{:?}", tokenizer.token_text(id))
}
