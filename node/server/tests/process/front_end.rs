//! What clients see of a node that is told to stop.

use super::history::connect;
use super::nodes::{Nodes, http};
use holdfast_proto::etcdserverpb::{PutRequest, RangeRequest};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::runtime::Runtime;

fn put(value: u64) -> PutRequest {
    PutRequest {
        key: b"k".to_vec().into(),
        value: value.to_string().into_bytes().into(),
        ..PutRequest::default()
    }
}

#[test]
fn a_stopping_node_says_so_first_and_answers_everything_that_it_took() {
    let runtime = Runtime::new().unwrap();
    let mut nodes = Nodes::new(3);
    nodes.flags = vec!["--stop-delay=1500ms".to_owned()];
    (1..=3).for_each(|node| nodes.start(node));
    nodes.wait_ready(&[1, 2, 3]);
    let acked = Arc::new(AtomicU64::new(0));
    let mut client = connect(&runtime, &nodes.client(1));
    let counting = Arc::clone(&acked);
    let writer = runtime.spawn(async move {
        for value in 1.. {
            if let Err(status) = client.put(put(value)).await {
                return status;
            }
            counting.store(value, Ordering::SeqCst);
        }
        unreachable!("the node stops");
    });
    nodes.wait("writes", || acked.load(Ordering::SeqCst) > 20);

    nodes.ask_to_stop(1);
    nodes.wait("the node to be unready", || {
        http(&nodes.http(1), "/readyz").contains("[-]in_service failed: the node is about to stop")
    });
    let before = acked.load(Ordering::SeqCst);
    assert!(http(&nodes.http(1), "/livez").starts_with("HTTP/1.1 200"));
    nodes.wait("writes to go on meanwhile", || acked.load(Ordering::SeqCst) > before + 20);
    nodes.wait_stopped(1);

    let ending = runtime.block_on(async {
        tokio::time::timeout(Duration::from_secs(20), writer).await.unwrap().unwrap()
    });
    // The one that failed was not taken: nothing came of it.
    let request = RangeRequest { key: b"k".to_vec().into(), ..RangeRequest::default() };
    let answer = runtime.block_on(connect(&runtime, &nodes.client(2)).range(request)).unwrap();
    let value = String::from_utf8(answer.into_inner().kvs[0].value.to_vec()).unwrap();
    assert_eq!(value, acked.load(Ordering::SeqCst).to_string(), "it ended with {ending}");
}
