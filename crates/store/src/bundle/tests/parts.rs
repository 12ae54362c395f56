//! Bundles in several files, and through pipes.

use std::io::Write;
use std::path::{Path, PathBuf};

use super::super::BundleError;
use super::super::parts::{PartWriter, Parts};
use super::super::reader::{read_head, verify};
use super::{plan, written};

fn write(path: &Path, part_bytes: Option<u64>) -> Vec<PathBuf> {
    let mut out = PartWriter::new(path, part_bytes).unwrap();
    plan().write(&mut out, None, &mut |_, _| {}).unwrap();
    out.finish().unwrap()
}

fn read(paths: &[PathBuf]) -> Result<(), BundleError> {
    let mut input = Parts::find(paths)?;
    let head = read_head(&mut input)?;
    verify(&mut input, &head, &mut |_, _| {})
}

fn fails(paths: &[PathBuf], part: &str) {
    let error = read(paths).expect_err(part).to_string();
    assert!(error.contains(part), "wanted `{part}`, got `{error}`");
}

#[test]
fn parts_are_plain_pieces_and_are_found_by_any_name() {
    let whole = written(&plan(), None);
    for size in [1024, 1025, 4096, whole.len() as u64 - 1, whole.len() as u64, whole.len() as u64 + 1] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("models.ingle");
        let files = write(&path, Some(size));
        assert_eq!(files.len() as u64, (whole.len() as u64).div_ceil(size));
        let pieces: Vec<u8> = files.iter().flat_map(|file| std::fs::read(file).unwrap()).collect();
        assert!(pieces == whole, "joined they are the bundle");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), files.len(), "nothing else is left");
        read(&[path]).unwrap();
        read(&files[..1]).unwrap();
        read(&files).unwrap();
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("models.ingle");
    assert_eq!(write(&path, None), std::slice::from_ref(&path));
    assert!(std::fs::read(&path).unwrap() == whole);
    read(&[path]).unwrap();
}

#[test]
fn what_is_missing_or_out_of_order_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("b");
    let files = write(&path, Some(1500));
    assert!(files.len() > 3);
    let last = std::fs::read(files.last().unwrap()).unwrap();
    std::fs::remove_file(files.last().unwrap()).unwrap();
    fails(std::slice::from_ref(&path), &format!("part {} of {} is missing", files.len(), files.len()));
    std::fs::write(files.last().unwrap(), &last[1..]).unwrap();
    fails(std::slice::from_ref(&path), "it has ");
    std::fs::write(files.last().unwrap(), &last).unwrap();
    let second = std::fs::read(&files[1]).unwrap();
    std::fs::write(&files[1], &second[..500]).unwrap();
    fails(std::slice::from_ref(&path), "b.002 has 500 bytes, and the parts before it 1500");
    std::fs::write(&files[1], &second).unwrap();
    // Their names say which they are.
    let mut order = files.clone();
    order.reverse();
    read(&order).unwrap();
    order.push(files[1].clone());
    fails(&order, "part 2 is named twice");
    let gap = [files[2].clone(), files[0].clone()];
    fails(&gap, "part 2 is missing: ");
    fails(&gap, "b.002 is not named");
    std::fs::remove_file(&files[1]).unwrap();
    fails(&gap, "b.002 is not there");
    std::fs::write(&files[1], &second).unwrap();
    let but_last = &files[..files.len() - 1];
    fails(but_last, &format!("part {} of {} is missing: ", files.len(), files.len()));
    fails(but_last, &format!("b.{:03} is not named", files.len()));
    // Parts on several disks, and under names that say nothing, in their order.
    let other = tempfile::tempdir().unwrap();
    let carried: Vec<PathBuf> =
        files.iter().map(|file| other.path().join(file.file_name().unwrap())).collect();
    let renamed: Vec<PathBuf> = (0..files.len()).map(|n| other.path().join(format!("piece-{n}"))).collect();
    for ((file, carried), renamed) in files.iter().zip(&carried).zip(&renamed) {
        std::fs::copy(file, carried).unwrap();
        std::fs::copy(file, renamed).unwrap();
    }
    read(&[&carried[2..], &files[..2]].concat()).unwrap();
    read(&renamed).unwrap();
    fails(&files[1..], "b.002 is part 2 of a bundle; name the first one");
    fails(&[folder.path().join("c")], "cannot read");
    fails(&[folder.path().to_owned()], "no regular file");
    fails(&[], "empty");
    read(&files).unwrap();
}

