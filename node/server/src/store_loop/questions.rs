//! Questions to the meta range from outside, on their way through the core.
//!
//! A joining node has no id, so the core hears of it as node 0, and what the core sends to node 0
//! comes back here. A node that is not the right one to ask says so, and the asker tries another.

use holdfast_core::effects::Input;
use holdfast_core::ids::{META_RANGE, NodeId, RequestId};
use holdfast_core::message::{
    InternalReply, Message, MetaRequest, Outcome, RangeRequest, RoutedRequest,
};
use std::collections::HashMap;
use std::sync::mpsc::SyncSender;
use std::time::{Duration, Instant};

/// The sender of questions: no node ever has this id.
pub(super) const NOBODY: NodeId = NodeId(0);

/// The asker has given up after this.
const FORGET_AFTER: Duration = Duration::from_secs(20);

/// Where an answer goes.
pub(super) type Answer = SyncSender<Result<InternalReply, String>>;

/// Questions that wait for an answer.
#[derive(Default)]
pub(super) struct Questions {
    waiting: HashMap<u64, (Answer, Instant)>,
    last_token: u64,
}

impl Questions {
    /// What the core is to be told.
    pub(super) fn ask(&mut self, request: MetaRequest, answer: Answer) -> Input {
        self.last_token += 1;
        let token = self.last_token;
        self.waiting.insert(token, (answer, Instant::now()));
        let gateway = match &request {
            // A repeated attempt is the same request.
            MetaRequest::Join { nonce, .. } => *nonce,
            _ => crate::serve::random_number(),
        };
        let request = RoutedRequest {
            token,
            range: META_RANGE,
            id: RequestId { gateway, sequence: 1 },
            settled_below: 1,
            body: RangeRequest::Meta(request),
        };
        Input::Message { from: NOBODY, message: Message::Request(Box::new(request)) }
    }

    /// The core has something to say to a node without an id.
    pub(super) fn answered(&mut self, message: Message) {
        let Message::Reply { token, outcome } = message else { return };
        let Some((answer, _)) = self.waiting.remove(&token) else { return };
        let result = match outcome {
            Outcome::Internal(reply) => Ok(reply),
            Outcome::Done(Err(error)) => Err(error.to_string()),
            Outcome::Misrouted { .. } => Err("another node decides".to_owned()),
            Outcome::Done(Ok(_)) => Err("nonsense answer".to_owned()),
        };
        // The asker may have given up.
        drop(answer.try_send(result));
    }

    /// Drops questions whose askers have given up.
    pub(super) fn forget_old(&mut self) {
        if !self.waiting.is_empty() {
            self.waiting.retain(|_, (_, since)| since.elapsed() < FORGET_AFTER);
        }
    }
}
