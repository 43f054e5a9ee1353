//! Encrypted clusters: who is let in, and certificates that are replaced.

use super::certificates::Authority;
use super::nodes::{Nodes, http};
use holdfast_proto::etcdserverpb::kv_client::KvClient;
use holdfast_proto::etcdserverpb::{PutRequest, RangeRequest};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::runtime::Runtime;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Code, Status};

fn flags(names: [&str; 3], directory: &Path) -> Vec<String> {
    names
        .iter()
        .zip(["tls.crt", "tls.key", "ca.crt"])
        .map(|(name, file)| format!("--{name}={}", directory.join(file).display()))
        .collect()
}

/// Three nodes with TLS on both listeners, not started; and where their certificates are.
fn encrypted(authority: &Authority) -> (Nodes, PathBuf) {
    let mut nodes = Nodes::new(3);
    let directory = nodes.directory.path().join("tls");
    authority.write(&directory);
    nodes.flags = flags(["cert-file", "key-file", "trusted-ca-file"], &directory);
    nodes.flags.push("--client-cert-auth".to_owned());
    nodes
        .flags
        .extend(flags(["peer-cert-file", "peer-key-file", "peer-trusted-ca-file"], &directory));
    nodes.client_flags = flags(["cert", "key", "cacert"], &directory);
    (nodes, directory)
}

/// A connection that trusts one authority and shows a certificate of another, or none.
fn connect(
    runtime: &Runtime,
    address: &str,
    trusted: &Authority,
    shown: Option<&Authority>,
) -> Result<KvClient<Channel>, String> {
    let mut tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(&trusted.pem));
    if let Some(shown) = shown {
        let (cert, key) = shown.issue();
        tls = tls.identity(Identity::from_pem(cert, key));
    }
    let endpoint = Endpoint::from_shared(format!("https://{address}"))
        .and_then(|endpoint| endpoint.tls_config(tls))
        .unwrap()
        .timeout(Duration::from_secs(20));
    let channel = runtime.block_on(endpoint.connect()).map_err(|error| error.to_string())?;
    Ok(KvClient::new(channel))
}

fn put(runtime: &Runtime, client: &mut KvClient<Channel>, value: &str) -> Result<(), Status> {
    let request = PutRequest {
        key: b"k".to_vec().into(),
        value: value.as_bytes().to_vec().into(),
        ..PutRequest::default()
    };
    runtime.block_on(client.put(request)).map(|_| ())
}

fn get(runtime: &Runtime, client: &mut KvClient<Channel>) -> Result<String, Status> {
    let request = RangeRequest { key: b"k".to_vec().into(), ..RangeRequest::default() };
    let answer = runtime.block_on(client.range(request))?.into_inner();
    Ok(String::from_utf8(answer.kvs[0].value.to_vec()).unwrap())
}

/// True if neither a connection nor a request succeeds.
fn is_refused(
    runtime: &Runtime,
    address: &str,
    trusted: &Authority,
    shown: Option<&Authority>,
) -> bool {
    // With TLS 1.3 a client hears only with the first answer that its certificate is not wanted.
    match connect(runtime, address, trusted, shown) {
        Err(_) => true,
        Ok(mut client) => get(runtime, &mut client).is_err(),
    }
}

#[test]
fn only_those_with_a_trusted_certificate_are_let_in() {
    let runtime = Runtime::new().unwrap();
    let (authority, other) = (Authority::new("one"), Authority::new("other"));
    let (mut nodes, _) = encrypted(&authority);
    (1..=3).for_each(|node| nodes.start(node));
    nodes.wait_ready(&[1, 2, 3]);
    let mut one = connect(&runtime, &nodes.client(1), &authority, Some(&authority)).unwrap();
    put(&runtime, &mut one, "first").unwrap();
    let mut two = connect(&runtime, &nodes.client(2), &authority, Some(&authority)).unwrap();
    assert_eq!(get(&runtime, &mut two).unwrap(), "first");

    let client = nodes.client(1);
    assert!(is_refused(&runtime, &client, &authority, Some(&other)), "a foreign client");
    assert!(is_refused(&runtime, &client, &authority, None), "a client without a certificate");
    assert!(is_refused(&runtime, &client, &other, Some(&authority)), "a foreign server");

    // Administrators may come over the peers' port, with a certificate that nodes trust; others
    // find nothing there.
    let status = nodes.command(&nodes.peer(1), &["status", "-o", "json", "--wait", "Full"]);
    assert!(status.status.success(), "{}", String::from_utf8_lossy(&status.stderr));
    let peer = nodes.peer(1);
    assert!(is_refused(&runtime, &peer, &authority, Some(&other)), "a foreign administrator");
    assert!(is_refused(&runtime, &peer, &authority, None), "an unknown administrator");
    let mut admin = connect(&runtime, &peer, &authority, Some(&authority)).unwrap();
    let refusal = put(&runtime, &mut admin, "back door").unwrap_err();
    assert_eq!(refusal.code(), Code::Unimplemented, "{refusal}");
    assert_eq!(get(&runtime, &mut two).unwrap(), "first");

    // A node of another authority is not talked to, whatever it says.
    let foreign = nodes.directory.path().join("foreign");
    other.write(&foreign);
    nodes.kill(3);
    let own = std::mem::take(&mut nodes.flags);
    nodes.flags = own[..4].to_vec();
    nodes
        .flags
        .extend(flags(["peer-cert-file", "peer-key-file", "peer-trusted-ca-file"], &foreign));
    nodes.start(3);
    nodes.wait("the node to be refused", || nodes.log(1).contains("refused a peer connection"));
    assert!(!nodes.is_ready(3));
    nodes.kill(3);
    nodes.flags = own;
    nodes.start(3);
    nodes.wait_ready(&[3]);
}

