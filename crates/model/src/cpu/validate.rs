//! Whether a batch is well formed. What passes here cannot make the forward pass panic.

use std::collections::HashSet;

use ingle_step::{ExecutorError, ExecutorInfo, Input, SeqStep, StepBatch, Want};

/// Stands for no sequence.
const NOBODY: usize = usize::MAX;

/// Checks every rule of `ingle_step::StepBatch`.
pub(super) fn check(batch: &StepBatch, info: &ExecutorInfo) -> Result<(), ExecutorError> {
    check_batch(batch, info).map_err(ExecutorError::InvalidBatch)
}

fn check_batch(batch: &StepBatch, info: &ExecutorInfo) -> Result<(), String> {
    let mut targets = HashSet::new();
    for copy in &batch.copies {
        let (from, to) = (copy.from.0, copy.to.0);
        if from as usize >= info.n_blocks || to as usize >= info.n_blocks {
            return Err(format!("copy of block {from} to {to}: there are {} blocks", info.n_blocks));
        }
        if from == to || !targets.insert(to) {
            return Err(format!("copy of block {from} to {to}: the target is the source or has one already"));
        }
        if copy.n_slots as usize > info.block_size {
            return Err(format!("copy of {} slots: blocks have {}", copy.n_slots, info.block_size));
        }
    }
    let mut seqs = HashSet::new();
    // Whose table a block was last seen in. Long contexts have thousands of blocks: no hashing.
    let mut seen_in = vec![NOBODY; info.n_blocks];
    for (seq_idx, seq) in batch.seqs.iter().enumerate() {
        let id = seq.seq.0;
        check_seq(seq, info)
            .and_then(|()| check_table(seq, seq_idx, &mut seen_in))
            .map_err(|what| format!("sequence {id}: {what}"))?;
        if !seqs.insert(id) {
            return Err(format!("sequence {id} is in the batch twice"));
        }
    }
    check_writers(batch, info)
}

fn check_seq(seq: &SeqStep, info: &ExecutorInfo) -> Result<(), String> {
    if seq.inputs.is_empty() {
        return Err("no inputs".into());
    }
    let end = seq.start as usize + seq.inputs.len();
    if end > info.n_ctx {
        return Err(format!("position {end} is beyond the context of {}", info.n_ctx));
    }
    for input in &seq.inputs {
        let token = input.token();
        if token.0 as usize >= info.n_vocab {
            return Err(format!("token {token}: the vocabulary has {}", info.n_vocab));
        }
        if matches!(input, Input::Second(_)) && !info.has_token_types {
            return Err("a second text: the model has no token types".into());
        }
    }
    if seq.causal && !info.causal {
        return Err("the sequence is causal and the model is not".into());
    }
    for (_, want) in &seq.wants {
        match want {
            Want::Logits if !info.has_logits => return Err("logits: the model only embeds texts".into()),
            Want::Labels if info.n_labels == 0 => {
                return Err("labels: the model has no head that classifies".into());
            }
            _ => {}
        }
    }
    if seq.block_table.len() < end.div_ceil(info.block_size) {
        return Err(format!("{} blocks do not cover {end} slots", seq.block_table.len()));
    }
    if !seq.causal && seq.start != 0 {
        return Err("a sequence that is not causal cannot be continued".into());
    }
    let mut last_row = 0;
    for &(row, _) in &seq.wants {
        if row as usize >= seq.inputs.len() || row < last_row {
            return Err(format!("wanted row {row} is out of range or out of order"));
        }
        last_row = row;
    }
    Ok(())
}

fn check_table(seq: &SeqStep, seq_idx: usize, seen_in: &mut [usize]) -> Result<(), String> {
    for block in &seq.block_table {
        match seen_in.get_mut(block.0 as usize) {
            None => return Err(format!("block {}: there are {}", block.0, seen_in.len())),
            Some(seen) if *seen == seq_idx => return Err(format!("block {} is in the table twice", block.0)),
            Some(seen) => *seen = seq_idx,
        }
    }
    Ok(())
}

/// No block that one sequence writes may appear in another's table.
fn check_writers(batch: &StepBatch, info: &ExecutorInfo) -> Result<(), String> {
    let mut writers = vec![NOBODY; info.n_blocks];
    for (seq_idx, seq) in batch.seqs.iter().enumerate() {
        let first = seq.start as usize / info.block_size;
        let end = (seq.start as usize + seq.inputs.len()).div_ceil(info.block_size);
        for block in &seq.block_table[first..end] {
            writers[block.0 as usize] = seq_idx;
        }
    }
    for (seq_idx, seq) in batch.seqs.iter().enumerate() {
        for block in &seq.block_table {
            let writer = writers[block.0 as usize];
            if writer != NOBODY && writer != seq_idx {
                let (a, b) = (batch.seqs[writer].seq.0, seq.seq.0);
                return Err(format!("sequence {a} writes block {}, which sequence {b} has too", block.0));
            }
        }
    }
    Ok(())
}
