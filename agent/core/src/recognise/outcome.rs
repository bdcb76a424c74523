//! How exchanges end, as metrics tell it: a closed set, small enough to count each of its members.

use super::event::{Class, Cut, Event, GrpcStatus, Judgement, Latency, Protocol, Response, Unanswered};

/// How one exchange ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// HTTP/1.x.
    Http1(Answer),
    /// HTTP/2, other than gRPC.
    Http2(Answer),
    /// gRPC: the call's own status, nothing if none was sent; or what cut it off.
    Grpc(Result<Option<GrpcStatus>, Cut>),
}

/// What the client got.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Answer {
    /// A whole response.
    Whole(Class),
    /// None, or not all of it.
    Cut(Cut),
}

const CLASSES: usize = Class::ALL.len();
const CUTS: usize = Cut::ALL.len();
/// Outcomes of one version of HTTP.
const HTTP: usize = CLASSES + CUTS;
/// Calls without status, with one, and those that were cut off.
const GRPC: usize = 1 + GrpcStatus::ALL.len() + CUTS;

impl Outcome {
    /// How many there are.
    pub const COUNT: usize = 2 * HTTP + GRPC;

    /// What an event says of an exchange that is over, with its times if it was timed and answered.
    pub fn of(event: &Event) -> Option<(Self, Option<Latency>)> {
        match event {
            Event::Response(response) => Some((Self::of_response(response), response.latency)),
            Event::Unanswered(unanswered) => Some((Self::of_cut(unanswered), None)),
            Event::Known(_) | Event::Opaque(_) => None,
        }
    }

    fn of_response(response: &Response) -> Self {
        let class = Answer::Whole(response.class());
        match response.protocol {
            // A proxy's or server's own error page is no status of the call, whatever it says.
            Protocol::Grpc if response.status >= 500 => Self::Grpc(Ok(None)),
            Protocol::Grpc => Self::Grpc(Ok(response.grpc_status)),
            Protocol::Http2 => Self::Http2(class),
            Protocol::Http1 | Protocol::Tls | Protocol::Postgres => Self::Http1(class),
        }
    }

    const fn of_cut(unanswered: &Unanswered) -> Self {
        let cut = Answer::Cut(unanswered.cut);
        match unanswered.protocol {
            Protocol::Grpc => Self::Grpc(Err(unanswered.cut)),
            Protocol::Http2 => Self::Http2(cut),
            Protocol::Http1 | Protocol::Tls | Protocol::Postgres => Self::Http1(cut),
        }
    }

    /// All of them, in the order of [`Outcome::index`].
    pub fn all() -> impl Iterator<Item = Self> {
        let answers = || {
            let whole = Class::ALL.iter().copied().map(Answer::Whole);
            whole.chain(Cut::ALL.iter().copied().map(Answer::Cut))
        };
        let calls = std::iter::once(Ok(None))
            .chain(GrpcStatus::ALL.iter().copied().map(|status| Ok(Some(status))))
            .chain(Cut::ALL.iter().copied().map(Err));
        answers().map(Self::Http1).chain(answers().map(Self::Http2)).chain(calls.map(Self::Grpc))
    }

    /// Its number, below [`Outcome::COUNT`].
    pub const fn index(self) -> usize {
        match self {
            Self::Http1(answer) => answer.index(),
            Self::Http2(answer) => HTTP + answer.index(),
            Self::Grpc(Ok(None)) => 2 * HTTP,
            Self::Grpc(Ok(Some(status))) => 2 * HTTP + 1 + status as usize,
            Self::Grpc(Err(cut)) => 2 * HTTP + 1 + GrpcStatus::ALL.len() + cut as usize,
        }
    }

    /// `http1`, `http2` or `grpc`.
    pub const fn protocol(self) -> Protocol {
        match self {
            Self::Http1(_) => Protocol::Http1,
            Self::Http2(_) => Protocol::Http2,
            Self::Grpc(_) => Protocol::Grpc,
        }
    }

    /// The class of the response, the status of the call, or what cut it off.
    pub const fn status(self) -> &'static str {
        match self {
            Self::Http1(Answer::Whole(class)) | Self::Http2(Answer::Whole(class)) => class.label(),
            Self::Http1(Answer::Cut(cut)) | Self::Http2(Answer::Cut(cut)) | Self::Grpc(Err(cut)) => {
                cut.label()
            }
            Self::Grpc(Ok(Some(status))) => status.label(),
            Self::Grpc(Ok(None)) => "none",
        }
    }

    /// Whether the server did its part.
    pub const fn judgement(self) -> Judgement {
        match self {
            Self::Http1(Answer::Cut(cut)) | Self::Http2(Answer::Cut(cut)) | Self::Grpc(Err(cut)) => match cut
            {
                Cut::ClientReset | Cut::ClientClosed | Cut::GoingAway => Judgement::Abandoned,
                Cut::ServerReset | Cut::Closed => Judgement::Failure,
            },
            Self::Http1(Answer::Whole(class)) | Self::Http2(Answer::Whole(class)) => match class {
                Class::ServerError | Class::Other => Judgement::Failure,
                Class::Informational | Class::Success | Class::Redirection | Class::ClientError => {
                    Judgement::Success
                }
            },
            Self::Grpc(Ok(Some(status))) if !status.is_server_error() => Judgement::Success,
            Self::Grpc(Ok(_)) => Judgement::Failure,
        }
    }
}

impl Answer {
    const fn index(self) -> usize {
        match self {
            Self::Whole(class) => class as usize,
            Self::Cut(cut) => CLASSES + cut as usize,
        }
    }
}
