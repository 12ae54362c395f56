//! Models in several files.

use std::path::Path;

use ingle_gguf::{GgufFile, GgufWriter, Value};

fn shard(no: u16, count: u16, tensors: &[(&str, f32)]) -> GgufWriter {
    let mut w = GgufWriter::new();
    w.set("split.no", Value::U16(no))
        .set("split.count", Value::U16(count))
        .set("split.tensors.count", Value::I32(3));
    for (name, x) in tensors {
        w.tensor_f32(name, &[2], &[*x, *x]);
    }
    w
}

fn write(dir: &Path, no: u16, w: &GgufWriter) {
    std::fs::write(dir.join(format!("m-{:05}-of-00002.gguf", no + 1)), w.to_bytes()).unwrap();
}

fn open(dir: &Path) -> Result<GgufFile, String> {
    GgufFile::open(&dir.join("m-00001-of-00002.gguf")).map_err(|e| e.to_string())
}

#[test]
fn all_shards_are_one_model() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), 0, &shard(0, 2, &[("a", 1.0)]));
    write(dir.path(), 1, &shard(1, 2, &[("b", 2.0), ("c", 3.0)]));
    let file = open(dir.path()).unwrap();
    let value = |name: &str| {
        let data = file.tensor_data(file.tensor(name).unwrap()).unwrap();
        f32::from_le_bytes(data[..4].try_into().unwrap())
    };
    assert_eq!((value("a"), value("b"), value("c")), (1.0, 2.0, 3.0));
    assert_eq!(file.paths().len(), 2);
}

#[test]
fn shards_that_do_not_fit_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let check = |first: &GgufWriter, second: Option<&GgufWriter>, expected: &str| {
        write(dir.path(), 0, first);
        let path = dir.path().join("m-00002-of-00002.gguf");
        let _ = std::fs::remove_file(&path);
        if let Some(second) = second {
            write(dir.path(), 1, second);
        }
        let error = open(dir.path()).unwrap_err();
        assert!(error.contains(expected), "`{error}` does not say `{expected}`");
    };
    let first = shard(0, 2, &[("a", 1.0)]);
    check(&first, None, "m-00002-of-00002.gguf");
    check(&first, Some(&shard(0, 2, &[("b", 1.0)])), "says it is shard");
    check(&first, Some(&shard(1, 2, &[("a", 1.0)])), "in two shards");
    check(&first, Some(&shard(1, 2, &[("b", 1.0)])), "split.tensors.count");
    check(&shard(1, 2, &[("a", 1.0)]), Some(&first), "open the first shard");
    check(&shard(0, 9, &[("a", 1.0)]), Some(&first), "does not end in");
}
