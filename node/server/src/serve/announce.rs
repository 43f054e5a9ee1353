//! Tells the meta range where this node is, once after each start: addresses may have changed.

use crate::config::Config;
use crate::store_loop::{self, Inbox};
use crate::transport::{PeerTls, Transport, ask};
use holdfast_core::message::{InternalReply, MetaRequest};
use holdfast_storage::Identity;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tracing::{debug, info};

/// Between two rounds of asking everybody.
const INTERVAL: Duration = Duration::from_millis(200);

/// Starts a thread that announces this node until it is heard.
pub(super) fn start(
    config: &Config,
    identity: &Identity,
    tls: &PeerTls,
    transport: &Arc<Transport>,
    inbox: &Inbox,
) -> io::Result<()> {
    let request = MetaRequest::Announce {
        node: identity.node,
        name: config.name.clone(),
        peer_address: config.advertise_peer.clone(),
        client_address: config.advertise_client.clone(),
        http_address: config.advertise_http.clone(),
    };
    let cluster = identity.cluster;
    let tls = tls.clone();
    // The transport must not outlive the node because of this thread.
    let (transport, inbox) = (Arc::downgrade(transport), Arc::clone(inbox));
    std::thread::Builder::new().name("announce".to_owned()).spawn(move || {
        loop {
            if heard(&store_loop::ask(&inbox, request.clone())) {
                return info!("announced to this node's own meta range");
            }
            let Some(peers) = transport.upgrade().map(|transport| transport.peers()) else {
                return;
            };
            for (peer, address) in peers {
                let answer = ask(&address, tls.as_deref(), cluster, &request)
                    .map_err(|error| error.to_string());
                if heard(&answer) {
                    return info!("announced to {peer}");
                }
                debug!("{peer} did not take the announcement: {answer:?}");
            }
            std::thread::sleep(INTERVAL);
            if inbox.is_closed() {
                return;
            }
        }
    })?;
    Ok(())
}

fn heard(answer: &Result<InternalReply, String>) -> bool {
    matches!(answer, Ok(InternalReply::Ok))
}
