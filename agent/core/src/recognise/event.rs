//! What a recogniser tells: closed sets, fit for metric labels.

use std::time::Duration;

pub use crate::explain::{Cut, Opaque};

/// A set of words that is the same in metrics, logs and tables.
macro_rules! words {
    ($(#[doc = $about:literal])+ $set:ident { $($(#[doc = $doc:literal])+ $word:ident = $label:literal,)+ }) => {
        $(#[doc = $about])+
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $set { $($(#[doc = $doc])+ $word,)+ }
        impl $set {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$word,)+];
            /// The word in metrics, logs and tables.
            pub const fn label(self) -> &'static str { match self { $(Self::$word => $label,)+ } }
        }
        impl std::fmt::Display for $set {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result { f.write_str(self.label()) }
        }
    };
}

words! {
    /// What is spoken on a connection, or in one exchange on it.
    Protocol {
        /// HTTP/1.0 or HTTP/1.1 (RFC 9112).
        Http1 = "http1",
        /// HTTP/2 in plaintext (RFC 9113).
        Http2 = "http2",
        /// gRPC over HTTP/2: said of exchanges, never of a connection.
        Grpc = "grpc",
        /// The application's own TLS: known by name only.
        Tls = "tls",
        /// PostgreSQL: known by name only.
        Postgres = "postgres",
    }
}

words! {
    /// A request's method (RFC 9110, section 9; PATCH is RFC 5789).
    Method {
        /// `GET`.
        Get = "GET",
        /// `HEAD`.
        Head = "HEAD",
        /// `POST`.
        Post = "POST",
        /// `PUT`.
        Put = "PUT",
        /// `DELETE`.
        Delete = "DELETE",
        /// `CONNECT`.
        Connect = "CONNECT",
        /// `OPTIONS`.
        Options = "OPTIONS",
        /// `TRACE`.
        Trace = "TRACE",
        /// `PATCH`.
        Patch = "PATCH",
        /// Any other, or one that was not kept.
        Other = "other",
    }
}

words! {
    /// How a gRPC call ended, in the order of the codes on the wire (grpc/grpc, doc/statuscodes.md).
    GrpcStatus {
        /// 0.
        Ok = "OK",
        /// 1.
        Cancelled = "CANCELLED",
        /// 2; also codes that nobody defined, which receivers take for this one.
        Unknown = "UNKNOWN",
        /// 3.
        InvalidArgument = "INVALID_ARGUMENT",
        /// 4.
        DeadlineExceeded = "DEADLINE_EXCEEDED",
        /// 5.
        NotFound = "NOT_FOUND",
        /// 6.
        AlreadyExists = "ALREADY_EXISTS",
        /// 7.
        PermissionDenied = "PERMISSION_DENIED",
        /// 8.
        ResourceExhausted = "RESOURCE_EXHAUSTED",
        /// 9.
        FailedPrecondition = "FAILED_PRECONDITION",
        /// 10.
        Aborted = "ABORTED",
        /// 11.
        OutOfRange = "OUT_OF_RANGE",
        /// 12.
        Unimplemented = "UNIMPLEMENTED",
        /// 13.
        Internal = "INTERNAL",
        /// 14.
        Unavailable = "UNAVAILABLE",
        /// 15.
        DataLoss = "DATA_LOSS",
        /// 16.
        Unauthenticated = "UNAUTHENTICATED",
    }
}

words! {
    /// A response's status by its first digit.
    Class {
        /// 100 to 199: an upgrade, since interim responses are no end.
        Informational = "1xx",
        /// 200 to 299.
        Success = "2xx",
        /// 300 to 399.
        Redirection = "3xx",
        /// 400 to 499.
        ClientError = "4xx",
        /// 500 to 599.
        ServerError = "5xx",
        /// Any other.
        Other = "other",
    }
}

words! {
    /// Whether the server did its part.
    Judgement {
        /// It did, and be it by saying that the request was wrong.
        Success = "success",
        /// It did not: an error of its own, or no whole response.
        Failure = "failure",
        /// Nobody can say: the client reset the stream or closed the connection, or the server had not looked at
        /// the request, which the client may repeat.
        Abandoned = "abandoned",
    }
}

/// From the first byte of a request, as they passed the agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Latency {
    /// To the first byte of the final response; interim ones (1xx) do not count.
    pub first_byte: Duration,
    /// To the last byte of the response, trailers included.
    pub last_byte: Duration,
}

/// A response that arrived whole. One to an upgrade or a granted CONNECT is whole with its head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Response {
    /// `Http1`, `Http2` or `Grpc`.
    pub protocol: Protocol,
    /// The request's method.
    pub method: Method,
    /// The HTTP status, 100 to 999.
    pub status: u16,
    /// The call's own status, if it is gRPC and one was sent.
    pub grpc_status: Option<GrpcStatus>,
    /// Nothing if more exchanges were open at once than are timed.
    pub latency: Option<Latency>,
}

/// A request that got no whole response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unanswered {
    /// `Http1`, `Http2` or `Grpc`.
    pub protocol: Protocol,
    /// The request's method.
    pub method: Method,
    /// The status, if the response had begun.
    pub status: Option<u16>,
    /// What ended it.
    pub cut: Cut,
    /// Time since the request's first byte. Nothing if more exchanges were open at once than are timed.
    pub after: Option<Duration>,
}

/// Something that happened on a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// It is clear what is spoken. At most once a connection.
    Known(Protocol),
    /// An exchange is over, with its response.
    Response(Response),
    /// An exchange is over, without a whole response.
    Unanswered(Unanswered),
    /// There will be no more events. At most once a connection.
    Opaque(Opaque),
}

impl Method {
    /// The method that these bytes spell.
    pub(super) fn of(bytes: &[u8]) -> Self {
        let named = Self::ALL.iter().copied().find(|method| method.label().as_bytes() == bytes);
        named.unwrap_or(Self::Other)
    }
}

impl GrpcStatus {
    /// The status that the value of a `grpc-status` field spells.
    pub(super) fn of(bytes: &[u8]) -> Self {
        decimal(bytes)
            .and_then(|code| Self::ALL.get(usize::try_from(code).ok()?).copied())
            .unwrap_or(Self::Unknown)
    }

    /// The number on the wire.
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// Whether the server is to blame, as OpenTelemetry's conventions for gRPC servers see it: a caller's own
    /// mistake is a success of the server.
    pub const fn is_server_error(self) -> bool {
        matches!(
            self,
            Self::Unknown
                | Self::DeadlineExceeded
                | Self::Unimplemented
                | Self::Internal
                | Self::Unavailable
                | Self::DataLoss
        )
    }
}

impl Response {
    /// The status by its first digit.
    pub const fn class(&self) -> Class {
        match self.status / 100 {
            1 => Class::Informational,
            2 => Class::Success,
            3 => Class::Redirection,
            4 => Class::ClientError,
            5 => Class::ServerError,
            _ => Class::Other,
        }
    }

    /// Whether the server did its part: below 500 and, for gRPC, with a status that does not blame the server.
    pub fn is_success(&self) -> bool {
        let call = self.protocol != Protocol::Grpc
            || self.grpc_status.is_some_and(|status| !status.is_server_error());
        self.status < 500 && call
    }
}

/// A number without sign that fits 63 bits.
pub(super) fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || digits.len() > 18 {
        return None;
    }
    digits.iter().try_fold(0_u64, |number, digit| {
        digit.is_ascii_digit().then(|| number * 10 + u64::from(digit - b'0'))
    })
}
