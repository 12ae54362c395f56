//! Responses that are made in the background: whoever asked has gone, and reads them later.
//!
//! Each is stored before its caller hears of it, again when a model begins with it, and when it is complete. If the
//! process ends before that, the next one finds it and says that it failed.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use ingle_api::openai::responses::{Reply as ResponseReply, interrupted};
use ingle_ledger::{LedgerError, Responses, StoredResponse};
use tokio::sync::oneshot;

use crate::App;
use crate::answer::Answer;
use crate::error::Failure;
use crate::routes::now;

/// Asks for an end; who asked is told when it has come.
type Wish = oneshot::Sender<()>;

/// The responses that are being made, by tenant and id. The provider's queue bounds how many.
#[derive(Default)]
pub(crate) struct Background {
    running: Mutex<HashMap<(String, String), oneshot::Sender<Wish>>>,
}

impl Background {
    /// Ends a response if it is still being made. When this returns, it is stored as it was then.
    pub async fn cancel(&self, tenant: &str, id: &str) {
        let key = (tenant.to_owned(), id.to_owned());
        let running = self.running.lock().expect("nothing panics while it is held").remove(&key);
        let Some(running) = running else { return };
        let (wish, ended) = oneshot::channel();
        if running.send(wish).is_ok() {
            // An error means that it has ended by itself meanwhile.
            let _ = ended.await;
        }
    }
}

/// A response whose answer has been started.
pub(crate) struct Begun {
    pub responses: Arc<Responses>,
    pub tenant: String,
    /// What is stored of it at first.
    pub stored: StoredResponse,
    pub answer: Answer,
    pub reply: ResponseReply,
}

/// Stores a response and goes on with it in the background. When this returns, it is on the disk.
///
/// # Errors
/// If it cannot be stored; then nothing goes on.
pub(crate) async fn begin(app: &Arc<App>, begun: Begun) -> Result<(), Failure> {
    let app = app.clone();
    // Shutdown waits for it, as it does for answers that somebody reads.
    let permit = app.tasks.clone().try_acquire_owned().map_err(|_| Failure::ShuttingDown)?;
    // In a task of its own: the caller may go away any time, and what is stored must not be left to itself.
    let task = tokio::spawn(async move {
        begun.responses.begin(&begun.tenant, &begun.stored, now()).await?;
        let (end, ending) = oneshot::channel();
        let key = (begun.tenant.clone(), begun.stored.id.clone());
        app.background.running.lock().expect("nothing panics while it is held").insert(key.clone(), end);
        tokio::spawn(async move {
            let _permit = permit;
            make(begun, ending).await;
            app.background.running.lock().expect("nothing panics while it is held").remove(&key);
        });
        Ok::<(), LedgerError>(())
    });
    Ok(task.await.map_err(|_| Failure::Panicked)??)
}

async fn make(begun: Begun, mut ending: oneshot::Receiver<Wish>) {
    let Begun { responses, tenant, stored, mut answer, mut reply } = begun;
    let mut is_shown_begun = false;
    let mut wish = None;
    loop {
        let piece = tokio::select! {
            end = &mut ending => {
                wish = end.ok();
                reply.cancel();
                break;
            }
            piece = answer.next() => piece,
        };
        match piece {
            None => break,
            Some(Err(failure)) => {
                failure.log();
                reply.fail(&failure.object());
                break;
            }
            Some(Ok((_, delta))) => reply.push(&delta),
        }
        if reply.has_begun() && !is_shown_begun {
            is_shown_begun = true;
            note(responses.replace(&tenant, &stored.id, &reply.to_json(), true).await);
        }
    }
    drop(answer);
    if !note(responses.replace(&tenant, &stored.id, &reply.to_json(), false).await) {
        // It is too large to be kept, or the disk is full: then at least this.
        let failed = interrupted(&stored.body).unwrap_or(stored.body);
        note(responses.replace(&tenant, &stored.id, &failed, false).await);
    }
    if let Some(wish) = wish {
        // Whoever asked may have gone.
        let _ = wish.send(());
    }
}

fn note(result: Result<bool, LedgerError>) -> bool {
    match result {
        // One that is gone was deleted.
        Ok(_) => true,
        Err(error) => {
            tracing::error!("a response in the background could not be stored: {error}");
            false
        }
    }
}

/// Says of responses that an earlier process was making that they failed.
pub(crate) async fn recover(app: &App) {
    // Without files the data folder may be another process's, which may still be making them.
    let (Some(responses), Some(_)) = (&app.config.responses, &app.config.files) else { return };
    let pending = match responses.pending().await {
        Ok(pending) => pending,
        Err(error) => return tracing::error!("stored responses cannot be read: {error}"),
    };
    for (tenant, stored) in pending {
        let body = interrupted(&stored.body).unwrap_or(stored.body);
        note(responses.replace(&tenant, &stored.id, &body, false).await);
    }
}
