//! Where bundles lie: one file, the parts of one, or a stream.
//!
//! A part is a plain piece of the bundle, so that `cat NAME.* | ingle import -` reads what `--split` wrote. Parts are
//! named `NAME.001`, `NAME.002`, ...; they are written under other names and get theirs when all of them are whole.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use super::error::BundleError;
use super::format::MAGIC;
use super::partial::{Partial, check_free, remove_left};
use crate::files::{Files, RealFiles};

/// Most parts: what three digits count.
const PARTS_MAX: usize = 999;
/// Smallest part that may be asked for.
pub const PART_BYTES_MIN: u64 = 1 << 10;

/// Bytes that are read once, in order.
pub trait Input {
    /// Fills all of `buf`.
    ///
    /// # Errors
    /// The input cannot be read; of kind `UnexpectedEof` if it ends before.
    fn read_exact(&mut self, buf: &mut [u8]) -> io::Result<()>;
    /// Passes over bytes.
    ///
    /// # Errors
    /// As [`Self::read_exact`].
    fn skip(&mut self, n: u64) -> io::Result<()>;
    /// Whether nothing follows.
    ///
    /// # Errors
    /// The input cannot be read.
    fn is_at_end(&mut self) -> io::Result<bool>;
    /// Bytes of all of it, where that is known before it is read.
    fn total(&self) -> Option<u64>;
    /// Bytes read so far, where [`Self::total`] is not known.
    fn n_read(&self) -> u64 {
        0
    }
    /// What to say where the input is too short, if there is something better than that.
    fn missing(&self, _wanted: u64) -> Option<String> {
        None
    }
}

/// A stream, such as a pipe.
pub struct Stream<R> {
    source: R,
    n_read: u64,
}

impl<R: Read> Stream<R> {
    /// What comes from here.
    pub fn new(source: R) -> Self {
        Self { source, n_read: 0 }
    }
}

