//! Which worker a connection goes to.
//!
//! The kernel counts what pods have open with each worker, from the SYN until the pod's socket is closed. A connect goes
//! to the worker with the fewest, and of those to the first: connections that are made at once are shared out evenly,
//! and few that follow each other need one worker's tunnels, or two's while one is still busy with the end of the last
//! connection, instead of one of every worker.
//! Each agent counts from nothing what its own programs saw begin. A pod whose hooks go away while a socket of its
//! waits to be closed leaves that one counted, until the agent is started anew.

use crate::entry::WORKERS_MAX;

/// The same as a worker's number has it.
const MOST: u32 = 8;
const _: () = assert!(MOST as usize == WORKERS_MAX);

/// The worker with the listener of sockets that are bound to a device.
pub const DEVICE_WORKER: u32 = 0;

/// The first of the workers with the fewest connections, of those that have a listener. If none has one, the first.
#[inline(always)]
pub fn least_loaded(listeners: &[u16; WORKERS_MAX], workers: u32, load: impl Fn(u32) -> i64) -> u32 {
    let mut least = 0;
    let mut fewest = i64::MAX;
    let mut worker = 0;
    while worker < MOST {
        if worker < workers && listeners[worker as usize] != 0 {
            let open = load(worker);
            if open < fewest {
                (least, fewest) = (worker, open);
            }
        }
        worker += 1;
    }
    least
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ALL: [u16; WORKERS_MAX] = [1; WORKERS_MAX];

    fn of(loads: &[i64]) -> impl Fn(u32) -> i64 {
        |worker| loads[worker as usize]
    }

    proptest! {
        #[test]
        fn it_is_the_first_of_those_with_the_fewest_that_listen(
            loads: [i64; WORKERS_MAX],
            listeners in proptest::array::uniform8(0_u16..3),
            workers in 1_u32..=MOST,
        ) {
            let listening = (0..workers).filter(|worker| listeners[*worker as usize] != 0);
            let first = listening.min_by_key(|worker| of(&loads)(*worker)).unwrap_or(0);
            prop_assert_eq!(least_loaded(&listeners, workers, of(&loads)), first);
        }

        /// What is opened in a row is shared out evenly, and nobody else gets any.
        #[test]
        fn what_is_opened_at_once_is_shared_out(workers in 1_u32..=MOST, count in 0_i64..100) {
            let mut loads = [0; WORKERS_MAX];
            for _ in 0..count {
                loads[least_loaded(&ALL, workers, of(&loads)) as usize] += 1;
            }
            let (used, others) = loads.split_at(workers as usize);
            prop_assert!(used.iter().max().unwrap() - used.iter().min().unwrap() <= 1);
            prop_assert_eq!(used.iter().sum::<i64>(), count);
            prop_assert!(others.iter().all(|open| *open == 0));
        }
    }

    #[test]
    fn an_entry_without_workers_gets_the_first_which_it_has_no_listener_for() {
        assert_eq!(least_loaded(&ALL, 0, |_| 0), 0);
        assert_eq!(least_loaded(&ALL, 1, |_| i64::MAX), 0);
    }
}
