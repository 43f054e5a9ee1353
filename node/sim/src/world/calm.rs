//! Steps of a scripted test: let time go by, ask and wait for the answer.

use super::{Happening, World};
use holdfast_core::effects::Millis;
use holdfast_core::error::Error;
use holdfast_core::ids::NodeId;
use holdfast_core::request::{Request, Response};

/// How long a request of a script may take.
const PATIENCE_MS: Millis = 5_000;

impl World {
    /// Lets time go by; what happens meanwhile is not looked at.
    ///
    /// # Panics
    /// A check has found that a promise is broken.
    pub fn run(&mut self, millis: Millis) {
        let end = self.now() + millis;
        while self.now() < end {
            assert!(self.advance(), "{:?}", self.checks.violation());
            while self.happening().is_some() {}
        }
    }

    /// Asks through a node and waits for the answer.
    ///
    /// # Errors
    /// Those of the request.
    ///
    /// # Panics
    /// The node does not run, or a check has found that a promise is broken.
    pub fn ask(&mut self, node: NodeId, request: Request) -> Result<Response, Error> {
        let wanted = self.request(node, PATIENCE_MS, request).expect("it runs");
        loop {
            assert!(self.advance(), "{:?}", self.checks.violation());
            while let Some(happening) = self.happening() {
                match happening {
                    Happening::Reply { token, result, .. } if token == wanted => return result,
                    _ => {}
                }
            }
        }
    }
}
