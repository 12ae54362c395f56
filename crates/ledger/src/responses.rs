//! Stored responses: answers that their tenant can read again, delete, and continue.
//!
//! A response may continue an earlier one. It stores only what was new in it; the conversation is the chain of
//! responses, which is followed when it is continued again. A response that is gone breaks the chains through it, and
//! that is an error: a conversation is never silently cut.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use crate::LedgerError;
use crate::database::{Database, Schema};

const SCHEMA: Schema = Schema {
    // "InRs".
    application_id: 0x496e_5273,
    migrations: &[
        "
        CREATE TABLE responses (
            -- The order in which they came.
            seq         INTEGER PRIMARY KEY AUTOINCREMENT,
            tenant      TEXT    NOT NULL,
            id          TEXT    NOT NULL,
            previous_id TEXT,
            -- Seconds since the epoch.
            created_at  INTEGER NOT NULL,
            -- Of `input` and `body`.
            bytes       INTEGER NOT NULL,
            input       TEXT    NOT NULL,
            body        TEXT    NOT NULL,
            UNIQUE (tenant, id)
        ) STRICT;
        CREATE INDEX responses_by_tenant ON responses (tenant, seq, bytes);
        CREATE INDEX responses_by_time ON responses (created_at);
        PRAGMA application_id = 0x496e5273;
        PRAGMA user_version = 1;
    ",
        "
        -- 1 while it is being made.
        ALTER TABLE responses ADD COLUMN is_pending INTEGER NOT NULL DEFAULT 0;
        CREATE INDEX responses_pending ON responses (seq) WHERE is_pending = 1;
        PRAGMA user_version = 2;
    ",
    ],
};

/// How much is kept. What exceeds a bound goes, oldest first, when something new is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// How long a response is there. Older ones are not found, and are deleted at the next write.
    pub age_max: Duration,
    /// How many a tenant may have.
    pub count_max: u32,
    /// How many bytes a tenant's may have together.
    pub bytes_max: u64,
}

impl Default for Retention {
    fn default() -> Self {
        Self { age_max: Duration::from_secs(30 * 24 * 60 * 60), count_max: 10_000, bytes_max: 1 << 30 }
    }
}

/// A response, as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredResponse {
    /// Its id, unique within the tenant.
    pub id: String,
    /// The response that it continues.
    pub previous_id: Option<String>,
    /// When it was made, in seconds since the epoch.
    pub created_at: u64,
    /// What was new in its input.
    pub input: String,
    /// The response itself.
    pub body: String,
}

/// The responses that lead to one, without what they say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// The last one.
    id: String,
    /// Their places, the last one first.
    seqs: Vec<i64>,
    /// What they say has this many bytes.
    pub bytes: u64,
}

/// What one response of a chain says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Turn {
    /// What was new in its input.
    pub input: String,
    /// The response itself.
    pub body: String,
}

/// The file of stored responses. Tenants see their own only.
pub struct Responses {
    database: Database,
    retention: Retention,
}

impl fmt::Debug for Responses {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.debug_struct("Responses")
            .field("path", &self.database.path())
            .field("retention", &self.retention)
            .finish()
    }
}

impl Responses {
    /// The most responses that one conversation may be a chain of.
    pub const TURNS_MAX: u32 = 4096;

    /// Opens the file, or makes it, with its folder.
    ///
    /// # Errors
    /// If the file cannot be made or read, is damaged, or is another program's or a later version's.
    pub async fn open(path: &Path, retention: Retention) -> Result<Self, LedgerError> {
        Ok(Self { database: Database::open(path, &SCHEMA).await?, retention })
    }

    /// Stores a response and drops what exceeds the bounds. When this returns, it is on the disk.
    ///
    /// # Errors
    /// If it is too large, or the file cannot be written.
    pub async fn store(&self, tenant: &str, response: &StoredResponse, now: u64) -> Result<(), LedgerError> {
        self.insert(tenant, response, false, now).await
    }

    /// The same with a response that is still being made.
    ///
    /// # Errors
    /// As [`store`](Self::store).
    pub async fn begin(&self, tenant: &str, response: &StoredResponse, now: u64) -> Result<(), LedgerError> {
        self.insert(tenant, response, true, now).await
    }