impl<R: Read> Input for Stream<R> {
    fn read_exact(&mut self, mut buf: &mut [u8]) -> io::Result<()> {
        // The standard library's does not say how much there was of what is cut.
        while !buf.is_empty() {
            match self.source.read(buf) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(n) => {
                    self.n_read += n as u64;
                    buf = &mut buf[n..];
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn skip(&mut self, n: u64) -> io::Result<()> {
        let copied = io::copy(&mut (&mut self.source).take(n), &mut io::sink())?;
        self.n_read += copied;
        if copied < n { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
    }

    fn is_at_end(&mut self) -> io::Result<bool> {
        Ok((&mut self.source).take(1).read_to_end(&mut Vec::new())? == 0)
    }

    fn total(&self) -> Option<u64> {
        None
    }

    fn n_read(&self) -> u64 {
        self.n_read
    }
}

/// A file, or the parts of one in their order.
pub struct Parts {
    /// The part and how many bytes it has.
    files: Vec<(PathBuf, u64)>,
    current: Option<File>,
    /// How many parts were opened; the last of them is `current`.
    opened: usize,
    /// Bytes of the current part not yet read.
    left: u64,
}

impl Parts {
    /// Finds what a person names: a file; the first part of one, or its name without the number, with all parts that
    /// lie beside it; or all parts, whose names say their order.
    ///
    /// # Errors
    /// A file is not there, or is no regular file; or a part is missing between two.
    pub fn find(paths: &[PathBuf]) -> Result<Self, BundleError> {
        let mut named = paths.to_vec();
        if are_parts_of_one(&named) {
            named.sort_by_key(|path| number_in(path));
        }
        if let [path] = paths {
            let first = numbered(path, 1);
            let stem = if path.exists() { first_part_of(path) } else { first.exists().then(|| path.clone()) };
            if let Some(stem) = stem {
                let parts = (1..=PARTS_MAX).map(|n| numbered(&stem, n));
                named = parts.take_while(|part| part.exists()).collect();
            }
        }
        if let Some(later) = named.first().and_then(|path| Some((path, number_of(path)?)))
            && let (path, number @ 2..) = later
        {
            let first = path.with_extension("001");
            let text = format!(
                "{} is part {number} of a bundle; name the first one, {}, or all of them",
                path.display(),
                first.display()
            );
            return Err(BundleError::Source(text));
        }
        check_numbers(&named)?;
        let mut files = Vec::with_capacity(named.len());
        for path in named {
            let meta = path.metadata().map_err(BundleError::io(format!("cannot read {}", path.display())))?;
            if !meta.is_file() {
                let text = format!("{} is no regular file; a pipe is read with `-`", path.display());
                return Err(BundleError::Source(text));
            }
            files.push((path, meta.len()));
        }
        Ok(Self { files, current: None, opened: 0, left: 0 })
    }

    /// Opens the next part, if there is one.
    fn advance(&mut self) -> io::Result<bool> {
        let Some((path, n_bytes)) = self.files.get(self.opened) else { return Ok(false) };
        self.current = Some(File::open(path)?);
        self.left = *n_bytes;
        self.opened += 1;
        Ok(true)
    }

    /// The current part with bytes left to read.
    fn current(&mut self) -> io::Result<&mut File> {
        while self.left == 0 {
            if !self.advance()? {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        self.current.as_mut().ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }
}

impl Input for Parts {
    fn read_exact(&mut self, mut buf: &mut [u8]) -> io::Result<()> {
        while !buf.is_empty() {
            self.current()?;
            let n = usize::try_from(self.left).unwrap_or(usize::MAX).min(buf.len());
            let (now, rest) = buf.split_at_mut(n);
            self.current()?.read_exact(now)?;
            self.left -= n as u64;
            buf = rest;
        }
        Ok(())
    }

    fn skip(&mut self, mut n: u64) -> io::Result<()> {
        while n > 0 {
            self.current()?;
            let now = self.left.min(n);
            let by = i64::try_from(now).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
            self.current()?.seek(SeekFrom::Current(by))?;
            self.left -= now;
            n -= now;
        }
        Ok(())
    }

    fn is_at_end(&mut self) -> io::Result<bool> {
        match self.current() {
            Ok(_) => Ok(false),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(true),
            Err(error) => Err(error),
        }
    }

    fn total(&self) -> Option<u64> {
        Some(self.files.iter().map(|(_, n_bytes)| n_bytes).sum())
    }

    fn missing(&self, wanted: u64) -> Option<String> {
        let (first, part_bytes) = self.files.first()?;
        let stem = first_part_of(first)?;
        let uneven = self.files.iter().take(self.files.len() - 1).find(|(_, n)| n != part_bytes);
        if let Some((path, n)) = uneven {
            return Some(format!(
                "{} has {n} bytes, and the parts before it {part_bytes}: it is cut, or a part before it is missing",
                path.display()
            ));
        }
        let n_parts = wanted.div_ceil((*part_bytes).max(1));
        let found = self.files.len();
        (n_parts > found as u64).then(|| {
            let next = numbered(&stem, found + 1);
            format!("part {} of {n_parts} is missing: {}", found + 1, whereabouts(&next))
        })
    }
}

/// `bundle` for `bundle.001`.
fn first_part_of(path: &Path) -> Option<PathBuf> {
    (path.extension()? == "001").then(|| path.with_extension(""))
}

/// 2 for `bundle.002`.
fn number_in(path: &Path) -> Option<u16> {
    let digits = path.extension()?.to_str()?;
    let is_number = digits.len() == 3 && digits.bytes().all(|byte| byte.is_ascii_digit());
    digits.parse().ok().filter(|_| is_number)
}

/// Whether the names of several files say which parts of one they are. They may lie in different folders, as on the
/// disks that they were carried on.
fn are_parts_of_one(named: &[PathBuf]) -> bool {
    let stem = named.first().and_then(|path| path.file_stem());
    named.len() > 1 && named.iter().all(|path| number_in(path).is_some() && path.file_stem() == stem)
}

/// Refuses parts, in their order, between which one is missing, or of which one is there twice.
fn check_numbers(named: &[PathBuf]) -> Result<(), BundleError> {
    if !are_parts_of_one(named) {
        return Ok(());
    }
    for (wanted, path) in (1..).zip(named) {
        let found = number_in(path).map_or(0, usize::from);
        if found > wanted {
            let missing = whereabouts(&numbered(&path.with_extension(""), wanted));
            return Err(BundleError::MissingPart(format!("part {wanted} is missing: {missing}")));
        }
        if found < wanted {
            let text = format!("part {found} is named twice: the second time as {}", path.display());
            return Err(BundleError::Source(text));
        }
    }
    Ok(())
}

/// What to do about a part that is missing.
fn whereabouts(part: &Path) -> String {
    match part.exists() {
        true => format!("{} is not named; name all parts, or the first one alone", part.display()),
        false => format!("{} is not there; put all parts side by side, or name all of them", part.display()),
    }
}

/// The same, where it does not begin as a bundle does.
fn number_of(path: &Path) -> Option<u16> {
    let number = number_in(path)?;
    let mut head = [0; MAGIC.len()];
    let is_whole = File::open(path).and_then(|mut file| file.read_exact(&mut head)).is_ok() && head == MAGIC;
    Some(number).filter(|_| !is_whole)
}

fn numbered(path: &Path, n: usize) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{n:03}"));
    name.into()
}

/// Files that are written, and get their names when all is there.
pub struct PartWriter {
    path: PathBuf,
    /// Most bytes of a part; `None` is one file without a number.
    part_bytes: Option<u64>,
    /// Each under its name to be.
    files: Vec<Partial>,
    current: Option<File>,
    /// The first file: its lock keeps other exports to the same name away until all is there.
    first: Option<File>,
    left: u64,
    finished: bool,
}

impl PartWriter {
    /// Writes to `path`, or to `path.001` and so on.
    ///
    /// # Errors
    /// Something of that name is there, or parts would be too small.
    pub fn new(path: &Path, part_bytes: Option<u64>) -> Result<Self, BundleError> {
        if part_bytes.is_some_and(|n| n < PART_BYTES_MIN) {
            let text = format!("parts of fewer than {PART_BYTES_MIN} bytes are not written");
            return Err(BundleError::Source(text));
        }
        // A reader takes all parts that lie side by side: one of another bundle must not be among them.
        let n_parts = if part_bytes.is_some() { PARTS_MAX } else { 0 };
        std::iter::once(path.to_owned())
            .chain((1..=n_parts).map(|n| numbered(path, n)))
            .try_for_each(|name| check_free(&name))?;
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        if let Some(folder) = folder.filter(|folder| !folder.is_dir()) {
            let text =
                format!("there is no folder {} to write the bundle to; make it first", folder.display());
            return Err(BundleError::Source(text));
        }
        Ok(Self {
            path: path.to_owned(),
            part_bytes,
            files: Vec::new(),
            current: None,
            first: None,
            left: 0,
            finished: false,
        })
    }

    /// Whether a bundle of so many bytes can be written: into as many parts as there are numbers for, and onto this disk.
    /// What an export that was killed has left under the same names is removed.
    ///
    /// # Errors
    /// There are too many parts, or too little room, or another export writes to the same names.
    pub fn prepare(&self, total_bytes: u64) -> Result<(), BundleError> {
        let n_parts = total_bytes.div_ceil(self.part_bytes.unwrap_or(u64::MAX));
        if n_parts > PARTS_MAX as u64 {
            let least = total_bytes.div_ceil(PARTS_MAX as u64);
            return Err(BundleError::Source(format!(
                "the bundle would be {n_parts} parts, and there are at most {PARTS_MAX}; make them {least} bytes or more"
            )));
        }
        let numbers = if self.part_bytes.is_some() { 1..=PARTS_MAX } else { 0..=0 };
        for n in numbers {
            let name = if n == 0 { self.path.clone() } else { numbered(&self.path, n) };
            remove_left(&name).map_err(|error| match error.kind() {
                io::ErrorKind::ResourceBusy => BundleError::Source(error.to_string()),
                _ => BundleError::io(format!("cannot write {}", name.display()))(error),
            })?;
        }
        let free = RealFiles.free_space(folder_of(&self.path));
        let free = free.map_err(BundleError::io(format!("cannot write {}", self.path.display())))?;
        if total_bytes > free {
            return Err(BundleError::Source(format!(
                "the bundle has {total_bytes} bytes, and {} has room for {free}; make room, or write it elsewhere",
                folder_of(&self.path).display()
            )));
        }
        Ok(())
    }

    /// Makes all of it durable, and gives the files their names: all of them, or none.
    ///
    /// # Errors
    /// A name was given to something else since it was free, or the system cannot.
    pub fn finish(mut self) -> Result<Vec<PathBuf>, BundleError> {
        let what = || format!("cannot write {}", self.path.display());
        if let Some(file) = &self.current {
            file.sync_all().map_err(BundleError::io(what()))?;
        }
        for (n, file) in self.files.iter().enumerate() {
            if let Err(error) = file.place() {
                self.files[..n].iter().for_each(Partial::displace);
                return Err(error);
            }
        }
        self.files.iter().for_each(Partial::remove);
        #[cfg(unix)]
        {
            let folder = File::open(folder_of(&self.path));
            folder.and_then(|folder| folder.sync_all()).map_err(BundleError::io(what()))?;
        }
        self.finished = true;
        Ok(self.files.iter().map(|file| file.name().to_owned()).collect())
    }

    fn write_some(&mut self, buf: &[u8]) -> io::Result<usize> {
        if self.left == 0 && !buf.is_empty() {
            self.next_file()?;
        }
        let n = usize::try_from(self.left).unwrap_or(usize::MAX).min(buf.len());
        let Some(file) = &mut self.current else { return Ok(0) };
        let n = file.write(&buf[..n])?;
        self.left -= n as u64;
        Ok(n)
    }

    fn next_file(&mut self) -> io::Result<()> {
        let name = match self.part_bytes {
            None => self.path.clone(),
            Some(_) if self.files.len() == PARTS_MAX => {
                let text = format!("over {PARTS_MAX} parts; make them larger");
                return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
            }
            Some(_) => numbered(&self.path, self.files.len() + 1),
        };
        if let Some(before) = self.current.take() {
            before.sync_all()?;
        }
        let (partial, file) = Partial::create(&name)?;
        self.files.push(partial);
        if self.first.is_none() {
            self.first = Some(file.try_clone()?);
        }
        self.current = Some(file);
        self.left = self.part_bytes.unwrap_or(u64::MAX);
        Ok(())
    }
}

impl Write for PartWriter {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let written = self.write_some(buf);
        // Whoever is told that a disk is full wants to know which.
        written.map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", self.path.display())))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for PartWriter {
    fn drop(&mut self) {
        if !self.finished {
            self.files.iter().for_each(Partial::remove);
        }
    }
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}
