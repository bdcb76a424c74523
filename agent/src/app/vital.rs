//! What an agent is not whole without: when such a thread or task ends, the agent ends and says so. Whoever
//! started it starts it anew, and until then the kernel does as the mesh's `agentDown` says; one that went
//! on would look alive and refuse, or miss, what the part was for.

use std::future::Future;
use std::mem;

use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};

/// Guards vital parts.
#[derive(Clone)]
pub(super) struct Vital(UnboundedSender<String>);

/// Tells the name of its part when it is dropped: at its end, however it came.
pub(super) struct Guard {
    name: String,
    told: UnboundedSender<String>,
}

impl Drop for Guard {
    fn drop(&mut self) {
        // Nobody listens any more once the agent ends.
        let _ = self.told.send(mem::take(&mut self.name));
    }
}

impl Vital {
    /// And the names of those that ended.
    pub(super) fn new() -> (Self, UnboundedReceiver<String>) {
        let (told, ended) = mpsc::unbounded_channel();
        (Self(told), ended)
    }

    pub(super) fn guard(&self, name: &str) -> Guard {
        Guard { name: name.to_owned(), told: self.0.clone() }
    }

    /// A task that must not end.
    pub(super) fn task<F: Future<Output = ()>>(
        &self,
        name: &str,
        task: F,
    ) -> impl Future<Output = ()> + use<F> {
        let guard = self.guard(name);
        async move {
            let _guard = guard;
            task.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_part_that_ends_is_told_of_by_name_whether_it_returns_or_panics() {
        let (vital, mut ended) = Vital::new();
        tokio::spawn(vital.task("goes on", std::future::pending()));
        tokio::spawn(vital.task("returns", async {}));
        assert_eq!(ended.recv().await.as_deref(), Some("returns"));
        tokio::spawn(vital.task("panics", async { panic!("on purpose") }));
        assert_eq!(ended.recv().await.as_deref(), Some("panics"));
        let guard = vital.guard("thread");
        let panicked = std::thread::spawn(move || {
            let _guard = guard;
            panic!("on purpose");
        });
        assert_eq!((panicked.join().is_err(), ended.recv().await.as_deref()), (true, Some("thread")));
        assert!(ended.try_recv().is_err());
    }
}
