//! Whoever asks for what is not his, or for too much.

use super::{Row, both};

/// By those who can reach the CA.
pub(super) const CA: &[Row] = &[
    both(
        "the CA is asked for another node's pod or an unknown account",
        "refused, counted as not_placed, said",
        "identity",
        "attacks::whatever_is_not_his_is_refused_counted_and_said",
    ),
    both(
        "the CA is asked for what is no identity: wildcards, NULs, other paths, 254 characters",
        "refused, counted as bad_identity, said",
        "identity",
        "attacks::whatever_is_not_his_is_refused_counted_and_said",
    ),
    both(
        "a CSR with other names: identities, wildcards, hosts, addresses",
        "refused, counted as csr_names, said",
        "identity",
        "attacks::whatever_is_not_his_is_refused_counted_and_said",
    ),
    both(
        "a CSR that is huge, badly signed or of another kind of key",
        "refused, counted each by its reason, said",
        "identity",
        "attacks::whatever_is_not_his_is_refused_counted_and_said",
    ),
    both(
        "a token of nobody, or none",
        "refused, counted as unauthenticated, said; the token is in no log",
        "identity",
        "attacks::whatever_is_not_his_is_refused_counted_and_said",
    ),
    both(
        "a join token shown again",
        "refused, counted as token_used, said",
        "identity",
        "join::a_token_is_exchanged_once_and_the_node_stays_without_it",
    ),
    both(
        "a join token whose time is over, and a membership that was revoked",
        "refused and counted",
        "identity",
        "join::a_token_whose_time_is_over_joins_nobody_and_a_line_taken_out_ends_a_membership",
    ),
    both(
        "a flood of requests by one node",
        "slowed down and counted as rate_limited; another node is served meanwhile",
        "identity",
        "attacks::a_flood_of_one_node_is_slowed_down_and_the_others_are_served",
    ),
    both(
        "200 connections from one address that say nothing",
        "refused and let go; another is served meanwhile",
        "identity",
        "attacks::connections_from_one_address_leave_room_for_others",
    ),
    both(
        "a node's stream by nobody, or with nonsense",
        "refused and counted",
        "identity",
        "attacks::a_stream_of_nobody_or_with_nonsense_is_refused",
    ),
];

/// By those who can reach a node's tunnel port, with a valid certificate or without.
pub(super) const TUNNEL: &[Row] = &[
    both(
        "a client's certificate with odd names, of another trust domain, of another use, expired or not yet valid",
        "refused, counted each by its cause, others unharmed",
        "tunnel",
        "attacks::handshakes::odd_handshakes_are_counted_each_by_its_cause_and_harm_nobody",
    ),
    both(
        "a handshake with no certificate, a foreign root, TLS 1.2, another protocol, or an unknown name",
        "refused, counted each by its cause, others unharmed",
        "tunnel",
        "attacks::handshakes::odd_handshakes_are_counted_each_by_its_cause_and_harm_nobody",
    ),
    both(
        "plaintext, half a record or nothing on the tunnel's port",
        "closed, counted each by its cause",
        "tunnel",
        "attacks::handshakes::odd_handshakes_are_counted_each_by_its_cause_and_harm_nobody",
    ),
    both(
        "a handshake byte by byte",
        "given up, counted as handshake_timeout",
        "tunnel",
        "attacks::handshakes::a_handshake_byte_by_byte_is_given_up",
    ),
    both(
        "thousands of half-open connections",
        "what is above an address's share is closed and counted; nodes get in",
        "tunnel",
        "attacks::handshakes::thousands_of_mute_connections_keep_nobody_out",
    ),
    both(
        "frames against the protocol: rapid resets, CONTINUATION, HPACK, windows, floods",
        "the tunnel ends, counted each by its cause; memory bounded, others unharmed",
        "tunnel",
        "attacks::frames::broken_protocols_are_counted_each_by_its_kind_and_harm_nobody",
    ),
    both(
        "streams for a host name, without an address, with a forged form of `forwarded`, or no CONNECT",
        "refused, counted each by its reason; nobody is asked to deliver",
        "tunnel",
        "attacks::frames::streams_that_ask_for_what_is_not_served_are_counted_each_by_its_reason",
    ),
    both(
        "a node in other hands asks for other pods, nodes, Services, loopback, agents' ports, or in another pod's name",
        "refused, counted each by its reason; what is its own it gets",
        "dataplane",
        "attacks::a_taken_node_gets_nothing_that_is_not_its_own",
    ),
    both(
        "a pod keeps many connections to the agent's metrics open and says nothing",
        "it gets its share, more are closed at once; the node's probes and others are answered",
        "dataplane",
        "attacks::a_pod_that_floods_metrics_keeps_neither_probes_nor_others_out",
    ),
    both(
        "streams whose window is zero",
        "they wait; memory bounded, others unharmed",
        "tunnel",
        "attacks::frames::streams_without_window_wait_and_harm_nobody",
    ),
    both(
        "a peer that takes nothing of what waits for it",
        "cut off, counted as peer_stalled",
        "tunnel",
        "attacks::frames::whoever_takes_nothing_of_what_waits_for_him_is_cut_off",
    ),
    both(
        "tunnels whose peer reads nothing",
        "they wait, their node's share bounded for all of them; memory bounded, others unharmed",
        "tunnel",
        "attacks::hoards::bytes_that_wait_for_a_peer_are_bounded",
    ),
    both(
        "tunnels whose peer reads nothing, beyond twice its share",
        "those that are too many cut off, counted as peer_stalled; others unharmed",
        "tunnel",
        "attacks::hoards::a_node_that_has_twice_its_share_waiting_loses_tunnels",
    ),
    both(
        "bytes for applications that do not read",
        "what is above a node's share is reset; memory bounded, others unharmed",
        "tunnel",
        "attacks::hoards::bytes_that_wait_for_applications_are_bounded",
    ),
    both(
        "more deliveries and tunnels than a node's share",
        "refused and counted; others unharmed",
        "tunnel",
        "attacks::hoards::deliveries_and_tunnels_of_one_node_leave_room_for_others",
    ),
];
