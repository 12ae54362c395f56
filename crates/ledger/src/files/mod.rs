//! Files that tenants put here, the [batches](Batch) over them, and what those answer.
//!
//! One database has both: whenever the process dies, a batch and its output agree about what is done. A file's content
//! is rows in the order of their places. Of an upload they are its pieces; of a batch's output they are lines, each at
//! the number of the line that it answers, so that none can be there twice. A file is seen by its tenant once it is
//! whole; what a dead process left unfinished of an upload is dropped when the database is opened.
//!
//! One process has the database at a time, as a lock beside it says: two would work off each other's batches.

/// The condition under which a batch still needs its input and its output.
macro_rules! unfinished {
    () => {
        "status IN ('validating', 'in_progress', 'finalizing', 'cancelling')"
    };
}

mod batches;

use std::fmt;
use std::fs::{File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};

use sqlx::sqlite::SqliteRow;
use sqlx::{Row, SqliteTransaction};

use crate::LedgerError;
use crate::database::{Database, Schema};
pub use batches::{BATCHES_UNFINISHED_MAX, Batch, BatchStatus, NewBatch};

const SCHEMA: Schema = Schema {
    // "InFi".
    application_id: 0x496e_4669,
    migrations: &["
        CREATE TABLE files (
            -- The order in which they came.
            seq        INTEGER PRIMARY KEY AUTOINCREMENT,
            tenant     TEXT    NOT NULL,
            id         TEXT    NOT NULL,
            purpose    TEXT    NOT NULL,
            name       TEXT    NOT NULL,
            -- Seconds since the epoch, as all times are.
            created_at INTEGER NOT NULL,
            expires_at INTEGER,
            -- Of its pieces.
            bytes      INTEGER NOT NULL,
            -- 0 while it is being written.
            is_whole   INTEGER NOT NULL,
            UNIQUE (tenant, id)
        ) STRICT;
        CREATE INDEX files_by_tenant ON files (tenant, seq, bytes);
        CREATE INDEX files_by_time ON files (expires_at) WHERE expires_at IS NOT NULL;
        CREATE TABLE pieces (
            file  INTEGER NOT NULL,
            place INTEGER NOT NULL,
            bytes BLOB    NOT NULL,
            UNIQUE (file, place)
        ) STRICT;
        CREATE TABLE batches (
            seq            INTEGER PRIMARY KEY AUTOINCREMENT,
            tenant         TEXT    NOT NULL,
            id             TEXT    NOT NULL,
            -- Which of the tenant's keys asked for it.
            key            TEXT    NOT NULL,
            endpoint       TEXT    NOT NULL,
            time_window    TEXT    NOT NULL,
            expires_at     INTEGER NOT NULL,
            input          INTEGER NOT NULL,
            input_id       TEXT    NOT NULL,
            output         INTEGER,
            output_id      TEXT,
            error          INTEGER,
            error_id       TEXT,
            output_ttl     INTEGER,
            metadata       TEXT    NOT NULL,
            errors         TEXT    NOT NULL,
            status         TEXT    NOT NULL,
            total          INTEGER NOT NULL,
            completed      INTEGER NOT NULL,
            failed         INTEGER NOT NULL,
            created_at     INTEGER NOT NULL,
            in_progress_at INTEGER,
            finalizing_at  INTEGER,
            completed_at   INTEGER,
            failed_at      INTEGER,
            expired_at     INTEGER,
            cancelling_at  INTEGER,
            cancelled_at   INTEGER,
            UNIQUE (tenant, id)
        ) STRICT;
        CREATE INDEX batches_by_status ON batches (status, seq);
        PRAGMA application_id = 0x496e4669;
        PRAGMA user_version = 1;
    "],
};

/// How much is kept. What exceeds a bound is refused: files go when their tenant deletes them, or when they expire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileLimits {
    /// The largest file.
    pub file_bytes_max: u64,
    /// How many bytes a tenant's files may have together, outputs of batches included.
    pub bytes_max: u64,
    /// How many files a tenant may have.
    pub count_max: u32,
}

