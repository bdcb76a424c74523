//! Between an agent and the CA.

use super::{Set, Side, set as make};

closed_set! {
    /// Why an agent has no new certificate, as it sees it itself.
    CaRequest;
    /// The file of the CA's root or of the token cannot be read.
    FileUnreadable = "file_unreadable", Own, "The line names the file and the system's error.";
    /// The URL of the CA is not of the form https://HOST:PORT.
    BadUrl = "bad_url", Own, "Correct --ca-url.";
    /// There is no connection to the CA, or it does not answer in time.
    CaUnreachable = "ca_unreachable", Own,
        "Is the controller running, is that its address, is the port open? Valid certificates stay in use meanwhile.";
    /// The CA's own TLS certificate is not vouched for by the root file.
    CaNotTrusted = "ca_not_trusted", Own,
        "Compare --ca-root with the controller's root.pem, and the host in --ca-url with its --san.";
    /// The CA's TLS certificate is of another time than this node's clock.
    ClockSkew = "clock_skew", Own, "Set this node's clock or the controller's right.";
    /// The token's file is empty or no token.
    BadToken = "bad_token", Own, "Make a token with `lark token` and bring its file to the node.";
    /// The CA does not know this node's token.
    TokenRefused = "token_refused", Own,
        "Make a token with `lark token` and add its line to the controller's --join-tokens.";
    /// The CA does not give this identity to this node.
    IdentityRefused = "identity_refused", Own,
        "The controller's discovery has no such workload on this node: it may lag, or one of both is wrong.";
    /// The CA failed in another way, which the line names.
    CaFailed = "ca_failed", Own, "See the controller's log at that time.";
    /// A key or request could not be made.
    KeyFailed = "key_failed", Own, "The node lacks memory or randomness; please report it if it does not.";
    /// What the CA answered cannot be used: another key, another form, an empty chain.
    AnswerUnusable = "answer_unusable", Own, "The CA is not one that Lark knows: see what --ca-url leads to.";
    /// The attempt broke off: a defect of Lark's.
    BrokeOff = "broke_off", Own, "Please report it with the log.";
}

closed_set! {
    /// Why the CA issues nothing.
    CaRefusal;
    /// The token is missing or no node's.
    Unauthenticated = "unauthenticated", Controller,
        "Make a token with `lark token` and add its line to --join-tokens. Unexpected addresses are an attack or a stale node.";
    /// The request names no identity.
    NoImpersonatedIdentity = "no_identity", Controller,
        "Whoever asks is no agent of Lark's: it must name ImpersonatedIdentity.";
    /// What is asked for is no identity.
    BadIdentity = "bad_identity", Controller,
        "The line has the name that was asked for; identities are spiffe://DOMAIN/ns/NAMESPACE/sa/ACCOUNT.";
    /// No workload of that identity runs on the node that asks.
    NotPlaced = "not_placed", Controller,
        "The controller's discovery may lag behind the agent's. If it does not, that node asks for what is not its own.";
    /// The CSR is too large.
    CsrTooLarge = "csr_too_large", Controller, "Whoever asks is no agent of Lark's: the log has its address.";
    /// The CSR cannot be read, or its signature is wrong.
    CsrUnusable = "csr_unusable", Controller, "Whoever asks is broken or hostile: the log has its address.";
    /// The CSR's key is of a kind that is not taken.
    CsrKeyKind = "csr_key_kind", Controller, "Whoever asks must use P-256 or P-384.";
    /// The CA's own certificate has expired.
    CaExpired = "ca_expired", Controller,
        "Bring a new CA certificate, or set the controller's clock right. Agents keep what is still valid.";
    /// The certificate could not be signed.
    SigningFailed = "signing_failed", Controller, "See the controller's log; please report it.";
}

pub(super) fn request() -> Set {
    make(
        "ca_request",
        "Why an agent has no new certificate: `cause` in its log; the sentence is LAST ERROR in `lark certs`.",
        CaRequest::ALL,
        CaRequest::label,
        CaRequest::text,
    )
}

pub(super) fn refusal() -> Set {
    make(
        "ca_refusal",
        "Why the controller issued nothing: `reason` in its log.",
        CaRefusal::ALL,
        CaRefusal::label,
        CaRefusal::text,
    )
}

pub(super) fn state() -> Set {
    make(
        "certificate_state",
        "How a certificate of this node is: STATE in `lark certs`.",
        &["valid", "renewal_late", "pending", "expired"],
        |label| label,
        |label| match label {
            "valid" => ("It is valid and its renewal is not due or just due.", Side::Own, "Nothing."),
            "renewal_late" => (
                "It is valid, but two thirds of its life are over and it was not renewed.",
                Side::Own,
                "LAST ERROR says why; mend it before the certificate expires.",
            ),
            "pending" => (
                "There is none yet; pods of that identity are not captured.",
                Side::Own,
                "LAST ERROR says why, if the CA was asked.",
            ),
            _ => (
                "It has expired: connections of that identity are refused.",
                Side::Own,
                "LAST ERROR says why it was not renewed.",
            ),
        },
    )
}
