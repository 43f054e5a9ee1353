//! A node's ordered stream of questions to the sequencer.
//!
//! The order of the questions of a range is the order in which it evaluated its requests, so an
//! answer tells both a number and a place: every earlier grant of the range is at or below it,
//! every later one above.
//!
//! Invariants: answers are taken only from the current session, in order; a new session asks
//! everything unanswered again, in the same order (numbers given by the old one are void: holes).

use crate::ids::{NodeId, RangeId, Revision, Term};
use crate::message::{Message, SequencerItem, SequencerReply, SessionId};
use std::collections::VecDeque;

/// A question with whatever its asker wants back.
#[derive(Debug)]
struct Item<T> {
    item: SequencerItem,
    cookie: T,
}

/// See the module. `T` goes in with a question and comes out with its answer.
#[derive(Debug)]
pub struct Session<T> {
    id: SessionId,
    sequencer: Option<NodeId>,
    items: VecDeque<Item<T>>,
    /// Number of `items[0]` in this session.
    first: u64,
    /// How many of `items` were sent in this session.
    sent: usize,
    known: Revision,
    compacted: Revision,
}

impl<T> Session<T> {
    /// No sequencer known yet.
    pub fn new(incarnation: u64) -> Self {
        Self {
            id: SessionId { incarnation, number: 0 },
            sequencer: None,
            items: VecDeque::new(),
            first: 0,
            sent: 0,
            known: 0,
            compacted: 0,
        }
    }

    /// The newest revision that an answer has named which was acted on; it may lag, never lead:
    /// every grant that is not acted on yet is above it.
    pub fn known(&self) -> Revision {
        self.known
    }

    /// The answer that named this revision is acted on now. Not before, though it may have come in
    /// one message with earlier ones: what is planned on account of those counts on `known`.
    pub fn learn(&mut self, revision: Revision) {
        self.known = self.known.max(revision);
    }

    /// History below this is gone, as far as answers have told.
    pub fn compacted(&self) -> Revision {
        self.compacted
    }

    /// Who is asked.
    pub fn sequencer(&self) -> Option<NodeId> {
        self.sequencer
    }

    /// Questions not answered yet.
    pub fn waiting(&self) -> usize {
        self.items.len()
    }

    /// Starts anew with this sequencer (or none): everything unanswered is asked again.
    pub fn restart(&mut self, sequencer: Option<NodeId>) {
        self.id.number += 1;
        self.sequencer = sequencer;
        self.first = 0;
        self.sent = 0;
    }

    /// Adds a question.
    pub fn ask(&mut self, item: SequencerItem, cookie: T) {
        self.items.push_back(Item { item, cookie });
    }

    /// True if [`Self::take_unsent`] has something to give.
    pub fn has_unsent(&self) -> bool {
        self.sequencer.is_some() && self.sent < self.items.len()
    }

    /// What has to be sent now.
    pub fn take_unsent(&mut self) -> Option<(NodeId, Message)> {
        let sequencer = self.sequencer?;
        if self.sent == self.items.len() {
            return None;
        }
        let items = self.items.range(self.sent..).map(|item| item.item.clone()).collect();
        let first = self.first + self.sent as u64;
        self.sent = self.items.len();
        Some((sequencer, Message::SequencerAsk { session: self.id, first, items }))
    }

    /// True if `session` is the current one.
    pub fn is_current(&self, session: SessionId) -> bool {
        session == self.id
    }

    /// Takes answers; gives each question's cookie with its answer, in order. Answers of another
    /// session, or out of order, are ignored.
    pub fn answer(
        &mut self,
        session: SessionId,
        first: u64,
        answers: &[SequencerReply],
        compacted: Revision,
    ) -> Vec<(RangeId, Term, T, SequencerReply)> {
        if session != self.id || first != self.first || answers.len() > self.sent {
            return Vec::new();
        }
        self.compacted = self.compacted.max(compacted);
        self.first += answers.len() as u64;
        self.sent -= answers.len();
        let mut taken = Vec::with_capacity(answers.len());
        for (item, answer) in self.items.drain(..answers.len()).zip(answers) {
            taken.push((item.item.range, item.item.term, item.cookie, *answer));
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::SequencerItemKind;

    #[test]
    fn an_answer_is_known_when_its_turn_comes() {
        let mut session = Session::new(1);
        session.restart(Some(NodeId(1)));
        for cookie in ["probe", "grant"] {
            let kind = SequencerItemKind::Read;
            session.ask(SequencerItem { range: RangeId(2), term: 6, generation: 1, kind }, cookie);
        }
        assert!(session.has_unsent());
        assert!(session.take_unsent().is_some());
        let answers = [SequencerReply::Current(9), SequencerReply::Granted(10)];
        let taken = session.answer(session.id, 0, &answers, 0);
        assert_eq!(taken.len(), 2);
        assert_eq!(session.known(), 0, "nothing is acted on yet");
        session.learn(9);
        assert_eq!(session.known(), 9, "the grant is above what is known");
    }
}
