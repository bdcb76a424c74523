//! Who is answered: a browser that the user of this run opened on its page, and nobody else. Pure.

use hyper::header::{AUTHORIZATION, HOST, HeaderMap, HeaderName, ORIGIN};
use hyper::{Method, Request, StatusCode};

/// What browsers say of where a request comes from (Fetch Metadata, W3C).
const FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// What tells the user of this run from everybody else on the machine.
#[derive(Clone)]
pub(super) struct Secret(String);

impl Secret {
    /// Of bytes that nobody can guess.
    pub(super) fn new(bytes: [u8; 32]) -> Self {
        Self(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
    }

    /// As it stands behind `#` in the page's address, which browsers send to nobody.
    pub(super) fn told(&self) -> &str {
        &self.0
    }

    /// Whether it is this one. Takes as long whichever character differs.
    fn is(&self, said: &str) -> bool {
        let differs = self.0.bytes().zip(said.bytes()).fold(0, |differs, (own, said)| differs | (own ^ said));
        self.0.len() == said.len() && differs == 0
    }
}

/// Why a request is not answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    /// It would change something.
    #[error("only GET is answered")]
    Method,
    /// It came under a name that is not this machine's own, as a site's that had its name resolved to it (DNS rebinding).
    #[error("asked under another host's name; open the page as 127.0.0.1 or localhost")]
    Host,
    /// A page of another site made it.
    #[error("asked by a page of another site")]
    Origin,
    /// It does not have the secret of this run.
    #[error("this needs the secret of the run: open the whole address that `lark dashboard` printed")]
    Secret,
}

impl Refusal {
    /// As HTTP says it.
    pub(super) const fn status(self) -> StatusCode {
        match self {
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
            Self::Host => StatusCode::MISDIRECTED_REQUEST,
            Self::Origin => StatusCode::FORBIDDEN,
            Self::Secret => StatusCode::UNAUTHORIZED,
        }
    }
}

/// Why a request is not answered, if it is not. The page's own files need no secret: they say nothing.
pub(super) fn refusal<B>(request: &Request<B>, secret: &Secret) -> Option<Refusal> {
    if request.method() != Method::GET {
        return Some(Refusal::Method);
    }
    let headers = request.headers();
    let Some(host) = one(headers, &HOST).filter(|host| is_loopback(host)) else { return Some(Refusal::Host) };
    if headers.contains_key(ORIGIN) && one(headers, &ORIGIN) != Some(&format!("http://{host}")) {
        return Some(Refusal::Origin);
    }
    let from_elsewhere = |site: &str| !["same-origin", "none"].contains(&site);
    let is_data = request.uri().path().starts_with(super::relay::PREFIX);
    if is_data && headers.contains_key(FETCH_SITE) && one(headers, &FETCH_SITE).is_none_or(from_elsewhere) {
        return Some(Refusal::Origin);
    }
    let said = one(headers, &AUTHORIZATION).and_then(|said| said.strip_prefix("Bearer "));
    (is_data && !said.is_some_and(|said| secret.is(said))).then_some(Refusal::Secret)
}

/// A header that is there once, and readable.
fn one<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    let mut all = headers.get_all(name).iter();
    all.next().filter(|_| all.next().is_none())?.to_str().ok()
}

/// Whether a Host is loopback by a name that no resolver is asked for. Any port: it may have been forwarded.
fn is_loopback(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    };
    ["127.0.0.1", "[::1]", "localhost"].contains(&name)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: [u8; 32] = [7; 32];

    fn asked(target: &str, headers: &[(&str, &str)]) -> Option<Refusal> {
        let mut request = Request::builder().uri(target);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        refusal(&request.body(()).unwrap(), &Secret::new(SECRET))
    }

    fn bearer() -> String {
        format!("Bearer {}", Secret::new(SECRET).told())
    }

    #[test]
    fn the_page_is_anybodys_and_data_are_whose_secret_it_is() {
        let here = ("host", "127.0.0.1:4711");
        assert_eq!(asked("/", &[here]), None);
        assert_eq!(asked("/api/v1/edges", &[here, ("authorization", &bearer())]), None);
        for wrong in ["", "Bearer ", "Bearer 0707", &bearer().to_uppercase(), &format!("{}0", bearer())] {
            assert_eq!(
                asked("/api/v1/edges", &[here, ("authorization", wrong)]),
                Some(Refusal::Secret),
                "{wrong}"
            );
        }
        assert_eq!(asked("/api/v1/edges", &[here]), Some(Refusal::Secret));
        let twice = [here, ("authorization", &bearer()), ("authorization", "Bearer x")];
        assert_eq!(asked("/api/v1/edges", &twice), Some(Refusal::Secret));
    }

    #[test]
    fn names_that_a_resolver_answers_for_are_refused() {
        for host in ["localhost", "localhost:1", "127.0.0.1", "[::1]:80"] {
            assert_eq!(asked("/", &[("host", host)]), None, "{host}");
        }
        for host in [
            "",
            "lark.example",
            "127.0.0.1.example:80",
            "localhost.example",
            "10.0.0.1:80",
            "127.0.0.1:x",
            "::1",
        ] {
            assert_eq!(asked("/", &[("host", host)]), Some(Refusal::Host), "{host}");
        }
        assert_eq!(asked("/", &[]), Some(Refusal::Host));
        let two = [("host", "localhost"), ("host", "lark.example")];
        assert_eq!(asked("/", &two), Some(Refusal::Host));
    }

    #[test]
    fn pages_of_other_origins_are_refused_even_with_the_secret() {
        let (here, secret) = (("host", "localhost:80"), bearer());
        let with = |name, value| asked("/api/v1/edges", &[here, ("authorization", &secret), (name, value)]);
        assert_eq!(with("origin", "http://localhost:80"), None);
        assert_eq!(with("sec-fetch-site", "same-origin"), None);
        assert_eq!(with("origin", "http://localhost:81"), Some(Refusal::Origin));
        assert_eq!(with("origin", "null"), Some(Refusal::Origin));
        assert_eq!(with("sec-fetch-site", "same-site"), Some(Refusal::Origin));
        assert_eq!(with("sec-fetch-site", "cross-site"), Some(Refusal::Origin));
    }

    #[test]
    fn nothing_but_get_is_answered() {
        let request =
            Request::builder().method("POST").uri("/").header("host", "localhost").body(()).unwrap();
        assert_eq!(refusal(&request, &Secret::new(SECRET)), Some(Refusal::Method));
    }
}
