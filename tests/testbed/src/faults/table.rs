//! The table of failures as a table of tests: what fails, what must happen then, and the test that makes it
//! fail. docs/failures.md is made from this and from what the tests record.

mod attacks;
mod issuer;

/// Which pods a row is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Pods that take plaintext too.
    Permissive,
    /// Pods that take nothing but mTLS.
    Strict,
    /// It makes no difference.
    Both,
}

impl Mode {
    /// The word in the document.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Permissive => "permissive",
            Self::Strict => "strict",
            Self::Both => "both",
        }
    }
}

/// One fault and its test.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// What fails, by which the test names it: distinct.
    pub fault: &'static str,
    /// Which pods it is about.
    pub mode: Mode,
    /// What must happen, and must not.
    pub expected: &'static str,
    /// The test: its program and its path there.
    pub test: (&'static str, &'static str),
}

/// Faults of one part, a section of the document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Section {
    /// Its heading.
    pub title: &'static str,
    /// Its rows.
    pub rows: &'static [Row],
}

const fn both(fault: &'static str, expected: &'static str, program: &'static str, test: &'static str) -> Row {
    Row { fault, mode: Mode::Both, expected, test: (program, test) }
}

const fn strict(
    fault: &'static str,
    expected: &'static str,
    program: &'static str,
    test: &'static str,
) -> Row {
    Row { fault, mode: Mode::Strict, expected, test: (program, test) }
}

const fn permissive(
    fault: &'static str,
    expected: &'static str,
    program: &'static str,
    test: &'static str,
) -> Row {
    Row { fault, mode: Mode::Permissive, expected, test: (program, test) }
}

/// All sections, in the order of the document.
pub const TABLE: &[Section] = &[
    Section { title: "The pod's own agent", rows: OWN },
    Section { title: "The peer's agent and node", rows: PEER },
    Section { title: "Identities and the CA", rows: IDENTITY },
    Section { title: "The CA over weeks", rows: issuer::ROWS },
    Section { title: "Attacks on the CA", rows: attacks::CA },
    Section { title: "Kernel, discovery and the application", rows: KERNEL },
    Section { title: "Upgrade and stop", rows: LIFE },
    Section { title: "Tunnels", rows: TUNNEL },
    Section { title: "Attacks on the tunnel", rows: attacks::TUNNEL },
    Section { title: "The wire", rows: WIRE },
];

const OWN: &[Row] = &[
    permissive(
        "own agent killed, agentDown: untouched",
        "refused for two seconds, then left alone (plaintext) and counted; the next agent takes over the same links",
        "dataplane",
        "failure::a_killed_agent_leaves_permissive_pods_alone_and_the_next_one_takes_over",
    ),
    both(
        "own agent killed, agentDown: refuse",
        "every connect refused and counted, nothing in plaintext on the wire",
        "dataplane",
        "failure::where_the_mesh_says_so_pods_of_a_dead_agent_are_refused_and_nothing_is_on_the_wire",
    ),
    both(
        "own agent killed and started again without a CA, agentDown: refuse",
        "refused until its certificate is there, nothing in plaintext on the wire; hooks of who is wanted no more go",
        "dataplane",
        "failure::where_the_mesh_says_so_pods_stay_refused_until_the_next_agent_has_captured_them",
    ),
    strict(
        "own agent of strict pods killed",
        "refused in both directions, whatever agentDown says; nothing in plaintext on the wire; mTLS again by the next agent",
        "dataplane",
        "strict::pods_of_a_dead_agent_stay_closed_in_both_directions",
    ),
    strict(
        "own agent killed while pods of its node talk directly (sameNode: direct)",
        "what is open goes on; whatever is new is refused, nothing of it in plaintext; the next agent lists what is open",
        "dataplane",
        "direct::strict_pods_are_left_to_each_other_alone_and_to_nobody_when_their_agent_dies",
    ),
    both(
        "an address changes hands while a verdict of sameNode: direct still names its former pod",
        "refused, or cut off before its handshake is over; no byte reaches the next owner",
        "dataplane",
        "direct::a_verdict_leads_nobody_to_the_next_owner_of_an_address",
    ),
    both(
        "an agent at either end killed while it carries a connection",
        "that connection is reset, never ended in order",
        "dataplane",
        "failure::what_a_killed_agent_carried_is_reset_and_never_a_clean_end",
    ),
    permissive(
        "own agent stopped (SIGSTOP) and continued",
        "new connects left alone and counted; open connections wait and go on, no byte lost",
        "dataplane",
        "stuck::a_stopped_agent_counts_as_dead_and_what_it_carries_goes_on_when_it_does",
    ),
    permissive(
        "a worker thread of the own agent stuck",
        "said by name; counts as a dead agent until it turns again",
        "dataplane",
        "stuck::a_stuck_worker_counts_as_a_dead_agent_and_is_said",
    ),
    permissive(
        "a worker thread of the own agent ends",
        "said by name with its cause; the agent ends, new connects left alone and counted at once; mTLS again by the next agent",
        "dataplane",
        "stuck::a_worker_that_ends_is_the_end_of_its_agent",
    ),
    both(
        "the control thread of the own agent stuck",
        "said by name; what is captured is carried as before",
        "dataplane",
        "stuck::a_stuck_control_runtime_is_said_and_carries_on",
    ),
];

