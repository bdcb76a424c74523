//! Nodes and pods out of namespaces and cgroups, faults, wire capture, load
