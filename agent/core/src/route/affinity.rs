//! `sessionAffinity: ClientIP`: which endpoint a client of a Service had last. A table with a bound; who
//! falls out of it is given an endpoint anew, as after a restart of the agent.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::snapshot::Service;

/// Clients that are remembered at least; of older ones up to as many again.
const REMEMBERED: usize = 32_768;

/// Client (its uid), and the Service's namespace and name.
type Key = (Arc<str>, Arc<str>, Arc<str>);

/// The table.
#[derive(Debug, Default)]
pub struct Affinity {
    /// Used since the last turn.
    young: HashMap<Key, Last>,
    /// Not used since then; dropped as a whole at the next turn.
    old: HashMap<Key, Last>,
}

#[derive(Debug, Clone, Copy)]
struct Last {
    endpoint: IpAddr,
    at: Duration,
}

fn key(client: &Arc<str>, service: &Service) -> Key {
    (client.clone(), service.namespace.clone(), service.name.clone())
}

impl Affinity {
    /// The endpoint that this client had last, if it was not away for longer than `away`. `now` is any
    /// clock that does not go back.
    pub fn before(
        &self,
        client: &Arc<str>,
        service: &Service,
        away: Duration,
        now: Duration,
    ) -> Option<IpAddr> {
        let key = key(client, service);
        let last = self.young.get(&key).or_else(|| self.old.get(&key))?;
        (now.saturating_sub(last.at) < away).then_some(last.endpoint)
    }

    /// Notes what the client was given.
    pub fn note(&mut self, client: &Arc<str>, service: &Service, endpoint: IpAddr, now: Duration) {
        let key = key(client, service);
        if self.young.len() >= REMEMBERED && !self.young.contains_key(&key) {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key, Last { endpoint, at: now });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::fixture::mesh;

    #[test]
    fn a_client_is_remembered_until_it_was_away_for_long_enough() {
        let (_, _, services) = mesh();
        let service = &services[0];
        let (web, other): (Arc<str>, Arc<str>) = ("web".into(), "other".into());
        let endpoint = IpAddr::from([10, 0, 2, 1]);
        let second = Duration::from_secs;
        let mut affinity = Affinity::default();
        affinity.note(&web, service, endpoint, second(100));
        assert_eq!(affinity.before(&web, service, second(10), second(109)), Some(endpoint));
        assert_eq!(affinity.before(&web, service, second(10), second(110)), None);
        assert_eq!(affinity.before(&other, service, second(10), second(100)), None);
        // Each connection counts anew.
        affinity.note(&web, service, endpoint, second(109));
        assert_eq!(affinity.before(&web, service, second(10), second(118)), Some(endpoint));
    }

    #[test]
    fn the_table_is_bounded_and_forgets_the_least_recent() {
        let (_, _, services) = mesh();
        let service = &services[0];
        let endpoint = IpAddr::from([10, 0, 2, 1]);
        let mut affinity = Affinity::default();
        let client = |i: usize| -> Arc<str> { format!("client-{i}").into() };
        for i in 0..4 * REMEMBERED {
            affinity.note(&client(i), service, endpoint, Duration::ZERO);
            affinity.note(&client(0), service, endpoint, Duration::ZERO);
        }
        assert!(affinity.young.len() + affinity.old.len() <= 2 * REMEMBERED);
        let known = |i| affinity.before(&client(i), service, Duration::MAX, Duration::ZERO).is_some();
        assert!(known(0) && known(4 * REMEMBERED - 1) && !known(1));
    }
}
