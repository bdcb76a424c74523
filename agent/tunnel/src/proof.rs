//! For how long a handshake counts. A tunnel outlives many connections, so what it proved is asked
//! again for each new stream.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use lark_identity::{SvidStore, TrustBundle};

/// What a handshake proved, and until when.
pub(crate) struct Proof {
    svids: SvidStore,
    /// When the first of both certificates expires.
    expires: SystemTime,
    /// The roots that were accepted then.
    bundle: Arc<TrustBundle>,
}

impl Proof {
    pub(crate) fn new(svids: SvidStore, expires: SystemTime, bundle: Arc<TrustBundle>) -> Self {
        Self { svids, expires, bundle }
    }

    /// Zero when a certificate has expired.
    pub(crate) fn expires_in(&self) -> Duration {
        self.expires.duration_since(self.svids.now()).unwrap_or(Duration::ZERO)
    }

    /// Whether all roots of then are still accepted: a bundle that lost one may have lost ours, and a
    /// handshake anew settles it.
    pub(crate) fn root_accepted(&self) -> bool {
        let now = self.svids.bundle();
        Arc::ptr_eq(&self.bundle, &now)
            || self.bundle.certificates().iter().all(|root| now.certificates().contains(root))
    }

    /// Whether the tunnel may take a stream.
    pub(crate) fn holds(&self) -> bool {
        !self.expires_in().is_zero() && self.root_accepted()
    }
}