    /// Replaces a response that is still being made; says whether it is there. `is_pending`: it still is.
    ///
    /// # Errors
    /// If it is too large, or the file cannot be written.
    pub async fn replace(
        &self,
        tenant: &str,
        id: &str,
        body: &str,
        is_pending: bool,
    ) -> Result<bool, LedgerError> {
        let (bytes, bytes_max) = (body.len() as u64, self.retention.bytes_max);
        if bytes > bytes_max {
            return Err(LedgerError::TooLarge { bytes, bytes_max });
        }
        let done = sqlx::query(
            "UPDATE responses SET body = ?3, bytes = octet_length(input) + ?4, is_pending = ?5
             WHERE tenant = ?1 AND id = ?2 AND is_pending = 1",
        )
        .bind(tenant)
        .bind(id)
        .bind(body)
        .bind(integer(bytes))
        .bind(is_pending)
        .execute(self.database.pool())
        .await
        .map_err(|e| self.database.error(e))?;
        Ok(done.rows_affected() > 0)
    }

    /// All responses that are still being made, with their tenants: at the start of the process, those whose maker is
    /// gone.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub async fn pending(&self) -> Result<Vec<(String, StoredResponse)>, LedgerError> {
        let rows = sqlx::query(
            "SELECT id, previous_id, created_at, input, body, tenant FROM responses WHERE is_pending = 1",
        )
        .fetch_all(self.database.pool())
        .await;
        let read = |row: &SqliteRow| Ok((row.try_get(5)?, stored(row)?));
        rows.and_then(|rows| rows.iter().map(read).collect()).map_err(|e| self.database.error(e))
    }

    async fn insert(
        &self,
        tenant: &str,
        response: &StoredResponse,
        is_pending: bool,
        now: u64,
    ) -> Result<(), LedgerError> {
        let error = |e| self.database.error(e);
        let Retention { count_max, bytes_max, .. } = self.retention;
        let bytes = (response.input.len() + response.body.len()) as u64;
        if bytes > bytes_max {
            return Err(LedgerError::TooLarge { bytes, bytes_max });
        }
        let mut transaction = self.database.write().await?;
        sqlx::query(
            "INSERT INTO responses (tenant, id, previous_id, created_at, bytes, input, body, is_pending)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        )
        .bind(tenant)
        .bind(&response.id)
        .bind(response.previous_id.as_deref())
        .bind(integer(response.created_at))
        .bind(integer(bytes))
        .bind(&response.input)
        .bind(&response.body)
        .bind(is_pending)
        .execute(&mut *transaction)
        .await
        .map_err(error)?;
        sqlx::query("DELETE FROM responses WHERE created_at < ?1")
            .bind(self.oldest(now))
            .execute(&mut *transaction)
            .await
            .map_err(error)?;
        let held = sqlx::query("SELECT COUNT(*), COALESCE(SUM(bytes), 0) FROM responses WHERE tenant = ?1")
            .bind(tenant)
            .fetch_one(&mut *transaction)
            .await
            .map_err(error)?;
        let (count, total): (i64, i64) = (held.try_get(0).map_err(error)?, held.try_get(1).map_err(error)?);
        if count > i64::from(count_max) || total > integer(bytes_max) {
            // Counted from the newest; all that is not newer than the first one too many goes.
            sqlx::query(
                "DELETE FROM responses WHERE tenant = ?1 AND seq <= (
                     SELECT MAX(seq) FROM (
                         SELECT seq, ROW_NUMBER() OVER newest AS place, SUM(bytes) OVER newest AS total
                         FROM responses WHERE tenant = ?1 WINDOW newest AS (ORDER BY seq DESC)
                     ) WHERE place > ?2 OR total > ?3
                 )",
            )
            .bind(tenant)
            .bind(i64::from(count_max))
            .bind(integer(bytes_max))
            .execute(&mut *transaction)
            .await
            .map_err(error)?;
        }
        transaction.commit().await.map_err(error)
    }

    /// A response, if the tenant has it.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub async fn get(&self, tenant: &str, id: &str, now: u64) -> Result<Option<StoredResponse>, LedgerError> {
        let row = sqlx::query(
            "SELECT id, previous_id, created_at, input, body FROM responses
             WHERE tenant = ?1 AND id = ?2 AND created_at >= ?3",
        )
        .bind(tenant)
        .bind(id)
        .bind(self.oldest(now))
        .fetch_optional(self.database.pool())
        .await
        .map_err(|e| self.database.error(e))?;
        row.as_ref().map(stored).transpose().map_err(|e| self.database.error(e))
    }

    /// What was new in a response's input, if the tenant has it.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub async fn input(&self, tenant: &str, id: &str, now: u64) -> Result<Option<String>, LedgerError> {
        sqlx::query_scalar("SELECT input FROM responses WHERE tenant = ?1 AND id = ?2 AND created_at >= ?3")
            .bind(tenant)
            .bind(id)
            .bind(self.oldest(now))
            .fetch_optional(self.database.pool())
            .await
            .map_err(|e| self.database.error(e))
    }

    /// Deletes a response; says whether the tenant had it.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub async fn delete(&self, tenant: &str, id: &str, now: u64) -> Result<bool, LedgerError> {
        let done = sqlx::query("DELETE FROM responses WHERE tenant = ?1 AND id = ?2 AND created_at >= ?3")
            .bind(tenant)
            .bind(id)
            .bind(self.oldest(now))
            .execute(self.database.pool())
            .await
            .map_err(|e| self.database.error(e))?;
        Ok(done.rows_affected() > 0)
    }

    /// Follows a response back to the beginning of its conversation.
    ///
    /// # Errors
    /// If the tenant has no such response, if one on the way is gone, or if there are too many.
    pub async fn chain(&self, tenant: &str, id: &str, now: u64) -> Result<Chain, LedgerError> {
        let rows = sqlx::query(
            "WITH RECURSIVE chain (depth, seq, previous_id, bytes) AS (
                 SELECT 0, seq, previous_id, bytes FROM responses
                 WHERE tenant = ?1 AND id = ?2 AND created_at >= ?3
                 UNION ALL
                 SELECT depth + 1, r.seq, r.previous_id, r.bytes
                 FROM chain JOIN responses AS r ON r.tenant = ?1 AND r.id = chain.previous_id
                 WHERE r.created_at >= ?3 AND depth < ?4
             )
             SELECT seq, previous_id, bytes FROM chain ORDER BY depth",
        )
        .bind(tenant)
        .bind(id)
        .bind(self.oldest(now))
        .bind(i64::from(Self::TURNS_MAX))
        .fetch_all(self.database.pool())
        .await
        .map_err(|e| self.database.error(e))?;
        let mut chain = Chain { id: id.to_owned(), seqs: Vec::with_capacity(rows.len()), bytes: 0 };
        let mut missing = None;
        for row in rows {
            let read = || -> sqlx::Result<(i64, Option<String>, i64)> {
                Ok((row.try_get(0)?, row.try_get(1)?, row.try_get(2)?))
            };
            let (seq, previous_id, bytes) = read().map_err(|e| self.database.error(e))?;
            chain.seqs.push(seq);
            chain.bytes += bytes.unsigned_abs();
            missing = previous_id;
        }
        if chain.seqs.is_empty() {
            return Err(LedgerError::NoSuchResponse { id: chain.id });
        }
        if chain.seqs.len() > Self::TURNS_MAX as usize {
            return Err(LedgerError::ChainTooLong { id: chain.id, turns_max: Self::TURNS_MAX });
        }
        match missing {
            Some(missing) => Err(LedgerError::BrokenChain { id: chain.id, missing }),
            None => Ok(chain),
        }
    }

    /// What a chain says, from the beginning. Its `bytes` will be in memory.
    ///
    /// # Errors
    /// If a response of it is gone by now, or the file cannot be read.
    pub async fn turns(&self, chain: &Chain) -> Result<Vec<Turn>, LedgerError> {
        let mut turns = Vec::with_capacity(chain.seqs.len());
        for seq in chain.seqs.iter().rev() {
            let row = sqlx::query("SELECT input, body FROM responses WHERE seq = ?1")
                .bind(seq)
                .fetch_optional(self.database.pool())
                .await
                .map_err(|e| self.database.error(e))?;
            let gone = || LedgerError::NoSuchResponse { id: chain.id.clone() };
            let row = row.ok_or_else(gone)?;
            let read =
                || -> sqlx::Result<Turn> { Ok(Turn { input: row.try_get(0)?, body: row.try_get(1)? }) };
            turns.push(read().map_err(|e| self.database.error(e))?);
        }
        Ok(turns)
    }

    /// Writes everything into the one file and lets go of it. Not needed for safety: without it, the next one who opens
    /// the file does the same.
    pub async fn close(&self) {
        self.database.pool().close().await;
    }

    /// The time before which responses are too old.
    fn oldest(&self, now: u64) -> i64 {
        integer(now.saturating_sub(self.retention.age_max.as_secs()))
    }
}

fn stored(row: &SqliteRow) -> sqlx::Result<StoredResponse> {
    Ok(StoredResponse {
        id: row.try_get(0)?,
        previous_id: row.try_get(1)?,
        created_at: row.try_get::<i64, _>(2)?.unsigned_abs(),
        input: row.try_get(3)?,
        body: row.try_get(4)?,
    })
}

/// SQLite's integers are signed; times and sizes never come near the difference.
fn integer(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
