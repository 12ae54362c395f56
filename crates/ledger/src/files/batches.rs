//! Batches: which lines of a file are to be answered, and how far that is.

use sqlx::sqlite::SqliteRow;
use sqlx::{AssertSqlSafe, Row, SqliteTransaction};

use super::{Files, Page, Reader, integer, page};
use crate::LedgerError;

/// The most batches of one tenant that are not ended.
pub const BATCHES_UNFINISHED_MAX: u32 = 100;
/// The most batches of one tenant that are remembered; the oldest that are ended go first.
const BATCHES_MAX: i64 = 10_000;

/// What has become of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BatchStatus {
    /// Its input is being checked.
    Validating,
    /// Its lines are being answered.
    InProgress,
    /// All lines are answered; its files are being made ready.
    Finalizing,
    /// The end.
    Completed,
    /// The input was refused, or the answers could not be kept.
    Failed,
    /// Time was over before all lines were answered.
    Expired,
    /// Its tenant wants no more of it.
    Cancelling,
    /// The end of that.
    Cancelled,
}

use BatchStatus::{Cancelled, Cancelling, Completed, Expired, Failed, Finalizing, InProgress, Validating};

impl BatchStatus {
    const ALL: [Self; 8] =
        [Validating, InProgress, Finalizing, Completed, Failed, Expired, Cancelling, Cancelled];

    /// Its name, here and in OpenAI's API.
    pub fn name(self) -> &'static str {
        match self {
            Validating => "validating",
            InProgress => "in_progress",
            Finalizing => "finalizing",
            Completed => "completed",
            Failed => "failed",
            Expired => "expired",
            Cancelling => "cancelling",
            Cancelled => "cancelled",
        }
    }

    fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.name() == name)
    }

    /// Whether nothing more will happen.
    pub fn is_final(self) -> bool {
        matches!(self, Completed | Failed | Expired | Cancelled)
    }
}

/// A batch that is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewBatch {
    /// Its id, unique within the tenant.
    pub id: String,
    /// Which of the tenant's keys asks.
    pub key: String,
    /// The file with its lines.
    pub input_id: String,
    /// The route that answers them.
    pub endpoint: String,
    /// How long it may take, as its tenant put it.
    pub window: String,
    /// When that is over, in seconds since the epoch.
    pub expires_at: u64,
    /// How long its output is kept, in seconds; `None` is until it is deleted.
    pub output_ttl: Option<u64>,
    /// What its tenant says about it, in the words of whoever stores it.
    pub metadata: String,
}

/// A batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    seq: i64,
    input: i64,
    /// Whose it is.
    pub tenant: String,
    /// What was asked for.
    pub wanted: NewBatch,
    /// The file with the answers.
    pub output_id: Option<String>,
    /// The file with those that are errors.
    pub error_id: Option<String>,
    /// Why it failed, in the words of whoever stores it; empty if it did not.
    pub errors: String,
    /// What has become of it.
    pub status: BatchStatus,
    /// How many lines there are; 0 before they are checked.
    pub total: u64,
    /// How many are answered.
    pub completed: u64,
    /// How many are answered with an error.
    pub failed: u64,
    /// When it came to each status, in the order of [`BatchStatus`].
    times: [Option<u64>; 8],
}

impl Batch {
    /// When it came to a status, in seconds since the epoch.
    pub fn time(&self, status: BatchStatus) -> Option<u64> {
        self.times[status as usize]
    }

    /// A name of it within the process.
    pub fn seq(&self) -> i64 {
        self.seq
    }
}

const COLUMNS: &str = "seq, tenant, id, key, endpoint, time_window, expires_at, input, input_id, output_id, error_id,
    output_ttl, metadata, errors, status, total, completed, failed,
    created_at, in_progress_at, finalizing_at, completed_at, failed_at, expired_at, cancelling_at, cancelled_at";

