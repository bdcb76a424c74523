//! Which tunnel a stream takes, and when tunnels are opened and given up. Time is an argument.

use std::net::SocketAddr;
use std::time::Duration;

use crate::identity::SpiffeId;

/// What a tunnel is for: streams share one only if all three agree.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PoolKey {
    /// Who calls.
    pub source: SpiffeId,
    /// Who must be proved at the other end.
    pub destination: SpiffeId,
    /// Where the other agent accepts tunnels.
    pub node: SocketAddr,
}

/// What is known of an open tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts {
    /// Its age.
    pub age: Duration,
    /// How long until the first of both SVIDs expires; zero when one has.
    pub expires_in: Duration,
    /// Whether the roots are still those under which it was proved.
    pub root_accepted: bool,
    /// Streams on it.
    pub streams: usize,
    /// Streams that the peer takes at once.
    pub streams_max: usize,
    /// Whether either end said that it takes no more.
    pub going_away: bool,
}

/// What to do with a tunnel when a stream wants one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choice {
    /// Put the stream on it.
    Use,
    /// It is full: another one, and keep this.
    Full,
    /// It takes no new streams for ever; those on it may finish.
    Retire,
}

/// Decides for one tunnel.
pub const fn choose(facts: &Facts, max_age: Duration) -> Choice {
    if facts.going_away
        || !facts.root_accepted
        || facts.expires_in.is_zero()
        || facts.age.as_nanos() >= max_age.as_nanos()
    {
        Choice::Retire
    } else if facts.streams >= facts.streams_max {
        Choice::Full
    } else {
        Choice::Use
    }
}

/// How long nobody dials a node again after that many failures in a row: the first connection after
/// the wait tries anew, those before it get the last failure's reason at once.
pub fn pause(failures: u32) -> Duration {
    match failures {
        0 => Duration::ZERO,
        n => Duration::from_millis(50).saturating_mul(1 << (n - 1).min(4)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn no_stream_goes_where_it_must_not(age in 0_u64..8000, expires in 0_u64..3, root: bool, streams in 0_usize..5, away: bool) {
            let facts = Facts {
                age: Duration::from_secs(age),
                expires_in: Duration::from_secs(expires),
                root_accepted: root,
                streams,
                streams_max: 3,
                going_away: away,
            };
            let choice = choose(&facts, Duration::from_secs(3600));
            if choice == Choice::Use {
                prop_assert!(age < 3600 && expires > 0 && root && !away && streams < 3);
            }
            if choice == Choice::Full { prop_assert!(streams >= 3 && !away && root); }
        }
    }

    #[test]
    fn pauses_stay_below_the_time_a_client_retries_in() {
        assert_eq!(pause(0), Duration::ZERO);
        assert!(pause(u32::MAX) <= Duration::from_secs(1));
    }
}
