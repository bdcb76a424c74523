//! Text that is to be sent on, without what could be a secret. Lark's own answers contain none; what an operator
//! adds (logs of others, files) may, so everything goes through here. Rather too much is taken out than too
//! little: words that look random are not kept, whatever they are.

/// What stands where something was taken out.
const MARK: &str = "[redacted]";
/// Random words of this many characters are secrets: a 256-bit key has 43 in base64, half of one is no use.
const RANDOM: usize = 40;
/// Hexadecimal ones of this many: a 256-bit key. Serial numbers of certificates have 40 at most.
const HEX: usize = 64;

/// The text, and how many things were taken out of it.
pub fn redact(text: &str) -> (String, usize) {
    let mut kept = String::with_capacity(text.len());
    let mut taken = 0;
    let mut in_key = false;
    for line in text.split_inclusive('\n') {
        // RFC 7468; what logs make of a line's end does not matter.
        let begins = line.contains("-----BEGIN ") && line.contains("PRIVATE KEY");
        if begins {
            taken += 1;
            kept.push_str(MARK);
        }
        let was = in_key || begins;
        in_key = was && !line.contains("-----END ");
        if was {
            if !in_key && line.ends_with('\n') {
                kept.push('\n');
            }
            continue;
        }
        taken += words(line, &mut kept);
    }
    (kept, taken)
}

/// Copies a line without its secret words.
fn words(line: &str, kept: &mut String) -> usize {
    let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '/' | '=' | '_' | '-' | '.');
    let (mut taken, mut rest, mut after_bearer) = (0, line, false);
    while let Some(next) = rest.chars().next() {
        let end = rest.find(|c| is_part(c) != is_part(next)).unwrap_or(rest.len());
        let (word, later) = rest.split_at(end);
        rest = later;
        if !is_part(next) {
            kept.push_str(word);
            continue;
        }
        let is_secret = is_token(word) || word.split('.').any(is_random) || after_bearer;
        after_bearer = word.eq_ignore_ascii_case("bearer");
        if is_secret {
            taken += 1;
            kept.push_str(MARK);
        } else {
            kept.push_str(word);
        }
    }
    taken
}

/// A token by its form: Lark's own for joining, or a JSON Web Token (RFC 7519), which begins with `{"`.
fn is_token(word: &str) -> bool {
    let own = word.split_once("lark-").is_some_and(|(_, random)| {
        let has = |is: fn(char) -> bool| random.contains(is);
        random.len() >= RANDOM && has(|c| c.is_ascii_uppercase()) && has(|c| c.is_ascii_lowercase())
    });
    own || (word.contains("eyJ") && word.matches('.').count() >= 2)
}

fn is_random(word: &str) -> bool {
    let hex = word.split(|c: char| !c.is_ascii_hexdigit()).any(|run| run.len() >= HEX);
    // A path has more slashes than chance puts into a key.
    hex || (word.len() >= RANDOM && is_mixed(word) && word.matches('/').count() * 12 <= word.len())
}

/// Whether upper and lower case and digits occur as chance would have it.
fn is_mixed(word: &str) -> bool {
    let count = |is: fn(&char) -> bool| word.chars().filter(is).count();
    let least = word.len() / 12;
    count(char::is_ascii_uppercase) >= least
        && count(char::is_ascii_lowercase) >= least
        && count(char::is_ascii_digit) >= least / 2
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn secrets_go_and_the_rest_stays() {
        let gone = [
            "token lark-Gm3q9yWc0Vb1n5tQzX8pLr2kJh7sDf4aEe6uTi0oPmA end",
            "authorization: Bearer abc123",
            "x=eyJhbGciOiJSUzI1NiIsImtpZCI6IjEifQ.eyJzdWIiOiJ4In0.c2lnbmF0dXJl.",
            "key aGVsbG8gd29ybGQgdGhpcyBpcyAzMiBieXRlcyE5Q2x4MQ== end",
            "k 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
        ];
        for text in gone {
            let (kept, taken) = redact(text);
            assert_eq!(taken, 1, "{kept}");
            assert!(kept.contains(MARK) && kept.len() < text.len() + MARK.len() / 2, "{kept}");
        }
        let stays = [
            "spiffe://cluster.local/ns/shop/sa/client a.very-long-name-of-a-deployment-with-many-parts-7f9c",
            "/sys/fs/cgroup/kubepods.slice/kubepods-burstable.slice/cri-containerd-0123456789abcdef.scope",
            "lark_proxy_connections_recognised_total{direction=\"outbound\",protocol=\"http1\"} 12",
            "serial 3a:ff 7d0f5b1c2e 10.0.0.1:15008 2026-11-26T06:00:00.123456Z",
            "gezdgnbvgy3tqojqgezdgnbvgy3tqojqgezdgnbvgy3tqojqgezd.lark",
        ];
        for text in stays {
            assert_eq!(redact(text), (text.to_owned(), 0));
        }
    }

    #[test]
    fn a_private_key_goes_as_a_whole_and_a_certificate_does_not_take_the_text_with_it() {
        let text =
            "before\n-----BEGIN EC PRIVATE KEY-----\nMHcCAQEE\nabc=\n-----END EC PRIVATE KEY-----\nafter\n";
        assert_eq!(redact(text), (format!("before\n{MARK}\nafter\n"), 1));
        let cut = "a -----BEGIN PRIVATE KEY-----\nMHcCAQEE";
        assert_eq!(redact(cut), (MARK.to_owned(), 1));
    }

    proptest! {
        #[test]
        fn no_random_key_survives_whatever_stands_beside_it(
            bytes in prop::collection::vec(any::<u8>(), 32..=32),
            before in "[ =:\"]{1,3}", after in "[ \",\n]",
        ) {
            let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
            let key: String = (0..43_usize).map(|i| {
                let bit = i * 6;
                let high = u16::from(bytes[bit / 8]) << 8;
                let pair = high | u16::from(bytes.get(bit / 8 + 1).copied().unwrap_or(0));
                char::from(alphabet[usize::from(pair >> (10 - bit % 8) & 63)])
            }).collect();
            // One in some thousand million has no letter of one kind.
            prop_assume!(key.contains(|c: char| c.is_ascii_uppercase()));
            prop_assume!(key.contains(|c: char| c.is_ascii_lowercase()));
            let (kept, taken) = redact(&format!("{before}lark-{key}{after}"));
            prop_assert_eq!(taken, 1);
            prop_assert!(!kept.contains(&key[..12]), "{}", kept);
        }
    }
}