impl Files {
    /// Takes a batch on.
    ///
    /// # Errors
    /// If the tenant has no such input, or too many batches already, or the database cannot be written.
    pub async fn create_batch(&self, tenant: &str, batch: &NewBatch, now: u64) -> Result<Batch, LedgerError> {
        let no_such = || LedgerError::NoSuchFile { id: batch.input_id.clone() };
        let input = self.file(tenant, &batch.input_id, now).await?.ok_or_else(no_such)?;
        let mut transaction = self.database.write().await?;
        let error = |e| self.database.error(e);
        // It may have been deleted before the transaction began.
        let is_there: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM files WHERE seq = ?1")
            .bind(input.seq)
            .fetch_one(&mut *transaction)
            .await
            .map_err(error)?;
        if is_there == 0 {
            return Err(no_such());
        }
        let unfinished: i64 = sqlx::query_scalar(concat!(
            "SELECT COUNT(*) FROM batches WHERE tenant = ?1 AND ",
            unfinished!(),
        ))
        .bind(tenant)
        .fetch_one(&mut *transaction)
        .await
        .map_err(error)?;
        if unfinished >= i64::from(BATCHES_UNFINISHED_MAX) {
            return Err(LedgerError::TooManyBatches { count_max: BATCHES_UNFINISHED_MAX });
        }
        sqlx::query(concat!(
            "DELETE FROM batches WHERE tenant = ?1 AND NOT ",
            unfinished!(),
            " AND seq <= (SELECT seq FROM batches WHERE tenant = ?1 ORDER BY seq DESC LIMIT 1 OFFSET ?2)",
        ))
        .bind(tenant)
        .bind(BATCHES_MAX - 1)
        .execute(&mut *transaction)
        .await
        .map_err(error)?;
        let inserted = sqlx::query(
            "INSERT INTO batches (tenant, id, key, endpoint, time_window, expires_at, input, input_id, output_ttl, metadata,
                                  errors, status, total, completed, failed, created_at)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, '', 'validating', 0, 0, 0, ?11)",
        )
        .bind(tenant)
        .bind(&batch.id)
        .bind(&batch.key)
        .bind(&batch.endpoint)
        .bind(&batch.window)
        .bind(integer(batch.expires_at))
        .bind(input.seq)
        .bind(&batch.input_id)
        .bind(batch.output_ttl.map(integer))
        .bind(&batch.metadata)
        .bind(integer(now))
        .execute(&mut *transaction)
        .await
        .map_err(error)?;
        let created = self.batch_in(&mut transaction, inserted.last_insert_rowid()).await?;
        transaction.commit().await.map_err(error)?;
        Ok(created)
    }

    /// A batch, if the tenant has it.
    ///
    /// # Errors
    /// If the database cannot be read.
    pub async fn batch(&self, tenant: &str, id: &str) -> Result<Option<Batch>, LedgerError> {
        let row = sqlx::query(AssertSqlSafe(format!(
            "SELECT {COLUMNS} FROM batches WHERE tenant = ?1 AND id = ?2"
        )))
        .bind(tenant)
        .bind(id)
        .fetch_optional(self.database.pool())
        .await;
        row.and_then(|row| row.as_ref().map(batch).transpose()).map_err(|e| self.database.error(e))
    }

    /// The tenant's batches, the newest first.
    ///
    /// # Errors
    /// If the one to come after is not there, or the database cannot be read.
    pub async fn batches(
        &self,
        tenant: &str,
        after: Option<&str>,
        limit: u32,
    ) -> Result<Page<Batch>, LedgerError> {
        let after = match after {
            None => i64::MAX,
            Some(id) => {
                let found = self.batch(tenant, id).await?;
                found.ok_or_else(|| LedgerError::NoSuchBatch { id: id.to_owned() })?.seq
            }
        };
        let rows = sqlx::query(AssertSqlSafe(format!(
            "SELECT {COLUMNS} FROM batches WHERE tenant = ?1 AND seq < ?2 ORDER BY seq DESC LIMIT ?3"
        )))
        .bind(tenant)
        .bind(after)
        .bind(i64::from(limit) + 1)
        .fetch_all(self.database.pool())
        .await;
        let items = rows.and_then(|rows| rows.iter().map(batch).collect::<sqlx::Result<Vec<_>>>());
        Ok(page(items.map_err(|e| self.database.error(e))?, limit))
    }

    /// Asks for the end of a batch. Whoever works it off has to look.
    ///
    /// # Errors
    /// If the tenant has no such batch, if it is ended or as good as, or if the database cannot be written.
    pub async fn cancel_batch(&self, tenant: &str, id: &str, now: u64) -> Result<Batch, LedgerError> {
        let no_such = || LedgerError::NoSuchBatch { id: id.to_owned() };
        let found = self.batch(tenant, id).await?.ok_or_else(no_such)?;
        let mut transaction = self.database.write().await?;
        let found = self.batch_in(&mut transaction, found.seq).await?;
        match found.status {
            Cancelling => return Ok(found),
            Validating | InProgress => {}
            status => {
                return Err(LedgerError::NotCancellable { id: id.to_owned(), status: status.name() });
            }
        }
        self.set_status(&mut transaction, found.seq, Cancelling, now).await?;
        let cancelled = self.batch_in(&mut transaction, found.seq).await?;
        transaction.commit().await.map_err(|e| self.database.error(e))?;
        Ok(cancelled)
    }

    // ---- for whoever works them off ----

    /// The batches of all tenants that are not ended, by [`Batch::seq`]: those to be cancelled first, then in the order
    /// in which they came.
    ///
    /// # Errors
    /// If the database cannot be read.
    pub async fn unfinished_batches(&self) -> Result<Vec<(i64, BatchStatus)>, LedgerError> {
        let rows = sqlx::query(concat!(
            "SELECT seq, status FROM batches WHERE ",
            unfinished!(),
            " ORDER BY status <> 'cancelling', seq",
        ))
        .fetch_all(self.database.pool())
        .await;
        let read = |row: &SqliteRow| Ok((row.try_get(0)?, status(row, 1)?));
        rows.and_then(|rows| rows.iter().map(read).collect()).map_err(|e| self.database.error(e))
    }

    /// A batch of anybody's, by [`Batch::seq`].
    ///
    /// # Errors
    /// If it is not there, or the database cannot be read.
    pub async fn batch_by_seq(&self, seq: i64) -> Result<Batch, LedgerError> {
        let row = sqlx::query(AssertSqlSafe(format!("SELECT {COLUMNS} FROM batches WHERE seq = ?1")))
            .bind(seq)
            .fetch_one(self.database.pool())
            .await;
        row.and_then(|row| batch(&row)).map_err(|e| self.database.error(e))
    }

    /// Reads a batch's input from its beginning.
    pub fn read_input(&self, batch: &Batch) -> Reader {
        Reader { file: batch.input, place: -1 }
    }

    /// Says that a batch's input is good and has `total` lines: its output begins, in files of these ids. False if the
    /// batch is no longer being checked.
    ///
    /// # Errors
    /// If the database cannot be written.
    pub async fn begin_batch(
        &self,
        seq: i64,
        total: u64,
        output_id: &str,
        error_id: &str,
        now: u64,
    ) -> Result<bool, LedgerError> {
        let mut transaction = self.database.write().await?;
        let found = self.batch_in(&mut transaction, seq).await?;
        if found.status != Validating {
            return Ok(false);
        }
        let (tenant, id) = (&found.tenant, &found.wanted.id);
        let (output_name, error_name) = (format!("{id}_output.jsonl"), format!("{id}_error.jsonl"));
        let purpose = "batch_output";
        let output =
            self.insert_file(&mut transaction, tenant, output_id, &output_name, purpose, now).await?;
        let error = self.insert_file(&mut transaction, tenant, error_id, &error_name, purpose, now).await?;
        sqlx::query("UPDATE batches SET total = ?2, output = ?3, error = ?4 WHERE seq = ?1")
            .bind(seq)
            .bind(integer(total))
            .bind(output)
            .bind(error)
            .execute(&mut *transaction)
            .await
            .map_err(|e| self.database.error(e))?;
        self.set_status(&mut transaction, seq, InProgress, now).await?;
        transaction.commit().await.map_err(|e| self.database.error(e))?;
        Ok(true)
    }

    /// The numbers of the lines that are answered.
    ///
    /// # Errors
    /// If the database cannot be read.
    pub async fn answered_lines(&self, seq: i64) -> Result<Vec<u64>, LedgerError> {
        let places: Vec<i64> = sqlx::query_scalar(
            "SELECT place FROM pieces JOIN batches ON file IN (output, error) WHERE batches.seq = ?1",
        )
        .bind(seq)
        .fetch_all(self.database.pool())
        .await
        .map_err(|e| self.database.error(e))?;
        Ok(places.into_iter().map(i64::unsigned_abs).collect())
    }

    /// Puts answers into a batch's output, or among its errors: each is the number of its line, whether it is an error,
    /// and a line of output. Those of lines that are answered already are dropped, as are all once the batch is ended.
    /// When this returns, they are on the disk.
    ///
    /// # Errors
    /// If the tenant's files would be too large together, or the database cannot be written.
    pub async fn answer_lines(&self, seq: i64, answers: &[(u64, bool, String)]) -> Result<(), LedgerError> {
        let error = |e| self.database.error(e);
        let mut transaction = self.database.write().await?;
        let row = sqlx::query("SELECT tenant, status, output, error FROM batches WHERE seq = ?1")
            .bind(seq)
            .fetch_one(&mut *transaction)
            .await
            .map_err(error)?;
        let read = || -> sqlx::Result<(String, BatchStatus, Option<i64>, Option<i64>)> {
            Ok((row.try_get(0)?, self::status(&row, 1)?, row.try_get(2)?, row.try_get(3)?))
        };
        let (tenant, status, output, errors) = read().map_err(error)?;
        let (Some(output), Some(errors)) = (output, errors) else { return Ok(()) };
        if !matches!(status, InProgress | Cancelling) {
            return Ok(());
        }
        for (line, is_error, text) in answers {
            let place = integer(*line);
            let is_answered: i64 =
                sqlx::query_scalar("SELECT COUNT(*) FROM pieces WHERE file IN (?1, ?2) AND place = ?3")
                    .bind(output)
                    .bind(errors)
                    .bind(place)
                    .fetch_one(&mut *transaction)
                    .await
                    .map_err(error)?;
            if is_answered > 0 {
                continue;
            }
            self.check_room(&mut transaction, &tenant, text.len()).await?;
            let file = if *is_error { errors } else { output };
            self.insert_piece(&mut transaction, file, place, text.as_bytes()).await?;
            sqlx::query("UPDATE batches SET completed = completed + ?2, failed = failed + ?3 WHERE seq = ?1")
                .bind(seq)
                .bind(i64::from(!*is_error))
                .bind(i64::from(*is_error))
                .execute(&mut *transaction)
                .await
                .map_err(error)?;
        }
        transaction.commit().await.map_err(error)
    }

    /// Ends a batch: its tenant sees what there is of its files, and why it failed, if it did. A batch that is ended
    /// already stays as it is.
    ///
    /// # Errors
    /// If the database cannot be written.
    pub async fn end_batch(
        &self,
        seq: i64,
        status: BatchStatus,
        problem: &str,
        now: u64,
    ) -> Result<(), LedgerError> {
        assert!(status.is_final(), "a batch ends with a status that is final");
        let mut transaction = self.database.write().await?;
        let error = |e| self.database.error(e);
        let found = self.batch_in(&mut transaction, seq).await?;
        if found.status.is_final() {
            return Ok(());
        }
        if found.status == InProgress && status == Completed {
            self.set_status(&mut transaction, seq, Finalizing, now).await?;
        }
        let row = sqlx::query("SELECT output, error FROM batches WHERE seq = ?1")
            .bind(seq)
            .fetch_one(&mut *transaction)
            .await
            .map_err(error)?;
        let expires_at = found.wanted.output_ttl.map(|ttl| integer(now.saturating_add(ttl)));
        for (i, column) in ["output", "error"].into_iter().enumerate() {
            let Some(file) = row.try_get::<Option<i64>, _>(i).map_err(error)? else { continue };
            let shown: Option<String> = sqlx::query_scalar(
                "UPDATE files SET is_whole = 1, created_at = ?2, expires_at = ?3 WHERE seq = ?1 AND bytes > 0
                 RETURNING id",
            )
            .bind(file)
            .bind(integer(now))
            .bind(expires_at)
            .fetch_optional(&mut *transaction)
            .await
            .map_err(error)?;
            if shown.is_none() {
                self.drop_file(&mut transaction, file).await?;
            }
            let statement = format!("UPDATE batches SET {column}_id = ?2 WHERE seq = ?1");
            let done = sqlx::query(AssertSqlSafe(statement)).bind(seq).bind(shown);
            done.execute(&mut *transaction).await.map_err(error)?;
        }
        sqlx::query("UPDATE batches SET errors = ?2 WHERE seq = ?1")
            .bind(seq)
            .bind(problem)
            .execute(&mut *transaction)
            .await
            .map_err(error)?;
        self.set_status(&mut transaction, seq, status, now).await?;
        transaction.commit().await.map_err(error)
    }

    // ---- within a transaction ----

    async fn set_status(
        &self,
        transaction: &mut SqliteTransaction<'static>,
        seq: i64,
        status: BatchStatus,
        now: u64,
    ) -> Result<(), LedgerError> {
        let name = status.name();
        let statement = format!("UPDATE batches SET status = ?2, {name}_at = ?3 WHERE seq = ?1");
        let query = sqlx::query(AssertSqlSafe(statement)).bind(seq).bind(name).bind(integer(now));
        query.execute(&mut **transaction).await.map_err(|e| self.database.error(e))?;
        Ok(())
    }

    async fn batch_in(
        &self,
        transaction: &mut SqliteTransaction<'static>,
        seq: i64,
    ) -> Result<Batch, LedgerError> {
        let query = sqlx::query(AssertSqlSafe(format!("SELECT {COLUMNS} FROM batches WHERE seq = ?1")));
        let row = query.bind(seq).fetch_one(&mut **transaction).await;
        row.and_then(|row| batch(&row)).map_err(|e| self.database.error(e))
    }
}

