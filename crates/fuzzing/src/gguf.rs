//! The file format.

use ingle_gguf::{GgufFile, GgufWriter, Value};

/// Any bytes: an error, or a file whose tensors lie inside of it and that writes and reads back to the same bytes.
pub fn gguf(data: &[u8]) {
    let Ok(file) = GgufFile::from_bytes(data.to_vec()) else { return };
    check(&file);
    let once = rewritten(&file);
    let again = GgufFile::from_bytes(once.clone()).expect("what the writer writes is read");
    assert_eq!(again.tensors().len(), file.tensors().len());
    for (a, b) in file.tensors().iter().zip(again.tensors()) {
        assert_eq!((&a.name, a.ty, &a.dims), (&b.name, b.ty, &b.dims));
        assert!(
            file.tensor_data(a).expect("it is in memory") == again.tensor_data(b).expect("it is in memory"),
            "the data of `{}` changed",
            a.name
        );
    }
    assert!(rewritten(&again) == once, "writing what was read changes it");
}

fn check(file: &GgufFile) {
    let mut total = 0;
    for tensor in file.tensors() {
        let data = file.tensor_data(tensor).expect("it is in memory");
        assert_eq!(data.len(), tensor.n_bytes());
        assert_eq!(tensor.n_elements(), tensor.n_cols() as u64 * tensor.n_rows() as u64);
        assert_eq!(tensor.ty.row_bytes(tensor.dims[0]), Some((data.len() / tensor.n_rows()) as u64));
        assert!(file.tensor(&tensor.name) == Some(tensor));
        total += data.len() as u64;
    }
    assert!(total <= file.n_bytes(), "tensors overlap");
    for (key, value) in file.metadata().iter() {
        let md = file.metadata();
        assert!(md.get(key).is_some());
        // Each getter gives a value or names the key.
        let errors = [
            md.u64(key).err(),
            md.f32(key).err(),
            md.opt_bool(key).err(),
            md.str(key).err(),
            md.opt_array(key).err(),
            md.opt_strings(key).err(),
            md.opt_f32s(key).err(),
            md.opt_i32s(key).err(),
        ];
        for error in errors.into_iter().flatten() {
            assert!(error.to_string().contains(key), "{error}");
        }
        if let Value::Array(array) = value {
            assert!(array.to_u64s().is_none_or(|all| all.len() == array.len()));
        }
    }
}

fn rewritten(file: &GgufFile) -> Vec<u8> {
    let mut metadata = file.metadata().clone();
    if metadata.get("general.alignment").is_some() {
        // The writer knows one alignment.
        metadata.set("general.alignment", Value::U32(32));
    }
    let mut out = GgufWriter::with_metadata(metadata);
    for tensor in file.tensors() {
        out.tensor(
            &tensor.name,
            tensor.ty,
            &tensor.dims,
            file.tensor_data(tensor).expect("it is in memory").into_owned(),
        );
    }
    out.to_bytes()
}
