//! The whole way, with real programs: two nodes, agents, a controller, pods.

mod capture;
mod failure;
mod house;
mod identity;
mod programs;
