//! What makes no sense is refused with one clear line and a stable exit code, and nothing changes.

use super::cluster::{Cluster, Ports, run_to_end, wait_for};
use super::history::connect;
use holdfast_proto::etcdserverpb::{DeleteRangeRequest, PutRequest, RangeRequest};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use tokio::runtime::Runtime;
use tonic::Code;

fn flags<'a>(data: &'a str, addresses: &'a [String; 3]) -> Vec<&'a str> {
    let [client, peer, http] = addresses;
    vec![
        "serve",
        "--data",
        data,
        "--client-listen",
        client,
        "--peer-listen",
        peer,
        "--http-listen",
        http,
    ]
}

fn addresses(ports: &Ports) -> [String; 3] {
    [0, 1, 2].map(|offset| format!("127.0.0.1:{}", ports.base + offset))
}

/// The line that the command ends with.
fn last_words(words: &str) -> Vec<&str> {
    words.lines().filter(|line| line.starts_with("holdfast-node: ")).collect()
}

fn files(directory: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(directory) else { return Vec::new() };
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// A node that serves, until it is dropped.
struct Running(Child);

impl Running {
    fn start(flags: &[&str], http: &str) -> Self {
        let child = Command::new(super::cluster::NODE)
            .args(flags)
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        wait_for("the node to serve", || {
            super::nodes::http(http, "/readyz").starts_with("HTTP/1.1 200")
        });
        Self(child)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

#[test]
fn a_port_in_use_is_told_before_anything_is_written() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("d");
    let ports = Ports::claim();
    let addresses = addresses(&ports);
    let _taken = TcpListener::bind(&addresses[1]).unwrap();
    let (code, words) = run_to_end(&flags(data.to_str().unwrap(), &addresses));
    assert_eq!(code, 2, "{words}");
    assert_eq!(last_words(&words).len(), 1, "{words}");
    assert!(words.contains("--peer-listen"), "{words}");
    assert!(!data.exists());
}

#[test]
fn a_directory_of_another_cluster_or_in_use_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().to_str().unwrap();
    let ports = Ports::claim();
    let mine = addresses(&ports);
    let other_ports = Ports::claim();
    let others = addresses(&other_ports);
    let running = Running::start(&flags(data, &mine), &mine[2]);

    let (code, words) = run_to_end(&flags(data, &others));
    assert_eq!(code, 2, "{words}");
    assert!(last_words(&words)[0].contains("in use by process"), "{words}");

    drop(running);
    let before = std::fs::read(directory.path().join("identity.json")).unwrap();
    let mut foreign = flags(data, &mine);
    foreign.extend(["--cluster-token", "another"]);
    let (code, words) = run_to_end(&foreign);
    assert_eq!(code, 2, "{words}");
    assert!(last_words(&words)[0].contains("belongs to"), "{words}");
    assert_eq!(std::fs::read(directory.path().join("identity.json")).unwrap(), before);
}

/// On Kubernetes a pod that is deleted by force is made anew while its process still ends.
#[test]
fn a_predecessor_that_ends_is_waited_for() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().to_str().unwrap();
    let (ports, next_ports) = (Ports::claim(), Ports::claim());
    let (first, second) = (addresses(&ports), addresses(&next_ports));
    let running = Running::start(&flags(data, &first), &first[2]);
    std::thread::scope(|scope| {
        let next = scope.spawn(|| Running::start(&flags(data, &second), &second[2]));
        // It answers before it has the directory: then the first ends.
        while std::net::TcpStream::connect(&second[2]).is_err() {
            assert!(!next.is_finished(), "it did not wait");
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        drop(running);
        drop(next.join().unwrap());
    });
}

#[test]
fn a_corrupt_identity_or_state_is_told_and_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().to_str().unwrap();
    let ports = Ports::claim();
    let addresses = addresses(&ports);
    drop(Running::start(&flags(data, &addresses), &addresses[2]));

    let state = directory.path().join("state.redb");
    let good = std::fs::read(&state).unwrap();
    std::fs::write(&state, &good[..good.len() / 3]).unwrap();
    let (code, words) = run_to_end(&flags(data, &addresses));
    assert_ne!(code, 0, "{words}");
    std::fs::write(&state, &good).unwrap();

    let identity = directory.path().join("identity.json");
    let text = std::fs::read_to_string(&identity).unwrap().replace("\"node\": 1", "\"node\": 2");
    std::fs::write(&identity, text.replace("\"node\":1", "\"node\":2")).unwrap();
    let before = files(directory.path());
    let (code, words) = run_to_end(&flags(data, &addresses));
    assert!(code == 2 || code == 3, "{code} {words}");
    assert_eq!(last_words(&words).len(), 1, "{words}");
    assert_eq!(files(directory.path()), before);
}

