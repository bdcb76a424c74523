//! Tests on real kernels, sockets and programs
