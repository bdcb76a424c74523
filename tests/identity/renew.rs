//! The store over days, with a clock that the test moves.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use lark_core::constants::SVID_LIFE;
use lark_core::identity::{SpiffeId, TrustDomain};
use lark_identity::ca::Ca;
use lark_identity::client::{Issuer, RequestError};
use lark_identity::{SvidState, SvidStore, TrustBundle};
use lark_testbed::Record;
use tokio::task::JoinHandle;

use crate::logs::Logs;
use crate::world::{World, csr, id, until};

const HOUR: u64 = 3600;

/// A store whose clock runs some seconds ahead of the machine's.
struct Node {
    store: SvidStore,
    ahead: Arc<AtomicU64>,
    renewal: JoinHandle<()>,
}

impl Drop for Node {
    fn drop(&mut self) {
        self.renewal.abort();
    }
}

impl Node {
    fn new(bundle: TrustBundle, issuer: impl Issuer) -> Self {
        let ahead = Arc::new(AtomicU64::new(0));
        let by = ahead.clone();
        let clock = move || SystemTime::now() + Duration::from_secs(by.load(Ordering::Relaxed));
        let store = SvidStore::new(bundle, Arc::new(clock));
        let renewal = tokio::spawn(store.clone().renew(Arc::new(issuer)));
        Self { store, ahead, renewal }
    }

    fn want(&self, accounts: &[&str]) {
        self.store.want(accounts.iter().map(|account| id(account)).collect::<BTreeSet<SpiffeId>>());
    }

    fn set_clock(&self, ahead: u64) {
        self.ahead.store(ahead, Ordering::Relaxed);
    }

    fn serial(&self, account: &str) -> Option<String> {
        self.store.valid(&id(account)).map(|svid| svid.serial.clone())
    }

    fn state(&self, account: &str) -> Option<SvidState> {
        self.store.status().into_iter().find(|s| s.id == id(account)).map(|s| s.state)
    }

    fn error(&self, account: &str) -> Option<String> {
        self.store.status().into_iter().find(|s| s.id == id(account))?.last_error
    }

    /// Waits for a valid certificate with another serial number than that.
    async fn obtains(&self, account: &str, other_than: Option<&str>) -> String {
        until("a certificate", async || {
            self.serial(account).is_some_and(|serial| Some(serial.as_str()) != other_than)
        })
        .await;
        self.serial(account).unwrap()
    }
}

#[tokio::test]
async fn renewal_comes_before_half_of_the_life_and_not_at_once() {
    let world = World::new();
    let running = world.serve().await;
    let node = Node::new(world.bundle(), world.client("one", running.address));
    node.want(&["web"]);
    let first = node.obtains("web", None).await;
    assert_eq!(node.state("web"), Some(SvidState::Valid));

    // Two fifths of the life less a little: another identity is supplied, this one is let be.
    node.set_clock(9 * HOUR);
    node.want(&["web", "api"]);
    node.obtains("api", None).await;
    assert_eq!(node.serial("web"), Some(first.clone()));
    assert_eq!(running.service.issued(), 2);

    // Three fifths and a little.
    node.set_clock(15 * HOUR);
    node.obtains("web", Some(&first)).await;
    running.stop().await;
}

#[tokio::test]
async fn a_certificate_lives_as_long_as_was_asked_for() {
    let world = World::new();
    let running = world.serve().await;
    let node = Node::new(world.bundle(), world.client("one", running.address));
    node.store.ask_for(Duration::from_secs(600));
    node.want(&["web"]);
    node.obtains("web", None).await;
    let left = node.store.status()[0].not_after.unwrap().duration_since(SystemTime::now()).unwrap();
    assert!(left <= Duration::from_secs(600) && left > Duration::from_secs(500), "{left:?}");
    running.stop().await;
}

#[tokio::test]
async fn what_is_not_wanted_any_more_is_forgotten() {
    let world = World::new();
    let running = world.serve().await;
    let node = Node::new(world.bundle(), world.client("one", running.address));
    node.want(&["web", "api"]);
    node.obtains("web", None).await;
    node.obtains("api", None).await;
    node.want(&["api"]);
    until("web is gone", async || node.state("web").is_none()).await;
    assert!(node.store.current(&id("web")).is_none());
    assert!(node.serial("api").is_some());
    running.stop().await;
}

#[tokio::test]
async fn renewal_failure_keeps_the_valid_svid_until_the_ca_is_back() {
    let world = World::new();
    let running = world.serve().await;
    let address = running.address;
    let node = Node::new(world.bundle(), world.client("one", address));
    node.want(&["web"]);
    let first = node.obtains("web", None).await;
    running.stop().await;

    node.set_clock(15 * HOUR);
    until("a failed renewal", async || node.error("web").is_some()).await;
    assert!(node.error("web").unwrap().contains("cannot be reached"), "{:?}", node.error("web"));
    assert_eq!((node.serial("web"), node.state("web")), (Some(first.clone()), Some(SvidState::Valid)));
    // From two thirds on it is late, and says so.
    node.set_clock(17 * HOUR);
    assert_eq!((node.serial("web"), node.state("web")), (Some(first.clone()), Some(SvidState::RenewalLate)));

    let running = world.serve_with(&world.args(&address.to_string(), &[])).await;
    node.obtains("web", Some(&first)).await;
    assert_eq!(node.error("web"), None);
    running.stop().await;
}