const PEER: &[Row] = &[
    both(
        "peer's agent killed",
        "reset, never plaintext; works again when it is back",
        "dataplane",
        "peer::a_dead_peer_is_a_reset_and_never_plaintext",
    ),
    both(
        "peer's agent stopped (SIGSTOP)",
        "open connections reset within the keepalive, new ones reset for tunnel_unreachable, never plaintext",
        "dataplane",
        "peer::a_peer_that_says_nothing_is_a_reset_within_the_keepalive",
    ),
    both(
        "peer's tunnel port blocked",
        "the same",
        "dataplane",
        "peer::a_blocked_tunnel_port_is_a_reset_within_the_keepalive",
    ),
    both(
        "the peer's node vanishes from the wire",
        "the same; works again when it is back",
        "dataplane",
        "peer::a_node_that_vanishes_is_found_by_keepalive_and_its_connections_are_reset",
    ),
];

const IDENTITY: &[Row] = &[
    permissive(
        "no SVID yet: the CA is away when a pod is to be captured",
        "capture is pending and says why; the pod is left alone; captured once the CA is back",
        "dataplane",
        "identity::without_a_ca_capture_is_pending_and_traffic_goes_on",
    ),
    strict(
        "no SVID yet: the CA is away when a strict pod is to be captured",
        "what it dials in the mesh and plaintext to it are refused until it is captured",
        "dataplane",
        "strict::a_pod_without_a_certificate_is_closed_in_both_directions",
    ),
    both(
        "CA unreachable while certificates are valid",
        "traffic unharmed; who needs a new certificate is pending and says why, until the CA is back",
        "dataplane",
        "identity::a_ca_that_is_away_is_said_and_harms_nothing_that_is_valid",
    ),
    both(
        "wrong peer identity: another answers for the destination",
        "reset for peer_identity_mismatch with zero bytes",
        "tunnel",
        "refusals::another_identity_than_discovery_names_is_refused",
    ),
    both(
        "the two nodes' discovery disagrees about an identity",
        "reset, never plaintext",
        "dataplane",
        "identity::an_identity_that_the_peer_does_not_serve_is_a_reset",
    ),
    both(
        "SVID expired, at either end",
        "reset with zero bytes; the log says expired and names the clocks",
        "tunnel",
        "lifetimes::an_expired_certificate_is_refused_by_whoever_knows",
    ),
    both(
        "clock of the node off by 30 h and by -2 h",
        "named as the cause by `lark check`",
        "dataplane",
        "start::a_clock_that_is_off_is_named_as_the_cause",
    ),
];

