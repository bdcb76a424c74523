//! What a tap wants to be told: connections and requests as they happen, picked by a filter. Never payload:
//! there is no place for any in what is told.

use crate::observe::Secured;
use crate::recognise::Outcome;
use crate::view::Party;

/// Which of all that happens a tap wants. What is given must hold; a tap that gives nothing wants all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    namespace: Option<String>,
    workload: Option<String>,
    direction: Option<String>,
    verdict: Option<Secured>,
    status: Option<Status>,
}

/// A status as it was given, and the number that it spells.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Status {
    word: String,
    number: Option<u16>,
}

/// Why a filter is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoFilter {
    /// Another direction than there are.
    #[error("no direction is called {0:?}; it is outbound, inbound or local")]
    Direction(String),
    /// Another verdict than there are.
    #[error("no verdict is called {0:?}; it is mtls, same_node, direct, plaintext or denied")]
    Verdict(String),
}

/// A connection that something happens on.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    /// `outbound`, `inbound` or `local`.
    pub direction: &'a str,
    /// Who dialled.
    pub source: &'a Party,
    /// Who was dialled.
    pub destination: &'a Party,
    /// What secures it, if that is known.
    pub secured: Option<Secured>,
}

impl Filter {
    /// The filter that these words make; empty ones are not given. `namespace` and `workload` are of either end;
    /// a workload is a pod's name or its owner's, with or without its namespace in front; `status` is a class, a
    /// number, a status of gRPC, or `success`, `failure` or `abandoned`, and wants requests only.
    ///
    /// # Errors
    /// When a word is of no closed set.
    pub fn parse(
        namespace: &str,
        workload: &str,
        direction: &str,
        verdict: &str,
        status: &str,
    ) -> Result<Self, NoFilter> {
        let given = |word: &str| (!word.is_empty()).then(|| word.to_owned());
        if !["", "outbound", "inbound", "local"].contains(&direction) {
            return Err(NoFilter::Direction(direction.to_owned()));
        }
        let verdict = match verdict {
            "" => None,
            word => Some(secured(word).ok_or_else(|| NoFilter::Verdict(word.to_owned()))?),
        };
        Ok(Self {
            namespace: given(namespace),
            workload: given(workload),
            direction: given(direction),
            verdict,
            status: given(status).map(|word| Status { number: word.parse().ok(), word }),
        })
    }

    /// Whether something on this connection is wanted; `answer` is a request's outcome and its status as a
    /// number, and nothing when a connection opens or ends.
    pub fn wants(&self, subject: &Subject<'_>, answer: Option<(Outcome, Option<u16>)>) -> bool {
        let ends = [subject.source, subject.destination];
        let namespace =
            self.namespace.as_ref().is_none_or(|name| ends.iter().any(|e| *e.namespace == **name));
        let workload = self.workload.as_ref().is_none_or(|name| ends.iter().any(|end| end.goes_by(name)));
        let direction = self.direction.as_ref().is_none_or(|direction| subject.direction == direction);
        let verdict = self.verdict.is_none_or(|verdict| subject.secured == Some(verdict));
        let status = self.status.as_ref().is_none_or(|status| {
            answer.is_some_and(|(outcome, number)| {
                outcome.status().eq_ignore_ascii_case(&status.word)
                    || outcome.judgement().label() == status.word
                    || number.is_some() && number == status.number
            })
        });
        namespace && workload && direction && verdict && status
    }
}

fn secured(word: &str) -> Option<Secured> {
    [Secured::Mtls, Secured::SameNode, Secured::Direct, Secured::Plaintext, Secured::Denied]
        .into_iter()
        .find(|secured| secured.label() == word)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recognise::{Answer, Class};

    fn party(namespace: &str, name: &str) -> Party {
        Party {
            namespace: namespace.into(),
            name: format!("{name}-7f").into(),
            owner: format!("Deployment/{name}").into(),
            ..Party::default()
        }
    }

    #[test]
    fn each_part_that_is_given_must_hold() {
        let (web, db) = (party("shop", "web"), party("data", "db"));
        let subject =
            Subject { direction: "outbound", source: &web, destination: &db, secured: Some(Secured::Mtls) };
        let ok = Some((Outcome::Http1(Answer::Whole(Class::Success)), Some(204)));
        let cases: [([&str; 5], bool, bool); 18] = [
            (["", "", "", "", ""], true, true),
            (["shop", "", "", "", ""], true, true),
            (["data", "", "", "", ""], true, true),
            (["other", "", "", "", ""], false, false),
            (["", "web", "", "", ""], true, true),
            (["", "web-7f", "", "", ""], true, true),
            (["", "data/db", "", "", ""], true, true),
            (["", "data/Deployment/db", "", "", ""], true, true),
            (["", "shop/db", "", "", ""], false, false),
            (["", "we", "", "", ""], false, false),
            (["", "", "outbound", "", ""], true, true),
            (["", "", "inbound", "", ""], false, false),
            (["", "", "", "mtls", ""], true, true),
            (["", "", "", "denied", ""], false, false),
            (["", "", "", "", "2xx"], true, false),
            (["", "", "", "", "204"], true, false),
            (["", "", "", "", "success"], true, false),
            (["shop", "", "", "", "5xx"], false, false),
        ];
        for (words, request, opening) in cases {
            let [namespace, workload, direction, verdict, status] = words;
            let filter = Filter::parse(namespace, workload, direction, verdict, status).unwrap();
            assert_eq!(
                (filter.wants(&subject, ok), filter.wants(&subject, None)),
                (request, opening),
                "{words:?}"
            );
        }
    }

    #[test]
    fn words_of_no_closed_set_are_refused_by_name() {
        assert_eq!(Filter::parse("", "", "up", "", ""), Err(NoFilter::Direction("up".to_owned())));
        assert_eq!(Filter::parse("", "", "", "safe", ""), Err(NoFilter::Verdict("safe".to_owned())));
    }
}
