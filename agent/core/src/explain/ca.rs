//! Between an agent and the CA.

use super::{Set, Side, set as make};
use crate::rotation::{Phase, RootId};

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
        "Make a token with `lark token` and add its line to the controller's --join-tokens; in a cluster the controller's log has the reason.";
    /// The CA does not give this identity to this node.
    IdentityRefused = "identity_refused", Own,
        "The controller's discovery has no such workload on this node: it may lag, or one of both is wrong.";
    /// The CA will not issue just now: this node asked too often, or has not yet taken up the roots of a rotation.
    CaNotNow = "ca_not_now", Own,
        "Nothing: it is asked again. If it lasts, `lark ca status` says which roots this node holds.";
    /// What the agent learned from the controller could not be kept in its state directory.
    StateNotKept = "state_not_kept", Own,
        "Make --state-dir writable for the agent: without it a restart in the middle of a rotation may lock this node out, so the roots are not taken up.";
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
    /// Why the controller refuses a connection, a stream or a certificate.
    CaRefusal;
    /// The token is missing or no node's.
    Unauthenticated = "unauthenticated", Controller,
        "Make a token with `lark token` and add its line to --join-tokens; in a cluster the agent must show a projected token. Unexpected addresses are an attack or a stale node.";
    /// The join token has expired.
    TokenExpired = "token_expired", Controller,
        "Make another by `lark token` and replace the node's line in --join-tokens. An agent that joined in time needs none.";
    /// The join token was exchanged already for a credential of the node.
    TokenUsed = "token_used", Controller,
        "Somebody shows a token a second time: an agent that lost its --state-dir, or a thief. Make another by `lark token` and replace the node's line.";
    /// The cluster's API does not take the token: expired, forged, of a pod that is gone, or for another audience.
    TokenReviewed = "token_reviewed", Controller,
        "The agent must show a token projected for audience lark-ca. Unexpected addresses are an attack.";
    /// The token is of another service account than the agents'.
    TokenOfOther = "token_of_other", Controller,
        "Only agents may ask: compare --agent-account with the DaemonSet's. Otherwise somebody tries to pass for one.";
    /// The token is not bound to a pod on a node.
    TokenNotBound = "token_not_bound", Controller,
        "The agent must show a projected token, and the cluster must be Kubernetes 1.32 or later.";
    /// Discovery does not know the pod that shows the token on the node that the token names.
    TokenPodUnknown = "token_pod_unknown", Controller,
        "The pod is gone, or the controller's discovery lags: `discovery` in its log says whether it does.";
    /// The cluster's API could not be asked about the token.
    TokenNotReviewed = "token_not_reviewed", Controller,
        "The line has the reason: no connection, or ClusterRole lark-token-review is missing. The agent asks again.";
    /// Who asks about the cluster shows no token that the cluster's API takes.
    AskerUnknown = "asker_unknown", Controller,
        "He is to log in to the cluster again; tokens of other audiences than the API server's are not taken.";
    /// Who asks about the cluster may get pods in none of its namespaces.
    AskerBlind = "asker_blind", Controller,
        "Grant him to get pods where he is to see connections: docs/kubernetes.md, \"Tenants\".";
    /// The cluster's API could not be asked what somebody may see who asks about the cluster.
    AskerNotReviewed = "asker_not_reviewed", Controller,
        "The line has the reason: no connection, or ClusterRole lark-access-review is missing. He is told nothing, and asks again.";
    /// Too many people ask about the cluster at once.
    AskersTooMany = "askers_too_many", Controller,
        "Nothing: they ask again. If it lasts, somebody asks in a loop: the API server's audit log says who.";
    /// The node asks more often than any node needs to.
    RateLimited = "rate_limited", Controller,
        "That node's agent is broken or hostile; other nodes are served as before. Taking its line out of --join-tokens shuts it out.";
    /// The node has not yet said that it holds the roots of the rotation under way.
    BundleBehind = "bundle_behind", Controller,
        "Nothing: it is told the roots on its stream and asks again. If it lasts, see `lark ca status` and that agent's log.";
    /// This replica of the controller is behind: it has not read the CA's state from the cluster for too long, or the
    /// agent was told of a later phase of a rotation.
    StateBehind = "state_behind", Controller,
        "Nothing: the agent asks again, and another replica may answer. If it lasts, this replica cannot reach the cluster's API: its log says why.";
    /// The root that issues in this phase has no key here: its files were replaced while the controller was down.
    NoIssuer = "no_issuer", Controller,
        "Put the former --ca-cert and --ca-key back, or wait until every node holds the new root: see `lark ca status`.";
    /// The connection is one too many, from that address or at all.
    ConnectionLimit = "connection_limit", Controller,
        "The log has the address: something there opens connections and does not close them.";
    /// A client did not finish its TLS handshake, or broke it off.
    Handshake = "handshake", Controller,
        "An agent with another root file says so itself; other addresses are scans.";
    /// The request's message cannot be read: too large, or none of this API.
    MessageUnusable = "message_unusable", Controller,
        "Whoever asks is no agent of Lark's.";
    /// What a node says on its stream makes no sense.
    ReportUnusable = "report_unusable", Controller,
        "That node's agent is of another version, broken or hostile.";
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
    /// The CSR asks for names other than the identity.
    CsrNames = "csr_names", Controller,
        "Whoever asks wants more than it may have; names come from discovery, never from the CSR.";
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
        "Why the controller refused: `reason` in its log and in `lark_ca_requests_refused_total`.",
        CaRefusal::ALL,
        CaRefusal::label,
        CaRefusal::text,
    )
}

/// One line a phase; the meaning is the phase's own.
pub(super) fn phase() -> Set {
    let root = RootId::new([0; 32]);
    let (old, new) = (root, root);
    let phases = [
        Phase::Steady { root },
        Phase::Trust { old, new },
        Phase::Issue { old, new },
        Phase::Settle { old, new },
        Phase::Revert { old, new },
        Phase::Retire { stays: root, goes: root },
    ];
    make(
        "rotation",
        "How far the rotation of the CA's root is: PHASE in `lark ca status`, `phase` of `lark_ca_rotation_phase`.",
        &phases,
        |phase| phase.label(),
        |phase| {
            let advice = match phase {
                Phase::Steady { .. } => "Nothing.",
                Phase::Retire { .. } => "Nothing: the old root is gone for good once every node says so.",
                _ => "`lark ca status` says what it waits for; `lark ca rotate --abort` takes it back.",
            };
            (phase.meaning(), Side::Controller, advice)
        },
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