impl Default for FileLimits {
    fn default() -> Self {
        Self { file_bytes_max: 200 << 20, bytes_max: 4 << 30, count_max: 10_000 }
    }
}

/// What is known of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredFile {
    /// Its place in the database.
    seq: i64,
    /// Its id, unique within the tenant.
    pub id: String,
    /// What it is for.
    pub purpose: String,
    /// What its tenant calls it.
    pub name: String,
    /// When it was put here, in seconds since the epoch.
    pub created_at: u64,
    /// When it goes.
    pub expires_at: Option<u64>,
    /// The length of its content.
    pub bytes: u64,
}

/// Which of a tenant's files are wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FileQuery {
    /// Those for this.
    pub purpose: Option<String>,
    /// Those that come after this one.
    pub after: Option<String>,
    /// At most so many.
    pub limit: u32,
    /// In the order in which they came, or the other way round.
    pub newest_first: bool,
}

/// A part of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page<T> {
    /// What is on it.
    pub items: Vec<T>,
    /// Whether more follow.
    pub has_more: bool,
}

/// A file that is being written.
#[derive(Debug)]
pub struct Upload {
    seq: i64,
    tenant: String,
    n_pieces: i64,
    bytes: u64,
}

/// Where a reader of a file is.
#[derive(Clone, Copy, Debug)]
pub struct Reader {
    file: i64,
    /// The place of the last piece that was read.
    place: i64,
}

/// The database of files and batches. Tenants see their own only.
pub struct Files {
    database: Database,
    limits: FileLimits,
    /// Held as long as this is there.
    _lock: File,
}

impl fmt::Debug for Files {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.debug_struct("Files").field("path", &self.database.path()).field("limits", &self.limits).finish()
    }
}

