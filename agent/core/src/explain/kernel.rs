//! What the hooks in the kernel count.

use lark_abi::Counter;

use super::Side::{AcceptHook, AgentHook, ConnectHook, LeaveHook, LookupHook, ProbeHook};
use super::{Set, Side, set as make};

pub(super) fn set() -> Set {
    make(
        "kernel",
        "What the hooks in the kernel did: `event` of `lark_kernel_events_total`, EVENT in `lark bpf`.",
        Counter::ALL,
        Counter::label,
        |counter| {
            let (side, advice) = rest(counter);
            (counter.meaning(), side, advice)
        },
    )
}

/// Who counts it, and what to do. A counter without a row does not compile.
const fn rest(counter: Counter) -> (Side, &'static str) {
    match counter {
        Counter::Redirected => (ConnectHook, "Nothing: this is how it should be."),
        Counter::PodInactive => (
            ConnectHook,
            "`lark workloads` says why the pod is not captured yet; until then it is plaintext.",
        ),
        Counter::NotMesh => (
            ConnectHook,
            "Nothing if the destination is meant to be outside. `lark trace` tells for one address, `lark services` what is in the mesh.",
        ),
        Counter::OwnAddress => (ConnectHook, "Nothing: it never leaves the pod's namespace."),
        Counter::AgentDownUntouched => (
            ConnectHook,
            "Start the agent of that node; if it runs, `lark workloads` says what keeps it from capturing the pod. If plaintext is worse than a refusal, set `agentDown: refuse` in the mesh.",
        ),
        Counter::AgentDownRefused => (
            ConnectHook,
            "Start the agent of that node; its log, or its unit's state, says why it went. If it runs, `lark workloads` says what keeps it from capturing the pod.",
        ),
        Counter::ListenerDialled => {
            (ConnectHook, "Find what scans ports inside the pod; nothing is offered to it there.")
        }
        Counter::OddSource => (
            ConnectHook,
            "The program binds to an address that discovery does not list for the pod: list it, or let the program bind to the pod's own.",
        ),
        Counter::NoListener => (
            ConnectHook,
            "The pod has no IPv6 loopback, or no address of that family in discovery, for a socket bound to a device. Give it one.",
        ),
        Counter::NoReadyEndpoint => {
            (ConnectHook, "See `lark services`: the application's readiness decides.")
        }
        Counter::StorageFailed => {
            (ConnectHook, "The kernel had no memory for a socket's storage: the node is out of memory.")
        }
        Counter::FlowsFull => (
            ConnectHook,
            "Connects come faster than the agent accepts them: see the node's load, and whether a worker is stuck (`lark check`, heartbeat).",
        ),
        Counter::FlowTaken => (AgentHook, "Nothing: one for each connect that was redirected."),
        Counter::FlowAbandoned => (
            ConnectHook,
            "A program gave up its connect, or the agent's accept queue was full: see the node's load if it grows.",
        ),
        Counter::FlowLost => {
            (AgentHook, "The kernel had no memory for a socket's storage: the node is out of memory.")
        }
        Counter::DeliveriesFull => {
            (AgentHook, "Deliveries come faster than applications accept them: see the node's load.")
        }
        Counter::DeliveryTaken => (AcceptHook, "Nothing: one for each connection that was delivered."),
        Counter::DeliveryAbandoned => {
            (AgentHook, "The application's accept queue was full, or it closed its listener just then.")
        }
        Counter::DeliveryLost => {
            (AcceptHook, "The kernel had no memory for a socket's storage: the node is out of memory.")
        }
        Counter::NotTcp => (ConnectHook, "Nothing: only TCP is carried, see docs/limits.md."),
        Counter::PlaintextRefused => (
            LookupHook,
            "The log names both ends, `lark edges` lists them. Capture whoever dials, or exempt the port by the annotation lark.mesh/mtls-ports.",
        ),
        Counter::ListenerRefused => {
            (LookupHook, "Find what scans the pod's ports; the log names it. Nothing is offered to it there.")
        }
        Counter::PortExempt => (LookupHook, "Nothing, if the port is meant to be exempt from strict."),
        Counter::ProbePassed => (LookupHook, "Nothing: this is how it should be."),
        Counter::PassesFull => (
            ProbeHook,
            "Probes hang by the thousands, or strict pods have tens of thousands of connections open to whoever is not captured, or pods as many direct ones. Each kind has a map of its own, so the others go on: `lark bpf` says which is full, `lark connections` whose they are.",
        ),
        Counter::EventsLost => (
            LookupHook,
            "A scan, or a flood of addresses: what was refused is counted, but not each is named in the log. Of direct connections the bytes of some are not known.",
        ),
        Counter::PendingRefused => {
            (ConnectHook, "`lark workloads` and `lark certs` say what the pod's certificate waits for.")
        }
        Counter::PastHookSocket | Counter::PastHookDevice => {
            (LeaveHook, "The log names both ends. Find who makes sockets for the pod and passes them in.")
        }
        Counter::PastHookRaw | Counter::PastHookPacket => {
            (LeaveHook, "The log names both ends. Take CAP_NET_RAW from the pod.")
        }
        Counter::PastHookForwarded => (
            LeaveHook,
            "The log names both ends. Containers inside the pod that have a network of their own are not captured.",
        ),
        Counter::Direct => (
            ConnectHook,
            "Nothing: the mesh's sameNode is direct. `lark edges` lists these connections as `~ direct`.",
        ),
        Counter::DirectPassed => (LookupHook, "Nothing: this is how it should be with sameNode: direct."),
        Counter::DirectUnconfirmed => (
            ConnectHook,
            "Nothing if a pod has just ended. If it stays, the log names the pod: it listens by a socket that was made outside its cgroup, and is reached through the agent from then on.",
        ),
        Counter::ResetLost => (
            AgentHook,
            "Nothing: clients are told as they are by IPv4, a second or two later. An application that closes while clients send is often one that refuses them.",
        ),
        Counter::UnknownTaken => (
            ConnectHook,
            "Nothing if discovery lags. If it stays, the access log names the destination that discovery lacks.",
        ),
    }
}
