//! How far a pull or a push is.

use ingle_store::pull::Event;

use crate::progress::{Out, Teller, Transfer};

/// Tells what happens. Of files in words from their first byte on: whoever reads a log wants to know what came.
pub fn event(teller: &Teller, event: &Event) {
    match event {
        Event::Status(status) => teller.status(status),
        Event::Progress { file, digest, done, total, rate, left } => {
            let digest = digest.map(|digest| digest.to_string());
            let transfer =
                Transfer { name: file.clone(), done: *done, total: *total, rate: *rate, left: *left };
            teller.transfer(transfer, digest.as_deref(), true);
        }
    }
}

/// Who is told of a pull or a push.
pub fn teller(json: bool) -> Teller {
    // Ctrl-C is answered by the command, which says how to go on.
    Teller::new(Out::of(json), "stopped")
}