#[tokio::test]
async fn a_ca_that_is_away_for_twelve_hours_is_missed_by_nobody() {
    let world = World::new();
    let running = world.serve().await;
    let address = running.address;
    let node = Node::new(world.bundle(), world.client("one", address));
    node.want(&["web", "api"]);
    let first = node.obtains("web", None).await;
    node.obtains("api", None).await;
    // It goes right before the renewal, and comes back twelve hours later.
    running.stop().await;
    for hour in 0..=12 {
        node.set_clock((23 + 2 * hour) * HOUR / 2);
        for account in ["web", "api"] {
            assert!(node.serial(account).is_some(), "no certificate {hour} h after the CA went");
        }
    }
    let running = world.serve_with(&world.args(&address.to_string(), &[])).await;
    node.obtains("web", Some(&first)).await;
    let fault = "the CA away for twelve hours from right before the renewal (injected clock)";
    Record::told(fault, 1, "both certificates valid throughout; renewed once it was back").unwrap();
    running.stop().await;
}

#[tokio::test]
async fn a_renewal_that_fails_is_said_louder_as_time_goes_by() {
    let logs = Logs::gather();
    let world = World::new();
    let running = world.serve().await;
    let node = Node::new(world.bundle(), world.client("one", running.address));
    node.want(&["web"]);
    node.obtains("web", None).await;
    running.stop().await;
    for (hour, level, sentence) in [
        (13, "INFO", "no new certificate from the CA yet; there is time"),
        (17, "WARN", "no certificate from the CA"),
        (22, "ERROR", "the one in use is about to expire"),
        (25, "ERROR", "the certificate has expired: connections of this identity are refused"),
    ] {
        assert!(!logs.has(level, sentence), "{sentence}: too early");
        node.set_clock(hour * HOUR);
        until(sentence, async || logs.has(level, sentence)).await;
        assert!(logs.has(level, "cause=\"ca_unreachable\""));
        assert_eq!(node.serial("web").is_some(), hour < 24);
    }
    let fault = "renewals that fail until the certificate has expired (injected clock)";
    Record::told(fault, 4, "INFO at 13 h, WARN at 17 h, ERROR at 22 h of 24 h; not used at 25 h").unwrap();
}

#[tokio::test]
async fn an_expired_svid_is_not_used_and_a_wrong_clock_is_named() {
    let world = World::new();
    let running = world.serve().await;
    let node = Node::new(world.bundle(), world.client("one", running.address));
    node.want(&["web"]);
    let first = node.obtains("web", None).await;
    // This node's clock is a day and more ahead of the CA's: what the CA gives is over already.
    node.set_clock(26 * HOUR);
    until("it is said why", async || {
        node.error("web").is_some_and(|e| e.contains("expired") && e.contains("the clocks differ"))
    })
    .await;
    assert_eq!((node.serial("web"), node.state("web")), (None, Some(SvidState::Expired)));
    // The clock is set right: what was obtained is good again, and is renewed in its time.
    node.set_clock(0);
    assert_eq!((node.serial("web"), node.state("web")), (Some(first.clone()), Some(SvidState::Valid)));
    node.set_clock(15 * HOUR);
    node.obtains("web", Some(&first)).await;
    running.stop().await;
}

#[tokio::test]
async fn a_node_that_starts_with_a_wrong_clock_is_supplied_once_it_is_right() {
    let world = World::new();
    let running = world.serve().await;
    let node = Node::new(world.bundle(), world.client("one", running.address));
    node.set_clock(30 * HOUR);
    node.want(&["web"]);
    until("it fails", async || node.error("web").is_some()).await;
    assert_eq!(node.state("web"), Some(SvidState::Pending));
    node.set_clock(0);
    node.obtains("web", None).await;
    assert_eq!(node.error("web"), None);
    running.stop().await;
}

#[tokio::test]
async fn a_clock_past_half_of_every_life_makes_no_loop() {
    let world = World::new();
    let running = world.serve().await;
    let node = Node::new(world.bundle(), world.client("one", running.address));
    node.set_clock(16 * HOUR);
    node.want(&["web"]);
    node.obtains("web", None).await;
    // Whatever a loop would have asked for in between would be counted.
    for turn in 0..3 {
        node.want(if turn % 2 == 0 { &["web", "api"] } else { &["web"] });
        until("the loop has turned", async || node.state("api").is_some() == (turn % 2 == 0)).await;
        if turn % 2 == 0 {
            node.obtains("api", None).await;
        }
    }
    assert_eq!(running.service.issued(), 3);
    running.stop().await;
}

