//! An executor whose logits are a pure function of the sequence so far: scheduler tests need no model.
