//! How much of what a worker has each peer may take. Each node that discovery knows has a share, and all other
//! addresses together one, so that nobody can take everything from the rest.

use std::collections::HashMap;
use std::net::IpAddr;

/// Where a tunnel comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Origin {
    /// The address of a node that discovery knows.
    Node(IpAddr),
    /// A pod of this node, by its number: of what its own connections hold here.
    Pod(u32),
    /// Any other address. No stream from there is delivered until discovery knows it.
    Elsewhere,
}

/// Why there is no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Full {
    /// All of it is taken.
    #[error("there are {0} already, the most that are taken")]
    All(usize),
    /// The node, or the pod, has its share.
    #[error("that node or pod has {0} already, the most that one may have")]
    Node(usize),
    /// Addresses that are no node's have their share.
    #[error("addresses that are no node's have {0} already, the most they may have")]
    Elsewhere(usize),
}

/// Things or bytes of one kind that one worker, or the agent, has.
#[derive(Debug)]
pub struct Quota {
    most: usize,
    a_node: usize,
    elsewhere: usize,
    total: usize,
    taken: HashMap<Origin, usize>,
}

/// So few are not worth dividing.
const FEW: usize = 8;

impl Quota {
    /// At most `most`; of these a quarter for each node and an eighth for addresses that are no node's.
    pub fn new(most: usize) -> Self {
        let share = |divisor: usize| (most / divisor).max(FEW).min(most);
        Self { most, a_node: share(4), elsewhere: share(8), total: 0, taken: HashMap::new() }
    }

    /// Takes that many for `origin`, all or none.
    ///
    /// # Errors
    /// When it has its share, or everything is taken.
    pub fn take(&mut self, origin: Origin, amount: usize) -> Result<(), Full> {
        let own = self.room(origin, amount)?;
        self.total += amount;
        self.taken.insert(origin, own);
        Ok(())
    }

    /// Takes them though there may be no room: they are there already.
    pub fn overdraw(&mut self, origin: Origin, amount: usize) {
        self.total = self.total.saturating_add(amount);
        let own = self.taken.entry(origin).or_default();
        *own = own.saturating_add(amount);
    }

    /// How much `origin` would have with that many more.
    ///
    /// # Errors
    /// When there is no room for them.
    pub fn room(&self, origin: Origin, amount: usize) -> Result<usize, Full> {
        let own = self.taken.get(&origin).copied().unwrap_or(0).saturating_add(amount);
        match origin {
            _ if self.total.saturating_add(amount) > self.most => Err(Full::All(self.most)),
            Origin::Node(_) | Origin::Pod(_) if own > self.a_node => Err(Full::Node(self.a_node)),
            Origin::Elsewhere if own > self.elsewhere => Err(Full::Elsewhere(self.elsewhere)),
            _ => Ok(own),
        }
    }

    /// Gives back what was taken.
    pub fn give(&mut self, origin: Origin, amount: usize) {
        let Some(own) = self.taken.get_mut(&origin) else { return };
        let amount = amount.min(*own);
        *own -= amount;
        self.total = self.total.saturating_sub(amount);
        if *own == 0 {
            self.taken.remove(&origin);
        }
    }

    /// What anybody may have, wherever he is.
    pub fn share(&self) -> usize {
        self.a_node.min(self.elsewhere)
    }

    /// Whether `origin` has more than twice its share, or all have more than twice what there is: they took what they
    /// have [anyway](Self::overdraw).
    pub fn is_far_over(&self, origin: Origin) -> bool {
        let share = match origin {
            Origin::Node(_) | Origin::Pod(_) => self.a_node,
            Origin::Elsewhere => self.elsewhere,
        };
        let own = self.taken.get(&origin).copied().unwrap_or(0);
        own > share.saturating_mul(2) || self.total > self.most.saturating_mul(2)
    }

    /// How much is taken at all.
    pub fn total(&self) -> usize {
        self.total
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn node(n: u8) -> Origin {
        Origin::Node([192, 168, 0, n].into())
    }

    #[test]
    fn nobody_keeps_the_others_out() {
        let mut quota = Quota::new(64);
        let fill = |quota: &mut Quota, origin| loop {
            if let Err(full) = quota.take(origin, 1) {
                return full;
            }
        };
        assert_eq!(fill(&mut quota, node(1)), Full::Node(16));
        assert_eq!(fill(&mut quota, Origin::Elsewhere), Full::Elsewhere(8));
        assert_eq!(quota.take(node(2), 16), Ok(()));
        assert_eq!(quota.take(node(3), 16), Ok(()));
        assert_eq!(quota.take(node(4), 9), Err(Full::All(64)));
        quota.give(node(1), 1);
        assert_eq!(quota.take(node(1), 2), Err(Full::Node(16)));
        assert_eq!(quota.take(node(4), 9), Ok(()));
    }

    #[test]
    fn a_few_are_not_divided() {
        let mut quota = Quota::new(2);
        assert_eq!((quota.take(node(1), 2), quota.take(node(2), 1)), (Ok(()), Err(Full::All(2))));
    }

    #[test]
    fn far_over_is_more_than_twice_the_share() {
        let mut quota = Quota::new(64);
        for (origin, share) in [(node(1), 16), (Origin::Pod(1), 16), (Origin::Elsewhere, 8)] {
            quota.overdraw(origin, 2 * share);
            assert!(!quota.is_far_over(origin));
            quota.overdraw(origin, 1);
            assert!(quota.is_far_over(origin));
            quota.give(origin, 1);
            assert!(!quota.is_far_over(origin));
        }
        assert_eq!(quota.total(), 80);
        quota.overdraw(node(2), 48);
        assert!(!quota.is_far_over(node(3)), "twice of all");
        quota.overdraw(node(2), 1);
        assert!(quota.is_far_over(node(3)), "more than twice of all");
    }

    proptest! {
        #[test]
        fn the_most_is_never_passed_and_nothing_is_forgotten(
            most in 1_usize..100, events in prop::collection::vec((0_u8..12, 1_usize..9, any::<bool>()), 1..300),
        ) {
            let mut quota = Quota::new(most);
            let mut held = Vec::new();
            for (who, amount, takes) in events {
                let origin = if who == 0 { Origin::Elsewhere } else { node(who) };
                if takes && quota.take(origin, amount).is_ok() {
                    held.push((origin, amount));
                } else if let Some((origin, amount)) = held.pop() {
                    quota.give(origin, amount);
                }
                prop_assert!(quota.total() <= most);
                prop_assert_eq!(quota.total(), held.iter().map(|(_, amount)| amount).sum::<usize>());
            }
            for (origin, amount) in held {
                quota.give(origin, amount);
            }
            prop_assert_eq!((quota.total(), quota.taken.len()), (0, 0));
        }
    }
}