#[tokio::test]
async fn many_identities_are_supplied_a_few_at_a_time() {
    let world = World::new();
    let accounts: Vec<String> = (0..100).map(|n| format!("a{n}")).collect();
    let mut mesh = crate::world::MESH.to_owned();
    for (n, account) in accounts.iter().enumerate() {
        mesh += &format!(
            "  - {{ namespace: shop, name: {account}, account: {account}, node: one, addresses: [10.0.3.{n}] }}\n"
        );
    }
    std::fs::write(world.path("mesh.yaml"), mesh).unwrap();
    let running = world.serve().await;
    let node = Node::new(world.bundle(), world.client("one", running.address));
    node.want(&accounts.iter().map(String::as_str).collect::<Vec<_>>());
    until("all are there", async || accounts.iter().all(|a| node.serial(a).is_some())).await;
    assert_eq!(running.service.issued(), 100);
    running.stop().await;
}

/// A CA that answers something else than what was asked.
struct Hostile {
    trusted: Ca,
    other: Ca,
    lie: Lie,
}

#[derive(Clone, Copy, Debug)]
enum Lie {
    OtherIdentity,
    OtherKey,
    OtherRoot,
    Nothing,
    NoPem,
    LongChain,
}

impl Issuer for Hostile {
    async fn issue(
        &self,
        request: String,
        identity: &SpiffeId,
        life: Duration,
    ) -> Result<Vec<String>, RequestError> {
        let now = SystemTime::now();
        let (ca, request, identity) = match self.lie {
            Lie::OtherIdentity => (&self.trusted, request, id("db")),
            Lie::OtherKey => (&self.trusted, csr(vec![]), identity.clone()),
            Lie::OtherRoot => (&self.other, request, identity.clone()),
            Lie::LongChain => {
                let mut chain = self.trusted.sign(&request, identity, life, now).unwrap();
                chain.extend(std::iter::repeat_n(self.trusted.root_pem().to_owned(), 20));
                return Ok(chain);
            }
            Lie::Nothing => return Ok(vec![]),
            Lie::NoPem => {
                return Ok(vec!["-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n".to_owned()]);
            }
        };
        Ok(ca.sign(&request, &identity, life, now).unwrap())
    }
}

/// Breaks off at its first request, then does as it should.
struct Frail {
    ca: Ca,
    asked: AtomicU64,
}

impl Issuer for Frail {
    async fn issue(
        &self,
        request: String,
        identity: &SpiffeId,
        life: Duration,
    ) -> Result<Vec<String>, RequestError> {
        assert!(self.asked.fetch_add(1, Ordering::Relaxed) > 0, "broken off on purpose");
        Ok(self.ca.sign(&request, identity, life, SystemTime::now()).unwrap())
    }
}

#[tokio::test]
async fn a_request_that_breaks_off_is_made_again() {
    let (ca, _) = Ca::create(&TrustDomain::new("cluster.local").unwrap(), SystemTime::now()).unwrap();
    let bundle = TrustBundle::from_pem(ca.root_pem().as_bytes()).unwrap();
    let node = Node::new(bundle, Frail { ca, asked: AtomicU64::new(0) });
    node.want(&["web"]);
    node.obtains("web", None).await;
}

#[tokio::test]
async fn an_answer_that_proves_something_else_is_never_used() {
    let domain = TrustDomain::new("cluster.local").unwrap();
    for (lie, sentence) in [
        (Lie::OtherIdentity, "the peer proved spiffe://cluster.local/ns/shop/sa/db"),
        (Lie::OtherKey, "its leaf is for another key than ours"),
        // The root of the answer is never trusted for being there.
        (Lie::OtherRoot, "does not chain to an accepted root"),
        (Lie::Nothing, "it is empty"),
        (Lie::NoPem, "a certificate is not PEM"),
        (Lie::LongChain, "longer than eight"),
    ] {
        let ca = || Ca::create(&domain, SystemTime::now()).unwrap().0;
        let hostile = Hostile { trusted: ca(), other: ca(), lie };
        let bundle = TrustBundle::from_pem(hostile.trusted.root_pem().as_bytes()).unwrap();
        let node = Node::new(bundle, hostile);
        node.want(&["web"]);
        until("it is refused", async || node.error("web").is_some()).await;
        let error = node.error("web").unwrap();
        assert!(error.contains(sentence), "{lie:?}: {error}");
        assert_eq!((node.serial("web"), node.state("web")), (None, Some(SvidState::Pending)), "{lie:?}");
    }
    let fault = "a CA that answers with what proves something else";
    Record::told(fault, 6, "6 of 6 refused by the agent, each with what was wrong").unwrap();
    assert_eq!(SVID_LIFE, Duration::from_secs(24 * HOUR), "the tests above count on it");
}
