//! After a feed has said "nothing at or below W will follow", nothing at or below W is made in its
//! span, by whatever leader.

use super::{Invariant, Nodes, Sight};
use holdfast_core::feed::FeedId;
use holdfast_core::ids::{RangeId, Revision};
use holdfast_core::key::Span;
use holdfast_core::message::Message;
use std::collections::{BTreeMap, BTreeSet};

/// What was promised. Feeds of a gateway to itself do not show here; watches are compared with the
/// history as well.
#[derive(Debug, Default)]
pub struct Watermark {
    feeds: BTreeMap<FeedId, Span>,
    promised: BTreeMap<Span, Revision>,
    /// Promises of the present turn: its own changes become visible after they are sent.
    fresh: Vec<(Span, Revision)>,
    made: BTreeSet<(RangeId, Revision)>,
}

impl Invariant for Watermark {
    fn name(&self) -> &'static str {
        "watermark"
    }

    fn see(&mut self, _nodes: &Nodes, sight: &Sight<'_>) -> Result<(), String> {
        match sight {
            Sight::Sent { message: Message::FeedStart(start), .. } => {
                self.feeds.insert(start.feed, start.span.clone());
            }
            Sight::Sent { message: Message::FeedEvents { feed, through, .. }, .. } => {
                if let Some(span) = self.feeds.get(feed) {
                    self.fresh.push((span.clone(), *through));
                }
            }
            Sight::TurnEnds => {
                for (span, through) in self.fresh.drain(..) {
                    let promised = self.promised.entry(span).or_default();
                    *promised = (*promised).max(through);
                }
            }
            Sight::Applying { node, batch } => {
                for mutation in &batch.mutations {
                    let revision = mutation.version.mod_revision;
                    if self.made.contains(&(batch.range, revision)) {
                        continue;
                    }
                    for (span, promised) in &self.promised {
                        if revision <= *promised && span.contains(&mutation.key) {
                            return Err(format!(
                                "{node} makes {revision} of {} in {span} after {promised} was promised",
                                batch.range
                            ));
                        }
                    }
                }
                let made = batch.mutations.iter().map(|m| (batch.range, m.version.mod_revision));
                self.made.extend(made);
            }
            _ => {}
        }
        Ok(())
    }
}
