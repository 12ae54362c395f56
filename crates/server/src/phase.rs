//! How far shutdown is.

use tokio::sync::watch;

/// The phases of a server's life, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    /// Serving.
    Running,
    /// No new connections; what runs goes on.
    Draining,
    /// What still runs says that it ends.
    Ending,
    /// Connections are dropped.
    Closed,
}

/// The current phase, and a way to wait for the next.
pub(crate) struct Phases(watch::Sender<Phase>);

impl Phases {
    pub fn new() -> Self {
        Self(watch::Sender::new(Phase::Running))
    }

    pub fn set(&self, phase: Phase) {
        self.0.send_replace(phase);
    }

    pub fn now(&self) -> Phase {
        *self.0.borrow()
    }

    /// Resolves when `phase` is reached.
    pub fn reached(&self, phase: Phase) -> impl Future<Output = ()> + Send + use<> {
        let mut receiver = self.0.subscribe();
        async move {
            // An error means that the server is gone, which is past every phase.
            let _ = receiver.wait_for(|p| *p >= phase).await;
        }
    }
}
