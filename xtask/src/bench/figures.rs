//! Pure: what the rounds gave, and medians, ratios and spread of it.

use std::collections::BTreeMap;

/// Who is measured. Peers are known by their name.
pub(crate) const PLAIN: &str = "plain";
pub(crate) const RELAY: &str = "relay";
pub(crate) const REFERENCE: &str = "reference";
pub(crate) const LARK: &str = "lark";

/// Every figure of every round.
#[derive(Debug, Default)]
pub(crate) struct Figures {
    /// Row and contestant; in each the rounds, and what they gave.
    values: BTreeMap<(String, String), BTreeMap<usize, f64>>,
}

impl Figures {
    pub(crate) fn add(&mut self, row: &str, contestant: &str, round: usize, value: f64) {
        self.values.entry((row.to_owned(), contestant.to_owned())).or_default().insert(round, value);
    }

    fn rounds(&self, row: &str, contestant: &str) -> Option<&BTreeMap<usize, f64>> {
        self.values.get(&(row.to_owned(), contestant.to_owned()))
    }

    /// What one round gave.
    pub(crate) fn of_round(&self, row: &str, contestant: &str, round: usize) -> Option<f64> {
        self.rounds(row, contestant)?.get(&round).copied()
    }

    /// Median over the rounds.
    pub(crate) fn median(&self, row: &str, contestant: &str) -> Option<f64> {
        median(self.rounds(row, contestant)?.values().copied())
    }

    /// One contestant's figure in relation to another's in each round in which both have one. What
    /// slows a machine down for a while slows both.
    fn ratios(&self, row: &str, of: &str, to: &str) -> Vec<f64> {
        let (Some(of), Some(to)) = (self.rounds(row, of), self.rounds(row, to)) else { return Vec::new() };
        of.iter().filter_map(|(round, value)| Some(value / to.get(round)?)).collect()
    }

    /// Median of the rounds' ratios.
    pub(crate) fn ratio(&self, row: &str, of: &str, to: &str) -> Option<f64> {
        median(self.ratios(row, of, to).into_iter())
    }

    /// How far the rounds lie apart, in parts of their median: of Lark's ratio to plain, or of its
    /// figures where plain has none.
    pub(crate) fn spread(&self, row: &str) -> Option<f64> {
        let ratios = self.ratios(row, LARK, PLAIN);
        if ratios.is_empty() {
            return spread(&self.rounds(row, LARK)?.values().copied().collect::<Vec<_>>());
        }
        spread(&ratios)
    }
}

/// The middle one, or the mean of the two in the middle.
pub(crate) fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut sorted: Vec<f64> = values.collect();
    sorted.sort_by(f64::total_cmp);
    let upper = *sorted.get(sorted.len() / 2)?;
    let lower = *sorted.get(sorted.len().checked_sub(1)? / 2)?;
    Some(f64::midpoint(lower, upper))
}

/// Largest less smallest, in parts of the median.
fn spread(values: &[f64]) -> Option<f64> {
    let largest = values.iter().copied().reduce(f64::max)?;
    let smallest = values.iter().copied().reduce(f64::min)?;
    Some((largest - smallest) / median(values.iter().copied())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(median([].into_iter()), None);
        assert_eq!(median([3.0].into_iter()), Some(3.0));
        assert_eq!(median([9.0, 1.0, 2.0].into_iter()), Some(2.0));
        assert_eq!(median([4.0, 1.0, 2.0, 9.0].into_iter()), Some(3.0));
    }

    #[test]
    fn the_spread_is_in_parts_of_the_median() {
        assert_eq!(spread(&[]), None);
        assert_eq!(spread(&[5.0]), Some(0.0));
        assert_eq!(spread(&[8.0, 10.0, 13.0]), Some(0.5));
    }

    #[test]
    fn ratios_are_taken_inside_a_round() {
        let mut figures = Figures::default();
        // The machine is half as fast in the second round, and Lark has no figure in the last.
        for (round, plain, lark) in [(0, 40.0, Some(20.0)), (1, 20.0, Some(12.0)), (2, 100.0, None)] {
            figures.add("bulk1", PLAIN, round, plain);
            if let Some(lark) = lark {
                figures.add("bulk1", LARK, round, lark);
            }
        }
        assert_eq!(figures.ratio("bulk1", LARK, PLAIN), Some(0.55));
        assert_eq!(figures.median("bulk1", LARK), Some(16.0));
        assert!((figures.spread("bulk1").unwrap() - 0.1 / 0.55).abs() < 1e-9);
        assert_eq!(figures.ratio("bulk1", LARK, REFERENCE), None);
        assert_eq!(figures.spread("bulk8"), None);
    }
}
