//! The whole way, with real programs: two nodes, agents, a controller, pods.

#![expect(clippy::unwrap_used, reason = "what fails to be set up fails the test")]

mod access_log;
mod answers;
mod attacks;
mod calls;
mod capture;
mod dashboards;
mod direct;
mod failure;
mod grpc;
mod house;
mod identity;
mod ingress;
mod kinds;
mod long;
mod many;
mod numbers;
mod peer;
mod plain;
mod policy;
mod privileges;
mod programs;
mod requests;
mod rotate;
mod same_node;
mod second_line;
mod secrets;
mod sockets;
mod standalone;
mod start;
mod strict;
mod stuck;
mod upgrade;
mod verbs;
mod workers;
