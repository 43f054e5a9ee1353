//! When a development cluster is ready: every started node says so, and every range has a leader.

use super::cluster::Cluster;
use super::process::Node;
use crate::cli::ClientSecurity;
use holdfast_proto::admin::StatusRequest;
use holdfast_proto::admin::admin_client::AdminClient;
use serde_json::Value;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// How long a node on this machine may take to answer.
const ANSWER_MAX: Duration = Duration::from_secs(2);

/// What is missing until ready, in words; `None` if nothing is.
pub(super) async fn missing(
    cluster: &Cluster,
    security: &ClientSecurity,
    nodes: &[Node],
) -> Option<String> {
    for node in nodes {
        if !is_ready(cluster.ports(node.number).http).await {
            return Some(format!("node {} is not ready", node.number));
        }
    }
    let port = cluster.ports(nodes.first()?.number).client;
    match tokio::time::timeout(ANSWER_MAX, status(security, port)).await {
        Ok(Ok(status)) => without_leader(&status),
        Ok(Err(error)) => {
            Some(format!("node {} does not tell its status: {error}", nodes[0].number))
        }
        Err(_elapsed) => Some(format!("node {} does not tell its status", nodes[0].number)),
    }
}

/// Does the node with this HTTP port answer, and serve?
pub(super) async fn is_ready(port: u16) -> bool {
    let answer = tokio::time::timeout(ANSWER_MAX, http_get(port, "/readyz")).await;
    answer.is_ok_and(|answer| answer.is_ok_and(|text| text.starts_with("HTTP/1.1 200")))
}

fn without_leader(status: &Value) -> Option<String> {
    let ranges = &status["ranges"];
    match (ranges["total"].as_u64(), ranges["unavailable"].as_u64()) {
        (Some(total), Some(0)) if total > 0 => None,
        (Some(total), Some(unavailable)) if total > 0 => {
            Some(format!("{unavailable} of {total} ranges have no leader"))
        }
        _ => Some("no range is known yet".to_owned()),
    }
}

async fn status(security: &ClientSecurity, port: u16) -> Result<Value, String> {
    let endpoint =
        security.endpoint(&format!("127.0.0.1:{port}")).map_err(|failure| failure.line)?;
    let channel = endpoint.connect().await.map_err(|error| error.to_string())?;
    let answer = AdminClient::new(channel)
        .status(StatusRequest { local: false })
        .await
        .map_err(|status| status.message().to_owned())?;
    serde_json::from_slice(&answer.into_inner().json).map_err(|error| error.to_string())
}

async fn http_get(port: u16, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn ready_means_that_every_range_has_a_leader() {
        assert_eq!(without_leader(&json!({"ranges": {"total": 2, "unavailable": 0}})), None);
        let some = json!({"ranges": {"total": 2, "unavailable": 1}});
        assert_eq!(without_leader(&some).unwrap(), "1 of 2 ranges have no leader");
        assert!(without_leader(&json!({"ranges": {"total": 0, "unavailable": 0}})).is_some());
        assert!(without_leader(&json!({})).is_some());
    }
}