impl Files {
    /// Opens the database, or makes it, with its folder.
    ///
    /// # Errors
    /// If it cannot be made or read, is damaged, is another program's or a later version's, or if another process has
    /// it open.
    pub async fn open(path: &Path, limits: FileLimits) -> Result<Self, LedgerError> {
        let database = Database::open(path, &SCHEMA).await?;
        let files = Self { _lock: lock(path)?, database, limits };
        let mut transaction = files.database.write().await?;
        let unfinished = "DELETE FROM files WHERE is_whole = 0 AND NOT EXISTS (
            SELECT 1 FROM batches WHERE batches.output = files.seq OR batches.error = files.seq)";
        let orphans = "DELETE FROM pieces WHERE file NOT IN (SELECT seq FROM files)";
        for statement in [unfinished, orphans] {
            let done = sqlx::query(statement).execute(&mut *transaction).await;
            done.map_err(|e| files.database.error(e))?;
        }
        transaction.commit().await.map_err(|e| files.database.error(e))?;
        Ok(files)
    }

    /// How much is kept.
    pub fn limits(&self) -> FileLimits {
        self.limits
    }

    /// Begins a file. It is nobody's to see before it is [finished](Self::finish_upload).
    ///
    /// # Errors
    /// If the tenant has too many, or the database cannot be written.
    pub async fn begin_upload(&self, tenant: &str, id: &str, now: u64) -> Result<Upload, LedgerError> {
        let mut transaction = self.database.write().await?;
        self.drop_expired(&mut transaction, now).await?;
        let count: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM files WHERE tenant = ?1")
            .bind(tenant)
            .fetch_one(&mut *transaction)
            .await
            .map_err(|e| self.database.error(e))?;
        if count >= i64::from(self.limits.count_max) {
            return Err(LedgerError::TooManyFiles { count_max: self.limits.count_max });
        }
        let seq = self.insert_file(&mut transaction, tenant, id, "", "", now).await?;
        transaction.commit().await.map_err(|e| self.database.error(e))?;
        Ok(Upload { seq, tenant: tenant.to_owned(), n_pieces: 0, bytes: 0 })
    }

    /// Adds to a file. When this returns, it is on the disk.
    ///
    /// # Errors
    /// If the file, or all of the tenant's together, would be too large, or the database cannot be written.
    pub async fn append(&self, upload: &mut Upload, piece: &[u8]) -> Result<(), LedgerError> {
        let bytes = upload.bytes + piece.len() as u64;
        if bytes > self.limits.file_bytes_max {
            return Err(LedgerError::FileTooLarge { bytes_max: self.limits.file_bytes_max });
        }
        let mut transaction = self.database.write().await?;
        self.check_room(&mut transaction, &upload.tenant, piece.len()).await?;
        self.insert_piece(&mut transaction, upload.seq, upload.n_pieces, piece).await?;
        transaction.commit().await.map_err(|e| self.database.error(e))?;
        (upload.n_pieces, upload.bytes) = (upload.n_pieces + 1, bytes);
        Ok(())
    }

    /// Ends a file: from now on its tenant sees it, for `ttl_s` seconds from its creation on.
    ///
    /// # Errors
    /// If the database cannot be written.
    pub async fn finish_upload(
        &self,
        upload: Upload,
        name: &str,
        purpose: &str,
        ttl_s: Option<u64>,
    ) -> Result<StoredFile, LedgerError> {
        let row = sqlx::query(
            "UPDATE files SET name = ?2, purpose = ?3, expires_at = created_at + ?4, is_whole = 1 WHERE seq = ?1
             RETURNING seq, id, purpose, name, created_at, expires_at, bytes",
        )
        .bind(upload.seq)
        .bind(name)
        .bind(purpose)
        .bind(ttl_s.map(integer))
        .fetch_one(self.database.pool())
        .await;
        row.and_then(|row| stored_file(&row)).map_err(|e| self.database.error(e))
    }

    /// Drops a file that is not finished.
    ///
    /// # Errors
    /// If the database cannot be written.
    pub async fn discard(&self, upload: Upload) -> Result<(), LedgerError> {
        let mut transaction = self.database.write().await?;
        self.drop_file(&mut transaction, upload.seq).await?;
        transaction.commit().await.map_err(|e| self.database.error(e))
    }

    /// A file, if the tenant has it.
    ///
    /// # Errors
    /// If the database cannot be read.
    pub async fn file(&self, tenant: &str, id: &str, now: u64) -> Result<Option<StoredFile>, LedgerError> {
        let row = sqlx::query(
            "SELECT seq, id, purpose, name, created_at, expires_at, bytes FROM files
             WHERE tenant = ?1 AND id = ?2 AND is_whole = 1 AND (expires_at IS NULL OR expires_at > ?3)",
        )
        .bind(tenant)
        .bind(id)
        .bind(integer(now))
        .fetch_optional(self.database.pool())
        .await;
        row.and_then(|row| row.as_ref().map(stored_file).transpose()).map_err(|e| self.database.error(e))
    }

    /// The tenant's files.
    ///
    /// # Errors
    /// If the one to come after is not there, or the database cannot be read.
    pub async fn files(
        &self,
        tenant: &str,
        query: &FileQuery,
        now: u64,
    ) -> Result<Page<StoredFile>, LedgerError> {
        let after = match &query.after {
            None => None,
            Some(id) => {
                let found = self.file(tenant, id, now).await?;
                Some(found.ok_or_else(|| LedgerError::NoSuchFile { id: id.clone() })?.seq)
            }
        };
        // Two statements rather than one with a sign in it, so that both walk along the index.
        let statement = if query.newest_first {
            "SELECT seq, id, purpose, name, created_at, expires_at, bytes FROM files
             WHERE tenant = ?1 AND is_whole = 1 AND (expires_at IS NULL OR expires_at > ?2)
               AND (?3 IS NULL OR purpose = ?3) AND (?4 IS NULL OR seq < ?4)
             ORDER BY seq DESC LIMIT ?5"
        } else {
            "SELECT seq, id, purpose, name, created_at, expires_at, bytes FROM files
             WHERE tenant = ?1 AND is_whole = 1 AND (expires_at IS NULL OR expires_at > ?2)
               AND (?3 IS NULL OR purpose = ?3) AND (?4 IS NULL OR seq > ?4)
             ORDER BY seq ASC LIMIT ?5"
        };
        let rows = sqlx::query(statement)
            .bind(tenant)
            .bind(integer(now))
            .bind(query.purpose.as_deref())
            .bind(after)
            .bind(i64::from(query.limit) + 1)
            .fetch_all(self.database.pool())
            .await;
        let items = rows.and_then(|rows| rows.iter().map(stored_file).collect::<sqlx::Result<Vec<_>>>());
        Ok(page(items.map_err(|e| self.database.error(e))?, query.limit))
    }

    /// Deletes a file; says whether the tenant had it.
    ///
    /// # Errors
    /// If a batch still needs it, or the database cannot be written.
    pub async fn delete_file(&self, tenant: &str, id: &str, now: u64) -> Result<bool, LedgerError> {
        let Some(file) = self.file(tenant, id, now).await? else { return Ok(false) };
        let mut transaction = self.database.write().await?;
        let user: Option<String> = sqlx::query_scalar(concat!(
            "SELECT id FROM batches WHERE input = ?1 AND ",
            unfinished!(),
            " LIMIT 1",
        ))
        .bind(file.seq)
        .fetch_optional(&mut *transaction)
        .await
        .map_err(|e| self.database.error(e))?;
        if let Some(batch) = user {
            return Err(LedgerError::FileInUse { id: id.to_owned(), batch });
        }
        self.drop_file(&mut transaction, file.seq).await?;
        transaction.commit().await.map_err(|e| self.database.error(e))?;
        Ok(true)
    }

    /// Reads a file from its beginning.
    pub fn read(&self, file: &StoredFile) -> Reader {
        Reader { file: file.seq, place: -1 }
    }

    /// The next piece of a file; `None` at its end, and of a file that is deleted meanwhile.
    ///
    /// # Errors
    /// If the database cannot be read.
    pub async fn next_piece(&self, reader: &mut Reader) -> Result<Option<Vec<u8>>, LedgerError> {
        let row = sqlx::query(
            "SELECT place, bytes FROM pieces WHERE file = ?1 AND place > ?2 ORDER BY place LIMIT 1",
        )
        .bind(reader.file)
        .bind(reader.place)
        .fetch_optional(self.database.pool())
        .await
        .map_err(|e| self.database.error(e))?;
        let Some(row) = row else { return Ok(None) };
        let read = || -> sqlx::Result<(i64, Vec<u8>)> { Ok((row.try_get(0)?, row.try_get(1)?)) };
        let (place, bytes) = read().map_err(|e| self.database.error(e))?;
        reader.place = place;
        Ok(Some(bytes))
    }

    /// Writes everything into the one file and lets go of it. Not needed for safety.
    pub async fn close(&self) {
        self.database.pool().close().await;
    }

    // ---- within a transaction ----

    async fn insert_file(
        &self,
        transaction: &mut SqliteTransaction<'static>,
        tenant: &str,
        id: &str,
        name: &str,
        purpose: &str,
        now: u64,
    ) -> Result<i64, LedgerError> {
        let done = sqlx::query(
            "INSERT INTO files (tenant, id, purpose, name, created_at, bytes, is_whole)
             VALUES (?1, ?2, ?3, ?4, ?5, 0, 0)",
        )
        .bind(tenant)
        .bind(id)
        .bind(purpose)
        .bind(name)
        .bind(integer(now))
        .execute(&mut **transaction)
        .await;
        Ok(done.map_err(|e| self.database.error(e))?.last_insert_rowid())
    }

    async fn insert_piece(
        &self,
        transaction: &mut SqliteTransaction<'static>,
        file: i64,
        place: i64,
        piece: &[u8],
    ) -> Result<(), LedgerError> {
        let bytes = integer(piece.len() as u64);
        let statements = [
            sqlx::query("INSERT INTO pieces (file, place, bytes) VALUES (?1, ?2, ?3)")
                .bind(file)
                .bind(place)
                .bind(piece),
            sqlx::query("UPDATE files SET bytes = bytes + ?2 WHERE seq = ?1").bind(file).bind(bytes),
        ];
        for statement in statements {
            statement.execute(&mut **transaction).await.map_err(|e| self.database.error(e))?;
        }
        Ok(())
    }

    async fn drop_file(
        &self,
        transaction: &mut SqliteTransaction<'static>,
        file: i64,
    ) -> Result<(), LedgerError> {
        for statement in ["DELETE FROM pieces WHERE file = ?1", "DELETE FROM files WHERE seq = ?1"] {
            let done = sqlx::query(statement).bind(file).execute(&mut **transaction).await;
            done.map_err(|e| self.database.error(e))?;
        }
        Ok(())
    }

    /// Drops files whose time is over, but for those that a batch still reads.
    async fn drop_expired(
        &self,
        transaction: &mut SqliteTransaction<'static>,
        now: u64,
    ) -> Result<(), LedgerError> {
        let expired: Vec<i64> = sqlx::query_scalar(concat!(
            "SELECT seq FROM files WHERE expires_at <= ?1 AND is_whole = 1 AND seq NOT IN (
                 SELECT input FROM batches WHERE ",
            unfinished!(),
            ")",
        ))
        .bind(integer(now))
        .fetch_all(&mut **transaction)
        .await
        .map_err(|e| self.database.error(e))?;
        for file in expired {
            self.drop_file(transaction, file).await?;
        }
        Ok(())
    }

    /// Refuses what would make a tenant's files too large together.
    async fn check_room(
        &self,
        transaction: &mut SqliteTransaction<'static>,
        tenant: &str,
        n_bytes: usize,
    ) -> Result<(), LedgerError> {
        let held: i64 = sqlx::query_scalar("SELECT COALESCE(SUM(bytes), 0) FROM files WHERE tenant = ?1")
            .bind(tenant)
            .fetch_one(&mut **transaction)
            .await
            .map_err(|e| self.database.error(e))?;
        let bytes_max = self.limits.bytes_max;
        if held.unsigned_abs().saturating_add(n_bytes as u64) > bytes_max {
            return Err(LedgerError::Full { bytes_max });
        }
        Ok(())
    }
}