#[test]
fn certificates_are_replaced_without_a_restart() {
    let runtime = Runtime::new().unwrap();
    let (old, new) = (Authority::new("old"), Authority::new("new"));
    let (mut nodes, directory) = encrypted(&old);
    (1..=3).for_each(|node| nodes.start(node));
    nodes.wait_ready(&[1, 2, 3]);
    let mut standing = connect(&runtime, &nodes.client(1), &old, Some(&old)).unwrap();
    put(&runtime, &mut standing, "before").unwrap();
    let metrics = http(&nodes.http(1), "/metrics");
    for listener in ["client", "peer"] {
        let name =
            format!("holdfast_tls_certificate_not_after_seconds{{listener=\"{listener}\"}} ");
        assert!(metrics.contains(&name), "{metrics}");
    }

    // Broken files change nothing, and are told.
    std::fs::write(directory.join("tls.key"), "half a key").unwrap();
    nodes.wait("the broken file to be noticed", || {
        http(&nodes.http(1), "/metrics")
            .contains("holdfast_tls_reload_failures_total{listener=\"client\"} 1")
    });
    // Counted first, logged next.
    nodes.wait("the broken file to be told", || {
        nodes.log(1).contains("the certificates of before stay in use: --key-file")
    });
    assert!(!nodes.log(1).contains("half a key"));
    connect(&runtime, &nodes.client(1), &old, Some(&old)).unwrap();

    // First everybody trusts both, as one does; then the old one goes.
    std::fs::write(directory.join("ca.crt"), format!("{}{}", old.pem, new.pem)).unwrap();
    let (cert, key) = new.issue();
    std::fs::write(directory.join("tls.crt"), cert).unwrap();
    std::fs::write(directory.join("tls.key"), key).unwrap();
    for node in 1..=3 {
        nodes.wait("the new certificates to be used", || {
            connect(&runtime, &nodes.client(node), &new, Some(&new)).is_ok()
        });
    }
    put(&runtime, &mut standing, "meanwhile").unwrap();
    new.write(&directory);
    nodes.wait("clients of the old authority to be refused", || {
        is_refused(&runtime, &nodes.client(1), &new, Some(&old))
    });
    // Connections between nodes are made anew: with the new certificates.
    nodes.kill(2);
    nodes.start(2);
    nodes.wait_ready(&[1, 2, 3]);
    let mut client = connect(&runtime, &nodes.client(2), &new, Some(&new)).unwrap();
    assert_eq!(get(&runtime, &mut client).unwrap(), "meanwhile");
    let status = nodes.command(&nodes.peer(2), &["status", "--wait", "Full"]);
    assert!(status.status.success(), "{}", String::from_utf8_lossy(&status.stderr));
    put(&runtime, &mut standing, "a connection that stands is left alone").unwrap();
}

#[test]
fn certificates_that_make_no_sense_are_told_in_one_line() {
    let nodes = Nodes::new(1);
    let directory = nodes.directory.path().join("tls");
    let authority = Authority::new("one");
    authority.write(&directory);
    let [cert, key, ca] =
        ["tls.crt", "tls.key", "ca.crt"].map(|name| directory.join(name).display().to_string());
    let (_, strange) = authority.issue();
    let strange_key = directory.join("other.key").display().to_string();
    std::fs::write(&strange_key, strange).unwrap();
    for (flags, part) in [
        (&["--cert-file", &cert][..], "--key-file is missing"),
        (&["--peer-key-file", &key], "--peer-cert-file is missing"),
        (&["--client-cert-auth"], "--client-cert-auth needs --trusted-ca-file"),
        (&["--cert-file", &cert, "--key-file", "nowhere"], "--key-file nowhere cannot be read"),
        (&["--cert-file", &cert, "--key-file", &strange_key], "is not the key of --cert-file"),
        (&["--cert-file", &key, "--key-file", &key], "holds no certificate"),
        (
            &["--peer-cert-file", &cert, "--peer-key-file", &key],
            "--peer-trusted-ca-file is missing",
        ),
        (&["--trusted-ca-file", &ca], "--trusted-ca-file needs --cert-file"),
    ] {
        let line = nodes.refused(flags);
        assert!(line.contains(part), "{flags:?}: {line}");
    }
}
