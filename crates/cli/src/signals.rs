//! Ctrl-C, SIGTERM, and coming back after Ctrl-Z.
//!
//! A signal is the whole process's, so who answers Ctrl-C is kept in one place: the last one that has said so
//! ([`on_interrupt`]) and is still there. Where there is nobody, the process ends as it would by itself.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Result;
use tokio::sync::Notify;

/// How a process ends that Ctrl-C has ended: 128 and the signal's number, as shells say it.
pub const STOPPED: u8 = 130;

/// Somebody pressed Ctrl-C; the text says how to go on.
#[derive(Debug)]
pub struct Stopped(pub String);

impl std::fmt::Display for Stopped {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "stopped: {}", self.0)
    }
}

impl std::error::Error for Stopped {}

type Action = Arc<dyn Fn() + Send + Sync>;

struct Registry {
    is_listening: bool,
    next: u64,
    actions: Vec<(u64, Action)>,
}

static REGISTRY: Mutex<Registry> = Mutex::new(Registry { is_listening: false, next: 0, actions: Vec::new() });
/// How often the process has gone on after it had been stopped.
static CONTINUED: AtomicUsize = AtomicUsize::new(0);

fn registry() -> MutexGuard<'static, Registry> {
    REGISTRY.lock().unwrap_or_else(PoisonError::into_inner)
}

/// While it lives, its action answers Ctrl-C, unless a later one does.
pub struct Guard(u64);

impl Drop for Guard {
    fn drop(&mut self) {
        registry().actions.retain(|(id, _)| *id != self.0);
    }
}

/// Calls `action` at each Ctrl-C, from a thread of its own, as long as the guard lives.
///
/// # Errors
/// If the system lets nobody listen.
pub fn on_interrupt(action: impl Fn() + Send + Sync + 'static) -> Result<Guard> {
    let mut registry = registry();
    listen(&mut registry)?;
    Ok(registry.push(Arc::new(action)))
}

/// The same, if nobody answers Ctrl-C yet.
///
/// # Errors
/// If the system lets nobody listen.
pub fn on_interrupt_if_nobody(action: impl Fn() + Send + Sync + 'static) -> Result<Option<Guard>> {
    let mut registry = registry();
    listen(&mut registry)?;
    Ok(if registry.actions.is_empty() { Some(registry.push(Arc::new(action))) } else { None })
}

/// Says when Ctrl-C is pressed from now on, as long as the guard lives.
///
/// # Errors
/// If the system lets nobody listen.
pub fn interruption() -> Result<(Guard, Arc<Notify>)> {
    let notify = Arc::new(Notify::new());
    let told = notify.clone();
    Ok((on_interrupt(move || told.notify_one())?, notify))
}

/// How often the process has gone on after it had been stopped by Ctrl-Z: what stands on the terminal since is not ours.
pub fn n_continued() -> usize {
    CONTINUED.load(Ordering::Relaxed)
}

impl Registry {
    fn push(&mut self, action: Action) -> Guard {
        self.next += 1;
        self.actions.push((self.next, action));
        Guard(self.next)
    }
}

/// Begins to count how often the process goes on after a stop.
///
/// # Errors
/// If the system lets nobody listen.
pub fn watch() -> Result<()> {
    listen(&mut registry())
}

/// Begins to listen, once.
fn listen(registry: &mut Registry) -> Result<()> {
    if registry.is_listening {
        return Ok(());
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (mut interrupts, mut returns) = {
        let _guard = runtime.enter();
        (interrupts()?, returns()?)
    };
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        runtime.block_on(async {
            loop {
                tokio::select! {
                    _ = returns.recv() => {
                        CONTINUED.fetch_add(1, Ordering::Relaxed);
                    }
                    pressed = interrupts.recv() => match pressed {
                        Some(()) => interrupted(),
                        None => return,
                    },
                }
            }
        });
    })?;
    registry.is_listening = true;
    Ok(())
}

fn interrupted() {
    // Not while the lock is held: the action may end what holds a guard.
    let action = registry().actions.last().map(|(_, action)| action.clone());
    match action {
        Some(action) => action(),
        None => std::process::exit(STOPPED.into()),
    }
}

#[cfg(unix)]
fn interrupts() -> std::io::Result<tokio::signal::unix::Signal> {
    tokio::signal::unix::signal(tokio::signal::unix::SignalKind::interrupt())
}

#[cfg(unix)]
fn returns() -> std::io::Result<tokio::signal::unix::Signal> {
    let number = rustix::process::Signal::CONT.as_raw();
    tokio::signal::unix::signal(tokio::signal::unix::SignalKind::from_raw(number))
}

#[cfg(windows)]
fn interrupts() -> std::io::Result<tokio::signal::windows::CtrlC> {
    tokio::signal::windows::ctrl_c()
}

/// There is no Ctrl-Z: this never comes while the process is not about to end.
#[cfg(windows)]
fn returns() -> std::io::Result<tokio::signal::windows::CtrlShutdown> {
    tokio::signal::windows::ctrl_shutdown()
}

/// Completes at the first SIGTERM or Ctrl-C.
pub async fn stop_requested() {
    let Ok((_guard, interrupted)) = interruption() else {
        // Without handlers the signals end the process by themselves.
        return std::future::pending().await;
    };
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        match signal(SignalKind::terminate()) {
            Ok(mut terminate) => {
                tokio::select! {
                    _ = terminate.recv() => {}
                    () = interrupted.notified() => {}
                }
            }
            Err(_) => interrupted.notified().await,
        }
    }
    #[cfg(not(unix))]
    interrupted.notified().await;
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whoever came last answers, and when it is gone the one before does.
    #[test]
    fn the_last_one_answers() {
        let mut registry = Registry { is_listening: true, next: 0, actions: Vec::new() };
        let last = |registry: &Registry| registry.actions.last().map(|(id, _)| *id);
        let first = registry.push(Arc::new(|| {}));
        let second = registry.push(Arc::new(|| {}));
        assert_eq!(last(&registry), Some(second.0));
        registry.actions.retain(|(id, _)| *id != second.0);
        assert_eq!(last(&registry), Some(first.0));
        // These guards are of no registry that anybody listens to.
        std::mem::forget((first, second));
    }
}