/// Takes the lock of a database, which the system lets go of when the process ends, however it does.
fn lock(path: &Path) -> Result<File, LedgerError> {
    let mut place = path.as_os_str().to_owned();
    place.push(".lock");
    let place = PathBuf::from(place);
    let opened = OpenOptions::new().create(true).append(true).open(&place);
    let access = |e: std::io::Error| LedgerError::Access { path: place.clone(), problem: e.to_string() };
    let file = opened.map_err(access)?;
    match file.try_lock() {
        Err(TryLockError::WouldBlock) => Err(LedgerError::Taken { path: path.to_owned() }),
        // Some network file systems have no locks.
        Ok(()) | Err(TryLockError::Error(_)) => Ok(file),
    }
}

fn stored_file(row: &SqliteRow) -> sqlx::Result<StoredFile> {
    Ok(StoredFile {
        seq: row.try_get(0)?,
        id: row.try_get(1)?,
        purpose: row.try_get(2)?,
        name: row.try_get(3)?,
        created_at: row.try_get::<i64, _>(4)?.unsigned_abs(),
        expires_at: row.try_get::<Option<i64>, _>(5)?.map(i64::unsigned_abs),
        bytes: row.try_get::<i64, _>(6)?.unsigned_abs(),
    })
}

/// A page of what was read with one more than its limit.
fn page<T>(mut items: Vec<T>, limit: u32) -> Page<T> {
    let has_more = items.len() > limit as usize;
    items.truncate(limit as usize);
    Page { items, has_more }
}

/// SQLite's integers are signed; times and sizes never come near the difference.
fn integer(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
