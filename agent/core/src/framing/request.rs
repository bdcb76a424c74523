//! The headers of a tunnelled connection: CONNECT with `:authority` and `forwarded` (RFC 7239), and
//! its answer.

use std::net::{IpAddr, SocketAddr};

use crate::address::AddressText;
use crate::policy::Denial;
use crate::reason::Reason;

use super::hpack::{self, Field};

/// What the dialling agent asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectRequest {
    /// Address and port of the destination pod.
    pub authority: SocketAddr,
    /// Address and port of the connecting pod, as the dialling agent claims it.
    pub source: SocketAddr,
    /// Host name of the Service that was addressed, if one was.
    pub host: Option<String>,
}

/// Why a request is none that we serve.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadRequest {
    /// Another method, or none.
    #[error("the method is not CONNECT")]
    NotConnect,
    /// A header that must not be there, or twice.
    #[error("header {0:?} does not belong into a CONNECT request")]
    Unexpected(String),
    /// The authority is no literal address with a port.
    #[error("the authority {0:?} is not IP:PORT")]
    Authority(String),
    /// The forwarded header is missing or has no literal address with a port.
    #[error("the forwarded header {0:?} does not say for=\"IP:PORT\"")]
    Forwarded(String),
}

impl BadRequest {
    /// The label in metrics, and what the peer is told.
    pub const fn reason(&self) -> Reason {
        match self {
            Self::NotConnect | Self::Unexpected(_) => Reason::NotConnect,
            Self::Authority(_) => Reason::AuthorityUnusable,
            Self::Forwarded(_) => Reason::ForwardedUnusable,
        }
    }
}

const REASON: &str = "lark-reason";
/// The policy that denied the stream; of one that is open, the dry run that would have. For people only.
const POLICY: &str = "lark-policy";

/// Most characters of a refused value that an error repeats.
const SHOWN: usize = 128;

fn shown(value: &[u8]) -> String {
    String::from_utf8_lossy(value).chars().take(SHOWN).collect()
}

impl ConnectRequest {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut block = Vec::with_capacity(128);
        hpack::literal(&mut block, hpack::METHOD, b"CONNECT");
        hpack::literal(&mut block, hpack::AUTHORITY, AddressText::new(self.authority).as_str().as_bytes());
        let mut forwarded = String::with_capacity(64);
        forwarded.extend(["for=\"", AddressText::new(self.source).as_str(), "\""]);
        if let Some(host) = &self.host {
            forwarded.push_str(";host=");
            forwarded.push_str(host);
        }
        hpack::named(&mut block, b"forwarded", forwarded.as_bytes());
        block
    }

    pub(super) fn decode(fields: &[Field]) -> Result<Self, BadRequest> {
        let (mut method, mut authority, mut forwarded) = (None, None, None);
        for (name, value) in fields {
            let slot = match name.as_slice() {
                b":method" => &mut method,
                b":authority" => &mut authority,
                b"forwarded" => &mut forwarded,
                // Baggage, trace context and others are for those who understand them.
                name if name.first() != Some(&b':') => continue,
                other => return Err(BadRequest::Unexpected(shown(other))),
            };
            if slot.replace(value.as_slice()).is_some() {
                return Err(BadRequest::Unexpected(shown(name)));
            }
        }
        if method != Some(b"CONNECT") {
            return Err(BadRequest::NotConnect);
        }
        let authority = authority.unwrap_or_default();
        let authority = std::str::from_utf8(authority)
            .ok()
            .and_then(|a| a.parse::<SocketAddr>().ok())
            .ok_or_else(|| BadRequest::Authority(shown(authority)))?;
        let forwarded = forwarded.unwrap_or_default();
        let (source, host) = std::str::from_utf8(forwarded)
            .ok()
            .and_then(parse_forwarded)
            .ok_or_else(|| BadRequest::Forwarded(shown(forwarded)))?;
        Ok(Self { authority: canonical(authority), source: canonical(source), host })
    }
}

fn canonical(address: SocketAddr) -> SocketAddr {
    let ip: IpAddr = address.ip().to_canonical();
    SocketAddr::new(ip, address.port())
}

/// One `forwarded-element` with `for` and perhaps `host` (RFC 7239, section 4).
fn parse_forwarded(text: &str) -> Option<(SocketAddr, Option<String>)> {
    let (mut source, mut host) = (None, None);
    for pair in text.split(';') {
        let (name, value) = pair.split_once('=')?;
        let value = match value.strip_prefix('"') {
            Some(rest) => rest.strip_suffix('"')?,
            None => value,
        };
        if value.contains(['"', ',', '\\']) {
            return None;
        }
        match name.trim().to_ascii_lowercase().as_str() {
            "for" if source.is_none() => source = Some(value.parse().ok()?),
            "host" if host.is_none() && value.len() <= 512 => host = Some(value.to_owned()),
            "by" | "proto" => {}
            _ => return None,
        }
    }
    Some((source?, host))
}

/// The answer's header block: 200, or a refusal with its reason, and the policy that is to blame.
pub(super) fn encode_response(status: u16, reason: Option<Reason>, policy: Option<&Denial>) -> Vec<u8> {
    let mut block = Vec::with_capacity(48);
    if status == 200 {
        block.push(hpack::STATUS_200);
    } else {
        hpack::literal(&mut block, hpack::STATUS, status.to_string().as_bytes());
    }
    if let Some(reason) = reason {
        hpack::named(&mut block, REASON.as_bytes(), reason.label().as_bytes());
    }
    if let Some(policy) = policy.and_then(Denial::encode) {
        hpack::named(&mut block, POLICY.as_bytes(), policy.as_bytes());
    }
    block
}

/// The status, the reason and the policy of an answer; nothing if there is no status.
pub(super) fn decode_response(fields: &[Field]) -> Option<(u16, Option<Reason>, Option<Denial>)> {
    let value = |wanted: &[u8]| fields.iter().find(|(name, _)| name == wanted).map(|(_, v)| v.as_slice());
    let status = std::str::from_utf8(value(b":status")?).ok()?.parse().ok()?;
    let reason = value(REASON.as_bytes())
        .and_then(|v| Reason::ALL.iter().copied().find(|r| r.label().as_bytes() == v));
    let policy = value(POLICY.as_bytes()).and_then(|v| std::str::from_utf8(v).ok()).and_then(Denial::decode);
    Some((status, reason, policy))
}
