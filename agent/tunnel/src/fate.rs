//! What becomes of a stream: from the tunnel's task to whoever carries the connection. One small
//! allocation a stream, on one thread.

use std::cell::RefCell;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};

use lark_core::policy::Denial;

use crate::ended::Ended;
use crate::stream::Carried;

/// How a stream's stay in a tunnel ended.
pub(crate) enum Outcome {
    /// The tunnel does not take it, and the other end never saw it: another tunnel may.
    NotTaken(Box<Carried>),
    /// The connection is over.
    Ended(Ended),
}

/// News of a stream, in this order.
pub(crate) enum News {
    /// The other end answered: it is open from end to end. It may have named the policy whose dry run would
    /// have denied it.
    Opened(Option<Box<Denial>>),
    /// It is over here.
    Over(Outcome),
    /// The tunnel's task went without a word.
    Gone,
}

#[derive(Default)]
struct State {
    opened: Option<Option<Box<Denial>>>,
    outcome: Option<Outcome>,
    gone: bool,
    waker: Option<Waker>,
}

/// The tunnel's end.
pub(crate) struct Teller(Rc<RefCell<State>>);
/// The carrier's end.
pub(crate) struct Listener(Rc<RefCell<State>>);

/// Both ends.
pub(crate) fn channel() -> (Teller, Listener) {
    let state = Rc::<RefCell<State>>::default();
    (Teller(state.clone()), Listener(state))
}

impl Teller {
    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.0.borrow_mut();
        change(&mut state);
        let waker = state.waker.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    pub(crate) fn opened(&self, would_deny: Option<Denial>) {
        self.change(|state| state.opened = Some(would_deny.map(Box::new)));
    }

    pub(crate) fn over(self, outcome: Outcome) {
        self.change(|state| state.outcome = Some(outcome));
    }
}

impl Drop for Teller {
    fn drop(&mut self) {
        self.change(|state| state.gone = true);
    }
}

impl Listener {
    /// The next news. Cancel safe.
    pub(crate) async fn next(&mut self) -> News {
        poll_fn(|cx| {
            let mut state = self.0.borrow_mut();
            if let Some(would_deny) = state.opened.take() {
                Poll::Ready(News::Opened(would_deny))
            } else if let Some(outcome) = state.outcome.take() {
                Poll::Ready(News::Over(outcome))
            } else if state.gone {
                Poll::Ready(News::Gone)
            } else {
                state.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        })
        .await
    }
}
