//! What an agent does about its identities, without its data path.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime};

use lark_identity::SvidStore;
use lark_identity::client::CaClient;
use lark_identity::follow::{Answers, Follower};
use lark_identity::verify::{Usage, verify_chain};
use tokio::task::JoinHandle;

use crate::world::{World, id, until};

/// Ends when it is dropped, as a killed one.
pub(crate) struct Agent {
    pub(crate) store: SvidStore,
    ahead: Arc<AtomicI64>,
    accounts: Vec<String>,
    tasks: Vec<JoinHandle<()>>,
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

/// Has nothing to tell to whoever asks the whole cluster.
struct Silent;

impl Answers for Silent {
    fn answer(&self, _: &str) -> (u16, Vec<u8>) {
        (503, b"nothing to tell".to_vec())
    }
}

impl Agent {
    /// One of a node, for these accounts.
    pub(crate) fn start(world: &World, node: &str, address: SocketAddr, accounts: &[&str]) -> Self {
        Self::of(world.agent(node, address), 0, accounts)
    }

    /// One with a client of the caller's and a clock that is some seconds ahead.
    pub(crate) fn of(client: CaClient, ahead: i64, accounts: &[&str]) -> Self {
        let ahead = Arc::new(AtomicI64::new(ahead));
        let by = ahead.clone();
        let clock = move || {
            let (now, by) = (SystemTime::now(), by.load(Ordering::Relaxed));
            let apart = Duration::from_secs(by.unsigned_abs());
            if by < 0 { now - apart } else { now + apart }
        };
        let store = SvidStore::new(client.roots.read().unwrap(), Arc::new(clock));
        store.want(accounts.iter().map(|account| id(account)).collect::<BTreeSet<_>>());
        let tasks = vec![
            tokio::spawn(store.clone().renew(Arc::new(client.clone()))),
            tokio::spawn(client.roots.clone().follow(store.clone())),
            tokio::spawn(Follower::new(client, "test", Arc::new(Silent)).run(store.clone())),
        ];
        Self { store, ahead, accounts: accounts.iter().map(|&a| a.to_owned()).collect(), tasks }
    }

    pub(crate) fn set_clock(&self, ahead: i64) {
        self.ahead.store(ahead, Ordering::Relaxed);
    }

    pub(crate) fn error(&self, account: &str) -> Option<String> {
        self.store.status().into_iter().find(|s| s.id == id(account))?.last_error
    }

    /// Waits until it has a certificate for each account.
    pub(crate) async fn supplied(&self) {
        until("every account has a certificate", async || {
            self.accounts.iter().all(|account| self.store.valid(&id(account)).is_some())
        })
        .await;
    }

    /// Why it would refuse another's certificate, if it would.
    pub(crate) fn refuses(&self, other: &Self) -> Option<String> {
        let now = SystemTime::now();
        other.accounts.iter().filter_map(|account| other.store.valid(&id(account))).find_map(|svid| {
            let (leaf, between) = svid.certified.cert.split_first()?;
            let proved = verify_chain(leaf, between, &self.store.bundle(), now, Usage::Server);
            proved.err().map(|why| format!("{}: {why}", svid.id))
        })
    }
}
