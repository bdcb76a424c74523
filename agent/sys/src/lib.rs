//! Sockets, network namespaces, cgroups and capabilities: the privileged user side
