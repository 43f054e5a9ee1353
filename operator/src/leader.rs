//! One operator acts: the one that holds the Lease.
//!
//! Invariants: who cannot renew in time stops, at once and as a process; who stops in good order gives
//! the Lease back. The Lease is advice: what keeps two operators from doing harm are conditional
//! writes of the status and the epochs that the cluster itself checks.

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client};
use std::time::{Duration, Instant};

/// How long a Lease is good without being renewed.
pub const LEASE: Duration = Duration::from_secs(15);
/// Who could not renew for this long stops: well before anybody else may begin.
pub const RENEW_DEADLINE: Duration = Duration::from_secs(10);
/// How often it is tried.
pub const RETRY: Duration = Duration::from_secs(2);

/// What is known of the Lease of others: it is taken over when it was not renewed for [`LEASE`], as
/// seen by this process's own clock.
#[derive(Debug, Default)]
struct Watched {
    renewed: Option<(String, Option<Timestamp>)>,
    since: Option<Instant>,
}

impl Watched {
    /// True if the Lease may be taken.
    fn is_free(&mut self, lease: &LeaseSpec, me: &str, now: Instant) -> bool {
        let holder = lease.holder_identity.clone().unwrap_or_default();
        if holder.is_empty() || holder == me {
            return true;
        }
        let seen = Some((holder, lease.renew_time.as_ref().map(|time| time.0)));
        if self.renewed != seen {
            self.renewed = seen;
            self.since = Some(now);
        }
        let lasts = Duration::from_secs(lease.lease_duration_seconds.unwrap_or(15).max(1) as u64);
        self.since.is_some_and(|since| now.duration_since(since) >= lasts)
    }
}

/// The election.
pub struct Election {
    api: Api<Lease>,
    name: String,
    me: String,
    watched: Watched,
}

impl Election {
    /// Takes part as `me` in the election of the Lease `name`.
    pub fn new(client: Client, namespace: &str, name: &str, me: &str) -> Self {
        Self {
            api: Api::namespaced(client, namespace),
            name: name.to_owned(),
            me: me.to_owned(),
            watched: Watched::default(),
        }
    }

    /// Waits until this process holds the Lease.
    pub async fn acquire(&mut self) {
        loop {
            match self.try_hold().await {
                Ok(true) => return,
                Ok(false) => {}
                Err(error) => tracing::warn!(%error, "cannot take the Lease"),
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    /// Renews until that fails for too long or somebody else holds the Lease.
    pub async fn hold(&mut self) -> String {
        let mut renewed = Instant::now();
        loop {
            tokio::time::sleep(RETRY).await;
            let left = RENEW_DEADLINE.saturating_sub(renewed.elapsed());
            match tokio::time::timeout(left, self.try_hold()).await {
                Ok(Ok(true)) => renewed = Instant::now(),
                Ok(Ok(false)) => return "somebody else holds the Lease".to_owned(),
                Ok(Err(error)) => tracing::warn!(%error, "cannot renew the Lease"),
                Err(_elapsed) => {}
            }
            if renewed.elapsed() >= RENEW_DEADLINE {
                return format!("the Lease was not renewed for {RENEW_DEADLINE:?}");
            }
        }
    }

    /// Gives the Lease back, so that the next one need not wait.
    pub async fn release(&self) {
        let released: kube::Result<()> = async {
            let mut lease = self.api.get(&self.name).await?;
            let spec = lease.spec.get_or_insert_default();
            if spec.holder_identity.as_deref() != Some(&self.me) {
                return Ok(());
            }
            spec.holder_identity = Some(String::new());
            spec.lease_duration_seconds = Some(1);
            self.api.replace(&self.name, &PostParams::default(), &lease).await.map(|_| ())
        }
        .await;
        if let Err(error) = released {
            tracing::warn!(%error, "cannot give the Lease back");
        }
    }

    /// Takes or renews the Lease, if it is free. A conflict is an error like others: whoever was
    /// faster is seen at the next try.
    async fn try_hold(&mut self) -> kube::Result<bool> {
        let now = Timestamp::now();
        let fresh = LeaseSpec {
            holder_identity: Some(self.me.clone()),
            lease_duration_seconds: Some(LEASE.as_secs() as i32),
            acquire_time: Some(MicroTime(now)),
            renew_time: Some(MicroTime(now)),
            ..LeaseSpec::default()
        };
        let Some(mut lease) = self.api.get_opt(&self.name).await? else {
            let lease = Lease {
                metadata: ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() },
                spec: Some(fresh),
            };
            return self.api.create(&PostParams::default(), &lease).await.map(|_| true);
        };
        let spec = lease.spec.clone().unwrap_or_default();
        if !self.watched.is_free(&spec, &self.me, Instant::now()) {
            return Ok(false);
        }
        let mine = spec.holder_identity.as_deref() == Some(&self.me);
        lease.spec = Some(LeaseSpec {
            acquire_time: if mine { spec.acquire_time } else { fresh.acquire_time.clone() },
            lease_transitions: Some(spec.lease_transitions.unwrap_or(0) + i32::from(!mine)),
            ..fresh
        });
        // Carries the resource version: only one of several can succeed.
        self.api.replace(&self.name, &PostParams::default(), &lease).await.map(|_| true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(holder: &str, renewed: i64) -> LeaseSpec {
        LeaseSpec {
            holder_identity: Some(holder.to_owned()),
            lease_duration_seconds: Some(15),
            renew_time: Some(MicroTime(Timestamp::from_second(renewed).unwrap())),
            ..LeaseSpec::default()
        }
    }

    #[test]
    fn a_lease_is_taken_only_when_nobody_renews_it() {
        let mut watched = Watched::default();
        let start = Instant::now();
        assert!(!watched.is_free(&lease("other", 1), "me", start));
        assert!(!watched.is_free(&lease("other", 1), "me", start + Duration::from_secs(14)));
        // Renewed in between: the time starts again.
        assert!(!watched.is_free(&lease("other", 2), "me", start + Duration::from_secs(14)));
        assert!(!watched.is_free(&lease("other", 2), "me", start + Duration::from_secs(20)));
        assert!(watched.is_free(&lease("other", 2), "me", start + Duration::from_secs(29)));
    }

    #[test]
    fn ones_own_and_a_returned_lease_are_free() {
        let mut watched = Watched::default();
        assert!(watched.is_free(&lease("me", 1), "me", Instant::now()));
        assert!(watched.is_free(&lease("", 1), "me", Instant::now()));
    }
}