#[test]
fn wrong_flags_name_the_flag() {
    for (arguments, part) in [
        (&["serve"][..], "--data"),
        (&["serve", "--data", "d", "--replicas", "2"], "odd"),
        (&["serve", "--data", "d", "--no-such-flag"], "--no-such-flag"),
        (&["dev", "--nodes", "0", "--data", "/proc/d"], "--nodes"),
        (&["dev", "--data", "/proc/d"], "/proc/d"),
        (&["split", ""], "KEY"),
        (&["move", "1", "2"], "--range"),
    ] {
        let (code, words) = run_to_end(arguments);
        assert_eq!(code, 2, "{arguments:?}: {words}");
        assert!(words.contains(part), "{arguments:?}: {words}");
    }
}

#[test]
fn a_cluster_that_is_not_there_is_told_with_its_own_code() {
    let ports = Ports::claim();
    let endpoint = format!("127.0.0.1:{}", ports.base);
    for command in [&["status"][..], &["ranges"], &["nodes"], &["drain", "1"]] {
        let mut arguments = command.to_vec();
        arguments.extend(["--endpoints", &endpoint, "--timeout", "2s"]);
        let (code, words) = run_to_end(&arguments);
        assert_eq!(code, 4, "{arguments:?}: {words}");
        assert!(words.contains(&endpoint), "{words}");
    }
}

#[test]
fn a_full_disk_refuses_what_needs_room_and_serves_the_rest() {
    let Some(cluster) = Cluster::start_on_small_disk(300, &["--nodes", "1"]) else {
        eprintln!("SKIPPED: this user cannot mount a small disk");
        return;
    };
    let runtime = Runtime::new().unwrap();
    let put = |key: &str| {
        let key = key.as_bytes().to_vec().into();
        let request = PutRequest { key, value: vec![7; 1000].into(), ..PutRequest::default() };
        runtime.block_on(connect(&runtime, &cluster.endpoint(1)).put(request))
    };
    put("before").unwrap();
    let filler = cluster.directory.path().join("filler");
    fill(&filler, 0.96);
    wait_for("the refusal", || put("meanwhile").is_err());
    let refusal = put("meanwhile").unwrap_err();
    assert_eq!(refusal.message(), "etcdserver: mvcc: database space exceeded");
    assert_eq!(refusal.code(), Code::ResourceExhausted);

    let mut client = connect(&runtime, &cluster.endpoint(1));
    let read = RangeRequest { key: b"before".to_vec().into(), ..RangeRequest::default() };
    assert_eq!(runtime.block_on(client.range(read)).unwrap().into_inner().count, 1);
    let delete = DeleteRangeRequest { key: b"before".to_vec().into(), ..Default::default() };
    assert_eq!(runtime.block_on(client.delete_range(delete)).unwrap().into_inner().deleted, 1);

    std::fs::remove_file(&filler).unwrap();
    wait_for("room", || put("after").is_ok());

    // Not even a full disk stops the node: it has given up its reserve.
    fill(&filler, 1.0);
    wait_for("the refusal", || put("again").is_err());
    std::fs::remove_file(&filler).unwrap();
    wait_for("room", || put("again").is_ok());
}

/// Fills the file system of `path` until so much of it is used.
fn fill(path: &Path, fraction: f64) {
    let stat = nix::sys::statvfs::statvfs(path.parent().unwrap()).unwrap();
    let (total, free) = (stat.blocks(), stat.blocks_available());
    let wanted = (total as f64 * fraction) as u64;
    let blocks = wanted.saturating_sub(total - free).min(free);
    let file = std::fs::File::create(path).unwrap();
    let bytes = blocks * stat.fragment_size();
    nix::fcntl::posix_fallocate(&file, 0, i64::try_from(bytes).unwrap()).unwrap();
}
