//! Sockets made ahead of need. A socket belongs to the namespace in which it was made, and entering one
//! costs more than the socket: whoever has to enter makes some for the next deliveries too, and when the
//! last of them is taken the next ones are made behind that delivery. A pod that gets none for a moment
//! keeps none.

use hashbrown::HashMap;

/// Sockets made in one visit of a pod that was delivered to lately.
const BATCH: usize = 8;

/// Sockets by pod and family; each worker has its own.
#[derive(Debug)]
pub(super) struct Ready<S> {
    pods: HashMap<(u32, Family), OfPod<S>>,
}

/// Of a destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Family {
    V4,
    V6,
}

#[derive(Debug)]
struct OfPod<S> {
    sockets: Vec<S>,
    used: bool,
}

/// What a delivery gets.
pub(super) struct Taken<S> {
    /// None only if `make` made none.
    pub(super) socket: Option<S>,
    /// It was the last of several, so more may be wanted soon.
    pub(super) is_last: bool,
}

impl<S> Default for Ready<S> {
    fn default() -> Self {
        Self { pods: HashMap::new() }
    }
}

impl<S> Ready<S> {
    /// A socket for that pod. If there is none, `make` is told how many to make; the first is taken.
    pub(super) fn take<E>(
        &mut self,
        pod: u32,
        family: Family,
        make: impl FnOnce(usize) -> Result<Vec<S>, E>,
    ) -> Result<Taken<S>, E> {
        let of_pod = self.pods.get_mut(&(pod, family));
        if let Some(of_pod) = of_pod {
            of_pod.used = true;
            if of_pod.sockets.is_empty() {
                of_pod.sockets = make(BATCH)?;
            }
            let socket = of_pod.sockets.pop();
            return Ok(Taken { socket, is_last: of_pod.sockets.is_empty() });
        }
        // Nothing was delivered to it lately: one is enough until another is wanted.
        let mut made = make(1)?;
        let socket = made.pop();
        self.pods.insert((pod, family), OfPod { sockets: made, used: true });
        Ok(Taken { socket, is_last: false })
    }

    /// Sockets for the next deliveries, unless the pod is gone, is quiet, or has some.
    pub(super) fn add<E>(
        &mut self,
        pod: u32,
        family: Family,
        make: impl FnOnce(usize) -> Result<Vec<S>, E>,
    ) -> Result<(), E> {
        if let Some(of_pod) = self.pods.get_mut(&(pod, family)).filter(|of_pod| of_pod.sockets.is_empty()) {
            of_pod.sockets = make(BATCH)?;
        }
        Ok(())
    }

    /// Closes those of pods that took none since the last time.
    pub(super) fn sweep(&mut self) {
        self.pods.retain(|_, of_pod| std::mem::take(&mut of_pod.used));
    }

    /// Closes those of a pod that is no more.
    pub(super) fn forget(&mut self, pod: u32) {
        self.pods.retain(|(of, _), _| *of != pod);
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    /// Takes one; says how many were made for it.
    fn take(ready: &mut Ready<usize>, pod: u32, family: Family) -> usize {
        let mut made = 0;
        let taken = ready.take(pod, family, |count| {
            made = count;
            Ok::<_, Infallible>((0..count).collect())
        });
        assert!(taken.unwrap().socket.is_some());
        made
    }

    #[test]
    fn whoever_comes_again_finds_them_made() {
        let mut ready = Ready::default();
        assert_eq!([0; 10].map(|_| take(&mut ready, 1, Family::V4)), [1, BATCH, 0, 0, 0, 0, 0, 0, 0, BATCH]);
        assert_eq!(take(&mut ready, 1, Family::V6), 1);
        assert_eq!(take(&mut ready, 2, Family::V4), 1);
    }

    #[test]
    fn whoever_takes_the_last_of_several_says_so_and_more_are_added_once() {
        let make = |count| Ok::<_, Infallible>((0..count).collect::<Vec<_>>());
        let mut ready = Ready::default();
        let mut is_last = || ready.take(1, Family::V4, make).unwrap().is_last;
        assert!(!is_last(), "one may be all that is wanted");
        assert_eq!([0; BATCH].map(|_| is_last()), [0, 0, 0, 0, 0, 0, 0, 1].map(|last| last == 1));
        for expected in [BATCH, 0] {
            let mut made = 0;
            let add = |count| {
                made = count;
                make(count)
            };
            ready.add(1, Family::V4, add).unwrap();
            assert_eq!(made, expected);
        }
        assert_eq!(take(&mut ready, 1, Family::V4), 0);
        // For a pod that is gone none are made.
        ready.forget(1);
        assert_eq!(ready.add(1, Family::V4, |_| Err("made")), Ok(()));
        assert!(ready.pods.is_empty());
    }

    #[test]
    fn a_quiet_pod_keeps_none_and_one_that_is_gone_none_at_once() {
        let mut ready = Ready::default();
        let _ = [0; 3].map(|_| take(&mut ready, 1, Family::V4));
        ready.sweep();
        assert_eq!(take(&mut ready, 1, Family::V4), 0);
        ready.sweep();
        ready.sweep();
        assert!(ready.pods.is_empty());
        let _ = [0; 3].map(|_| (take(&mut ready, 1, Family::V4), take(&mut ready, 2, Family::V6)));
        ready.forget(1);
        assert_eq!(ready.pods.keys().collect::<Vec<_>>(), [&(2, Family::V6)]);
    }

    #[test]
    fn what_cannot_be_made_is_an_error_each_time() {
        let mut ready = Ready::<()>::default();
        for _ in 0..2 {
            let taken = ready.take(1, Family::V4, |_| Err("no namespace"));
            assert_eq!(taken.err(), Some("no namespace"));
        }
    }
}
