//! Tensors of a file, checked against what the graph says they are.

use std::collections::HashMap;
use std::sync::Arc;

use ingle_gguf::{GgufFile, TensorInfo};
use ingle_kernels::{KernelError, Matrix, Packing, Pool};

use crate::error::ModelError;
use crate::graph::{Attention, Bias, Ffn, Graph, Head, Linear, Norm, Weight};
use crate::pieces::{PIECE_BYTES, Part, Pieces};
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

/// The tensor of a vector, with the shape and a type it must have.
fn vector_info<'a>(file: &'a GgufFile, name: &str, n: usize) -> Result<&'a TensorInfo, ModelError> {
    let info = tensor(file, name, &[n as u64])?;
    if !Matrix::TYPES.contains(&info.ty) {
        return Err(unsupported_type(info));
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
    let info = vector_info(file, name, n)?;
    let mut out = vec![0.0; n];
    if !dequantize(info.ty, &file.tensor_data(info)?, &mut out) {
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
        used.push(vector_info(file, &norm.name, norm.n)?);
    }
    for linear in graph.linears() {
        let name = linear.bias_name();
        match linear.bias {
            Bias::None => {}
            Bias::IfPresent if file.tensor(&name).is_none() => {}
            Bias::IfPresent | Bias::Required => used.push(vector_info(file, &name, linear.weight.n_out)?),
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

/// The graph's matrices in the order in which a step needs them, the head last.
pub(crate) fn in_order_of_use<'a>(graph: &'a Graph, head: &'a Weight) -> impl Iterator<Item = &'a Weight> {
    let layers = graph.layers.iter().flat_map(|layer| {
        let Attention { q, k, v, output, .. } = &layer.attention;
        let Ffn::SwiGlu { gate, up, down } = &layer.ffn;
        [&q.weight, &k.weight, &v.weight, &output.weight, gate, up, &down.weight]
    });
    layers.chain(std::iter::once(head))
}

/// Loads tensors one by one, in the order of use: a thread reads ahead ([`Pieces`]), and all threads of the pool pack.
pub(crate) struct Loader<'a> {
    pub file: &'a Arc<GgufFile>,
    pub pool: &'a Pool,
    /// Told the bytes of the file that were taken in; false ends loading.
    pub progress: &'a mut dyn FnMut(u64) -> bool,
    /// Memory for every matrix, by name.
    packings: HashMap<String, Packing>,
    pieces: Pieces,
}

impl<'a> Loader<'a> {
    /// A loader that has loaded nothing. `order` has the matrices as they will be asked for.
    ///
    /// # Errors
    /// [`ModelError::Interrupted`] if the system refuses a thread.
    pub fn new(
        file: &'a Arc<GgufFile>,
        pool: &'a Pool,
        progress: &'a mut dyn FnMut(u64) -> bool,
        packings: HashMap<String, Packing>,
        order: Vec<TensorInfo>,
    ) -> Result<Self, ModelError> {
        let part =
            |info: TensorInfo| Part { piece_bytes: packings[&info.name].piece_bytes(PIECE_BYTES), info };
        let pieces = Pieces::new(file, order.into_iter().map(part).collect())?;
        Ok(Self { file, pool, progress, packings, pieces })
    }

    /// A matrix, repacked.
    pub fn matrix(&mut self, weight: &Weight) -> Result<Matrix, ModelError> {
        let info = matrix_info(self.file, weight)?;
        let mut packing =
            self.packings.remove(&weight.name).expect("every matrix has memory and is loaded once");
        let n_piece = packing.piece_bytes(PIECE_BYTES);
        for start in (0..info.n_bytes()).step_by(n_piece) {
            let range = start..info.n_bytes().min(start + n_piece);
            let n_bytes = range.len();
            self.pieces.next(info, range, |piece| packing.rows(piece, self.pool))?;
            self.loaded(n_bytes)?;
        }
        Ok(packing.finish())
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
        if bias.is_some() {
            self.loaded_vector(&name)?;
        }
        Ok((matrix, bias))
    }

    /// A norm's weight.
    pub fn norm(&mut self, norm: &Norm) -> Result<Vec<f32>, ModelError> {
        let weight = vector(self.file, &norm.name, norm.n)?;
        self.loaded_vector(&norm.name)?;
        Ok(weight)
    }

    fn loaded_vector(&mut self, name: &str) -> Result<(), ModelError> {
        self.loaded(self.file.tensor(name).map_or(0, TensorInfo::n_bytes))
    }

    fn loaded(&mut self, file_bytes: usize) -> Result<(), ModelError> {
        match (self.progress)(file_bytes as u64) {
            true => Ok(()),
            false => Err(ModelError::Interrupted("the model is no longer wanted".into())),
        }
    }
}