fn status(row: &SqliteRow, i: usize) -> sqlx::Result<BatchStatus> {
    let name: String = row.try_get(i)?;
    let unknown = || sqlx::Error::Decode(format!("`{name}` is no status of a batch").into());
    BatchStatus::from_name(&name).ok_or_else(unknown)
}

/// A row of [`COLUMNS`].
fn batch(row: &SqliteRow) -> sqlx::Result<Batch> {
    let number = |i: usize| row.try_get::<i64, _>(i).map(i64::unsigned_abs);
    let optional = |i: usize| row.try_get::<Option<i64>, _>(i).map(|n| n.map(i64::unsigned_abs));
    let mut times = [None; 8];
    for (i, time) in times.iter_mut().enumerate() {
        *time = optional(18 + i)?;
    }
    Ok(Batch {
        seq: row.try_get(0)?,
        tenant: row.try_get(1)?,
        wanted: NewBatch {
            id: row.try_get(2)?,
            key: row.try_get(3)?,
            endpoint: row.try_get(4)?,
            window: row.try_get(5)?,
            expires_at: number(6)?,
            input_id: row.try_get(8)?,
            output_ttl: optional(11)?,
            metadata: row.try_get(12)?,
        },
        input: row.try_get(7)?,
        output_id: row.try_get(9)?,
        error_id: row.try_get(10)?,
        errors: row.try_get(13)?,
        status: status(row, 14)?,
        total: number(15)?,
        completed: number(16)?,
        failed: number(17)?,
        times,
    })
}
