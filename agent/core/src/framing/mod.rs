//! HTTP/2 CONNECT as the tunnels speak it (RFC 9113, RFC 9110 section 9.3.6): a state machine over
//! bytes.