#[test]
fn nothing_is_overwritten_and_nothing_is_left_of_a_failure() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("b");
    let check = |part_bytes, part: &str| {
        let error = PartWriter::new(&path, part_bytes).err().expect(part).to_string();
        assert!(error.contains(part), "{error}");
    };
    check(Some(1023), "fewer than 1024");
    std::fs::write(&path, "mine").unwrap();
    check(None, "is there already");
    check(Some(4096), "is there already");
    std::fs::rename(&path, folder.path().join("b.001")).unwrap();
    check(Some(4096), "is there already");
    std::fs::rename(folder.path().join("b.001"), folder.path().join("b.007")).unwrap();
    check(Some(4096), "b.007 is there already");
    std::fs::remove_file(folder.path().join("b.007")).unwrap();
    // One that came while the bundle was written.
    let mut out = PartWriter::new(&path, Some(1024)).unwrap();
    out.write_all(&[0; 3000]).unwrap();
    std::fs::write(folder.path().join("b.002"), "mine").unwrap();
    let error = out.finish().unwrap_err().to_string();
    assert!(error.contains("b.002 is there already"), "{error}");
    assert_eq!(std::fs::read(folder.path().join("b.002")).unwrap(), b"mine");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing else is left");
    std::fs::remove_file(folder.path().join("b.002")).unwrap();
    // Of an export that was killed.
    std::fs::write(folder.path().join("b.001.partial"), "old").unwrap();
    let mut out = PartWriter::new(&path, Some(1024)).unwrap();
    out.write_all(&[0; 5000]).unwrap();
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 5);
    drop(out);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    // More parts than three digits count.
    let mut out = PartWriter::new(&path, Some(1024)).unwrap();
    out.write_all(&[0; 999 * 1024]).unwrap();
    assert!(out.write_all(&[0]).unwrap_err().to_string().contains("over 999 parts"));
}

/// Two exports to one name: the first is not disturbed, and the second is told.
#[test]
fn one_export_at_a_time_writes_to_a_name() {
    for part_bytes in [None, Some(1024)] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("b");
        let mut first = PartWriter::new(&path, part_bytes).unwrap();
        let mut second = PartWriter::new(&path, part_bytes).unwrap();
        first.write_all(&[1; 3000]).unwrap();
        let error = second.prepare(3000).unwrap_err().to_string();
        assert!(error.contains(".partial is being written by another export"), "{error}");
        let error = second.write_all(&[2; 3000]).unwrap_err().to_string();
        assert!(error.contains("is being written by another export"), "{error}");
        drop(second);
        first.write_all(&[1; 10]).unwrap();
        // A third began after that one's end, and ends after it.
        let third = PartWriter::new(&path, part_bytes).unwrap();
        let files = first.finish().unwrap();
        let whole: Vec<u8> = files.iter().flat_map(|file| std::fs::read(file).unwrap()).collect();
        assert!(whole == [1; 3010], "{} bytes", whole.len());
        let mut third = third;
        third.prepare(3000).unwrap();
        third.write_all(&[3; 3000]).unwrap();
        let error = third.finish().unwrap_err().to_string();
        assert!(error.contains("is there already"), "{error}");
        let again: Vec<u8> = files.iter().flat_map(|file| std::fs::read(file).unwrap()).collect();
        assert!(again == whole && std::fs::read_dir(folder.path()).unwrap().count() == files.len());
    }
}

/// What has taken the place of a file that was being written gets no name, and stays.
#[cfg(unix)]
#[test]
fn files_of_others_get_no_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("b");
    let partial = folder.path().join("b.003.partial");
    for is_there in [true, false] {
        let mut out = PartWriter::new(&path, Some(1024)).unwrap();
        out.write_all(&[0; 5000]).unwrap();
        // Ours is still open somewhere, so that its number is not given to another.
        let _ours = std::fs::File::open(&partial).unwrap();
        std::fs::remove_file(&partial).unwrap();
        if is_there {
            std::fs::write(&partial, "theirs").unwrap();
        }
        let error = out.finish().unwrap_err().to_string();
        assert!(error.contains("b.003.partial was removed or replaced"), "{error}");
        let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().path()).collect();
        assert_eq!(left.len(), usize::from(is_there), "{left:?}");
        if is_there {
            assert_eq!(std::fs::read(&partial).unwrap(), b"theirs");
            std::fs::remove_file(&partial).unwrap();
        }
    }
    // A link that stands where an export would write is removed, not followed.
    let victim = folder.path().join("victim");
    std::fs::write(&victim, "precious").unwrap();
    std::os::unix::fs::symlink(&victim, folder.path().join("b.partial")).unwrap();
    let mut out = PartWriter::new(&path, None).unwrap();
    out.write_all(&[0; 5000]).unwrap();
    out.finish().unwrap();
    assert_eq!(std::fs::read(&victim).unwrap(), b"precious");
    assert_eq!(std::fs::read(&path).unwrap(), [0; 5000]);
}

/// What cannot come to an end is refused before anything is written.
#[test]
fn parts_and_room_are_counted_first() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("b");
    // Of a larger one that was killed.
    std::fs::write(folder.path().join("b.900.partial"), "old").unwrap();
    for (part_bytes, total_bytes, refusal) in [
        (Some(1024), 999 * 1024, None),
        (Some(1024), 999 * 1024 + 1, Some("1000 parts, and there are at most 999; make them 1025 bytes")),
        (None, 1 << 20, None),
        (None, 1 << 60, Some("make room")),
        (Some(1 << 58), 1 << 60, Some("make room")),
    ] {
        let out = PartWriter::new(&path, part_bytes).unwrap();
        let found = out.prepare(total_bytes).err().map(|error| error.to_string());
        match refusal {
            None => assert_eq!(found, None),
            Some(part) => assert!(found.as_ref().is_some_and(|text| text.contains(part)), "{found:?}"),
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
