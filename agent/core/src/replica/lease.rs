//! Who leads, by a Lease of `coordination.k8s.io/v1`, as its fields are documented and client-go's leader election
//! uses them: whoever finds it unchanged for as long as its holder said may take it. Nobody compares clocks: each
//! measures by its own, and the time of renewal in the object is for people.
//!
//! Invariant: no two lead at the same time, however late requests and answers are, as long as clocks run at about the
//! same rate: a holder counts from before it asked and stops early, the others count from when they saw it.

use std::time::Duration;

/// For how long a lease is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms(Duration);

impl Terms {
    /// A lease that others respect for `duration` after they last saw it change.
    pub const fn new(duration: Duration) -> Self {
        Self(duration)
    }

    /// For how long others respect it.
    pub const fn duration(self) -> Duration {
        self.0
    }

    /// A holder that could not renew it for this long leads no more.
    pub fn deadline(self) -> Duration {
        self.0.mul_f64(0.6)
    }

    /// Time between two looks at it.
    pub fn every(self) -> Duration {
        self.0.mul_f64(0.1)
    }

    /// What was read of the CA counts for this long.
    pub fn fresh(self) -> Duration {
        self.0.mul_f64(0.4)
    }
}

/// A Lease as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Its `resourceVersion`.
    pub version: String,
    /// `holderIdentity`; none if it was given up.
    pub holder: Option<String>,
    /// `leaseDurationSeconds`.
    pub duration: Duration,
    /// `leaseTransitions`.
    pub transitions: u32,
    /// `acquireTime` as it is written, for people.
    pub acquired: Option<String>,
    /// Where its holder is reached, as it says.
    pub address: Option<String>,
}

/// What to do now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Act {
    /// Create it, held.
    Create,
    /// Write it over this version, held.
    Update {
        /// The version that was read.
        version: String,
        /// Holders that it had so far.
        transitions: u32,
        /// Whether it changes hands.
        acquires: bool,
    },
    /// Somebody else holds it.
    Wait,
}

/// One who would lead. Times are since any one moment, by a clock that nobody sets.
#[derive(Debug)]
pub struct Elector {
    me: String,
    terms: Terms,
    /// What was read last, and when it was first read so.
    seen: Option<(Record, Duration)>,
    /// When the last renewal that was accepted was asked for.
    renewed: Option<Duration>,
}

impl Elector {
    /// One of a name that nobody else has.
    pub const fn new(me: String, terms: Terms) -> Self {
        Self { me, terms, seen: None, renewed: None }
    }

    /// Decides by what was just read.
    pub fn act(&mut self, found: Option<Record>, now: Duration) -> Act {
        let Some(found) = found else {
            self.seen = None;
            return Act::Create;
        };
        let since = match &self.seen {
            Some((seen, since)) if seen.version == found.version => *since,
            _ => now,
        };
        let (version, transitions) = (found.version.clone(), found.transitions);
        let act = match found.holder.as_deref() {
            Some(holder) if holder == self.me => Act::Update { version, transitions, acquires: false },
            Some(_) if now.saturating_sub(since) < found.duration => Act::Wait,
            _ => Act::Update { version, transitions: transitions.saturating_add(1), acquires: true },
        };
        self.seen = Some((found, since));
        act
    }

    /// What was written is accepted; it was decided at `asked`.
    pub fn accepted(&mut self, asked: Duration) {
        self.renewed = Some(asked);
    }

    /// It was given up.
    pub fn released(&mut self) {
        self.renewed = None;
    }

    /// Whether it leads now.
    pub fn leads(&self, now: Duration) -> bool {
        self.renewed.is_some_and(|at| now.saturating_sub(at) < self.terms.deadline())
    }

