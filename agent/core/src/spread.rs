//! Which worker carries an accepted tunnel.
//!
//! Each worker of the dialling agent that carries a pair of workloads has a tunnel of its own for them, so that as
//! many cores as there are workers can encrypt what the pair exchanges. Which worker of the accepting agent takes a
//! connection from the listener is chance: where all tunnels of a pair came to one, it carried alone what the others
//! had sent together, its queue was full and small messages waited behind bulk.
//!
//! Invariants:
//! - Of the workers that take tunnels one goes to that which has the fewest of its pair, and of those to one that
//!   has the fewest in all.
//! - A pair without tunnels costs nothing.

use std::net::IpAddr;

use hashbrown::HashMap;

use crate::identity::SpiffeId;

/// What the tunnels have in common that carry the traffic of two workloads.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Pair {
    /// The address that the tunnel comes from: the other agent's node.
    pub node: IpAddr,
    /// Whom it proved.
    pub client: SpiffeId,
    /// Whom we proved.
    pub server: SpiffeId,
}

/// The accepted tunnels of all workers.
#[derive(Debug)]
pub struct Spread {
    /// How many each has.
    tunnels: Box<[usize]>,
    /// How many of a pair's each has.
    pairs: HashMap<Pair, Box<[usize]>>,
}

impl Spread {
    /// That many workers, without a tunnel.
    pub fn new(workers: usize) -> Self {
        Self { tunnels: vec![0; workers].into(), pairs: HashMap::new() }
    }

    /// The worker that the next tunnel of `pair` goes to, of those that `takes` says take one: `here`, which accepted
    /// it and always does, if it is as good as any.
    pub fn take(&mut self, pair: &Pair, here: usize, takes: impl Fn(usize) -> bool) -> usize {
        let of_pair = self.pairs.entry(pair.clone()).or_insert_with(|| vec![0; self.tunnels.len()].into());
        let workers = of_pair.iter().zip(&self.tunnels).enumerate();
        let taking = workers.filter(|(worker, _)| *worker == here || takes(*worker));
        let best = taking.min_by_key(|(worker, (of_pair, all))| (**of_pair, **all, *worker != here));
        let worker = best.map_or(here, |(worker, _)| worker);
        for counts in [of_pair, &mut self.tunnels] {
            if let Some(count) = counts.get_mut(worker) {
                *count += 1;
            }
        }
        worker
    }

    /// A tunnel of `pair` on that worker is over.
    pub fn give(&mut self, pair: &Pair, worker: usize) {
        let Some(of_pair) = self.pairs.get_mut(pair) else { return };
        let Some(own @ 1..) = of_pair.get_mut(worker) else { return };
        *own -= 1;
        if of_pair.iter().all(|count| *count == 0) {
            self.pairs.remove(pair);
        }
        if let Some(tunnels) = self.tunnels.get_mut(worker) {
            *tunnels -= 1;
        }
    }

    /// How many each worker has.
    pub fn tunnels(&self) -> &[usize] {
        &self.tunnels
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pair(number: u8) -> Pair {
        let id = |account: &str| -> SpiffeId {
            format!("spiffe://cluster.local/ns/shop/sa/{account}").parse().unwrap()
        };
        Pair {
            node: [192, 168, 0, number / 2].into(),
            client: id("web"),
            server: id(if number.is_multiple_of(2) { "db" } else { "cache" }),
        }
    }

    #[test]
    fn one_worker_that_accepts_everything_keeps_its_share() {
        let mut spread = Spread::new(4);
        let mut take = |number, takes: &dyn Fn(usize) -> bool| spread.take(&pair(number), 2, takes);
        assert_eq!(take(0, &|_| true), 2, "what is as good here as anywhere stays");
        assert_eq!([(); 3].map(|()| take(0, &|_| true)), [0, 1, 3]);
        // One that takes none has the fewest, and gets none.
        spread.give(&pair(0), 3);
        assert_eq!(spread.take(&pair(1), 2, |worker| worker != 3), 2);
        assert_eq!(spread.take(&pair(1), 2, |_| false), 2);
        // The pair comes first, then what each has in all.
        assert_eq!(spread.take(&pair(1), 2, |_| true), 3);
        assert_eq!(spread.take(&pair(0), 2, |_| true), 3);
        assert_eq!(spread.tunnels(), [1, 1, 3, 2]);
    }

    proptest! {
        #[test]
        fn no_worker_has_more_of_a_pair_than_its_share_and_nothing_is_forgotten(
            workers in 1_usize..9,
            events in prop::collection::vec((0_u8..6, 0_usize..8, any::<u8>(), any::<bool>()), 1..200),
        ) {
            let mut spread = Spread::new(workers);
            let mut open: Vec<(u8, usize)> = Vec::new();
            for (number, here, ready, opens) in events {
                if opens {
                    let here = here % workers;
                    let takes = |worker: usize| ready >> worker & 1 == 1;
                    let taking: Vec<usize> = (0..workers).filter(|w| *w == here || takes(*w)).collect();
                    let of_pair = |worker| open.iter().filter(|tunnel| **tunnel == (number, worker)).count();
                    let fewest = taking.iter().copied().map(of_pair).min();
                    let in_all = |worker| open.iter().filter(|(_, other)| *other == worker).count();
                    let good = |worker: &usize| Some(of_pair(*worker)) == fewest;
                    let least = taking.iter().copied().filter(good).map(in_all).min();
                    let worker = spread.take(&pair(number), here, takes);
                    prop_assert!(taking.contains(&worker));
                    prop_assert!(good(&worker) && Some(in_all(worker)) == least);
                    open.push((number, worker));
                } else if !open.is_empty() {
                    let (number, worker) = open.swap_remove(here % open.len());
                    spread.give(&pair(number), worker);
                }
                for (worker, tunnels) in spread.tunnels().iter().enumerate() {
                    prop_assert_eq!(*tunnels, open.iter().filter(|(_, other)| *other == worker).count());
                }
            }
            for (number, worker) in open {
                spread.give(&pair(number), worker);
            }
            prop_assert!(spread.pairs.is_empty() && spread.tunnels().iter().all(|tunnels| *tunnels == 0));
        }
    }
}
