//! Tensors of a file, checked against what the graph says they are.

use std::sync::Arc;

use ingle_gguf::{GgufFile, TensorInfo};
use ingle_kernels::{KernelError, Matrix, Pool};

use crate::error::ModelError;
use crate::graph::{Bias, Graph, Head, Linear, Norm, Weight};
use crate::rope::{ROPE_FACTORS_LONG, ROPE_FACTORS_SHORT, ROPE_FREQS};
use ingle_kernels::dequantize;

/// The tensor of a weight, with the shape and a type it must have.
pub(crate) fn matrix_info<'a>(file: &'a GgufFile, weight: &Weight) -> Result<&'a TensorInfo, ModelError> {
    let info = tensor(file, &weight.name, &[weight.n_in as u64, weight.n_out as u64])?;
    if !Matrix::TYPES.contains(&info.ty) {
        return Err(unsupported_type(info));
    }
    Ok(info)
}

/// The tensor of this name and shape. Files may write trailing dimensions of 1.
fn tensor<'a>(file: &'a GgufFile, name: &str, expected: &[u64]) -> Result<&'a TensorInfo, ModelError> {
    let info = file
        .tensor(name)
        .ok_or_else(|| ModelError::MissingTensor { name: name.to_owned(), expected: expected.to_vec() })?;
    let significant = info.dims.len() - info.dims.iter().rev().take_while(|&&d| d == 1).count();
    let wanted = expected.len() - expected.iter().rev().take_while(|&&d| d == 1).count();
    if info.dims[..significant] != expected[..wanted] {
        return Err(ModelError::WrongShape {
            name: name.to_owned(),
            expected: expected.to_vec(),
            found: info.dims.clone(),
        });
    }
    Ok(info)
}

fn unsupported_type(info: &TensorInfo) -> ModelError {
    let what = KernelError::UnsupportedType(info.ty).to_string();
    ModelError::UnsupportedType { name: info.name.clone(), ty: info.ty, what }
}

/// A vector `(n,)` as floats, if the file has it.
pub(crate) fn opt_vector(file: &GgufFile, name: &str, n: usize) -> Result<Option<Vec<f32>>, ModelError> {
    file.tensor(name).map(|_| vector(file, name, n)).transpose()
}

/// A vector `(n,)` as floats.
pub(crate) fn vector(file: &GgufFile, name: &str, n: usize) -> Result<Vec<f32>, ModelError> {
    let info = tensor(file, name, &[n as u64])?;
    let mut out = vec![0.0; n];
    if !dequantize(info.ty, file.tensor_data(info), &mut out) {
        return Err(unsupported_type(info));
    }
    Ok(out)
}

/// Every tensor that a graph names and the file has. A tensor of the file that is not among them is an error:
/// the model would compute something else with it.
pub(crate) fn check_tensors<'a>(
    file: &'a GgufFile,
    graph: &Graph,
    arch: &'static str,
) -> Result<Vec<&'a TensorInfo>, ModelError> {
    let mut used = Vec::new();
    let mut add_matrix = |weight: &Weight| -> Result<(), ModelError> {
        used.push(matrix_info(file, weight)?);
        Ok(())
    };
    graph.weights().try_for_each(&mut add_matrix)?;
    let Head::UntiedIfPresent(head) = &graph.head;
    if file.tensor(&head.name).is_some() {
        add_matrix(head)?;
    }
    for norm in graph.norms() {
        used.push(tensor(file, &norm.name, &[norm.n as u64])?);
    }
    for linear in graph.linears() {
        let name = linear.bias_name();
        match linear.bias {
            Bias::None => {}
            Bias::IfPresent if file.tensor(&name).is_none() => {}
            Bias::IfPresent | Bias::Required => {
                used.push(tensor(file, &name, &[linear.weight.n_out as u64])?)
            }
        }
    }
    let names: std::collections::HashSet<&str> = used.iter().map(|t| t.name.as_str()).collect();
    for info in file.tensors() {
        let rope = [ROPE_FREQS, ROPE_FACTORS_LONG, ROPE_FACTORS_SHORT].contains(&info.name.as_str());
        // Old converters stored the inverse frequencies, which follow from the base.
        let rope = rope || info.name.ends_with("attn_rot_embd") || info.name.ends_with("rotary_emb.inv_freq");
        if !rope && !names.contains(info.name.as_str()) {
            return Err(ModelError::UnknownTensor { name: info.name.clone(), arch });
        }
    }
    Ok(used)
}

/// Loads tensors one by one and reports how far it is.
pub(crate) struct Loader<'a> {
    pub file: &'a Arc<GgufFile>,
    pub pool: &'a Pool,
    pub progress: &'a mut dyn FnMut(u64, u64),
    pub done_bytes: u64,
    pub total_bytes: u64,
    /// Bytes of weights held so far.
    pub memory_bytes: u64,
}

impl Loader<'_> {
    /// A matrix, repacked.
    pub fn matrix(&mut self, weight: &Weight) -> Result<Matrix, ModelError> {
        let info = matrix_info(self.file, weight)?;
        let data = self.file.tensor_data(info);
        let matrix = Matrix::from_gguf(info.ty, weight.n_out, weight.n_in, data, self.pool).map_err(|e| {
            ModelError::UnsupportedType { name: weight.name.clone(), ty: info.ty, what: e.to_string() }
        })?;
        self.loaded(info.n_bytes(), matrix.memory_bytes());
        Ok(matrix)
    }

    /// A matrix and its bias.
    pub fn linear(&mut self, linear: &Linear) -> Result<(Matrix, Option<Vec<f32>>), ModelError> {
        let matrix = self.matrix(&linear.weight)?;
        let name = linear.bias_name();
        let bias = match linear.bias {
            Bias::None => None,
            Bias::IfPresent => opt_vector(self.file, &name, linear.weight.n_out)?,
            Bias::Required => Some(vector(self.file, &name, linear.weight.n_out)?),
        };
        if let Some(bias) = &bias {
            self.loaded_vector(&name, bias);
        }
        Ok((matrix, bias))
    }

    /// A norm's weight.
    pub fn norm(&mut self, norm: &Norm) -> Result<Vec<f32>, ModelError> {
        let weight = vector(self.file, &norm.name, norm.n)?;
        self.loaded_vector(&norm.name, &weight);
        Ok(weight)
    }

    fn loaded_vector(&mut self, name: &str, values: &[f32]) {
        let file_bytes = self.file.tensor(name).map_or(0, TensorInfo::n_bytes);
        self.loaded(file_bytes, size_of_val(values));
    }

    fn loaded(&mut self, file_bytes: usize, memory_bytes: usize) {
        self.done_bytes += file_bytes as u64;
        self.memory_bytes += memory_bytes as u64;
        (self.progress)(self.done_bytes, self.total_bytes);
    }
}
