//! Which failures of pods become Events of the cluster, and how often: each once when it begins and now and then while
//! it lasts, all of them together bounded. Pure: time is an argument.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::rate::Allowance;

/// Events at once ...
pub const BURST: u32 = 100;
/// ... and for how many more a second.
pub const PER_SECOND: u32 = 1;
/// How often it is said that a failure lasts. API servers forget an Event after an hour.
pub const AGAIN: Duration = Duration::from_secs(600);
/// Least time between two different sentences about one pod.
const APART: Duration = Duration::from_secs(60);
/// A failure that was not heard of for this long is over.
const OVER: Duration = Duration::from_secs(120);
/// Pods about which something is kept.
const PODS_MAX: usize = 4096;

/// What is to be posted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Post {
    /// A new Event.
    New,
    /// The last one again: it was seen so often by now.
    Series(u32),
}

#[derive(Debug)]
struct Known {
    why: String,
    posted: Duration,
    heard: Duration,
    count: u32,
}

/// What was posted about which pod.
#[derive(Debug)]
pub struct Notices {
    pods: BTreeMap<Arc<str>, Known>,
    allowance: Allowance,
}

impl Notices {
    /// Nothing was posted yet.
    pub fn new(now: Duration) -> Self {
        Self { pods: BTreeMap::new(), allowance: Allowance::full(BURST, now) }
    }

    /// A pod fails for this reason, as of now. Says what is to be posted, if something is.
    pub fn failing(&mut self, pod: &Arc<str>, why: &str, now: Duration) -> Option<Post> {
        self.pods.retain(|_, known| now.saturating_sub(known.heard) < OVER);
        let is_full = self.pods.len() >= PODS_MAX;
        let post = match self.pods.get_mut(pod) {
            None if is_full => return None,
            None => Post::New,
            Some(known) => {
                known.heard = now;
                let since = now.saturating_sub(known.posted);
                match known.why == why {
                    true if since >= AGAIN => Post::Series(known.count.saturating_add(1)),
                    false if since >= APART => Post::New,
                    _ => return None,
                }
            }
        };
        if !self.allowance.take(BURST, PER_SECOND, now) {
            return None;
        }
        let count = match post {
            Post::New => 1,
            Post::Series(count) => count,
        };
        self.pods.insert(pod.clone(), Known { why: why.to_owned(), posted: now, heard: now, count });
        Some(post)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_posted_once_then_now_and_then_and_again_once_it_had_passed() {
        let at = Duration::from_secs;
        let mut notices = Notices::new(at(0));
        let pod: Arc<str> = "one".into();
        assert_eq!(notices.failing(&pod, "no cgroup", at(0)), Some(Post::New));
        for second in 1..600 {
            assert_eq!(notices.failing(&pod, "no cgroup", at(second)), None);
        }
        assert_eq!(notices.failing(&pod, "no cgroup", at(600)), Some(Post::Series(2)));
        assert_eq!(notices.failing(&pod, "no certificate", at(601)), None);
        assert_eq!(notices.failing(&pod, "no certificate", at(660)), Some(Post::New));
        assert_eq!(notices.failing(&pod, "no certificate", at(660) + OVER), Some(Post::New));
    }

    #[test]
    fn what_is_posted_and_what_is_kept_is_bounded_whoever_fails() {
        let mut notices = Notices::new(Duration::ZERO);
        let mut posted = 0;
        for number in 0..3 * PODS_MAX {
            let pod: Arc<str> = number.to_string().into();
            posted += usize::from(notices.failing(&pod, "no cgroup", Duration::ZERO).is_some());
        }
        assert_eq!(posted, usize::try_from(BURST).unwrap());
        assert!(notices.pods.len() <= PODS_MAX);
        // Whoever was left out has his turn.
        assert_eq!(notices.failing(&"7000".into(), "no cgroup", Duration::from_secs(2)), Some(Post::New));
    }
}
