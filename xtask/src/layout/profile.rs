use std::collections::{BTreeSet, HashMap};

/// The functions in which something was executed, by a file of callgrind (Callgrind Format Specification, version 1 of
/// the format). A name stands in full where it is first used and is a number from then on.
pub(crate) fn executed(text: &str) -> BTreeSet<String> {
    let mut names: HashMap<&str, &str> = HashMap::new();
    let (mut executed, mut current) = (BTreeSet::new(), None);
    let mut is_call = false;
    for line in text.lines() {
        if line.starts_with(|c: char| c.is_ascii_digit() || "+-*".contains(c)) {
            // The line after a call is what that cost, which is not this function's.
            if !std::mem::take(&mut is_call) {
                executed.extend(current.map(str::to_owned));
            }
            continue;
        }
        match line.split_once('=') {
            Some(("fn", name)) => current = named(&mut names, name),
            Some(("cfn", name)) => drop(named(&mut names, name)),
            Some(("calls", _)) => is_call = true,
            _ => {}
        }
    }
    executed
}

/// `(NUMBER) NAME` or `(NUMBER)`. A function that calls itself has `'2` and so on behind its name.
fn named<'a>(names: &mut HashMap<&'a str, &'a str>, value: &'a str) -> Option<&'a str> {
    let (number, name) = value.split_once(')')?;
    let name = name.trim();
    if !name.is_empty() {
        names.insert(number, name.split_once('\'').map_or(name, |(name, _)| name));
    }
    names.get(number).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_executed_is_what_has_a_cost_of_its_own() {
        let text = "events: Ir\n\nob=(1) /bin/lark\nfl=(1) ???\nfn=(1) outer\n0 5\ncfn=(2) inner'2\ncalls=1 0\n0 100\n\n\
            fn=(2)\n+3 4\n\nfn=(3) only_calls\ncfn=(1)\ncalls=2 0\n* 9\n\nfn=(4) named_later\n\nfn=(5)\n0 1\n";
        let executed: Vec<String> = executed(text).into_iter().collect();
        assert_eq!(executed, ["inner", "outer"]);
    }
}
