//! Why a certificate proves nothing.

use super::{Set, set as make};

closed_set! {
    /// Which check a certificate failed.
    Certificate;
    /// The certificate is not valid yet by the clock of who looks at it.
    NotYetValid = "not_yet_valid", Either,
        "Compare the clocks of both nodes and of the controller (`date -u`): the one that looked is behind, or the CA ahead.";
    /// The certificate has expired by the clock of who looks at it.
    Expired = "expired", Either,
        "See `lark certs` on the node that owns it for the last error of its renewal; if that is valid, compare the clocks.";
    /// The certificate leads to no accepted root, or may not be used for this end of a connection.
    NoChain = "no_chain", Either,
        "Compare the root files of both nodes (`openssl x509 -fingerprint`); both must have the root of the CA that issued it.";
    /// The certificate cannot be read.
    Malformed = "malformed", Either,
        "Whatever issued it is broken or hostile: the log has the peer's address.";
    /// The certificate has no URI or several among its names; an SVID has exactly one.
    UriCount = "uri_count", Either,
        "It is no SVID: another CA, or another kind of certificate. The log has the peer's address.";
    /// The certificate's URI is not an identity of the form spiffe://DOMAIN/ns/NAMESPACE/sa/ACCOUNT.
    NoIdentity = "no_identity", Either,
        "It was issued for something that is no workload; the CA that issued it must use that form.";
    /// The certificate belongs to another trust domain.
    TrustDomain = "trust_domain", Either,
        "Compare mesh.trustDomain of both nodes' discovery: one mesh has one trust domain.";
    /// The certificate proves another identity than the one that was expected.
    OtherIdentity = "other_identity", Either,
        "Discovery and the peer disagree about who is there: one is stale, or somebody answers for the pod.";
}

pub(super) fn set() -> Set {
    make(
        "certificate",
        "Which check a peer's certificate failed: `cause` in log lines about tunnels and about the CA, and `result` of `lark_tunnel_handshakes_total`.",
        Certificate::ALL,
        Certificate::label,
        Certificate::text,
    )
}
