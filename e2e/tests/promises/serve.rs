//! Existing clients of the etcd v3 API use the gateway Service (S1): etcdctl in a pod.

use crate::world::World;

pub(crate) async fn clients_in_pods_use_the_gateway(world: &World) {
    world.make_cluster().await;
    world.run_client("client", &["wait"], None).await;
    let etcdctl = async |arguments: &[&str]| {
        let answer = world.etcdctl("client", arguments).await;
        answer.unwrap_or_else(|error| panic!("{arguments:?}: {error}"))
    };
    assert_eq!(etcdctl(&["put", "city", "Ulm"]).await, "OK\n");
    assert_eq!(etcdctl(&["get", "city"]).await, "city\nUlm\n");
    assert_eq!(etcdctl(&["put", "river", "Donau"]).await, "OK\n");
    assert_eq!(
        etcdctl(&["get", "", "--prefix", "--print-value-only", "--sort-by=KEY"]).await,
        "Ulm\nDonau\n"
    );
    assert_eq!(etcdctl(&["del", "city"]).await, "1\n");
    assert_eq!(etcdctl(&["get", "city"]).await, "");
    let members = etcdctl(&["member", "list"]).await;
    assert_eq!(members.lines().count(), 3, "{members}");
    // Without a certificate of the cluster nobody gets in.
    let endpoint = format!("--endpoints={}", crate::world::gateway());
    let anonymous =
        ["etcdctl", &endpoint, "--cacert=/tls/ca.crt", "--command-timeout=3s", "get", "x"];
    let refused = world.exec("client", &anonymous).await;
    assert!(refused.is_err(), "served without a certificate: {refused:?}");
}
