//! One SQLite file: opening it, recognizing it, bringing its schema up to date.

use std::fs::{DirBuilder, OpenOptions};
use std::path::{Path, PathBuf};
use std::time::Duration;

use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{SqlitePool, SqliteTransaction};

use crate::LedgerError;

/// Connections to one file: readers do not wait for each other, writers always do.
const CONNECTIONS_MAX: u32 = 4;
/// How long a writer waits for another one, of this process or of another.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a caller waits for a connection.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(10);

/// What a concern's file looks like.
pub(crate) struct Schema {
    /// Marks files of this concern (`PRAGMA application_id`).
    pub application_id: i64,
    /// The way from an empty file to the present schema. Step `i` leads from version `i` to `i + 1`, and says so
    /// itself (`PRAGMA user_version`); the first one also sets the application's id. Steps are never changed.
    pub migrations: &'static [&'static str],
}

/// An open file.
pub(crate) struct Database {
    pool: SqlitePool,
    path: PathBuf,
}

impl Database {
    /// Opens a file, makes it (and its folder) if there is none, and brings its schema up to date.
    pub async fn open(path: &Path, schema: &Schema) -> Result<Self, LedgerError> {
        make_private(path)
            .map_err(|e| LedgerError::Access { path: path.to_owned(), problem: e.to_string() })?;
        let options = SqliteConnectOptions::new()
            .filename(path)
            .journal_mode(SqliteJournalMode::Wal)
            // A commit waits for the disk, so that power may fail at any time.
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(BUSY_TIMEOUT)
            // What was deleted is overwritten: people delete conversations so that they are gone.
            .pragma("secure_delete", "ON");
        let pool = SqlitePoolOptions::new()
            .max_connections(CONNECTIONS_MAX)
            .acquire_timeout(ACQUIRE_TIMEOUT)
            .connect_with(options)
            .await
            .map_err(|e| LedgerError::from_sqlx(path, e))?;
        let database = Self { pool, path: path.to_owned() };
        database.migrate(schema).await?;
        Ok(database)
    }

    /// The connections.
    pub fn pool(&self) -> &SqlitePool {
        &self.pool
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A transaction that writes. It takes the writer's place at once, so that it cannot fail for it later.
    pub async fn write(&self) -> Result<SqliteTransaction<'static>, LedgerError> {
        self.pool.begin_with("BEGIN IMMEDIATE").await.map_err(|e| self.error(e))
    }

    /// What an error means here.
    pub fn error(&self, error: sqlx::Error) -> LedgerError {
        LedgerError::from_sqlx(&self.path, error)
    }

    /// All steps that the file lacks, in one transaction: it is never left half way.
    async fn migrate(&self, schema: &Schema) -> Result<(), LedgerError> {
        let mut transaction = self.write().await?;
        let found: i64 = sqlx::query_scalar("PRAGMA user_version")
            .fetch_one(&mut *transaction)
            .await
            .map_err(|e| self.error(e))?;
        let application: i64 = sqlx::query_scalar("PRAGMA application_id")
            .fetch_one(&mut *transaction)
            .await
            .map_err(|e| self.error(e))?;
        let objects: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM sqlite_schema")
            .fetch_one(&mut *transaction)
            .await
            .map_err(|e| self.error(e))?;
        let is_empty = objects == 0 && found == 0;
        if application != schema.application_id && !is_empty {
            let problem = format!("it is a database of another kind, {application:#x}");
            return Err(LedgerError::Corrupt { path: self.path.clone(), problem });
        }
        let known = schema.migrations.len();
        let done = usize::try_from(found).ok().filter(|done| *done <= known);
        let Some(done) = done else {
            return Err(LedgerError::Newer { path: self.path.clone(), found, known: known as i64 });
        };
        for migration in &schema.migrations[done..] {
            sqlx::raw_sql(*migration).execute(&mut *transaction).await.map_err(|e| self.error(e))?;
        }
        transaction.commit().await.map_err(|e| self.error(e))
    }
}

/// Makes the folder and an empty file, for their owner only: SQLite gives its own files beside it the same mode.
fn make_private(path: &Path) -> std::io::Result<()> {
    let mut folder = DirBuilder::new();
    folder.recursive(true);
    let mut file = OpenOptions::new();
    file.create(true).append(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
        folder.mode(0o700);
        file.mode(0o600);
    }
    if let Some(parent) = path.parent().filter(|p| !p.as_os_str().is_empty()) {
        folder.create(parent)?;
    }
    file.open(path).map(drop)
}