    /// Who leads by what was read last, and where that one is reached.
    pub fn holder(&self) -> Option<(&str, Option<&str>)> {
        let (seen, _) = self.seen.as_ref()?;
        Some((seen.holder.as_deref()?, seen.address.as_deref()))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TERMS: Terms = Terms::new(Duration::from_secs(10));

    fn record(version: &str, holder: Option<&str>) -> Record {
        let (version, holder) = (version.to_owned(), holder.map(str::to_owned));
        Record { version, holder, duration: TERMS.duration(), transitions: 3, acquired: None, address: None }
    }

    fn update(version: &str, transitions: u32, acquires: bool) -> Act {
        Act::Update { version: version.to_owned(), transitions, acquires }
    }

    #[test]
    fn a_lease_is_taken_when_nobody_holds_it_or_its_holder_was_silent_for_as_long_as_it_said() {
        let at = Duration::from_secs;
        let mut elector = Elector::new("me".to_owned(), TERMS);
        assert_eq!(elector.act(None, at(0)), Act::Create);
        assert_eq!(elector.act(Some(record("1", Some("other"))), at(100)), Act::Wait);
        assert_eq!(elector.holder(), Some(("other", None)));
        assert_eq!(elector.act(Some(record("1", Some("other"))), at(109)), Act::Wait);
        // It was renewed: its time begins anew.
        assert_eq!(elector.act(Some(record("2", Some("other"))), at(111)), Act::Wait);
        assert_eq!(elector.act(Some(record("2", Some("other"))), at(121)), update("2", 4, true));
        assert_eq!(elector.act(Some(record("3", None)), at(122)), update("3", 4, true));
        assert!(!elector.leads(at(122)), "nothing was accepted");
        elector.accepted(at(122));
        assert!(elector.leads(at(127)));
        assert_eq!(elector.act(Some(record("4", Some("me"))), at(127)), update("4", 3, false));
        assert!(!elector.leads(at(128)), "it could not renew it");
    }

    #[derive(Debug, Clone, Copy)]
    enum Event {
        Time(u64),
        Read(usize),
        Write(usize),
        Answer(usize),
        Restart(usize),
    }

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            4 => (0..4_000_u64).prop_map(Event::Time),
            4 => (0..3_usize).prop_map(Event::Read),
            4 => (0..3_usize).prop_map(Event::Write),
            4 => (0..3_usize).prop_map(Event::Answer),
            1 => (0..3_usize).prop_map(Event::Restart),
        ]
    }

    proptest! {
        #[test]
        fn no_two_lead_at_once_however_late_requests_and_answers_are(
            events in prop::collection::vec(event(), 0..300)
        ) {
            let fresh = |n: usize| Elector::new(n.to_string(), TERMS);
            let mut electors = [fresh(0), fresh(1), fresh(2)];
            let mut asked: [Option<(Act, Duration)>; 3] = [None, None, None];
            let mut answers: [Option<(bool, Duration)>; 3] = [None, None, None];
            let (mut stored, mut version, mut now) = (None::<Record>, 0_u64, Duration::ZERO);
            for event in events {
                match event {
                    Event::Time(ms) => now += Duration::from_millis(ms),
                    Event::Read(n) => asked[n] = Some((electors[n].act(stored.clone(), now), now)),
                    Event::Write(n) => {
                        let Some((act, at)) = asked[n].take() else { continue };
                        let fits = match (&act, &stored) {
                            (Act::Create, None) => true,
                            (Act::Update { version, .. }, Some(now)) => *version == now.version,
                            _ => false,
                        };
                        if fits {
                            version += 1;
                            stored = Some(record(&version.to_string(), Some(&n.to_string())));
                        }
                        answers[n] = Some((fits, at));
                    }
                    Event::Answer(n) => if let Some((true, at)) = answers[n].take() {
                        electors[n].accepted(at);
                    },
                    Event::Restart(n) => {
                        electors[n] = fresh(n);
                        (asked[n], answers[n]) = (None, None);
                    }
                }
                let leading = electors.iter().filter(|elector| elector.leads(now)).count();
                prop_assert!(leading <= 1, "{leading} lead after {event:?}");
            }
        }
    }
}
