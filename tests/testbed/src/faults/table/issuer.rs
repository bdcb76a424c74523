//! Rotation, renewal and clocks.

use super::{Row, both};

/// What happens to a CA, its roots and the clocks around it in the course of weeks.
pub(super) const ROWS: &[Row] = &[
    both(
        "a root replaced under load, its controller killed in every phase",
        "no connection lost; nobody trusts the old root afterwards",
        "dataplane",
        "rotate::a_root_is_replaced_under_load_by_a_controller_that_is_killed_in_every_phase",
    ),
    both(
        "a root replaced while agents and controller start anew",
        "every node always accepts every other one",
        "identity",
        "rotate::a_root_is_replaced_though_agents_and_controller_start_anew_in_the_middle",
    ),
    both(
        "a rotation taken back half-way",
        "everybody is back with the old root, and nobody refused another meanwhile",
        "identity",
        "rotate::a_rotation_that_is_taken_back_leaves_everybody_with_the_old_root",
    ),
    both(
        "a node that does not hold the roots of a rotation",
        "no certificate that others would refuse; waited for by name",
        "identity",
        "rotate::a_node_that_does_not_hold_the_roots_of_a_rotation_gets_no_certificate",
    ),
    both(
        "half of another pair in the CA's files",
        "said and not used; the whole pair is, without a restart",
        "identity",
        "given::an_intermediate_from_elsewhere_issues_and_another_pair_takes_its_place_while_it_serves",
    ),
    both(
        "the CA away for twelve hours from right before the renewal (injected clock)",
        "every certificate stays valid; renewed once the CA is back",
        "identity",
        "renew::a_ca_that_is_away_for_twelve_hours_is_missed_by_nobody",
    ),
    both(
        "renewals that fail until the certificate has expired (injected clock)",
        "said louder from two thirds of its life; not used once it has expired",
        "identity",
        "renew::a_renewal_that_fails_is_said_louder_as_time_goes_by",
    ),
    both(
        "a node's clock an hour behind the CA's",
        "no certificate; the clocks are named as the cause; supplied once they agree",
        "identity",
        "skew::a_node_whose_clock_is_an_hour_behind_the_cas_gets_nothing_and_is_told_why",
    ),
    both(
        "a node's clock an hour ahead of the CA's",
        "served; the clocks are named",
        "identity",
        "skew::a_node_whose_clock_is_an_hour_ahead_of_the_cas_is_served_and_told",
    ),
    both(
        "a CA that answers with what proves something else",
        "never used",
        "identity",
        "renew::an_answer_that_proves_something_else_is_never_used",
    ),
];
