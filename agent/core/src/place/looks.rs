use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

/// Looks after one thing that was told. A process is put into its pod's cgroup before it enters the pod's network
/// namespace, within some milliseconds, and nothing tells of the latter.
const AFTER: [Duration; 6] = [
    Duration::ZERO,
    Duration::from_millis(5),
    Duration::from_millis(20),
    Duration::from_millis(60),
    Duration::from_millis(150),
    Duration::from_millis(300),
];
/// After a look comes a rest of this many times as long, so that whoever makes and removes cgroups all the time has
/// a fifth of one core at most.
const REST: u32 = 4;

/// When pods of this node are looked for, beside the look now and then: at once when the kernel tells that something
/// of one changed, and again while one is still awaited. Time is an argument, from any beginning.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Looks {
    /// When something was told last, and how many looks came of it.
    told: Option<(Duration, usize)>,
    /// Not before.
    rested: Duration,
    awaited: BTreeSet<Arc<str>>,
}

impl Looks {
    /// Something of a pod changed.
    pub fn told(&mut self, now: Duration) {
        self.told = Some((now, 0));
    }

    /// When the next look is due; `None` if there is nothing to look for.
    pub fn due(&self) -> Option<Duration> {
        let (told, done) = self.told?;
        Some((told + *AFTER.get(done)?).max(self.rested))
    }

    /// There was a look, from then until now, and these pods are not where they are to be yet. One that was not
    /// among them before counts as told: what it waits for may be happening.
    pub fn looked(&mut self, began: Duration, now: Duration, awaited: BTreeSet<Arc<str>>) {
        self.rested = now + now.saturating_sub(began) * REST;
        if !awaited.is_subset(&self.awaited) {
            // The look was the first of them.
            self.told = Some((now, 1));
        } else if let Some((told, done)) = &mut self.told {
            // All that was due by its beginning is done by it.
            *done += AFTER.iter().skip(*done).take_while(|after| *told + **after <= began).count();
        }
        if awaited.is_empty() && self.told.is_some_and(|(_, done)| done > 0) {
            self.told = None;
        }
        self.awaited = awaited;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn pods(names: &[&str]) -> BTreeSet<Arc<str>> {
        names.iter().map(|name| Arc::from(*name)).collect()
    }

    /// The looks that come when each takes no time, until none is due.
    fn all(looks: &mut Looks, awaited: &[&str]) -> Vec<u128> {
        let mut at = Vec::new();
        while let Some(due) = looks.due() {
            at.push(due.as_millis());
            looks.looked(due, due, pods(awaited));
        }
        at
    }

    #[test]
    fn what_is_told_is_looked_at_at_once_and_again_while_a_pod_is_awaited() {
        let mut looks = Looks::default();
        assert_eq!(looks.due(), None);
        looks.looked(MS, MS, pods(&["a"]));
        assert_eq!(all(&mut looks, &["a"]), [6, 21, 61, 151, 301]);
        looks.told(1_000 * MS);
        assert_eq!(all(&mut looks, &["a"]), [1_000, 1_005, 1_020, 1_060, 1_150, 1_300]);
        // Nobody is awaited any more: one look is enough.
        looks.told(2_000 * MS);
        assert_eq!(all(&mut looks, &[]), [2_000]);
    }

    #[test]
    fn a_look_that_began_before_it_was_told_does_not_count() {
        let mut looks = Looks::default();
        looks.told(10 * MS);
        looks.looked(9 * MS, 11 * MS, pods(&[]));
        assert_eq!(looks.due(), Some(19 * MS));
    }

    proptest! {
        #[test]
        fn looks_take_a_fifth_of_the_time_at_most_whatever_is_told(
            steps in prop::collection::vec((0_u64..50, 1_u64..30, any::<bool>()), 1..200)
        ) {
            let (mut looks, mut now, mut busy) = (Looks::default(), Duration::ZERO, Duration::ZERO);
            let mut last = Duration::ZERO;
            for (pause, takes, is_awaited) in steps {
                looks.told(now);
                now += Duration::from_millis(pause);
                let due = looks.due().unwrap();
                now = now.max(due);
                let (began, took) = (now, Duration::from_millis(takes));
                now += took;
                looks.looked(began, now, if is_awaited { pods(&["a"]) } else { pods(&[]) });
                busy += took;
                last = took;
            }
            prop_assert!((busy - last) * 5 <= now);
        }
    }
}
