//! A recovery, as the API server sees it.

use super::*;
use crate::api::recovery::RecoveryPhase;

const STATUS: &str = "PATCH /apis/holdfast.dev/v1alpha1/namespaces/ns/holdfastclusters/demo/status";
const SET: &str = "PATCH /apis/apps/v1/namespaces/ns/statefulsets/demo";
const PODS: &str = "/api/v1/namespaces/ns/pods";

/// Two of three nodes are gone, and what demo-1 has is asked for.
async fn lost() -> World {
    let mut world = World::running().await;
    if let Ok(report) = &mut *world.nodes.report.lock() {
        report.sequencer = None;
        report.ranges.unavailable = 2;
        report.ranges.fully_replicated = 0;
        for member in report.nodes.iter_mut().filter(|member| member.name != "demo-1") {
            "Down".clone_into(&mut member.state);
        }
    }
    for name in ["demo-0", "demo-1", "demo-2"] {
        let mut pod = world.context.stores.pods_of("ns", "demo")[name].as_ref().clone();
        let status = pod.status.as_mut().unwrap();
        for condition in status.conditions.as_mut().unwrap() {
            "False".clone_into(&mut condition.status);
        }
        status.container_statuses.as_mut().unwrap()[0].ready = false;
        world.writers.pods.apply_watcher_event(&watcher::Event::Apply(pod));
        let mut claim =
            world.context.stores.claims_of("ns", "demo")[&format!("data-{name}")].as_ref().clone();
        claim.status.get_or_insert_default().phase = Some("Bound".to_owned());
        world.writers.claims.apply_watcher_event(&watcher::Event::Apply(claim));
    }
    ask(&mut world, None);
    world
}

fn ask(world: &mut World, consent: Option<&str>) {
    let recovery = json!({"id": "a", "from": "demo-1", "acceptDataLoss": consent});
    *world.spec.lock() = json!({"recovery": recovery});
    world.cluster.spec.recovery = serde_json::from_value(recovery).unwrap();
}

/// One reconcile; what was sent is shown, but for the last status, which has to be as sent.
async fn turn(world: &mut World) -> Vec<Sent> {
    static VERSION: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(1_000_000);
    let version = VERSION.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    world.cluster.metadata.resource_version = Some(version.to_string());
    world.reconcile().await.unwrap();
    let sent = world.take();
    world.show(&sent);
    sent
}

fn lines(sent: &[Sent]) -> Vec<String> {
    sent.iter().map(|sent| format!("{} {}", sent.method, sent.path)).collect()
}

fn phase(world: &World) -> RecoveryPhase {
    world.cluster.status.as_ref().unwrap().recovery.as_ref().unwrap().phase
}

/// The recovery's pod as it was sent, with this end.
fn end_pod(world: &mut World, sent: &Sent, verdict: &Value) {
    let mut body = sent.body.clone();
    body["metadata"]["uid"] = format!("uid-{}", body["metadata"]["name"]).into();
    body["metadata"]["namespace"] = "ns".into();
    body["status"] = json!({"phase": "Succeeded", "containerStatuses": [{
        "name": "node", "ready": false, "image": "", "imageID": "", "restartCount": 0,
        "state": {"terminated": {"exitCode": 0, "message": verdict.to_string()}},
    }]});
    let pod: Pod = serde_json::from_value(body).unwrap();
    world.writers.recovery_pods.apply_watcher_event(&watcher::Event::Apply(pod));
}

