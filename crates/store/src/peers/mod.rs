//! Other nodes of the same operator, which are asked for blobs before the hub is: so a fleet fetches a model once.
//!
//! A node answers at `/api/blobs/sha256:...` ([`blob_path`]). What it sends is verified like everything else; a node that
//! does not answer, or answers wrongly, costs a moment and no pull.

use std::time::Duration;

use ingle_egress::{Backoff, Class, Client, Request, Target};
use tokio::task::JoinSet;

use crate::Digest;
use crate::pull::{Network, PullError};

/// The most nodes that are asked.
pub const PEERS_MAX: usize = 64;
/// How long nodes may take to say whether they have a blob.
const ASK_TIMEOUT: Duration = Duration::from_secs(5);

/// How slowly a node may send on each stream before the next source is asked, which may be the hub itself. A node that
/// says nothing at all is given up as anybody else is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Floor {
    /// The fewest bytes of each window.
    pub bytes: u64,
    /// The time that is looked at. What is waited for is the node, not the disk here.
    pub window: Duration,
}

impl Default for Floor {
    /// 64 KiB in a second: with less a stream takes four minutes for a chunk.
    fn default() -> Self {
        Self { bytes: 15 * (64 << 10), window: Duration::from_secs(15) }
    }
}

/// Where a node has a blob, below its address.
pub fn blob_path(digest: &Digest) -> [String; 3] {
    ["api".into(), "blobs".into(), digest.to_string()]
}

/// A client for each node.
pub(crate) fn clients(network: &Network) -> Result<Vec<(Client, Target)>, PullError> {
    if network.peers.is_empty() {
        return Ok(Vec::new());
    }
    let client = Client::new(network.egress.permit(Class::Peer)?);
    Ok(network.peers.iter().take(PEERS_MAX).map(|target| (client.clone(), target.clone())).collect())
}

/// The nodes that say they have a blob of this size, with its address there; in the order in which they are named.
pub(crate) async fn holders(peers: &[(Client, Target)], digest: &Digest, size: u64) -> Vec<(Client, Target)> {
    let mut asked = JoinSet::new();
    for (index, (client, peer)) in peers.iter().enumerate() {
        let path = blob_path(digest);
        let target = peer.with_path(&path.each_ref().map(String::as_str));
        let client = client.clone();
        asked.spawn(async move {
            let credential = client.credentials().for_target(&target).cloned();
            let request = Request::head(target.clone()).authorize(credential.as_ref()).backoff(Backoff::ONCE);
            let answer = tokio::time::timeout(ASK_TIMEOUT, client.send(&request)).await;
            let has_it = matches!(&answer, Ok(Ok(response)) if response.status() == 200
                && response.content_length() == Some(size));
            has_it.then_some((index, client, target))
        });
    }
    let mut holders: Vec<(usize, Client, Target)> = asked.join_all().await.into_iter().flatten().collect();
    holders.sort_by_key(|(index, ..)| *index);
    holders.into_iter().map(|(_, client, target)| (client, target)).collect()
}