const KERNEL: &[Row] = &[
    both(
        "a map of connections under way full, at either end",
        "reset, counted and said; never a wrong address",
        "dataplane",
        "failure::a_full_map_is_a_reset_counted_and_said_and_never_a_wrong_address",
    ),
    both(
        "no entry: a listener of Lark dialled by hand",
        "refused or reset with zero bytes, and counted",
        "dataplane",
        "failure::a_connection_without_an_entry_is_reset_and_counted",
    ),
    both(
        "no listener for the family: a device-bound IPv6 socket of a pod without IPv6",
        "refused and counted",
        "dataplane",
        "failure::a_family_without_a_listener_is_refused_and_counted",
    ),
    strict(
        "a strict pod dials a destination of the cluster that discovery lacks",
        "waits for a second at most, then reset for destination_unknown; nothing in plaintext on the wire",
        "dataplane",
        "strict::what_is_unknown_in_the_cluster_waits_and_is_refused",
    ),
    permissive(
        "destination not in discovery yet",
        "left alone (plaintext) and counted; mTLS once discovery has it",
        "dataplane",
        "failure::a_destination_that_discovery_lacks_is_left_alone_and_counted",
    ),
    both(
        "discovery file broken",
        "the last good state stays in use; said with file and line",
        "dataplane",
        "failure::a_bad_discovery_file_keeps_the_last_good_state_and_is_said",
    ),
    both(
        "the dial fails at the far end",
        "reset with zero bytes, never a clean end; both ends log why",
        "dataplane",
        "failure::nobody_listening_is_a_reset_with_its_reason_at_both_ends",
    ),
    both(
        "pins of another map layout",
        "the agent does not start and says what to do; the pins stay as they are",
        "kernel",
        "pins::what_another_layout_has_pinned_is_refused_by_name",
    ),
];

const LIFE: &[Row] = &[
    both(
        "agent upgraded in place under new connections at full rate",
        "none refused, none reset",
        "dataplane",
        "upgrade::two_hundred_upgrades_refuse_and_reset_nothing",
    ),
    both(
        "agent upgraded in place under open streams",
        "streams shorter than the drain are unharmed; what drains is listed",
        "dataplane",
        "upgrade::a_stream_shorter_than_the_drain_is_unharmed_by_upgrades_of_both_agents",
    ),
    both(
        "the drain is over",
        "what is still open is reset, and named in the log",
        "dataplane",
        "upgrade::a_stream_longer_than_the_drain_is_reset_and_named",
    ),
    both(
        "successor killed half-way",
        "the old agent stays in charge",
        "dataplane",
        "upgrade::a_successor_that_dies_half_way_leaves_the_old_agent_in_charge",
    ),
    both(
        "a successor for another node",
        "refused with a sentence; the old agent stays in charge",
        "dataplane",
        "upgrade::another_nodes_agent_may_not_take_over",
    ),
    both(
        "agent told to stop (SIGTERM)",
        "open streams finish, then it ends",
        "dataplane",
        "upgrade::an_agent_that_is_told_to_stop_lets_streams_finish",
    ),
    both(
        "pods come and go",
        "pins, links, namespaces, descriptors and entries as before",
        "dataplane",
        "many::a_thousand_pod_lives_leave_nothing_behind",
    ),
];

const TUNNEL: &[Row] = &[
    both(
        "a tunnel told to drain (GOAWAY) meets a new stream",
        "the stream goes to another tunnel with its first bytes; open ones finish",
        "tunnel",
        "lifetimes::a_stream_that_meets_a_draining_tunnel_goes_to_another_with_its_first_bytes",
    ),
    both(
        "a tunnel reaches its greatest age",
        "it takes no new stream and ends with its last one",
        "tunnel",
        "lifetimes::an_aged_tunnel_takes_no_more_and_ends_with_its_last_stream",
    ),
    both(
        "an SVID expires under an open tunnel",
        "no new stream on it; open ones go on",
        "tunnel",
        "lifetimes::no_stream_goes_on_a_tunnel_whose_certificate_expired",
    ),
    both(
        "a root goes away under an open tunnel",
        "no new stream on it; open ones go on",
        "tunnel",
        "lifetimes::no_stream_goes_on_a_tunnel_whose_root_is_gone",
    ),
];

const WIRE: &[Row] = &[
    both(
        "3 % loss on a wire of 200 Mbit/s",
        "every byte arrives",
        "dataplane",
        "peer::loss_and_a_slow_wire_lose_no_byte",
    ),
    both(
        "delay of 15 ms with reordering",
        "every byte arrives",
        "dataplane",
        "peer::delay_and_reordering_lose_no_byte",
    ),
];

/// All rows, in the order of the document.
pub fn rows() -> impl Iterator<Item = &'static Row> {
    TABLE.iter().flat_map(|section| section.rows)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::rows;

    #[test]
    fn faults_are_distinct() {
        let faults: BTreeSet<_> = rows().map(|row| row.fault).collect();
        assert_eq!(faults.len(), rows().count());
    }
}