#[tokio::test]
async fn every_step_is_written_down_first_and_each_object_is_named_by_its_uid() {
    let mut world = lost().await;
    turn(&mut world).await;
    assert_eq!(phase(&world), RecoveryPhase::Examining);
    let sent = turn(&mut world).await;
    let start = sent.iter().find(|it| it.method == Method::POST).expect("the pod is made");
    assert_eq!(start.path, PODS);
    assert_eq!(start.body["metadata"]["name"], "demo-recovery-a-look1");
    let start = start.clone();
    let report = json!({"digest": "s1", "kept": 2, "old": 0, "lostSpans": 0, "term": 6, "entry": 1,
        "revision": 5, "compacted": 9});
    end_pod(&mut world, &start, &json!({"version": 1, "report": report, "gone": ["n1 (demo-0)"]}));
    turn(&mut world).await;
    assert_eq!(phase(&world), RecoveryPhase::Reported);
    // What it printed is kept before it is removed.
    let sent = turn(&mut world).await;
    let map = "/api/v1/namespaces/ns/configmaps/demo-recovery-a-report";
    let kept = lines(&sent);
    assert!(kept.contains(&format!("GET {PODS}/demo-recovery-a-look1/log")), "{kept:?}");
    assert!(kept.contains(&format!("PATCH {map}")), "{kept:?}");
    let sent = turn(&mut world).await;
    let delete = sent.iter().find(|it| it.method == Method::DELETE).expect("it is removed");
    assert_eq!(delete.path, format!("{PODS}/demo-recovery-a-look1"));
    let name = "demo-recovery-a-look1";
    let pod = world.context.stores.recovery_pods_of("ns", "demo")[name].as_ref().clone();
    assert_eq!(delete.body["preconditions"]["uid"], pod.metadata.uid.clone().unwrap());
    world.writers.recovery_pods.apply_watcher_event(&watcher::Event::Delete(pod));

    let status = world.cluster.status.clone().unwrap();
    let digest = status.recovery.unwrap().report.unwrap().digest;
    let stalled = status.conditions.iter().find(|it| it.type_ == "Stalled").unwrap();
    assert_eq!(stalled.reason, "RecoveryAwaitsConsent");
    ask(&mut world, Some(&digest));
    let sent = turn(&mut world).await;
    assert_eq!(lines(&sent), [STATUS, SET], "the intent first");
    assert_eq!(sent[0].body["status"]["recovery"]["phase"], "Stopping");
    assert_eq!(sent[1].body["spec"]["replicas"], 0);
    let sent = turn(&mut world).await;
    assert_eq!(lines(&sent), [STATUS], "it says that it waits for the pods to stop");
    for (_, pod) in world.context.stores.pods_of("ns", "demo") {
        world.writers.pods.apply_watcher_event(&watcher::Event::Delete(pod.as_ref().clone()));
    }
    *world.nodes.report.lock() = Err("no pod has an address yet".to_owned());
    turn(&mut world).await;
    let sent = turn(&mut world).await;
    let run = sent.iter().find(|it| it.method == Method::POST).expect("the pod is made").clone();
    assert_eq!(run.body["metadata"]["name"], "demo-recovery-a-run2");
    let arguments = run.body["spec"]["containers"][0]["args"].to_string();
    assert!(arguments.contains("--expect=s1"), "{arguments}");
    end_pod(&mut world, &run, &json!({"version": 1, "done": true}));
    turn(&mut world).await;
    assert_eq!(phase(&world), RecoveryPhase::Replacing);
    for at in [0, 2] {
        let sent = turn(&mut world).await;
        let delete =
            sent.iter().find(|it| it.method == Method::DELETE).expect("a claim is deleted");
        let claim = format!("data-demo-{at}");
        assert_eq!(delete.path, format!("/api/v1/namespaces/ns/persistentvolumeclaims/{claim}"));
        assert_eq!(delete.body["preconditions"]["uid"], format!("pvc-{at}"));
        let gone = world.context.stores.claims_of("ns", "demo")[&claim].as_ref().clone();
        world.writers.claims.apply_watcher_event(&watcher::Event::Delete(gone));
    }
    let sent = turn(&mut world).await;
    assert_eq!(phase(&world), RecoveryPhase::Starting);
    let set = sent.iter().find(|it| it.path.contains("statefulsets")).expect("pods start");
    assert_eq!(set.body["spec"]["replicas"], 3);
}

#[tokio::test]
async fn a_pod_that_may_not_be_made_is_said_and_tried_again() {
    let mut world = lost().await;
    turn(&mut world).await;
    *world.answer.lock() = |sent| {
        (sent.method == Method::POST && sent.path.ends_with("/pods"))
            .then_some(StatusCode::FORBIDDEN)
    };
    assert_eq!(world.reconcile().await.unwrap_err().reason(), "Forbidden");
    let sent = world.take();
    let last = sent.last().unwrap().body["status"]["conditions"].to_string();
    assert!(last.contains("demo-recovery-a-look1"), "{last}");
    *world.answer.lock() = |_| None;
    let sent = turn(&mut world).await;
    assert!(sent.iter().any(|it| it.method == Method::POST && it.path == PODS), "{sent:?}");
}
