//! Files in the format `safetensors`, made of good ones by changes.

use serde_json::{Map, Value, json};

use crate::source::Source;

const DTYPES: &[&str] = &["F32", "F16", "BF16", "F64", "I64", "U8", "", "f32"];
/// What stands in files of floats.
const FLOATS: &[f32] = &[0.0, 1.0, -1.5, 1e30, f32::MAX, f32::MIN_POSITIVE, f32::NAN, f32::INFINITY, 1e-45];

/// Tensors with their bytes.
#[derive(Clone)]
pub(crate) struct Tensors(Vec<Tensor>);

#[derive(Clone)]
struct Tensor {
    name: String,
    dtype: &'static str,
    shape: Vec<u64>,
    data: Vec<u8>,
    /// How far the header's offsets are from where the bytes are.
    shift: [i64; 2],
}

impl Tensors {
    /// Those of F32 of a file that is right.
    pub fn parse(bytes: &[u8]) -> Self {
        let (length, rest) = bytes.split_at(8);
        let length = u64::from_le_bytes(length.try_into().expect("8 bytes")) as usize;
        let (header, data) = rest.split_at(length);
        let header: Map<String, Value> = serde_json::from_slice(header).expect("the file is right");
        let numbers = |value: &Value| -> Vec<u64> {
            value.as_array().expect("a list").iter().map(|n| n.as_u64().expect("a size")).collect()
        };
        let tensor = |(name, entry): (&String, &Value)| {
            let (shape, at) = (numbers(&entry["shape"]), numbers(&entry["data_offsets"]));
            let data = data[at[0] as usize..at[1] as usize].to_vec();
            Tensor { name: name.clone(), dtype: "F32", shape, data, shift: [0; 2] }
        };
        Self(header.iter().map(tensor).collect())
    }

    /// The same with one change more.
    pub fn change(&mut self, source: &mut Source) {
        if self.0.is_empty() {
            return;
        }
        let i = source.below(self.0.len());
        match source.below(8) {
            0 => _ = self.0.remove(i),
            1 => self.0[i].name = source.text(),
            2 => {
                // One name in the place of another: halves that do not belong together.
                let j = source.below(self.0.len());
                let name = self.0[j].name.clone();
                self.0[i].name = name;
            }
            3 => {
                let tensor = &mut self.0[i];
                tensor.shape = (0..source.below(4)).map(|_| source.number()).collect();
                let n_bytes = tensor.shape.iter().try_fold(4u64, |n, d| n.checked_mul(*d));
                if let Some(n_bytes) = n_bytes.filter(|n| *n < 1 << 16) {
                    tensor.data.resize(n_bytes as usize, 0);
                }
            }
            4 => self.0[i].dtype = source.pick(DTYPES),
            5 => {
                let at = usize::from(source.byte()) * 4;
                let value = source.pick(FLOATS);
                if let Some(bytes) = self.0[i].data.get_mut(at..at + 4) {
                    bytes.copy_from_slice(&value.to_le_bytes());
                }
            }
            6 => {
                let which = source.below(2);
                self.0[i].shift[which] = source.u64() as i64;
            }
            _ => {
                let mut more = self.0[i].clone();
                more.name = source.text();
                self.0.push(more);
            }
        }
    }

    pub fn to_bytes(&self, metadata: Option<Value>) -> Vec<u8> {
        let mut header = Map::new();
        if let Some(metadata) = metadata {
            header.insert("__metadata__".into(), metadata);
        }
        let mut at = 0u64;
        for tensor in &self.0 {
            let end = at + tensor.data.len() as u64;
            let offsets = [at.wrapping_add_signed(tensor.shift[0]), end.wrapping_add_signed(tensor.shift[1])];
            let entry = json!({ "dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": offsets });
            header.insert(tensor.name.clone(), entry);
            at = end;
        }
        let header = Value::Object(header).to_string();
        let mut out = (header.len() as u64).to_le_bytes().to_vec();
        out.extend(header.bytes());
        self.0.iter().for_each(|tensor| out.extend(&tensor.data));
        out
    }
}

/// A value of a settings file.
pub(crate) fn setting(source: &mut Source) -> Value {
    match source.below(10) {
        0 => Value::Null,
        1 => source.flag().into(),
        2 => source.text().into(),
        3 => json!([]),
        4 => json!([source.text(), 1]),
        5 => json!({ source.text(): source.number() }),
        6 => json!({ "up_proj": source.pick(&[0.5, -1.0, 1e300]) }),
        7 => json!(source.pick(&[0.0, -0.0, 1e-12, 1e300, -1.0])),
        _ => source.number().into(),
    }
}
