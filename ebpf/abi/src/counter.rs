//! The closed set of things a hook counts. A counter's number is its index in the per-CPU array
//! and part of the layout: new ones go to the end.

macro_rules! counters {
    ($($(#[doc = $doc:literal])+ $variant:ident = $index:literal, $label:literal;)+) => {
        /// What a hook did, and why.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u32)]
        pub enum Counter { $($(#[doc = $doc])+ $variant = $index,)+ }
        impl Counter {
            /// All counters, by index.
            pub const ALL: &'static [Counter] = &[$(Counter::$variant,)+];
            /// The label in metrics and tables.
            pub const fn label(self) -> &'static str { match self { $(Counter::$variant => $label,)+ } }
            /// What it means, in a sentence.
            pub const fn meaning(self) -> &'static str { match self { $(Counter::$variant => concat!($($doc),+),)+ } }
            /// The index in the array.
            #[inline(always)]
            pub const fn index(self) -> u32 { match self { $(Counter::$variant => $index,)+ } }
        }
    };
}

counters! {
    /// A connect was taken to the agent.
    Redirected = 0, "redirected";
    /// The pod is attached but not captured yet, or not any more; its connect was left alone.
    PodInactive = 1, "pod_inactive";
    /// The destination is outside the mesh; the connect was left alone.
    NotMesh = 2, "not_mesh";
    /// The destination is the pod itself; the connect was left alone.
    OwnAddress = 3, "own_address";
    /// No agent serves the pod (dead, stuck, or anew and not that far), and the setting says to leave connects alone: plaintext.
    AgentDownUntouched = 4, "agent_down_untouched";
    /// No agent serves the pod (dead, stuck, or anew and not that far), and the setting says to refuse.
    AgentDownRefused = 5, "agent_down_refused";
    /// An application dialled Lark's own listener.
    ListenerDialled = 6, "listener_dialled";
    /// The socket was bound to an address that is not the pod's.
    OddSource = 7, "odd_source";
    /// There is no listener for this family or device.
    NoListener = 8, "no_listener";
    /// The destination is known to fail: its Service has no ready endpoint.
    NoReadyEndpoint = 9, "no_ready_endpoint";
    /// The socket's storage could not be made, so the connect was refused.
    StorageFailed = 10, "storage_failed";
    /// The map of flows is full, so the agent will reset the connection.
    FlowsFull = 11, "flows_full";
    /// A flow was handed to the agent's accepted socket.
    FlowTaken = 12, "flow_taken";
    /// A flow ended before the agent's side was established.
    FlowAbandoned = 13, "flow_abandoned";
    /// The accepted socket's storage could not be made; user space resets the connection.
    FlowLost = 14, "flow_lost";
    /// The map of deliveries is full, so the agent resets the delivery.
    DeliveriesFull = 15, "deliveries_full";
    /// A delivery's source address was handed to the application's accepted socket.
    DeliveryTaken = 16, "delivery_taken";
    /// A delivery ended before the application's side was established.
    DeliveryAbandoned = 17, "delivery_abandoned";
    /// The application's socket storage could not be made; it sees a loopback peer.
    DeliveryLost = 18, "delivery_lost";
    /// A connect of another protocol than TCP was left alone.
    NotTcp = 19, "not_tcp";
    /// Somebody dialled a strict pod in plaintext; its SYN was dropped.
    PlaintextRefused = 20, "plaintext_refused";
    /// Somebody outside dialled Lark's own listener in a strict pod; its SYN was dropped.
    ListenerRefused = 21, "listener_refused";
    /// A port that is exempt from strict took a connection in plaintext.
    PortExempt = 22, "port_exempt";
    /// A probe of the node's kubelet reached a strict pod.
    ProbePassed = 23, "probe_passed";
    /// The map of connections that somebody vouches for is full, so one of them was refused.
    PassesFull = 24, "passes_full";
    /// A refusal, or a connection that no agent carries, was not told, because nobody read the buffer fast enough.
    EventsLost = 25, "events_lost";
    /// A strict pod has no certificate yet; its connect was refused.
    PendingRefused = 26, "pending_refused";
    /// A strict pod dialled an address of the cluster that discovery lacks; the agent waits for it.
    UnknownTaken = 27, "unknown_taken";
    /// A socket that was made outside of a strict pod and passed in dialled the cluster from there; dropped.
    PastHookSocket = 28, "past_hook_socket";
    /// The same, of one that is bound to a device.
    PastHookDevice = 29, "past_hook_device";
    /// A raw socket of a strict pod sent TCP to the cluster; dropped.
    PastHookRaw = 30, "past_hook_raw";
    /// A packet socket of a strict pod sent TCP to the cluster, or a frame of no known kind; dropped.
    PastHookPacket = 31, "past_hook_packet";
    /// A strict pod forwarded TCP to the cluster that no socket of its namespace made; dropped.
    PastHookForwarded = 32, "past_hook_forwarded";
    /// A connect to a pod of the same node was left alone by a verdict (`sameNode: direct`).
    Direct = 33, "direct";
    /// A direct connection reached a strict pod.
    DirectPassed = 34, "direct_passed";
    /// Whoever answered a direct connection is not the pod that the verdict names; nothing of it left the pod that dialled.
    DirectUnconfirmed = 35, "direct_unconfirmed";
    /// An application had closed while more was sent to it by IPv6, which the kernel could not tell; the agent's end was ended.
    ResetLost = 36, "reset_lost";
}

/// How many slots the array has; more than there are counters, so that a newer agent fits the map.
pub const SLOTS: u32 = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indices_are_dense_and_labels_distinct() {
        let labels: std::collections::BTreeSet<_> = Counter::ALL.iter().map(|c| c.label()).collect();
        assert_eq!(labels.len(), Counter::ALL.len());
        for (position, counter) in Counter::ALL.iter().enumerate() {
            assert_eq!(u32::try_from(position), Ok(counter.index()));
            assert!(counter.index() < SLOTS);
        }
    }
}
